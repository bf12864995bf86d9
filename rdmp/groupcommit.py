# SPDX-License-Identifier: AGPL-3.0-or-later
"""SQLite behind one thread, with group commit: many writes, one `fsync`.

The participant's journal and the orchestrator's store both wait for the disk before they answer. While one COMMIT
waits, the writes that arrive gather, and the next COMMIT takes them all; so throughput does not end at one write for
each `fsync`, and an idle database answers after exactly one. (Group commit: DeWitt et al., "Implementation Techniques
for Main Memory Database Systems", SIGMOD 1984.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")
_BATCH = 512
_CHECKPOINT = 200  # commits, then the write-ahead log is moved into the file
_CHECKPOINT_PAGES = 4000  # of the log; that much within so few commits, and SQLite does not wait for us
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

    A piece of work that raises undoes only itself: the batch is rolled back and done again, each piece then in a
    savepoint of its own. So work may run twice; it must be short, change nothing but the database, and must not keep
    the connection. A batch with at least one durable job is committed with synchronous=FULL, others with
    NORMAL (not torn by a crash, but the last of them may be lost at a power cut; https://sqlite.org/wal.html).
    ``syncs`` counts the commits that waited for the disk.
    """

    def __init__(self, path: Path, schema: str, *, limit: int = 10_000) -> None:
        self._path = path
        self._schema = schema
        self._limit = limit
        self._jobs: deque[_Job] = deque()
        self._news = threading.Condition()  # guards _jobs and _closing
        self._closing = False
        self._dead: BaseException | None = None  # why the thread ended before it was told to
        self._thread: threading.Thread | None = None
        self._full = True  # PRAGMA synchronous
        self._unmoved = 0  # commits since the last checkpoint
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

        Raises what `work` raised, sqlite3.Error if the commit failed or the thread is gone, and queue.Full when too
        much is waiting.
        """
        job = _Job(work, durable)
        with self._news:
            if self._dead is not None:
                raise self._gone()
            if len(self._jobs) >= self._limit:
                raise queue.Full(f"{self._path}: {self._limit} writes wait for the disk")
            self._jobs.append(job)
            if len(self._jobs) == 1:  # otherwise the thread knows already
                self._news.notify()
        result: T = await job.future
        return result

    async def close(self) -> None:
        """Commit what is queued, close the file, end the thread."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            with self._news:
                self._closing = True
                self._news.notify()
            await asyncio.to_thread(thread.join)

    def _main(self, started: Callable[[BaseException | None], object]) -> None:
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as error:
            started(error)
            return
        except ValueError as error:  # SQLite's own message about a damaged schema may be no text
            started(sqlite3.DatabaseError(f"the file is damaged: {error}"))
            return
        started(None)
        batch: list[_Job] = []
        try:
            while batch := self._next_batch():
                self._commit(connection, batch)
                self._checkpoint(connection)
        except BaseException as error:  # whoever waits must hear of it: nobody else would ever answer him
            _log.critical("%s: its thread has ended", self._path, exc_info=True)
            self._die(error, batch)
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _die(self, error: BaseException, batch: list[_Job]) -> None:
        """Fail what waits now and what comes later."""
        with self._news:
            self._dead = error
            waiting = [*batch, *self._jobs]
            self._jobs.clear()
        for job in waiting:
            job.error = job.error or self._gone()
        _answer(waiting)

    def _gone(self) -> sqlite3.OperationalError:
        return sqlite3.OperationalError(f"{self._path}: nothing is written any more since: {self._dead!r}; start again")

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.executescript(self._schema)
        return connection

    def _next_batch(self) -> list[_Job]:
        """Wait for work; nothing when the file is to be closed and all is done."""
        with self._news:
            while not self._jobs and not self._closing:
                self._news.wait()
            return [self._jobs.popleft() for _ in range(min(len(self._jobs), _BATCH))]

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job]) -> None:
        durable = any(job.durable for job in batch)
        self.syncs += durable
        try:
            if durable is not self._full:
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._full = durable
            connection.execute("BEGIN IMMEDIATE")
            if not _all(connection, batch):
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                for job in batch:
                    _savepoint(connection, job)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself meanwhile
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            for job in batch:
                job.error = job.error or error
        _answer(batch)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move the write-ahead log into the file now and then, after the answers and not before one as SQLite would."""
        self._unmoved += 1
        if self._unmoved >= _CHECKPOINT:
            self._unmoved = 0
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.Error as error:  # nothing is lost: the log grows until it succeeds
                _log.warning("%s: its write-ahead log cannot be moved into it: %s", self._path, error)


def _answer(jobs: Iterable[_Job]) -> None:
    """Wake whoever waits; a loop that has ended waits for nothing."""
    # Waking a loop costs a system call: one for the batch, not one for each job.
    loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        loops.setdefault(job.loop, []).append(job)
    for loop, ready in loops.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, ready)


def _settle(jobs: Iterable[_Job]) -> None:
    for job in jobs:
        job.settle()


def _all(connection: sqlite3.Connection, batch: Iterable[_Job]) -> bool:
    """Run all jobs; False if one of them raised."""
    try:
        for job in batch:
            job.result = job.work(connection)
    except Exception:  # the savepoints find out whose it is
        return False
    return True


def _savepoint(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except Exception as error:  # handed to the caller, who alone knows what it means
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")
