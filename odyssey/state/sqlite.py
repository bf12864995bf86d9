# SPDX-License-Identifier: AGPL-3.0-or-later
"""The embedded store: one SQLite file in WAL mode, the leader lease a file lock."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from odyssey.state.store import (
    Append,
    Conflict,
    Document,
    Lease,
    LeaseHeldError,
    LoggedEvent,
    Set,
    Store,
    StoreError,
    StoreUnusableError,
    Written,
)
from rdmp.groupcommit import GroupCommit

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS document (
    key TEXT PRIMARY KEY, revision INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    idx INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, topic TEXT NOT NULL, data TEXT NOT NULL);
"""


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _encode(value: Mapping[str, Any]) -> str:
    return _encoder.encode(value)


class SqliteStore(Store):
    """`directory/odyssey.db` and `directory/lease.lock`; for one orchestrator on one machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._database = GroupCommit(directory / "odyssey.db", _SCHEMA)
        self._incarnation = ""
        self._lock: int | None = None

    async def open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            await self._database.open()
            self._incarnation = await self._database.run(_prepare)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._directory / 'odyssey.db'}: cannot be opened: {error}") from error

    async def close(self) -> None:
        await self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def incarnation(self) -> str:
        return self._incarnation

    @property
    def syncs(self) -> int:
        """How many commits have waited for the disk."""
        return self._database.syncs

    async def get(self, key: str) -> Document | None:
        return await self._database.run(lambda connection: _get(connection, key), durable=False)

    async def list(self, prefix: str) -> Sequence[Document]:
        return await self._database.run(lambda connection: _list(connection, prefix), durable=False)

    async def commit(
        self, guard: Set | None, then: Sequence[Set | Append] = (), *, durable: bool = True
    ) -> Written:
        return await self._database.run(lambda connection: _commit(connection, guard, then), durable=durable)

    async def read(self, after: int, limit: int) -> Sequence[LoggedEvent]:
        return await self._database.run(lambda connection: _read(connection, after, limit), durable=False)

    async def last_event(self) -> int:
        return await self._database.run(_last_event, durable=False)

    async def trim(self, kept: int, before: str, *, limit: int = 5000) -> int:
        return await self._database.run(lambda connection: _trim(connection, kept, before, limit), durable=False)

    async def acquire(self, holder: str) -> Lease:
        path = self._directory / "lease.lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeaseHeldError(
                f"{path}: another odysseyd leads on this store; stop it first, or give this one another state_dir"
            ) from error
        epoch = await self._database.run(lambda connection: _raise_epoch(connection, holder))
        return Lease(holder, epoch)


def _prepare(connection: sqlite3.Connection) -> str:
    found = dict(connection.execute("SELECT name, value FROM meta"))
    if "schema" not in found:
        found = {"schema": str(SCHEMA_VERSION), "incarnation": uuid.uuid4().hex, "epoch": "0"}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", list(found.items()))
    if int(found["schema"]) > SCHEMA_VERSION:
        raise StoreUnusableError(
            f"the store has schema version {found['schema']}, this odysseyd knows {SCHEMA_VERSION}; "
            "start a newer odysseyd, or restore the backup made before the upgrade"
        )
    return str(found["incarnation"])


def _raise_epoch(connection: sqlite3.Connection, holder: str) -> int:
    (text,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    epoch = int(text) + 1
    connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (str(epoch),))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('leader', ?)", (holder,))
    return epoch


def _get(connection: sqlite3.Connection, key: str) -> Document | None:
    row = connection.execute("SELECT revision, value FROM document WHERE key = ?", (key,)).fetchone()
    return Document(key, row[0], json.loads(row[1])) if row else None


def _list(connection: sqlite3.Connection, prefix: str) -> list[Document]:
    rows = connection.execute(
        "SELECT key, revision, value FROM document WHERE key >= ? AND key < ? ORDER BY key",
        (prefix, prefix + "\U0010ffff"),
    )
    return [Document(key, revision, json.loads(value)) for key, revision, value in rows]


def _commit(connection: sqlite3.Connection, guard: Set | None, then: Sequence[Set | Append]) -> Written:
    document = _set(connection, guard) if guard is not None else None
    events = []
    for step in then:
        if isinstance(step, Set):
            _set(connection, step)
        else:
            events.append(_append(connection, step))
    return Written(document, tuple(events))


def _set(connection: sqlite3.Connection, step: Set) -> Document | None:
    row = connection.execute("SELECT revision FROM document WHERE key = ?", (step.key,)).fetchone()
    revision = row[0] if row else 0
    if step.expect is not None and step.expect != revision:
        raise Conflict(step.key, step.expect, _get(connection, step.key))
    if step.value is None:
        connection.execute("DELETE FROM document WHERE key = ?", (step.key,))
        return None
    connection.execute(
        "INSERT INTO document VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET revision = ?2, value = ?3",
        (step.key, revision + 1, _encode(step.value)),
    )
    return Document(step.key, revision + 1, step.value)


def _append(connection: sqlite3.Connection, event: Append) -> LoggedEvent:
    cursor = connection.execute(
        "INSERT INTO event (time, topic, data) VALUES (?, ?, ?)", (event.time, event.topic, _encode(event.data))
    )
    return LoggedEvent(int(cursor.lastrowid or 0), event.time, event.topic, event.data)


def _trim(connection: sqlite3.Connection, kept: int, before: str, limit: int) -> int:
    first, last = connection.execute("SELECT MIN(idx), MAX(idx) FROM event").fetchone()
    if first is None:
        return 0
    # Only a beginning is cut off, so that what is kept has no holes, whatever the clock did.
    (young,) = connection.execute("SELECT MIN(idx) FROM event WHERE time >= ?", (before,)).fetchone()
    end = max(last - kept + 1, young if young is not None else last + 1)
    return connection.execute("DELETE FROM event WHERE idx < ?", (min(end, first + limit),)).rowcount


def _last_event(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return int(row[0]) if row else 0


def _read(connection: sqlite3.Connection, after: int, limit: int) -> list[LoggedEvent]:
    rows = connection.execute(
        "SELECT idx, time, topic, data FROM event WHERE idx > ? ORDER BY idx LIMIT ?", (after, limit)
    )
    return [LoggedEvent(index, time, topic, json.loads(data)) for index, time, topic, data in rows]
