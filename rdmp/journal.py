# SPDX-License-Identifier: AGPL-3.0-or-later
"""The participant's journal: one SQLite file (WAL, synchronous=FULL), written in a thread with group commit.

SQLite finds torn writes, not a flipped bit or a page that a disk lost.  So each row has a checksum, and ``meta`` the
sum of them all; both are looked at when the journal is opened.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rdmp.frames import dump
from rdmp.groupcommit import GroupCommit
from rdmp.participant_table import Entry, Meta, Phase, Write

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tx (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, phase TEXT NOT NULL, operation TEXT NOT NULL,
    deadline REAL NOT NULL, reason TEXT, detail TEXT, stage TEXT, done TEXT NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, document TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
FORMAT = 2  # of the tables above; PRAGMA user_version. 1 had no checksums.
_KEYS = {"tx": "id", "state": "key", "meta": "key"}
_SUM = "sum"  # the row of meta with the sum of all other checksums


class JournalError(Exception):
    """The journal cannot be used: what, where, what to do."""


@dataclass(frozen=True, slots=True)
class Journalled:
    """What the journal holds."""

    entries: tuple[Entry, ...]
    meta: Meta
    state: Mapping[str, Mapping[str, Any]]


class Journal:
    """Durable memory of one participant."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = GroupCommit(path, _SCHEMA)

    async def open(self) -> Journalled:
        """Open or create the file and read it; raises JournalError."""
        try:
            await self.file.open()
            return await self.file.run(_read)
        except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"cannot use the journal {self.path}: {error}; it holds this participant's votes: "
                "restore or repair it; do not delete it while the participant is in a cluster"
            ) from error

    async def write(self, writes: Sequence[Write]) -> None:
        """Store writes in one transaction; returns when they are on the disk.  Raises sqlite3.Error."""
        await self.file.run(lambda connection: _store(connection, writes))

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        await self.file.close()


def _read(connection: sqlite3.Connection) -> Journalled:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, 1, FORMAT):
        raise ValueError(f"it has format {version}, this program knows {FORMAT}")
    if version == 1:
        _add_checksums(connection)
    connection.execute(f"PRAGMA user_version={FORMAT}")
    _verify(connection)
    meta = {
        key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta") if key != _SUM
    }
    state = {key: json.loads(text) for key, text in connection.execute("SELECT key, document FROM state ORDER BY key")}
    rows = connection.execute(
        "SELECT id, seq, epoch, phase, operation, deadline, reason, detail, stage, done FROM tx ORDER BY seq"
    )
    entries = tuple(
        Entry(
            tx, seq, epoch, Phase(phase), json.loads(operation), deadline, reason,
            None if detail is None else json.loads(detail), stage, json.loads(done),
        )
        for tx, seq, epoch, phase, operation, deadline, reason, detail, stage, done in rows
    )  # fmt: skip
    return Journalled(entries, Meta(**meta), state)


def _crc(row: Sequence[Any]) -> int:
    return zlib.crc32("\x1f".join(map(str, row)).encode())


def _total(connection: sqlite3.Connection) -> int:
    """Return the sum that ``meta`` says."""
    row = connection.execute("SELECT value FROM meta WHERE key=?", (_SUM,)).fetchone()
    return int(row[0]) if row else 0


def _set_total(connection: sqlite3.Connection, total: int) -> None:
    row = (_SUM, str(total))
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?,?)", (*row, _crc(row)))


def _verify(connection: sqlite3.Connection) -> None:
    """Raise ValueError unless every row is as it was written and none is missing."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise ValueError(f"it is damaged: {verdict}")
    total = 0
    for table, column in _KEYS.items():
        for *row, crc in connection.execute(f"SELECT * FROM {table}"):
            if _crc(row) != crc:
                raise ValueError(f"it is damaged: the row {row[0]!r} of {table} is not what was written")
            if (table, row[0]) != ("meta", _SUM):
                total += crc
        if any(not isinstance(key, str) for (key,) in connection.execute(f"SELECT {column} FROM {table}")):
            raise ValueError(f"it is damaged: a key of {table} is no text")
    if total != _total(connection):
        raise ValueError("it is damaged: rows are missing, or there are old ones")


def _add_checksums(connection: sqlite3.Connection) -> None:
    """Bring a journal of format 1 up to date."""
    total = 0
    for table, column in _KEYS.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER NOT NULL DEFAULT 0")
        for *row, _ in connection.execute(f"SELECT * FROM {table}").fetchall():
            total += _crc(row)
            connection.execute(f"UPDATE {table} SET crc=? WHERE {column}=?", (_crc(row), row[0]))
    _set_total(connection, total)


def _put(connection: sqlite3.Connection, table: str, row: Sequence[Any]) -> int:
    """Write a row; returns by how much the sum of the checksums rose."""
    crc = _crc(row)
    before = _drop(connection, table, row[0])
    connection.execute(f"INSERT INTO {table} VALUES ({'?,' * len(row)}?)", (*row, crc))
    return crc + before


def _drop(connection: sqlite3.Connection, table: str, key: str) -> int:
    """Delete a row if it is there; returns by how much the sum of the checksums rose, which is not above 0."""
    row = connection.execute(f"DELETE FROM {table} WHERE {_KEYS[table]}=? RETURNING crc", (key,)).fetchone()
    return -int(row[0]) if row else 0


def _store(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    before = total = _total(connection)
    for write in writes:
        if (entry := write.entry) is not None:
            row = (
                entry.id, int(entry.seq), int(entry.epoch), entry.phase.value, dump(entry.operation),
                float(entry.deadline), entry.reason, None if entry.detail is None else dump(entry.detail),
                entry.stage, dump(entry.done),
            )  # fmt: skip
            total += _put(connection, "tx", row)
        for key, document in write.state.items():
            if document is None:
                total += _drop(connection, "state", key)
            else:
                total += _put(connection, "state", (key, dump(document)))
        if write.meta is not None:
            total += sum(_put(connection, "meta", (key, dump(value))) for key, value in asdict(write.meta).items())
        total += sum(_drop(connection, "tx", tx) for tx in write.forget)
    if total != before:
        _set_total(connection, total)
