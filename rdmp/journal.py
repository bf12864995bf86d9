# SPDX-License-Identifier: AGPL-3.0-or-later
"""The participant's journal: one SQLite file (WAL, synchronous=FULL), written in a thread with group commit."""

from __future__ import annotations

import json
import sqlite3
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
    deadline REAL NOT NULL, reason TEXT, detail TEXT, stage TEXT, done TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
FORMAT = 1  # of the tables above; PRAGMA user_version


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
        except (sqlite3.Error, OSError, ValueError, KeyError) as error:
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
    if version not in (0, FORMAT):
        raise ValueError(f"it has format {version}, this program knows {FORMAT}")
    connection.execute(f"PRAGMA user_version={FORMAT}")
    meta = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}
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


def _store(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    for write in writes:
        if (entry := write.entry) is not None:
            row = (
                entry.id, entry.seq, entry.epoch, entry.phase.value, dump(entry.operation), entry.deadline,
                entry.reason, None if entry.detail is None else dump(entry.detail), entry.stage, dump(entry.done),
            )  # fmt: skip
            connection.execute("INSERT OR REPLACE INTO tx VALUES (?,?,?,?,?,?,?,?,?,?)", row)
        for key, document in write.state.items():
            if document is None:
                connection.execute("DELETE FROM state WHERE key=?", (key,))
            else:
                connection.execute("INSERT OR REPLACE INTO state VALUES (?,?)", (key, dump(document)))
        if write.meta is not None:
            items = [(key, json.dumps(value)) for key, value in asdict(write.meta).items()]
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?,?)", items)
        connection.executemany("DELETE FROM tx WHERE id=?", [(tx,) for tx in write.forget])
