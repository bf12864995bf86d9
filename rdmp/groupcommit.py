# SPDX-License-Identifier: AGPL-3.0-or-later
"""SQLite behind one thread, with group commit: many writes, one `fsync`.

The participant's journal and the orchestrator's store both wait for the disk before they answer. While one COMMIT
waits, the writes that arrive gather, and the next COMMIT takes them all; so throughput does not end at one write for
each `fsync`, and an idle database answers after exactly one. (Group commit: DeWitt et al., "Implementation Techniques
for Main Memory Database Systems", SIGMOD 1984.)
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_BATCH = 512
_BUSY_SECONDS = 5.0
_Work = Callable[[sqlite3.Connection], Any]


class _Job:
    __slots__ = ("durable", "error", "future", "loop", "result", "work")

    def __init__(self, work: _Work, durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class GroupCommit:
    """One SQLite file, one thread. `run` may be called from any event loop at any time.

    Each piece of work runs in a savepoint of its own: one that raises undoes only itself. Work must be short and must
    not keep the connection. A batch with at least one durable job is committed with synchronous=FULL, others with
    NORMAL (not torn by a crash, but the last of them may be lost at a power cut; https://sqlite.org/wal.html).
    ``syncs`` counts the commits that waited for the disk.
    """

    def __init__(self, path: Path, schema: str, *, limit: int = 10_000) -> None:
        self._path = path
        self._schema = schema
        self._jobs: queue.Queue[_Job | None] = queue.Queue(limit)
        self._thread: threading.Thread | None = None
        self.syncs = 0

    async def open(self) -> None:
        """Open or create the file (mode 0600) and apply the schema. Raises sqlite3.Error."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def tell(error: BaseException | None) -> None:
            if error is None:
                started.set_result(None)
            else:
                started.set_exception(error)

        self._thread = threading.Thread(
            target=self._main, args=(lambda error: loop.call_soon_threadsafe(tell, error),),
            name=f"sqlite {self._path.name}", daemon=True,
        )  # fmt: skip
        self._thread.start()
        await started

    async def run(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run `work` on the connection and return its result once it is committed.

        Raises what `work` raised, sqlite3.Error if the commit failed, and queue.Full when too much is waiting.
        """
        job = _Job(work, durable)
        self._jobs.put_nowait(job)
        result: T = await job.future
        return result

    async def close(self) -> None:
        """Commit what is queued, close the file, end the thread."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def _main(self, started: Callable[[BaseException | None], object]) -> None:
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            started(error)
            return
        started(None)
        while self._batch(connection):
            pass
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(self._schema)
        return connection

    def _batch(self, connection: sqlite3.Connection) -> bool:
        first = self._jobs.get()
        jobs: list[_Job | None] = [first]
        while len(jobs) < _BATCH and jobs[-1] is not None:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        batch = [job for job in jobs if job is not None]
        if batch:
            self._commit(connection, batch)
        return jobs[-1] is not None

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job]) -> None:
        durable = any(job.durable for job in batch)
        self.syncs += durable
        try:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                _savepoint(connection, job)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            for job in batch:
                job.error = job.error or error
        for job in batch:
            job.loop.call_soon_threadsafe(job.settle)


def _savepoint(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except Exception as error:  # handed to the caller, who alone knows what it means
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
