# SPDX-License-Identifier: AGPL-3.0-or-later
"""A coordinator and participants over a simulated disk, network and world, one step at a time.

Every write, effect and delivery is an action in a list, carried out in order; whoever drives it may kill a process
before an action, between its outside effect and its news to the process, or after it.  What is on a disk and in the
world survives.  Each action asserts what must hold at that moment.  Chance is the business of ``tests.simulation``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rdmp import coordinator as co
from rdmp import participant_table as pc
from rdmp.limits import Limits
from rdmp.messages import Commit, Done, Error, Inquire, Message, Prepare, Vote
from rdmp.participant import Effect
from rdmp.participant_core import ParticipantCore
from rdmp.records import TxRecord

COORDINATOR = "o1"
LIMITS = Limits()
LIMIT_STEPS = 20_000


@dataclass
class Action:
    """Something that will happen to ``owner``: ``kind`` is write, effect, deliver, connect or restart."""

    kind: str
    owner: str
    data: Any
    sender: str = ""


@dataclass
class Node:
    """A process: ``life`` rises with each restart, so that what belonged to an earlier life is dropped."""

    name: str
    up: bool = True
    life: int = 1
    timers: dict[Any, tuple[float, Any]] = field(default_factory=dict)


@dataclass
class ParticipantNode(Node):
    """A participant with its disk and its part of the world."""

    core: ParticipantCore = field(default_factory=lambda: ParticipantCore((), pc.Meta(), LIMITS))
    disk: dict[str, pc.Entry] = field(default_factory=dict)
    meta: pc.Meta = field(default_factory=pc.Meta)
    state: dict[str, Any] = field(default_factory=dict)
    world: set[tuple[str, str]] = field(default_factory=set)  # (tx, thing)
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    refuses: bool = False
    failures: int = 0  # how many commit effects raise before one succeeds


@dataclass
class CoordinatorNode(Node):
    """The coordinator with its decision log."""

    machines: dict[str, co.Coordinator] = field(default_factory=dict)
    log: dict[str, TxRecord] = field(default_factory=dict)
    epoch: int = 1
    connected: set[str] = field(default_factory=set)


def new_record(tx: str, participants: Mapping[str, tuple[str, ...]], stages: tuple[str, ...]) -> TxRecord:
    """Return a record whose participants take part in the given stages."""
    operations: dict[str, Any] = {
        name: {"prepare": {}, "stages": {stage: {} for stage in mine}} for name, mine in participants.items()
    }
    return TxRecord(tx, 0, 1, 0, "preparing", operations, stages, deadline=30.0)


class World:
    """Everything; see the module's text."""

    def __init__(self, records: list[TxRecord], names: tuple[str, ...]) -> None:
        self.now = 0.0
        self.actions: list[Action] = []
        self.coordinator = CoordinatorNode(COORDINATOR)
        self.participants = {name: ParticipantNode(name) for name in names}
        self.answers: dict[str, TxRecord] = {}
        self.steps = 0
        self._records = records
        for name in names:
            self._connect(name)
        for record in records:
            self._begin(record)

    # Driving

    def step(self, kill: str = "", late: bool = False) -> Action:
        """Carry out the next action; ``kill`` says whether and when its owner dies of it."""
        self.steps += 1
        assert self.steps < LIMIT_STEPS, "the protocol does not come to rest"
        if not self.actions:
            self.fire_timer()
            return Action("timer", "", None)
        action = self.actions.pop(0)
        if kill == "before":
            self.kill(action.owner, late)
        elif self._alive(action):
            self._outside(action)
            if kill == "between":
                self.kill(action.owner, late)
            else:
                self._inside(action)
                if kill == "after":
                    self.kill(action.owner, late)
        return action

    def begin(self, record: TxRecord) -> None:
        """Begin another transaction."""
        if self.coordinator.up:
            self._records.append(record)
            self._begin(record)

    def settle(self) -> None:
        """Run in order until everything is finished."""
        while not self.at_rest():
            self.step()

    def at_rest(self) -> bool:
        """Tell whether nothing is under way and nothing is open."""
        nodes = [self.coordinator, *self.participants.values()]
        return (
            not self.actions
            and all(node.up for node in nodes)
            and all(record.finished for record in self.coordinator.log.values())
            and all(entry.phase in pc.FINAL for node in self.participants.values() for entry in node.disk.values())
        )

    def kill(self, name: str, late: bool = False) -> None:
        """Kill a process; it restarts at once, or ``late`` when everything else has been done."""
        node = self._node(name)
        node.up = False
        node.life += 1
        node.timers.clear()
        self.actions = [
            action
            for action in self.actions
            if action.owner != name and not (action.kind == "connect" and name == COORDINATOR)
        ]
        for participant in self.participants.values():
            if name in (COORDINATOR, participant.name):
                self._disconnect(participant)
        self.actions.insert(len(self.actions) if late else 0, Action("restart", name, node.life))

    # What happens outside a process: disk, world, network

    def _outside(self, action: Action) -> None:
        match action.kind, action.data:
            case "write", (pc.Write() as write):
                self._journal(self.participants[action.owner], write)
            case "write", (co.Create() | co.Decide() | co.Advance() as write, _):
                self._log(write)
            case "effect", pc.Run() as run:
                self._effect(self.participants[action.owner], run)

    def _journal(self, node: ParticipantNode, write: pc.Write) -> None:
        if write.entry is not None:
            old = node.disk.get(write.entry.id)
            if old is not None:
                assert old.phase not in pc.FINAL, "a final phase was left"
            node.disk[write.entry.id] = write.entry
        for key, document in write.state.items():
            if document is None:
                node.state.pop(key, None)
            else:
                node.state[key] = document
        if write.meta is not None:
            assert write.meta.epoch >= node.meta.epoch
            node.meta = write.meta
        for tx in write.forget:
            assert node.disk[tx].phase in pc.FINAL
            del node.disk[tx]

    def _log(self, write: co.Create | co.Decide | co.Advance) -> None:
        log, record = self.coordinator.log, write.record
        match write:
            case co.Create():
                assert record.id not in log
                log[record.id] = replace(record, seq=len(log) + 1, revision=1)
            case co.Decide() if log[record.id].revision == record.revision:
                assert log[record.id].state == "preparing"
                if write.decision == "committed":
                    # A yes binds: whoever is asked to commit has promised it durably.
                    for name in record.participants:
                        assert self.participants[name].disk[record.id].phase is pc.Phase.PREPARED
                kept = replace(log[record.id], state=write.decision, reason=write.reason, revision=record.revision + 1)
                log[record.id] = kept
            case co.Advance() if log[record.id].revision == record.revision:
                log[record.id] = replace(record, revision=record.revision + 1)

    def _effect(self, node: ParticipantNode, run: pc.Run) -> None:
        tx, entry = run.transaction.id, node.disk[run.transaction.id]
        match run.kind:
            case "prepare":
                assert entry.phase is pc.Phase.PREPARING, "an effect without a durable intent"
                if not node.refuses:
                    self._make(node, tx, "prepared")
            case "commit":
                assert entry.phase is pc.Phase.COMMITTING and entry.stage == run.stage
                record = self.coordinator.log[tx]
                assert record.state == "committed"
                for stage in record.stages[: record.stages.index(run.stage or "")]:
                    for name in record.takers(stage):
                        assert (tx, stage) in self.participants[name].world, "a stage began before the one before it"
                if not node.failures:
                    self._make(node, tx, run.stage or "")
            case "abort":
                assert entry.phase is pc.Phase.ABORTING
                node.world = {thing for thing in node.world if thing[0] != tx}

    def _make(self, node: ParticipantNode, tx: str, thing: str) -> None:
        """Effects are idempotent by identity: what exists is found, not made again."""
        if (tx, thing) not in node.world:
            node.world.add((tx, thing))
            node.made[tx, thing] += 1

    # What a process learns

    def _inside(self, action: Action) -> None:
        if action.kind == "restart":
            self._restart(action.owner)
        elif action.kind == "connect":
            self._connect(action.owner)
        elif action.owner == COORDINATOR:
            self._inside_coordinator(action)
        else:
            node = self.participants[action.owner]
            match action.kind, action.data:
                case "write", write:
                    self._apply(node, node.core.written(write.token))
                case "effect", run:
                    self._apply(node, node.core.ran(run.transaction.id, run.version, self._result(node, run)))
                case "deliver", message:
                    self._apply(node, node.core.received(action.sender, message))

    def _result(self, node: ParticipantNode, run: pc.Run) -> pc.Result:
        if run.kind == "prepare" and node.refuses:
            return pc.Denied("no room")
        if run.kind == "commit":
            if node.failures:
                node.failures -= 1
                return pc.Failed("not now")
            return Effect(state={f"{run.transaction.id}/{run.stage}": {"seq": run.transaction.seq}})
        return Effect()

    def _inside_coordinator(self, action: Action) -> None:
        node = self.coordinator
        if action.kind == "write":
            write, tx = action.data
            self._drive(tx, node.machines[tx].written(node.log[write.record.id], self.now))
            return
        message = action.data
        tx = str(message.ref if isinstance(message, Error) else message.tx)
        if tx in node.machines:
            self._drive(tx, node.machines[tx].received(action.sender, message, self.now))
        elif isinstance(message, Inquire):
            for answer in co.answer_inquiry(node.log.get(tx), message, action.sender, node.epoch, self._low_water()):
                self._deliver(COORDINATOR, action.sender, answer)

    def _apply(self, node: ParticipantNode, outputs: list[pc.Output]) -> None:
        for output in outputs:
            match output:
                case pc.Write():
                    self.actions.append(Action("write", node.name, output))
                case pc.Run():
                    self.actions.append(Action("effect", node.name, output))
                case pc.CancelRun(tx):
                    self.actions = [one for one in self.actions if not self._is_effect(one, node, tx)]
                case pc.Send(_, message):
                    self._check_answer(node, message)
                    self._deliver(node.name, COORDINATOR, message)
                case pc.SetTimer(name, version, seconds):
                    node.timers[name] = (self.now + seconds, version)
                case pc.Announce():
                    pass

    def _is_effect(self, action: Action, node: ParticipantNode, tx: str) -> bool:
        return action.kind == "effect" and action.owner == node.name and action.data.transaction.id == tx

    def _check_answer(self, node: ParticipantNode, message: Message) -> None:
        """Nothing is promised or reported that is not durable."""
        if isinstance(message, Vote) and message.vote == "yes":
            assert node.disk[message.tx].phase not in (pc.Phase.PREPARING, pc.Phase.ABORTING, pc.Phase.ABORTED)
        if isinstance(message, Done):
            assert message.stage in node.disk[message.tx].done
            assert f"{message.tx}/{message.stage}" in node.state

    def _drive(self, tx: str, outputs: list[co.Output]) -> None:
        node = self.coordinator
        for output in outputs:
            match output:
                case co.Send(peer, message):
                    record = node.log[tx]
                    assert not isinstance(message, Prepare) or record.state == "preparing"
                    assert not isinstance(message, Commit) or record.state == "committed"
                    self._deliver(COORDINATOR, peer, message)
                case co.Create() | co.Decide() | co.Advance():
                    self.actions.append(Action("write", COORDINATOR, (output, tx)))
                case co.SetTimer(name, seconds):
                    node.timers[tx, name] = (self.now + seconds, None)
                case co.Answer(record):
                    assert tx not in self.answers
                    assert record.state == node.log[tx].state != "preparing"
                    self.answers[tx] = record
                case co.Finished():
                    del node.machines[tx]
                    node.timers = {key: value for key, value in node.timers.items() if key[0] != tx}
                case co.Tell():
                    pass

    # Helpers

    def _begin(self, record: TxRecord) -> None:
        node = self.coordinator
        machine = node.machines[record.id] = self._machine(record)
        self._drive(record.id, machine.begin(self.now))

    def _machine(self, record: TxRecord) -> co.Coordinator:
        node = self.coordinator
        low = self._low_water()
        return co.Coordinator(record, epoch=node.epoch, low_water=low, limits=LIMITS, connected=node.connected)

    def _low_water(self) -> int:
        log = self.coordinator.log
        return min((record.seq for record in log.values() if not record.finished), default=len(log) + 1)

    def _restart(self, name: str) -> None:
        if name == COORDINATOR:
            node = self.coordinator
            node.up = True
            node.epoch += 1
            node.machines = {}
            self.answers = {}
            for record in list(node.log.values()):
                if not record.finished:
                    node.machines[record.id] = self._machine(record)
                    self._drive(record.id, node.machines[record.id].recover(self.now))
        else:
            participant = self.participants[name]
            participant.up = True
            participant.core = ParticipantCore(participant.disk.values(), participant.meta, LIMITS)
            self._apply(participant, participant.core.start())
        for participant in self.participants.values():
            if name in (COORDINATOR, participant.name):
                self.actions.append(Action("connect", participant.name, None))

    def _connect(self, name: str) -> None:
        node, participant = self.coordinator, self.participants[name]
        if not (node.up and participant.up) or name in node.connected:
            return
        node.connected.add(name)
        self._apply(participant, participant.core.welcomed(COORDINATOR, node.epoch, "i1"))
        for tx, machine in list(node.machines.items()):
            self._drive(tx, machine.connected(name, self.now))

    def _disconnect(self, participant: ParticipantNode) -> None:
        node = self.coordinator
        if participant.name not in node.connected:
            return
        node.connected.discard(participant.name)
        if participant.up:
            self._apply(participant, participant.core.disconnected(COORDINATOR))
        if node.up:
            for tx, machine in list(node.machines.items()):
                self._drive(tx, machine.disconnected(participant.name, self.now))

    def _deliver(self, sender: str, to: str, message: Message) -> None:
        self.actions.append(Action("deliver", to, message, sender))

    def fire_timer(self) -> None:
        """Let the timer that is due next run out."""
        nodes: list[Node] = [self.coordinator, *self.participants.values()]
        due = [(when, node.name, str(key), key) for node in nodes for key, (when, _) in node.timers.items()]
        if not due:
            return
        when, name, _, key = min(due, key=lambda item: item[:3])
        self.now = max(self.now, when)
        node = self._node(name)
        _, data = node.timers.pop(key)
        if isinstance(node, CoordinatorNode):
            self._drive(key[0], node.machines[key[0]].timer(key[1], self.now))
        elif isinstance(node, ParticipantNode):
            self._apply(node, node.core.timer(key, data))

    def _node(self, name: str) -> Node:
        return self.coordinator if name == COORDINATOR else self.participants[name]

    def _alive(self, action: Action) -> bool:
        return action.kind == "restart" or self._node(action.owner).up

    # The verdict

    def check(self) -> None:
        """Assert what must hold when everything is at rest."""
        for planned in self._records:
            record = self.coordinator.log.get(planned.id)
            for name in planned.participants:
                node = self.participants[name]
                mine = planned.participants[name]["stages"]
                things = {thing for tx, thing in node.world if tx == planned.id}
                kept = {key for key in node.state if key.startswith(f"{planned.id}/")}
                if record is not None and record.state == "committed":
                    assert things == {"prepared", *mine}
                    assert kept == {f"{planned.id}/{stage}" for stage in mine}
                    assert all(node.made[planned.id, thing] == 1 for thing in things), "an effect was made twice"
                else:
                    assert not things and not kept, "a trace of an aborted transaction"
            if planned.id in self.answers and record is not None:
                assert self.answers[planned.id].state == record.state
