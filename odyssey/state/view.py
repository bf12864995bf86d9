# SPDX-License-Identifier: AGPL-3.0-or-later
"""The folded state in memory: what the decisions so far add up to.

Read by everybody, written by the decision log alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from odyssey.model.naming import CONTROLLER, NETCONF
from odyssey.model.snapshot import Snapshot
from rdmp.records import TxRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction as the store keeps it.

    `position` is its place in the order of decisions that changed state (None: none yet, or aborted); the times are
    RFC 3339, set when it was created, decided and finished.
    """

    record: TxRecord
    position: int | None
    created: str
    decided: str | None = None
    finished: str | None = None
    hops: tuple[Mapping[str, Any], ...] = ()
    """Steps in between, each with `at`, `event` and what it concerns; `odyssey.state.trace` makes sense of them."""

    def document(self) -> dict[str, Any]:
        """The stored form, which `tx show` prints too."""
        times = {"position": self.position, "created": self.created, "decided": self.decided, "ended": self.finished}
        return {**self.record.to_json(), **times, **({"hops": list(self.hops)} if self.hops else {})}

    def summary(self) -> dict[str, Any]:
        """What lists show."""
        times = {"created": self.created, "decided": self.decided, "ended": self.finished}
        return {**self.record.summary(), **times}

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Entry:
        """The inverse of `document`."""
        rest = dict(value)
        hops = tuple(rest.pop("hops", ()))
        position, created, decided, ended = (rest.pop(key) for key in ("position", "created", "decided", "ended"))
        return cls(TxRecord.from_json(rest), position, created, decided, ended, hops)


class StateView:
    """State documents by key, transactions by id. `index` is the position of the last decision that was folded."""

    def __init__(self) -> None:
        self.incarnation = ""
        self.index = 0
        self.documents: dict[str, Mapping[str, Any]] = {}
        self.entries: dict[str, Entry] = {}
        self.given_up: dict[str, TxRecord] = {}
        """Transactions that somebody ended by `tx resolve`: kept for participants that come back late and ask."""
        self._unfinished: dict[str, Entry] = {}
        self._held: dict[str, str] = {}

    def put(self, entry: Entry) -> None:
        """Note how a transaction stands."""
        record = entry.record
        self.entries[record.id] = entry
        if record.finished:
            self._release(record.id)
        else:
            if record.id not in self._unfinished:
                self._held |= dict.fromkeys(record.objects, record.id)
            self._unfinished[record.id] = entry

    def drop(self, tx: str) -> None:
        """Forget a transaction."""
        self._release(tx)
        del self.entries[tx]

    def _release(self, tx: str) -> None:
        if (entry := self._unfinished.pop(tx, None)) is not None:
            for name in entry.record.objects:
                if self._held.get(name) == tx:
                    del self._held[name]

    def apply(self, position: int, changes: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Fold one decision."""
        for key, value in changes.items():
            if value is None:
                self.documents.pop(key, None)
            else:
                self.documents[key] = value
        self.index = max(self.index, position)

    def starting(self, prefix: str) -> dict[str, Mapping[str, Any]]:
        """Documents whose key starts with `prefix`, ordered by key."""
        return {key: self.documents[key] for key in sorted(self.documents) if key.startswith(prefix)}

    def values(self, prefix: str) -> list[Mapping[str, Any]]:
        """The same without their keys."""
        return list(self.starting(prefix).values())

    def unfinished(self) -> list[TxRecord]:
        """Transactions that somebody still has to hear of."""
        return [entry.record for entry in self._unfinished.values()]

    def oldest(self, default: int) -> int:
        """The lowest `seq` of an unfinished transaction; they are put in the order of their `seq`."""
        return next((entry.record.seq for entry in self._unfinished.values()), default)

    def holder(self, objects: Iterable[str]) -> str | None:
        """The first of these objects that an unfinished transaction reserves."""
        return next((name for name in sorted(objects) if name in self._held), None)

    def held(self) -> frozenset[str]:
        """Objects that unfinished transactions reserve."""
        return frozenset(self._held)

    def counts(self) -> dict[str, int]:
        """How many transactions are kept, by how they stand."""
        records = [entry.record for entry in self.entries.values()]
        return {
            "open": sum(record.state == "preparing" for record in records),
            "committed": sum(record.state == "committed" for record in records),
            "aborted": sum(record.state == "aborted" for record in records),
            "inDoubt": sum(record.state != "preparing" and not record.finished for record in records),
            "degraded": sum(bool(record.degraded) for record in records),
        }

    def summaries(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The transactions of these names that are still kept, in their order."""
        return [self.entries[name].summary() for name in names if name in self.entries]

    def images(self) -> frozenset[str]:
        """Image references of all platforms."""
        return frozenset(
            network["image"] for document in self.values("platform/") for network in document["networks"].values()
        )

    def participants(self) -> frozenset[str]:
        """Everybody who takes part in this cluster: the controller, the agent of each host of the inventory, and
        odyssey-netconf if it configures a switch.
        """
        inventory = self.documents.get("inventory")
        if not inventory:
            return frozenset()
        managed = any("management" in switch for switch in inventory["fabric"]["switches"].values())
        return frozenset({CONTROLLER, *inventory["hosts"], *([NETCONF] if managed else [])})

    def snapshot(
        self,
        images: Mapping[str, Mapping[str, str]],
        present: Iterable[str],
        placed: Mapping[str, Mapping[str, Any]],
        switches: frozenset[str] = frozenset(),
    ) -> Snapshot:
        """An immutable picture for the planner.

        `placed` are nodes that running plans are about to start, `switches` those that are connected.
        """
        pending = {
            key: value for record in self.unfinished() for key, value in record.changes.items() if value is not None
        }
        return Snapshot.from_documents(
            self.index, self.documents, reserved=self.held(), images=images, present=frozenset(present),
            pending={**pending, **placed}, switches=switches,
        )  # fmt: skip
