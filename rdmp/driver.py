# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shell of the coordinator: runs the machines of all open transactions against a decision log and connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rdmp.coordinator import (
    Advance,
    Answer,
    Coordinator,
    Create,
    Decide,
    Finished,
    Output,
    Send,
    SetTimer,
    Tell,
    Timer,
    answer_inquiry,
)
from rdmp.decisionlog import DecisionLog
from rdmp.frames import FrameError
from rdmp.limits import Limits
from rdmp.messages import Error, Inquire, Message
from rdmp.records import TxProgress, TxRecord
from rdmp.rpc import RpcError

_log = logging.getLogger(__name__)
_TOPICS = {"prepared": "tx.prepared", "decided": "tx.decided", "stage": "tx.stage", "finished": "tx.finished"}
SendTo = Callable[[str, Message], None]
Announce = Callable[[str, Mapping[str, Any]], None]


class _Drive:
    """One open transaction."""

    def __init__(self, machine: Coordinator, on_progress: Callable[[TxProgress], None] | None) -> None:
        self.machine = machine
        self.on_progress = on_progress
        self.answer: asyncio.Future[TxRecord] = asyncio.get_running_loop().create_future()
        self.decided = asyncio.Event()
        self.timers: dict[Timer, asyncio.TimerHandle] = {}

    def fail(self, error: Exception) -> None:
        """Raise ``error`` at whoever still waits for the answer."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # nobody may be waiting


class Driver:
    """Runs transactions; ``send`` raises FrameError for a message that cannot be sent and may lose any other."""

    def __init__(
        self, log: DecisionLog, epoch: int, limits: Limits, send: SendTo, announce: Announce, grown: Callable[[], None]
    ) -> None:
        self._log = log
        self._epoch = epoch
        self._limits = limits
        self._send = send
        self._announce = announce
        self._grown = grown
        self._drives: dict[str, _Drive] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connected: set[str] = set()
        self._loop = asyncio.get_running_loop()

    async def execute(self, record: TxRecord, on_progress: Callable[[TxProgress], None] | None) -> TxRecord:
        """Carry out a transaction; see ``Hub.execute``."""
        record = replace(record, epoch=self._epoch, state="preparing", finished=False)
        record.check()
        if record.id in self._drives:
            raise ValueError(f"transaction {record.id} is open already")
        if len(self._drives) >= self._limits.open_transactions:
            raise RpcError("overloaded", f"{len(self._drives)} transactions are open ([rdmp] open_transactions)")
        drive = self._drive(record, on_progress)
        self._apply(drive, drive.machine.begin(self._loop.time()))
        return await asyncio.shield(drive.answer)

    async def recover(self, records: Iterable[TxRecord]) -> None:
        """Take up records that nobody drives; returns when each of them is decided."""
        drives = [self._drive(record, None) for record in records if record.id not in self._drives]
        undecided = [drive for drive in drives if drive.machine.record.state == "preparing"]
        for drive in drives:
            self._apply(drive, drive.machine.recover(self._loop.time()))
        for drive in undecided:
            await drive.decided.wait()

    def abort(self, tx: str, reason: str) -> bool:
        """Abort an open transaction if it is not too late; tells whether it is known."""
        drive = self._drives.get(tx)
        if drive is not None:
            self._apply(drive, drive.machine.veto(reason, self._loop.time()))
        return drive is not None

    def awaited(self, tx: str) -> tuple[str, ...]:
        """Return whom an open transaction waits for."""
        drive = self._drives.get(tx)
        return drive.machine.awaited() if drive is not None else ()

    def give_up(self, tx: str, peers: Iterable[str], reason: str) -> bool:
        """Wait no longer for ``peers`` in a transaction that is decided; tells whether it is driven here."""
        drive = self._drives.get(tx)
        if drive is not None:
            self._apply(drive, drive.machine.give_up(peers, reason, self._loop.time()))
        return drive is not None

    def open(self) -> tuple[TxRecord, ...]:
        """Return the records of the transactions that are driven here."""
        return tuple(drive.machine.record for drive in self._drives.values())

    def connected(self, peer: str) -> None:
        """A participant has connected."""
        self._connected.add(peer)
        for drive in list(self._drives.values()):
            self._apply(drive, drive.machine.connected(peer, self._loop.time()))

    def disconnected(self, peer: str) -> None:
        """A participant is gone."""
        self._connected.discard(peer)
        for drive in list(self._drives.values()):
            self._apply(drive, drive.machine.disconnected(peer, self._loop.time()))

    def received(self, peer: str, tx: str, message: Message) -> None:
        """A participant sent a message about a transaction."""
        drive = self._drives.get(tx)
        if drive is not None:
            self._apply(drive, drive.machine.received(peer, message, self._loop.time()))
        elif isinstance(message, Inquire):
            self._spawn(self._answer_inquiry(peer, message))
        elif isinstance(message, Error):
            _log.warning("%s about transaction %s: %s (%s)", peer, tx, message.message, message.code)

    async def close(self) -> None:
        """Drop everything; what is open is taken up from the log at the next start."""
        for drive in self._drives.values():
            for timer in drive.timers.values():
                timer.cancel()
            drive.fail(RpcError("stopping", "the orchestrator is stopping; the transaction goes on after its restart"))
        self._drives.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drive(self, record: TxRecord, on_progress: Callable[[TxProgress], None] | None) -> _Drive:
        machine = Coordinator(
            record,
            epoch=self._epoch,
            low_water=self._log.low_water(),
            limits=self._limits,
            connected=self._connected,
        )
        drive = self._drives[record.id] = _Drive(machine, on_progress)
        return drive

    def _apply(self, drive: _Drive, outputs: list[Output]) -> None:
        refused: list[tuple[str, Error]] = []
        for output in outputs:
            match output:
                case Send(peer, message):
                    try:
                        self._send(peer, message)
                    except FrameError as unsent:
                        refused.append((peer, Error(unsent.code, str(unsent))))
                case Create() | Decide() | Advance():
                    self._spawn(self._write(drive, output))
                case SetTimer(name, seconds):
                    self._set_timer(drive, name, seconds)
                case Tell(progress):
                    self._tell(drive, progress)
                case Answer(record):
                    if not drive.answer.done():
                        drive.answer.set_result(record)
                case Finished():
                    self._drop(drive)
        for peer, error in refused:
            self._apply(drive, drive.machine.received(peer, error, self._loop.time()))

    async def _write(self, drive: _Drive, write: Create | Decide | Advance) -> None:
        delay = self._limits.write_retry_min
        while True:
            try:
                record = await self._carry_out(write)
                break
            except Exception as error:
                if isinstance(write, Create):
                    # Nothing has left yet. Should the record be in the log after all, recovery aborts it.
                    self._drop(drive)
                    drive.fail(error)
                    return
                _log.exception("transaction %s: the decision log failed; trying again in %g s", write.record.id, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._limits.write_retry_max)
        if record.state != "preparing":
            drive.decided.set()
        if isinstance(write, Decide):
            self._grown()  # the log appended the events of the decision
        self._apply(drive, drive.machine.written(record, self._loop.time()))

    async def _carry_out(self, write: Create | Decide | Advance) -> TxRecord:
        record = write.record
        match write:
            case Create():
                return await self._log.create(record)
            case Decide():
                return await self._log.decide(record.id, record.revision, write.decision, write.reason)
            case Advance():
                return await self._log.advance(
                    record.id, record.revision, record.done, record.degraded, record.finished
                )

    async def _answer_inquiry(self, peer: str, inquiry: Inquire) -> None:
        """Somebody is in doubt about a transaction that nobody drives."""
        record = await self._log.lookup(inquiry.tx)
        if record is not None and not record.finished:
            await self.recover([record])
            return
        for message in answer_inquiry(record, inquiry, peer, self._epoch, self._log.low_water()):
            self._send(peer, message)

    def _tell(self, drive: _Drive, progress: TxProgress) -> None:
        self._log.note(progress)
        if drive.on_progress is not None:
            try:
                drive.on_progress(progress)
            except Exception:
                _log.exception("transaction %s: the progress callback failed", progress.tx)
        if (topic := _TOPICS.get(progress.kind)) is not None:
            record = drive.machine.record
            data = {"tx": record.id, "seq": record.seq, **progress.document(), "degraded": dict(record.degraded)}
            self._announce(topic, {key: value for key, value in data.items() if value not in ({}, None)})

    def _set_timer(self, drive: _Drive, name: Timer, seconds: float) -> None:
        if (old := drive.timers.get(name)) is not None:
            old.cancel()
        drive.timers[name] = self._loop.call_later(seconds, self._timer, drive, name)

    def _timer(self, drive: _Drive, name: Timer) -> None:
        self._apply(drive, drive.machine.timer(name, self._loop.time()))

    def _drop(self, drive: _Drive) -> None:
        self._drives.pop(drive.machine.record.id, None)
        for timer in drive.timers.values():
            timer.cancel()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the coordinator failed", exc_info=error)
