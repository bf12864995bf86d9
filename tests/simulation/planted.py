# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults that a careless implementation could have, planted by subclass, to prove that the simulator finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rdmp.coordinator import Coordinator, Decide, Output, Timer
from rdmp.messages import Abort, Aborted, Commit, Done, Prepare, Vote
from rdmp.participant import Transaction
from rdmp.participant_core import ParticipantCore, _Live
from rdmp.participant_table import Output as PartyOutput
from rdmp.participant_table import Phase, Write
from rdmp.records import Decision, TxRecord
from tests.simulation.disk import Disk
from tests.simulation.effects import Agent
from tests.simulation.orchestrator import Orchestrator, _Drive
from tests.simulation.party import Party
from tests.simulation.store import Store
from tests.simulation.world import World

Json = Mapping[str, Any]

# The participant


class _VotesTooEarly(Party):
    """A yes leaves while its journal entry is still on its way to the disk."""

    def apply(self, outputs: list[PartyOutput]) -> None:
        super().apply(outputs)
        for output in outputs:
            if isinstance(output, Write) and output.entry is not None and output.entry.phase is Phase.PREPARED:
                super().apply(self.core.written(output.token))


class _IgnoresEpochs(ParticipantCore):
    def _obey(self, peer: str, message: Prepare | Commit | Abort) -> None:
        super()._obey(peer, replace(message, epoch=self.meta.epoch))


class _ForgetsStages(ParticipantCore):
    """A commit that is repeated is carried out once more."""

    def _commit(self, live: _Live, message: Commit) -> None:
        if message.stage in live.entry.done and not live.busy:
            done = {stage: fields for stage, fields in live.entry.done.items() if stage != message.stage}
            live.entry = replace(live.entry, phase=Phase.STAGED, done=done)
        super()._commit(live, message)


class _AbortsByHeart(ParticipantCore):
    """An abort of a transaction that never arrived is answered, but not journalled."""

    def _unknown(self, peer: str, message: Prepare | Commit | Abort) -> None:
        if isinstance(message, Abort):
            self._send(peer, Aborted(message.tx))
        else:
            super()._unknown(peer, message)


class _PresumesCommit(ParticipantCore):
    """A commit of an unknown transaction is taken for one that was carried out and forgotten."""

    def _unknown(self, peer: str, message: Prepare | Commit | Abort) -> None:
        if isinstance(message, Commit):
            self._send(peer, Done(message.tx, message.stage))
        else:
            super()._unknown(peer, message)


class _IgnoresLowWater(ParticipantCore):
    def _unknown(self, peer: str, message: Prepare | Commit | Abort) -> None:
        super()._unknown(peer, replace(message, seq=max(message.seq, self.meta.low_water)))


class _GoesOnAfterRestart(ParticipantCore):
    """A prepare that a restart interrupted is taken for done."""

    def start(self) -> list[PartyOutput]:
        for live in self._live.values():
            if live.entry.phase is Phase.PREPARING:
                live.entry = replace(live.entry, phase=Phase.PREPARED)
                self._doubt.add(live.entry.id)
        return super().start()


class _HalfABatch(Disk):
    """A torn write is taken for whole: the transaction's entry is there, the documents of its result are not."""

    def torn(self, batch: Sequence[Write]) -> bool:
        self.commit([replace(write, state={}) for write in batch])
        return True


class _CleansUp(Agent):
    """What the journal does not know is removed at the start."""

    def restore(self, state: Mapping[str, Json], in_doubt: Iterable[Transaction]) -> None:
        super().restore(state, in_doubt)
        for node, container in list(self.docker.containers.items()):
            if f"node/{node}" not in state and container.tx not in {tx.id for tx in in_doubt}:
                self.docker.remove(node, container.tx)


# The coordinator and its log


class _DecidesLazily(Store):
    """A decision is acknowledged before it is synced."""

    def decide(self, tx: str, revision: int, decision: Decision, reason: str | None) -> TxRecord:
        before, lazy = self.records[tx], list(self._lazy)
        after = super().decide(tx, revision, decision, reason)
        if after is not before:
            self._lazy = [*lazy, (tx, before)]
        return after


class _DoesNotCompare(Store):
    """The last writer of a decision wins."""

    def decide(self, tx: str, revision: int, decision: Decision, reason: str | None) -> TxRecord:
        if (record := self.records[tx]).state != "preparing" and not record.finished:
            self.records[tx] = replace(record, state="preparing")
        return super().decide(tx, self.records[tx].revision, decision, reason)


class _RecoversToCommit(Coordinator):
    """Whoever recovers an open record presumes that all had voted yes."""

    def _decide(self, decision: Decision, reason: str | None) -> None:
        recovered = reason is not None and "restarted" in reason
        super()._decide("committed" if recovered else decision, reason)


class _OneYesIsEnough(Coordinator):
    def _voted(self, peer: str, vote: Vote) -> None:
        if vote.vote == "yes":
            for other in [name for name in self._missing if name != peer]:
                del self._missing[other]
        super()._voted(peer, vote)


class _StagesBackwards(Coordinator):
    def _next_stage(self) -> None:
        self.record = replace(self.record, stages=self.record.stages[::-1])
        super()._next_stage()
        self.record = replace(self.record, stages=self.record.stages[::-1])


class _AsksOnce(Coordinator):
    """Requests are not repeated."""

    def timer(self, name: Timer, now: float) -> list[Output]:
        return [] if name == "repeat" else super().timer(name, now)


class _AnswersTooEarly(Orchestrator):
    """The caller hears of a decision when it is taken, not when it is durable."""

    def _apply(self, drive: _Drive, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Decide):
                self.world.checks.may_answer(self, replace(output.record, state=output.decision))
        super()._apply(drive, outputs)


class _TrustsNobodyElse(Orchestrator):
    """A new leader does not look for what its predecessor left open."""

    def _recover(self, record: TxRecord) -> _Drive:
        return _Drive(self.machine_type(record, epoch=0, low_water=0, limits=self.limits, connected=()))


def _core(core: type[ParticipantCore]) -> dict[str, Any]:
    return {"party_type": type(core.__name__, (Party,), {"core_type": core})}


def _machine(machine: type[Coordinator]) -> dict[str, Any]:
    return {"orchestrator_type": type(machine.__name__, (Orchestrator,), {"machine_type": machine})}


_FAULTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "vote before the journal": lambda: {"party_type": _VotesTooEarly},
    "epoch not checked": lambda: _core(_IgnoresEpochs),
    "repeat not recognised": lambda: _core(_ForgetsStages),
    "abort not journalled": lambda: _core(_AbortsByHeart),
    "presumed commit on unknown": lambda: _core(_PresumesCommit),
    "low-water mark ignored": lambda: _core(_IgnoresLowWater),
    "interrupted prepare taken for done": lambda: _core(_GoesOnAfterRestart),
    "torn journal write taken for whole": lambda: {"party_type": type("Torn", (Party,), {"disk_type": _HalfABatch})},
    "an empty journal deletes": lambda: {"agent_type": _CleansUp},
    "decision not durable": lambda: {"store_type": _DecidesLazily},
    "decision without compare": lambda: {"store_type": _DoesNotCompare},
    "recovery presumes commit": lambda: _machine(_RecoversToCommit),
    "one yes is enough": lambda: _machine(_OneYesIsEnough),
    "stage order broken": lambda: _machine(_StagesBackwards),
    "requests not repeated": lambda: _machine(_AsksOnce),
    "answer before the decision is durable": lambda: {"orchestrator_type": _AnswersTooEarly},
    "no recovery by a new leader": lambda: {"orchestrator_type": _TrustsNobodyElse},
}
NAMES = tuple(_FAULTS)


def world_with(fault: str) -> type[World]:
    """Return a world in which a fault is planted."""
    return type("Planted", (World,), _FAULTS[fault]())
