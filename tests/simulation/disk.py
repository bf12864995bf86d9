# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated disk of a participant: a write-ahead log whose batches are whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rdmp.participant_table import BOUND, FINAL, TRANSITIONS, Entry, Meta, Phase, Write
from tests.simulation.kernel import Kernel, require

REACHABLE = {
    phase: frozenset({phase, *steps.values()}) for phase, steps in TRANSITIONS.items()
}  # what one write may make of what stands


class Disk:
    """What survives a participant's process."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.entries: dict[str, Entry] = {}
        self.meta = Meta()
        self.state: dict[str, Any] = {}
        self.was_lost = False
        self.full_until = 0.0

    def full(self) -> bool:
        """Tell whether writes fail now."""
        return self.kernel.now < self.full_until

    def commit(self, batch: Sequence[Write]) -> None:
        """Carry out one transaction of the journal: it was synced."""
        for write in batch:
            self._apply(write)

    def torn(self, batch: Sequence[Write]) -> bool:
        """Die while a batch is written: a prefix of its frames reached the disk; tells whether all of it did.

        A batch without its commit frame is rolled back when the journal is opened again.
        """
        whole = self.kernel.rng.randint(0, len(batch)) == len(batch)
        if whole:
            self.commit(batch)
        return whole

    def lose(self) -> None:
        """The journal is gone; an empty one takes its place."""
        self.entries, self.meta, self.state = {}, Meta(), {}
        self.was_lost = True

    def _apply(self, write: Write) -> None:
        if write.meta is not None:
            old, new = self.meta, write.meta
            require(new.epoch >= old.epoch, f"{self.name} forgets epoch {old.epoch} for {new.epoch}")
            if new.incarnation == old.incarnation:
                require(new.low_water >= old.low_water, f"{self.name} lowers its low-water mark")
            self.meta = new
        if (entry := write.entry) is not None:
            before = self.entries[entry.id].phase if entry.id in self.entries else Phase.UNKNOWN
            require(entry.phase in REACHABLE[before], f"{self.name}: {entry.id} goes from {before} to {entry.phase}")
            require(entry.epoch <= self.meta.epoch, f"{self.name} obeys epoch {entry.epoch} before it has stored it")
            self.entries[entry.id] = entry
        for key, document in write.state.items():
            if document is None:
                self.state.pop(key, None)
            else:
                self.state[key] = document
        for tx in write.forget:
            require(self.entries[tx].phase in FINAL, f"{self.name} forgets {tx}, which has not ended")
            del self.entries[tx]

    def open(self) -> int:
        """Return how many transactions have not ended here."""
        return sum(entry.phase not in FINAL for entry in self.entries.values())

    def bound(self, tx: str) -> bool:
        """Tell whether a yes of this participant is on the disk and it has not ended."""
        return tx in self.entries and self.entries[tx].phase in BOUND
