# SPDX-License-Identifier: AGPL-3.0-or-later
"""Group commit: one commit for what waits, and a piece of work that raises undoes only itself."""

from __future__ import annotations

import asyncio
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdmp.groupcommit import GroupCommit

SCHEMA = "CREATE TABLE IF NOT EXISTS number (value INTEGER NOT NULL);"


def insert(value: int) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO number VALUES (?)", (value,))
        if value < 0:
            raise ValueError(f"{value} is below 0")
        return value

    return work


def values(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        return [value for (value,) in connection.execute("SELECT value FROM number ORDER BY value")]


async def opened(path: Path, limit: int = 100) -> tuple[GroupCommit, threading.Event]:
    """A file whose thread waits in its first piece of work, so that more gathers behind it."""
    file = GroupCommit(path, SCHEMA, limit=limit)
    await file.open()
    return file, threading.Event()


async def test_what_gathers_is_committed_once(tmp_path: Path) -> None:
    file, go = await opened(tmp_path / "db")
    first = asyncio.create_task(file.run(lambda connection: go.wait(10), durable=False))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(file.run(insert(value))) for value in range(20)]
    await asyncio.sleep(0.05)
    go.set()
    assert await asyncio.gather(*rest) == list(range(20))
    assert await first
    assert file.syncs == 1
    await file.close()
    assert values(tmp_path / "db") == list(range(20))


async def test_one_that_raises_undoes_only_itself(tmp_path: Path) -> None:
    file, go = await opened(tmp_path / "db")
    first = asyncio.create_task(file.run(lambda connection: go.wait(10)))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(file.run(insert(value))) for value in (1, -2, 3)]
    await asyncio.sleep(0.05)
    go.set()
    await first
    told = await asyncio.gather(*rest, return_exceptions=True)
    assert [told[0], told[2]] == [1, 3] and isinstance(told[1], ValueError)
    await file.close()
    assert values(tmp_path / "db") == [1, 3]


async def test_too_much_that_waits_is_refused_and_close_finishes_the_rest(tmp_path: Path) -> None:
    file, go = await opened(tmp_path / "db", limit=2)
    first = asyncio.create_task(file.run(lambda connection: go.wait(10)))
    await asyncio.sleep(0.05)
    rest = [asyncio.create_task(file.run(insert(value))) for value in (1, 2)]
    await asyncio.sleep(0.05)
    with pytest.raises(queue.Full, match="wait for the disk"):
        await file.run(insert(3))
    go.set()
    await file.close()
    assert await first and await asyncio.gather(*rest) == [1, 2]
    assert values(tmp_path / "db") == [1, 2]


async def test_the_log_is_moved_into_the_file_after_some_commits(tmp_path: Path) -> None:
    file, _ = await opened(tmp_path / "db")
    for value in range(210):
        await file.run(insert(value), durable=value % 2 == 0)
    await file.run(lambda connection: None)  # answered after the checkpoint, which comes after an answer
    shutil.copy(tmp_path / "db", tmp_path / "alone")
    await file.close()
    assert values(tmp_path / "alone") == list(range(200))


class Damaged:
    """A connection on which some statements fail."""

    def __init__(self, connection: sqlite3.Connection, statement: str, error: Exception) -> None:
        self._connection = connection
        self._statement = statement
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        if statement.startswith(self._statement):
            raise self._error
        return self._connection.execute(statement, *arguments)


def damage(monkeypatch: pytest.MonkeyPatch, statement: str, error: Exception) -> None:
    connect = GroupCommit._connect
    monkeypatch.setattr(GroupCommit, "_connect", lambda self: Damaged(connect(self), statement, error))


async def test_a_damaged_file_fails_the_checkpoint_and_not_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, "PRAGMA wal_checkpoint", sqlite3.DatabaseError("database disk image is malformed"))
    monkeypatch.setattr("rdmp.groupcommit._CHECKPOINT", 1)
    file, _ = await opened(tmp_path / "db")
    for value in range(3):
        assert await asyncio.wait_for(file.run(insert(value)), 5) == value
    await file.close()


async def test_a_rollback_that_fails_is_no_end_of_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "ROLLBACK", sqlite3.OperationalError("disk I/O error"))
    file, _ = await opened(tmp_path / "db")
    for _ in range(2):
        with pytest.raises(sqlite3.Error):
            await asyncio.wait_for(file.run(insert(-1)), 5)
    await file.close()


async def test_when_the_thread_ends_everybody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, "COMMIT", MemoryError("none left"))
    file, go = await opened(tmp_path / "db")
    jobs: list[asyncio.Task[int]] = [asyncio.create_task(file.run(lambda connection: int(go.wait(10))))]
    await asyncio.sleep(0.05)
    jobs += [asyncio.create_task(file.run(insert(value))) for value in range(3)]
    await asyncio.sleep(0.05)
    go.set()
    told = await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 5)
    assert all(isinstance(error, sqlite3.Error) and "none left" in str(error) for error in told)
    with pytest.raises(sqlite3.Error, match="start again"):
        await file.run(insert(9))
    await file.close()
    assert values(tmp_path / "db") == []
