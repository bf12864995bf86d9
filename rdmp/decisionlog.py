# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where decisions are kept: the abstract log, and one in memory for tests and small programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rdmp.records import Decision, TxProgress, TxRecord


class DecisionLog(ABC):
    """Keeps the records of transactions.  All methods may be called concurrently from one event loop.

    Any method may raise when the store fails; the hub repeats ``decide`` and ``advance`` with a bounded back-off, so a
    repeat after a write of unknown outcome must be harmless (compare-and-set makes it so).
    """

    @abstractmethod
    async def create(self, record: TxRecord) -> TxRecord:
        """Store a new record durably, give it the next ``seq`` and a revision, and return it so.

        Raises ValueError if the id is in use or an object is reserved by another open transaction.  A log that several
        orchestrators share must also refuse one whose epoch is not the newest: its successor has read ``open`` already,
        so that nobody would carry the record on before the next start.
        """

    @abstractmethod
    async def decide(self, tx: str, revision: int, decision: Decision, reason: str | None) -> TxRecord:
        """Set the state from preparing to ``decision`` if ``revision`` still stands; durable.

        Whoever loses gets the winner's record.
        """

    @abstractmethod
    async def advance(
        self,
        tx: str,
        revision: int,
        done: Mapping[str, Sequence[str]],
        degraded: Mapping[str, str],
        finished: bool,
    ) -> TxRecord:
        """Note how far the decision is carried out; need not be durable.  Returns the record as it then stands."""

    @abstractmethod
    async def open(self) -> Sequence[TxRecord]:
        """Return every record that is not finished."""

    @abstractmethod
    async def lookup(self, tx: str) -> TxRecord | None:
        """Return the record of a transaction, finished or not, or None if it is unknown."""

    @abstractmethod
    def low_water(self) -> int:
        """Return a number such that every transaction with a lower ``seq`` is finished."""

    def note(self, progress: TxProgress) -> None:  # noqa: B027  a log need not care
        """Hear of a step of a transaction as it happens, for a trace of it; must not block and need not keep it."""


class MemoryDecisionLog(DecisionLog):
    """A decision log in memory; it lives as long as the object."""

    def __init__(self) -> None:
        self.records: dict[str, TxRecord] = {}
        self._seq = 0

    async def create(self, record: TxRecord) -> TxRecord:
        if record.id in self.records:
            raise ValueError(f"transaction {record.id} exists already")
        held = {name for other in self.records.values() if not other.finished for name in other.objects}
        if taken := held & set(record.objects):
            raise ValueError(f"transaction {record.id}: {sorted(taken)} belongs to another open transaction")
        self._seq += 1
        return self._put(replace(record, seq=self._seq, revision=1))

    async def decide(self, tx: str, revision: int, decision: Decision, reason: str | None) -> TxRecord:
        record = self.records[tx]
        if record.revision != revision or record.state != "preparing":
            return record
        return self._put(replace(record, state=decision, reason=reason, revision=revision + 1))

    async def advance(
        self,
        tx: str,
        revision: int,
        done: Mapping[str, Sequence[str]],
        degraded: Mapping[str, str],
        finished: bool,
    ) -> TxRecord:
        record = self.records[tx]
        if record.revision != revision:
            return record
        kept = {stage: tuple(names) for stage, names in done.items()}
        return self._put(replace(record, done=kept, degraded=dict(degraded), finished=finished, revision=revision + 1))

    async def open(self) -> Sequence[TxRecord]:
        return [record for record in self.records.values() if not record.finished]

    async def lookup(self, tx: str) -> TxRecord | None:
        return self.records.get(tx)

    def low_water(self) -> int:
        return min((record.seq for record in self.records.values() if not record.finished), default=self._seq + 1)

    def _put(self, record: TxRecord) -> TxRecord:
        self.records[record.id] = record
        return record
