# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated decision log: compare-and-set, durable and lazy writes, power cuts, full disks, backups.

It gives what ``rdmp.decisionlog.DecisionLog`` promises and no more.  A durable write brings every earlier lazy one to
the disk; a power cut takes away some of the lazy ones that came after the last durable one, the newest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rdmp.records import Decision, TxRecord
from tests.simulation.kernel import Kernel, require


class StoreFailed(Exception):
    """The disk is full or the store is away; it may be tried again."""


class StoreRefused(Exception):
    """The record cannot be created: objects are held by another transaction."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds."""

    records: Mapping[str, TxRecord]
    nodes: Mapping[str, Mapping[str, Any]]
    seq: int


class Store:
    """Shared by all orchestrators.  ``fenced``: it knows its leader and creates nothing for another."""

    def __init__(self, kernel: Kernel, fenced: bool) -> None:
        self.kernel = kernel
        self.fenced = fenced
        self.records: dict[str, TxRecord] = {}
        self.nodes: dict[str, Mapping[str, Any]] = {}  # the folded state: what the decisions add up to
        self.epoch = 0
        self.incarnation = 1
        self.seq = 0
        self.failing_until = 0.0
        self.set_back: set[str] = set()  # transactions of which a restored backup holds an older view or none
        self._lazy: list[tuple[str, TxRecord]] = []  # what stood before each lazy write

    # What DecisionLog offers

    def acquire(self) -> int:
        """Become the leader under a new epoch."""
        self.epoch += 1
        return self.epoch

    def create(self, record: TxRecord) -> TxRecord:
        """Store a new record durably."""
        self._available()
        if self.fenced and record.epoch < self.epoch:
            raise StoreFailed("another orchestrator leads")
        if record.id in self.records:
            raise StoreFailed(f"{record.id} exists already")
        held = {name for other in self.records.values() if not other.finished for name in other.objects}
        if held & set(record.objects):
            raise StoreRefused(f"{sorted(held & set(record.objects))} belongs to another open transaction")
        self.seq += 1
        return self._durable(replace(record, seq=self.seq, revision=1))

    def decide(self, tx: str, revision: int, decision: Decision, reason: str | None) -> TxRecord:
        """Set the decision if the revision stands; durable."""
        self._available()
        record = self.records[tx]
        if record.revision != revision or record.state != "preparing":
            return record
        decided = replace(record, state=decision, reason=reason, revision=revision + 1)
        if decision == "committed":
            self._fold(decided)
        return self._durable(decided)

    def advance(self, view: TxRecord) -> TxRecord:
        """Note the progress if the revision stands; lazy."""
        self._available()
        record = self.records[view.id]
        if record.revision != view.revision:
            return record
        require(record.state != "preparing", f"{view.id} advanced before it was decided")
        new = replace(
            record, done=view.done, degraded=view.degraded, finished=view.finished, revision=view.revision + 1
        )
        self._lazy.append((view.id, record))
        self.records[view.id] = new
        return new

    def low_water(self) -> int:
        """Every transaction with a lower seq is finished."""
        return min((record.seq for record in self.records.values() if not record.finished), default=self.seq + 1)

    # What happens to it

    def power_cut(self) -> None:
        """Lose some of what was not yet synced, and be away for a while."""
        lost = self.kernel.rng.randint(0, len(self._lazy))
        for _ in range(lost):
            tx, before = self._lazy.pop()
            self._undo(tx, before)
        self._lazy.clear()
        self.kernel.note(f"store: power cut, {lost} lazy writes are lost")

    def backup(self) -> Backup:
        """Return what a restore brings back."""
        return Backup(dict(self.records), dict(self.nodes), self.seq)

    def restore(self, backup: Backup) -> None:
        """Go back to a backup as the handbook says: a new incarnation, and an epoch above all that were ever used."""
        self.set_back |= {tx for tx, record in self.records.items() if not _same(backup.records.get(tx), record)}
        self.set_back |= {tx for tx, record in backup.records.items() if not record.finished}
        self.records, self.nodes, self.seq = dict(backup.records), dict(backup.nodes), backup.seq
        self._lazy.clear()
        self.incarnation += 1
        self.epoch += 100
        self.kernel.note(f"store: restored from a backup, without the newest of {sorted(self.set_back)}")

    def _available(self) -> None:
        if self.kernel.now < self.failing_until:
            raise StoreFailed("no space left on device")

    def _durable(self, record: TxRecord) -> TxRecord:
        self._lazy.clear()
        self.records[record.id] = record
        return record

    def _undo(self, tx: str, before: TxRecord) -> None:
        self.records[tx] = before

    def _fold(self, record: TxRecord) -> None:
        for key, value in record.changes.items():
            if value is None:
                self.nodes.pop(key, None)
            else:
                self.nodes[key] = value


def _same(old: TxRecord | None, new: TxRecord) -> bool:
    return old is not None and old.state == new.state and old.finished == new.finished
