# SPDX-License-Identifier: AGPL-3.0-or-later
"""A participant's process: the production core in a simulated form of ``rdmp.runner``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdmp.limits import Limits
from rdmp.messages import Abort, Aborted, Commit, Done, Error, Message, Prepare, Vote
from rdmp.participant_core import ParticipantCore
from rdmp.participant_table import (
    FINAL,
    Announce,
    CancelRun,
    Output,
    Phase,
    Result,
    Run,
    Send,
    SetTimer,
    Write,
)
from tests.simulation.disk import Disk
from tests.simulation.effects import Behaviour, Script
from tests.simulation.kernel import Kernel, Process, require

if TYPE_CHECKING:
    from tests.simulation.network import Session
    from tests.simulation.world import World

_RESTART = 1.0  # mean seconds until a process that died is started again
_TIDY = 5.0  # seconds between rounds of the restoring loop
_LATE = 2.0  # an engine carries out a call of a dead process at most so much later
QUEUE_BOUND = 200  # writes that may wait for the disk, messages that may wait for a new epoch to be on it


@dataclass(slots=True)
class Effect:
    """An effect that runs, or that waits for earlier ones of its transaction."""

    run: Run
    script: Script
    deaf: bool = False  # cancelled, and yet it goes on to its next call or to its end
    started: bool = False
    call: Callable[[], Any] | None = None


class Party(Process):
    """One participant with its disk, its part of the world and its sessions."""

    core_type: type[ParticipantCore] = ParticipantCore
    disk_type: type[Disk] = Disk

    def __init__(self, world: World, kernel: Kernel, name: str, behaviour: Behaviour, limits: Limits) -> None:
        super().__init__(kernel, name)
        self.world = world
        self.behaviour = behaviour
        self.limits = limits
        self.disk = self.disk_type(kernel, name)
        self.sessions: dict[str, Session] = {}
        self.core = self.core_type((), self.disk.meta, limits)
        self._writes: deque[Write] = deque()
        self._syncing: list[Write] = []
        self._effects: dict[str, deque[Effect]] = {}

    # Life

    def start(self) -> None:
        """Start the process with what the disk has."""
        if self.up:
            return
        self.up = True
        self.kernel.note(f"{self.name}: starts")
        self.core = self.core_type(self.disk.entries.values(), self.disk.meta, self.limits)
        self.behaviour.restore(self.disk.state, self.core.in_doubt())
        self.apply(self.core.start())
        self.later(0.0, self._tidy)
        for leader in self.world.orchestrators:
            self.later(self.kernel.around(0.1), self.world.network.dial, self, leader)

    def kill(self, restart: bool = True) -> None:
        """Kill the process; what it was writing may be on the disk, what it was doing may be carried out."""
        if not self.up:
            return
        self.kernel.note(f"{self.name}: dies")
        self.world.counts["crashes"] += 1
        if self._syncing:
            self.disk.torn(self._syncing)
        for waiting in self._effects.values():
            self._orphan(waiting[0])
        self.die()
        self._writes.clear()
        self._syncing = []
        self._effects.clear()
        self.sessions.clear()
        self.world.network.left(self)
        if restart:
            self.kernel.after(self.kernel.around(_RESTART), self.start)

    def _orphan(self, effect: Effect) -> None:
        """The process dies in the midst of a call: it is carried out now, later, or not at all."""
        if effect.call is None or not self.kernel.chance(0.5):
            return
        if self.behaviour.world.late_calls and self.kernel.chance(0.5):
            self.kernel.after(self.kernel.rng.random() * _LATE, self.world.late_call, self, effect.call)
        else:
            effect.call()

    def _tidy(self) -> None:
        """One round of the restoring loop."""
        call = self.behaviour.tidy()
        if call is not None:
            call()
        self.set_timer("tidy", _TIDY, self._tidy)

    # Connections

    def welcomed(self, session: Session, epoch: int, incarnation: str) -> None:
        """An orchestrator took the connection."""
        if session.broken:
            return
        self.sessions[session.leader.name] = session
        self.apply(self.core.welcomed(session.leader.name, epoch, incarnation))

    def lost(self, session: Session) -> None:
        """A connection has ended; dial again."""
        name = session.leader.name
        if self.sessions.get(name) is session:
            del self.sessions[name]
            self.apply(self.core.disconnected(name))
        self.later(self.kernel.around(0.5), self.world.network.dial, self, session.leader)

    def received(self, peer: str, message: Message) -> None:
        """A message of an orchestrator arrived."""
        if isinstance(message, Error):
            return
        if self.kernel.tracing:
            self.kernel.note(f"{peer} -> {self.name}: {message}")
        outputs = self.core.received(peer, message)
        if isinstance(message, Prepare | Commit | Abort) and message.epoch < self.disk.meta.epoch:
            obeyed = [output for output in outputs if not isinstance(output, Send)]
            require(not obeyed, f"{self.name} obeys epoch {message.epoch} of {peer} after {self.disk.meta.epoch}")
        self.apply(outputs)

    # Outputs of the core

    def apply(self, outputs: list[Output]) -> None:
        """Carry out what the core asks for, in order."""
        for output in outputs:
            match output:
                case Send(peer, message):
                    self._check_said(message)
                    if peer in self.sessions:
                        self.world.network.send(self.name, self.sessions[peer].leader, message)
                case Write():
                    self._writes.append(output)
                    if not self._syncing:
                        self._sync()
                case Run():
                    self._begin(output)
                case CancelRun(tx):
                    self._cancel(tx)
                case SetTimer(name, version, seconds):
                    self.set_timer(name, seconds, self._timer, name, version)
                case Announce(topic):
                    self.world.counts[topic] += 1

    def _timer(self, name: str, version: int) -> None:
        self.apply(self.core.timer(name, version))

    def _sync(self) -> None:
        """Write what has gathered; one sync for all of it."""
        waiting = max(len(self._writes), len(self.core._held))
        require(waiting <= QUEUE_BOUND, f"{self.name}: {waiting} writes or messages wait for the disk")
        self._syncing = list(self._writes)
        self._writes.clear()
        seconds = self.kernel.around(self.world.plan.disk_seconds)
        self.doomed("write", seconds)
        self.later(seconds, self._synced)

    def _synced(self) -> None:
        batch, self._syncing = self._syncing, []
        if self.disk.full():
            self.kernel.note(f"{self.name}: its disk is full")
            self.kill()  # it never goes on without its memory
            return
        self.disk.commit(batch)
        require(
            self.disk.open() <= self.limits.participant_transactions,
            f"{self.name}: {self.disk.open()} transactions are open",
        )
        for write in batch:
            if self.kernel.tracing and write.entry is not None:
                self.kernel.note(f"{self.name} journal: {write.entry.id} {write.entry.phase.value}")
            self.apply(self.core.written(write.token))
        if self._writes and not self._syncing:
            self._sync()

    # Effects

    def _begin(self, run: Run) -> None:
        tx = run.transaction.id
        self.stop_timer(tx)
        waiting = self._effects.setdefault(tx, deque())
        waiting.append(Effect(run, self.behaviour.effect(run)))
        if len(waiting) == 1:
            self._go(tx, waiting[0])

    def _cancel(self, tx: str) -> None:
        """Cancel what runs of a transaction: it may end at once, or after the call that it is in, or not heed it."""
        for effect in self._effects.get(tx, ()):
            effect.deaf = True
        waiting = self._effects.get(tx)
        if waiting and self.kernel.chance(0.5):
            if waiting[0].call is not None and self.kernel.chance(0.5):
                waiting[0].call()
            waiting[0].call = None
            waiting[0].script.close()
            self._ended(tx, waiting[0], None)

    def _go(self, tx: str, effect: Effect) -> None:
        if effect.started:
            return
        effect.started = True
        if not effect.deaf:
            self.world.checks.may_run(self, effect.run)
            if self.kernel.tracing:
                self.kernel.note(f"{self.name}: {effect.run.kind} {effect.run.stage or ''} of {tx}")
        self._resume(tx, effect, None)

    def _resume(self, tx: str, effect: Effect, value: Any) -> None:
        """Let the script go on to its next call or to its end."""
        try:
            effect.call = effect.script.send(value)
        except StopIteration as stop:
            self._ended(tx, effect, stop.value)
        else:
            seconds = self.kernel.around(self.world.plan.call_seconds)
            self.doomed("call", seconds)
            self.later(seconds, self._call, tx, effect)

    def _call(self, tx: str, effect: Effect) -> None:
        if effect.call is None:
            return
        call, effect.call = effect.call, None
        self._resume(tx, effect, call())

    def _ended(self, tx: str, effect: Effect, result: Result | None) -> None:
        waiting = self._effects[tx]
        waiting.popleft()
        if result is not None:
            self.apply(self.core.ran(tx, effect.run.version, result))
        if waiting:
            self._go(tx, waiting[0])
        else:
            self._effects.pop(tx, None)

    # Checks

    def _check_said(self, message: Message) -> None:
        """Nothing is promised or reported that is not on the disk."""
        match message:
            case Vote(tx=tx, vote="yes"):
                phase = self.phase(tx)
                kept = self.disk.bound(tx) or phase is Phase.COMMITTED
                require(kept, f"{self.name} votes yes on {tx}, but its journal says {phase.value}")
            case Done(tx=tx, stage=stage):
                kept = tx in self.disk.entries and stage in self.disk.entries[tx].done
                require(kept, f"{self.name} says {stage} of {tx} is done, but its journal does not")
            case Aborted(tx=tx):
                phase = self.phase(tx)
                kept = phase in FINAL or tx in self.world.store.set_back
                require(kept, f"{self.name} says {tx} is aborted, but its journal says {phase.value}")
            case _:
                pass

    def phase(self, tx: str) -> Phase:
        """Return the durable phase of a transaction."""
        return self.disk.entries[tx].phase if tx in self.disk.entries else Phase.UNKNOWN
