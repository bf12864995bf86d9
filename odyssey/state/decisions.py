# SPDX-License-Identifier: AGPL-3.0-or-later
"""RDMP's decision log and event log over a Store.

`tx/<id>` is one document; the decision is the compare-and-set of its revision. It carries the whole state change and
its events, so the documents under `state/` and the events are a fold of it: written in the same step where the store
can, made up for at the next start where it cannot.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from odyssey.state.store import Append, Conflict, Set, Store
from odyssey.state.view import Entry, StateView
from rdmp.decisionlog import DecisionLog
from rdmp.moment import rfc3339
from rdmp.records import Decision, TxProgress, TxRecord

TX = "tx/"
STATE = "state/"
FOLD = "fold"
HEURISTIC = "heuristic/"
_HOPS = 256
_NO_HOPS = frozenset({"created", "finished", "prepared"})
Clock = Callable[[], str]


def utc_now() -> str:
    """Now as RFC 3339 in UTC, with microseconds."""
    return rfc3339(time.time())


class StoreDecisionLog(DecisionLog):
    """Writes decisions and keeps the view in step. Only the leader of the store may use it."""

    def __init__(self, store: Store, view: StateView, *, kept: int = 1000, clock: Clock = utc_now) -> None:
        """At least `kept` finished transactions stay to be asked for; a tenth more may, to be forgotten together."""
        self._store = store
        self._view = view
        self._kept = kept
        self._finished: list[tuple[int, str]] = []  # a heap: the lowest seq first
        self._clock = clock
        self._hops: dict[str, list[Mapping[str, Any]]] = {}
        self._notes: dict[str, Sequence[Mapping[str, Any]]] = {}
        self._seq = 0
        self._position = 0

    async def load(self) -> None:
        """Read everything, and fold what a crash kept from being folded."""
        self._view.incarnation = self._store.incarnation
        for document in await self._store.list(STATE):
            self._view.documents[document.key.removeprefix(STATE)] = document.value
        for document in await self._store.list(HEURISTIC):
            tx = document.key.removeprefix(HEURISTIC)
            self._view.given_up[tx] = TxRecord.from_json(document.value["record"])
            self._notes[tx] = document.value["notes"]
        marker = await self._store.get(FOLD)
        self._view.index = self._position = marker.value["position"] if marker else 0
        entries = [Entry.parse(document.value) for document in await self._store.list(TX)]
        for entry in sorted(entries, key=lambda item: item.record.seq):
            self._view.put(entry)
            self._seq = entry.record.seq
            if entry.record.finished:
                self._finished.append((entry.record.seq, entry.record.id))
        decided = [entry for entry in self._view.entries.values() if (entry.position or 0) > self._view.index]
        for entry in sorted(decided, key=lambda item: item.position or 0):
            await self._store.commit(None, self._fold(entry))
            self._position = entry.position or 0
            self._view.apply(self._position, entry.record.changes)

    def _fold(self, entry: Entry) -> list[Set | Append]:
        changes: list[Set | Append] = [Set(STATE + key, value) for key, value in entry.record.changes.items()]
        events = [
            Append(event["topic"], entry.decided or entry.created, {**event["data"], "tx": entry.record.id})
            for event in entry.record.events
        ]
        return [*changes, *events, Set(FOLD, {"position": entry.position})]

    async def create(self, record: TxRecord) -> TxRecord:
        record.check()
        if record.id in self._view.entries:
            raise ValueError(f"transaction {record.id} exists already")
        if taken := self._view.holder(record.objects):
            raise ValueError(f"transaction {record.id}: {taken} belongs to another open transaction")
        self._seq += 1
        created = Entry(replace(record, seq=self._seq, revision=1), None, self._clock())
        self._view.put(created)
        try:
            await self._store.commit(Set(TX + record.id, created.document(), expect=0))
        except BaseException:
            self._view.drop(record.id)
            raise
        return created.record

    async def decide(self, tx: str, revision: int, decision: Decision, reason: str | None) -> TxRecord:
        found = self._view.entries[tx]
        if found.record.revision != revision or found.record.state != "preparing":
            return found.record
        record = replace(found.record, state=decision, reason=reason, revision=revision + 1)
        entry = replace(found, record=record, decided=self._clock())
        then: list[Set | Append] = []
        if decision == "committed":
            self._position += 1
            entry = replace(entry, position=self._position)
            then = self._fold(entry)
        return await self._write(entry, revision, then, durable=True)

    async def advance(
        self,
        tx: str,
        revision: int,
        done: Mapping[str, Sequence[str]],
        degraded: Mapping[str, str],
        finished: bool,
    ) -> TxRecord:
        found = self._view.entries[tx]
        if found.record.revision != revision:
            return found.record
        kept = {stage: tuple(names) for stage, names in done.items()}
        record = replace(found.record, done=kept, degraded=dict(degraded), finished=finished, revision=revision + 1)
        entry = replace(found, record=record, finished=self._clock() if finished else None)
        written = await self._write(entry, revision, (), durable=False)
        if finished and not found.record.finished:
            heapq.heappush(self._finished, (record.seq, tx))
            await self._trim()
        return written

    async def _write(
        self, entry: Entry, expect: int, then: Sequence[Set | Append], *, durable: bool
    ) -> TxRecord:
        tx = entry.record.id
        if (hops := self._hops.get(tx)) is not None:
            entry = replace(entry, hops=(*entry.hops, *hops[len(entry.hops) :]))
        try:
            await self._store.commit(Set(TX + tx, entry.document(), expect=expect), then, durable=durable)
        except Conflict as lost:
            if lost.actual is None:
                raise
            self._view.put(Entry.parse(lost.actual.value))
            return self._view.entries[tx].record
        self._view.put(entry)
        if then and entry.position is not None:
            self._view.apply(entry.position, entry.record.changes)
        if entry.record.finished:
            self._hops.pop(tx, None)
        return entry.record

    def note(self, progress: TxProgress) -> None:
        """Keep when a step was taken, in memory until the next write about its transaction.

        Of steps of single participants at most `_HOPS` are kept; a transaction may have thousands of them.
        """
        found = self._view.entries.get(progress.tx)
        if found is None or progress.kind in _NO_HOPS:
            return
        hops = self._hops.setdefault(progress.tx, list(found.hops))
        if progress.participant is None or len(hops) < _HOPS:
            hop = {key: value for key in ("participant", "stage", "reason") if (value := getattr(progress, key))}
            hops.append({"at": self._clock(), "event": progress.kind, **hop})

    async def give_up(self, tx: str, operator: str, participants: Sequence[str], reason: str) -> None:
        """Put on record, durably and in the event log, who decided to wait no longer for these participants."""
        record = replace(self._view.entries[tx].record, finished=True)
        now = self._clock()
        note = {"operator": operator, "reason": reason, "participants": list(participants)}
        notes = [*self._notes.get(tx, ()), {"time": now, **note}]
        event = Append("tx.heuristic", now, {"tx": tx, "decision": record.state, **note})
        await self._store.commit(Set(HEURISTIC + tx, {"record": record.to_json(), "notes": notes}), [event])
        self._view.given_up[tx] = record
        self._notes[tx] = notes

    def resolutions(self, tx: str) -> Sequence[tuple[Sequence[str], str]]:
        """Who was given up in a transaction, and the text that tells by whom and why."""
        return [
            (note["participants"], f"given up by {note['operator']}: {note['reason']}")
            for note in self._notes.get(tx, ())
        ]

    async def _trim(self) -> None:
        """Forget the oldest finished transactions beyond what is kept; the newest stays, it carries `seq` on."""
        if len(self._finished) <= self._kept + self._kept // 10:
            return
        old = [heapq.heappop(self._finished)[1] for _ in range(len(self._finished) - self._kept)]
        for tx in old:
            self._view.drop(tx)
        await self._store.commit(None, [Set(TX + tx, None) for tx in old], durable=False)

    async def open(self) -> Sequence[TxRecord]:
        return self._view.unfinished()

    async def lookup(self, tx: str) -> TxRecord | None:
        found = self._view.entries.get(tx)
        return found.record if found else self._view.given_up.get(tx)

    def low_water(self) -> int:
        return self._view.oldest(default=self._seq + 1)
