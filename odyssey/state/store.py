# SPDX-License-Identifier: AGPL-3.0-or-later
"""The abstract store: documents with revisions, compare-and-set, an append-only event log, a leader lease.

What every implementation must give is deliberately little, so that PostgreSQL and MongoDB can follow: one document is
compared and set atomically, and a set that was acknowledged as durable survives the machine. Everything above it
(decision log, folded state, outbox) is built so that it can be repeated after a crash.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class StoreError(Exception):
    """The store cannot serve: what failed, where, and what to do."""


class StoreUnusableError(StoreError):
    """It will serve no start of this program, however often one tries."""


class LeaseHeldError(StoreError):
    """Another orchestrator leads on this store."""


class Conflict(StoreError):
    """A compare-and-set lost: somebody else wrote the document first.

    `actual` is the document as it stands now (None: it does not exist).
    """

    def __init__(self, key: str, expected: int, actual: Document | None) -> None:
        found = f"revision {actual.revision}" if actual else "no document"
        super().__init__(f"{key}: expected revision {expected}, found {found}")
        self.key = key
        self.expected = expected
        self.actual = actual


@dataclass(frozen=True, slots=True)
class Document:
    """One stored document. `revision` starts at 1 and rises by one with every set."""

    key: str
    revision: int
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Set:
    """Set (value) or delete (None) one document.

    `expect` is the revision that must stand now: 0 means "does not exist", None means "whatever stands".
    """

    key: str
    value: Mapping[str, Any] | None
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Append one event to the log."""

    topic: str
    time: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event of the log; `index` rises by one with every event and is never used twice."""

    index: int
    time: str
    topic: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """What a commit wrote: the guard's document (None when it was a delete or a bare append) and the event indices."""

    document: Document | None
    events: tuple[LoggedEvent, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to decide. `epoch` is higher than that of every leader before (fencing token)."""

    holder: str
    epoch: int


class Store(ABC):
    """Documents, events and the lease. All methods may be called concurrently from one event loop."""

    @abstractmethod
    async def open(self) -> None:
        """Open or create the store and bring its schema version up to date. Raises StoreError."""

    @abstractmethod
    async def close(self) -> None:
        """Write what is queued and release the lease."""

    @property
    @abstractmethod
    def incarnation(self) -> str:
        """Identity of this history of the store; a store restored from a backup gets a new one."""

    @abstractmethod
    async def get(self, key: str) -> Document | None:
        """The document at `key`, or None."""

    @abstractmethod
    async def list(self, prefix: str) -> Sequence[Document]:
        """All documents whose key starts with `prefix`, ordered by key."""

    @abstractmethod
    async def commit(
        self, guard: Set | None, then: Sequence[Set | Append] = (), *, durable: bool = True
    ) -> Written:
        """Apply `guard` and, if it holds, `then`; nothing of it if the guard raises Conflict.

        A store that can makes all of it one atomic step. One that cannot sets the guard first: it is the decision,
        and the rest is made up for by the fold at the next start, so `then` must be derivable from the guard's value.
        `durable` False may be lost at a power cut (never torn, never reordered before an earlier durable write).
        """

    @abstractmethod
    async def read(self, after: int, limit: int) -> Sequence[LoggedEvent]:
        """Events with an index above `after`, in order, at most `limit`."""

    @abstractmethod
    async def last_event(self) -> int:
        """The index of the newest event, 0 if there never was one."""

    @abstractmethod
    async def trim(self, kept: int, before: str, *, limit: int = 5000) -> int:
        """Forget events, oldest first: those beyond the newest `kept`, and those older than `before` (RFC 3339, UTC).

        At most `limit` at once, so that nobody waits long for it. Returns how many were forgotten; indexes stay used.
        """

    @abstractmethod
    async def acquire(self, holder: str) -> Lease:
        """Become the leader under a new, higher epoch. Raises LeaseHeldError."""
