# SPDX-License-Identifier: AGPL-3.0-or-later
"""An orchestrator's process: the production coordinator in a simulated form of ``rdmp.driver`` and ``rdmp.hub``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rdmp.coordinator import (
    Advance,
    Answer,
    Coordinator,
    Create,
    Decide,
    Finished,
    Output,
    Phase,
    Send,
    SetTimer,
    Tell,
    Timer,
    answer_inquiry,
)
from rdmp.limits import Limits
from rdmp.messages import Error, Inquire, Message
from rdmp.records import TxRecord
from tests.simulation.kernel import Kernel, Process, require
from tests.simulation.store import StoreFailed, StoreRefused

if TYPE_CHECKING:
    from tests.simulation.callers import Caller
    from tests.simulation.network import Session
    from tests.simulation.world import World

LogWrite = Create | Decide | Advance


class _Request:
    """A write on its way to the store."""

    __slots__ = ("dropped",)

    def __init__(self) -> None:
        self.dropped = False


class _Drive:
    """One open transaction and who waits for its answer."""

    __slots__ = ("callers", "machine", "tries")

    def __init__(self, machine: Coordinator) -> None:
        self.machine = machine
        self.callers: list[Caller] = []
        self.tries = 0


class Orchestrator(Process):
    """One orchestrator.  It leads from each start on, and does not know when it is deposed."""

    machine_type: type[Coordinator] = Coordinator

    def __init__(self, world: World, kernel: Kernel, name: str, limits: Limits) -> None:
        super().__init__(kernel, name)
        self.world = world
        self.limits = limits
        self.epoch = 0
        self.incarnation = ""
        self.drives: dict[str, _Drive] = {}
        self._sessions: dict[str, Session] = {}
        self._requests: dict[_Request, None] = {}

    # Life

    def start(self) -> None:
        """Take the lease, recover what is open, and serve."""
        if self.up:
            return
        store = self.world.store
        self.up = True
        self.epoch = store.acquire()
        self.incarnation = f"i{store.incarnation}"
        self.kernel.note(f"{self.name}: leads under epoch {self.epoch}")
        for record in list(store.records.values()):
            if not record.finished:
                self._recover(record)

    def kill(self, restart: bool = True) -> None:
        """Kill the process; writes on their way to the store may still arrive there."""
        if not self.up:
            return
        self.kernel.note(f"{self.name}: dies")
        self.world.counts["crashes"] += 1
        for request in self._requests:
            request.dropped = self.kernel.chance(0.5)
        self.die()
        self.drives.clear()
        self._sessions.clear()
        self._requests.clear()
        self.world.network.left(self)
        if restart:
            self.kernel.after(self.kernel.around(1.0), self.start)

    # Sessions

    def took(self, session: Session) -> None:
        """A participant has connected; it replaces its older connection."""
        name = session.party.name
        old = self._sessions.get(name)
        self._sessions[name] = session
        if old is not None:
            self.world.network.break_off(old)
            self._disconnected(name)
        for drive in list(self.drives.values()):
            self._apply(drive, drive.machine.connected(name, self.clock()))

    def lost(self, session: Session) -> None:
        """A connection has ended."""
        name = session.party.name
        if self._sessions.get(name) is session:
            del self._sessions[name]
            self._disconnected(name)

    def _disconnected(self, name: str) -> None:
        for drive in list(self.drives.values()):
            self._apply(drive, drive.machine.disconnected(name, self.clock()))

    def received(self, peer: str, message: Message) -> None:
        """A participant's message arrived."""
        if self.kernel.tracing:
            self.kernel.note(f"{peer} -> {self.name}: {message}")
        tx = str(message.ref if isinstance(message, Error) else message.tx)  # type: ignore[attr-defined]
        drive = self.drives.get(tx)
        if drive is not None:
            self._apply(drive, drive.machine.received(peer, message, self.clock()))
        elif isinstance(message, Inquire):
            self._inquired(peer, message)

    def _inquired(self, peer: str, inquiry: Inquire) -> None:
        """Somebody is in doubt about a transaction that nobody drives here."""
        store = self.world.store
        record = store.records.get(inquiry.tx)
        if record is not None and not record.finished:
            self._recover(record)
            return
        for answer in answer_inquiry(record, inquiry, peer, self.epoch, store.low_water()):
            if peer in self._sessions:
                self.world.network.send(self.name, self._sessions[peer].party, answer)

    # Callers

    def asked(self, caller: Caller) -> None:
        """A caller wants its transaction carried out, or wants to know what became of it."""
        if caller.id in self.drives:
            self._join(self.drives[caller.id], caller)
            return
        store = self.world.store
        record = store.records.get(caller.id)
        if record is None:
            planned = replace(caller.plan(store.nodes), epoch=self.epoch)
            drive = self._drive(planned)
            drive.callers.append(caller)
            self._apply(drive, drive.machine.begin(self.clock()))
        elif record.state == "preparing":
            self._join(self._recover(record), caller)
        else:
            self.world.reply(caller, record.state)

    def cancel(self, tx: str) -> None:
        """Abort a transaction if it is not too late."""
        if (drive := self.drives.get(tx)) is not None:
            self._apply(drive, drive.machine.veto("an operator ordered it", self.clock()))

    def _join(self, drive: _Drive, caller: Caller) -> None:
        if drive.machine.record.state != "preparing":
            self.world.reply(caller, drive.machine.record.state)
        elif caller not in drive.callers:
            drive.callers.append(caller)

    # Transactions

    def _drive(self, record: TxRecord) -> _Drive:
        low = self.world.store.low_water()
        machine = self.machine_type(
            record, epoch=self.epoch, low_water=low, limits=self.limits, connected=self._sessions
        )
        drive = self.drives[record.id] = _Drive(machine)
        require(len(self.drives) <= self.limits.open_transactions, f"{self.name} drives {len(self.drives)}")
        return drive

    def _recover(self, record: TxRecord) -> _Drive:
        drive = self._drive(record)
        self._apply(drive, drive.machine.recover(self.clock()))
        return drive

    def _apply(self, drive: _Drive, outputs: list[Output]) -> None:
        tx = drive.machine.record.id
        for output in outputs:
            match output:
                case Send(peer, message):
                    self.world.checks.may_send(self, message)
                    if peer in self._sessions:
                        self.world.network.send(self.name, self._sessions[peer].party, message)
                case Create() | Decide() | Advance():
                    self._request(drive, output)
                case SetTimer(name, seconds):
                    self.set_timer((tx, name), seconds, self._timer, drive, name)
                case Answer(record):
                    self.world.checks.may_answer(self, record)
                    for caller in drive.callers:
                        self.world.reply(caller, record.state)
                case Finished():
                    self._drop(drive)
                case Tell():
                    pass

    def _timer(self, drive: _Drive, name: Timer) -> None:
        if drive.machine.phase is not Phase.FINISHED:
            self._apply(drive, drive.machine.timer(name, self.clock()))

    def _drop(self, drive: _Drive) -> None:
        tx = drive.machine.record.id
        self.drives.pop(tx, None)
        for name in ("deadline", "absent", "repeat", "answer"):
            self.stop_timer((tx, name))

    # The decision log

    def _request(self, drive: _Drive, write: LogWrite) -> None:
        request = _Request()
        self._requests[request] = None
        seconds = self.kernel.around(self.world.plan.disk_seconds)
        self.doomed("write", 1.5 * seconds)
        self.kernel.after(seconds, self._at_store, self.life, drive, write, request)

    def _at_store(self, life: int, drive: _Drive, write: LogWrite, request: _Request) -> None:
        """The write reaches the store, perhaps after its sender has died."""
        if request.dropped or (life != self.life and isinstance(write, Create) and not self.world.store.fenced):
            return
        result: TxRecord | StoreFailed | StoreRefused
        try:
            result = self._carry_out(write)
        except (StoreFailed, StoreRefused) as error:
            result = error
        if self.kernel.tracing:
            self.kernel.note(f"{self.name} at the store: {_said(write)} -> {_became(result)}")
        if life == self.life:
            self._requests.pop(request, None)
            self.later(self.kernel.around(self.world.plan.disk_seconds / 4), self._stored, drive, write, result)

    def _carry_out(self, write: LogWrite) -> TxRecord:
        store, record = self.world.store, write.record
        match write:
            case Create():
                return store.create(record)
            case Decide() | Advance() if record.id not in store.records:
                raise StoreFailed("the store was set back")
            case Decide():
                before = store.records[record.id].state
                decided = store.decide(record.id, record.revision, write.decision, write.reason)
                if before == "preparing" != decided.state:
                    self.world.checks.decided(decided)
                return decided
            case Advance():
                return store.advance(record)

    def _stored(self, drive: _Drive, write: LogWrite, result: TxRecord | StoreFailed | StoreRefused) -> None:
        """The store answered."""
        if isinstance(result, TxRecord):
            drive.tries = 0
            self._apply(drive, drive.machine.written(result, self.clock()))
        elif isinstance(write, Create):
            # Nothing has left yet. Should the record be in the log after all, recovery aborts it.
            self._drop(drive)
            for caller in drive.callers:
                self.world.reply(caller, "refused" if isinstance(result, StoreRefused) else "again")
        else:
            seconds = min(self.limits.write_retry_min * 2**drive.tries, self.limits.write_retry_max)
            drive.tries += 1
            self.later(seconds, self._request, drive, write)


def _said(write: LogWrite) -> str:
    match write:
        case Decide():
            return f"decide {write.record.id} {write.decision}"
        case _:
            return f"{type(write).__name__.lower()} {write.record.id}"


def _became(result: TxRecord | StoreFailed | StoreRefused) -> str:
    if not isinstance(result, TxRecord):
        return str(result)
    return f"{result.state}, revision {result.revision}{', finished' if result.finished else ''}"
