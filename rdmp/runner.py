# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shell of a participant: its core, its journal, its effects and its connections to every orchestrator."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import sqlite3
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdmp.dialler import Dialler
from rdmp.endpoints import Endpoint
from rdmp.frames import FrameError
from rdmp.journal import Journal, JournalError
from rdmp.limits import Limits
from rdmp.messages import Done, Error, Message, Publish, Vote, Welcome
from rdmp.participant import Effect, Participant, Refused
from rdmp.participant_core import ParticipantCore
from rdmp.participant_table import (
    Announce,
    CancelRun,
    Denied,
    Failed,
    Meta,
    Output,
    Result,
    Run,
    Send,
    SetTimer,
    Write,
)
from rdmp.results import storable
from rdmp.rpc import PeerAbsent, ProgressSender, RpcError
from rdmp.session import Session
from rdmp.tls import Identity, TlsFiles

Json = Mapping[str, Any]
_log = logging.getLogger(__name__)
_DROPPED = "participant.events_dropped"
_STOP_SECONDS = 2.0  # how long stop() waits for cancelled effects to end


class ParticipantRunner:
    """Runs one participant.  ``run`` returns after ``stop``, or raises when the journal fails (start again then)."""

    def __init__(
        self,
        participant: Participant,
        journal: Path | Journal,
        identity: Identity,
        endpoints: Sequence[Endpoint],
        tls: TlsFiles | None,
        limits: Limits | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        """``groups`` are those whose calls (``Hub.call_any``) this participant answers."""
        self.identity = identity
        self.limits = limits or Limits()
        self._participant = participant
        self._journal = Journal(journal) if isinstance(journal, Path) else journal
        self._core = ParticipantCore((), Meta(), self.limits)
        self._state: dict[str, Json] = {}
        self._links = [_Link(self, endpoint, tls, identity, self.limits, tuple(groups)) for endpoint in endpoints]
        self._sessions: dict[str, Session] = {}
        self._epochs: dict[str, int] = {}
        self._writes: deque[Write] = deque()
        self._writes_waiting = asyncio.Event()
        self._effects: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._events: deque[tuple[str, Json]] = deque()
        self._events_waiting = asyncio.Event()
        self._events_dropped = 0
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._main: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Restore the participant, connect, and serve until ``stop``.  Raises JournalError."""
        journalled = await self._journal.open()
        self._core = ParticipantCore(journalled.entries, journalled.meta, self.limits)
        self._state = dict(journalled.state)
        try:
            await self._participant.restore(self.state(), self._core.in_doubt())
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._write(), name="rdmp journal")]
                self._apply(self._core.start())
                tasks += [group.create_task(link.keep(), name=f"rdmp {link.endpoint}") for link in self._links]
                tasks.append(group.create_task(self._publish_events(), name="rdmp events"))
                await self._stopping.wait()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as failures:
            # Not `except*`: what that raises comes out in a group again.
            if (journal := failures.subgroup(JournalError)) is None:
                raise
            raise _first(journal) from None
        finally:
            await self._shut()

    async def stop(self) -> None:
        """Make ``run`` return; effects that are running are cancelled and taken up after the next start."""
        self._stopping.set()

    def state(self) -> Mapping[str, Json]:
        """Return the committed state documents."""
        return dict(self._state)

    async def publish(self, topic: str, data: Json) -> None:
        """Publish an event at the leading orchestrator, now or when it is connected.

        At most ``publish_queue`` events wait; the oldest is dropped then, counted, and told by an event.
        """
        self._announce(topic, data)

    def orchestrators(self) -> tuple[str, ...]:
        """Return the names of the orchestrators that are connected."""
        return tuple(self._sessions)

    async def connected(self) -> None:
        """Wait until an orchestrator is connected."""
        while not self._sessions:
            self._changed.clear()
            await self._changed.wait()

    def status(self, tx: str) -> Json:
        """Return what the journal knows of a transaction."""
        return self._core.status(tx)

    # Connections

    def epoch(self) -> int:
        """Return the highest epoch that is known."""
        return self._core.meta.epoch

    def welcomed(self, session: Session, welcome: Welcome) -> None:
        """An orchestrator is connected."""
        self._sessions[welcome.name] = session
        self._epochs[welcome.name] = welcome.epoch
        self._changed.set()
        self._events_waiting.set()
        _log.info("connected to %s (%s), epoch %d", welcome.name, session.label, welcome.epoch)
        self._apply(self._core.welcomed(welcome.name, welcome.epoch, welcome.incarnation))

    def received(self, name: str, message: Message) -> None:
        """An orchestrator sent a message."""
        if isinstance(message, Error):
            _log.warning("%s: %s (%s) %s", name, message.message, message.code, message.ref or "")
        else:
            self._apply(self._core.received(name, message))

    def lost(self, name: str, session: Session, reason: str) -> None:
        """An orchestrator is gone."""
        _log.info("lost %s: %s", name, reason)
        if self._sessions.get(name) is session:
            del self._sessions[name]
            self._apply(self._core.disconnected(name))

    async def answer(self, method: str, params: Json, progress: ProgressSender) -> Json:
        """Answer a call of an orchestrator."""
        if method == "observe":
            return await self._participant.observe()
        if method == "status":
            tx = str(params.get("tx", ""))
            return {"journal": self._core.status(tx), "participant": await self._participant.status(tx)}
        return await self._participant.call(method, params, progress)

    # Outputs of the core

    def _apply(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Write():
                    self._writes.append(output)
                    self._writes_waiting.set()
                case Send(peer, message):
                    self._send(peer, message)
                case Run():
                    self._start_effect(output)
                case CancelRun(tx):
                    if (task := self._effects.get(tx)) is not None:
                        task.cancel()
                case SetTimer(name, version, seconds):
                    self._set_timer(name, version, seconds)
                case Announce(topic, data):
                    self._announce(topic, data)

    async def _write(self) -> None:
        """Write what gathers, in order; one fsync for all that waits."""
        while True:
            self._writes_waiting.clear()
            if not self._writes:
                await self._writes_waiting.wait()
                continue
            batch = [self._writes.popleft() for _ in range(min(len(self._writes), self.limits.journal_batch))]
            try:
                await self._journal.write(batch)
            except (sqlite3.Error, OSError) as error:
                text = f"cannot write the journal {self._journal.path}: {error}; free space or repair the disk"
                raise JournalError(text) from error
            except Exception as error:
                text = f"cannot write the journal {self._journal.path}: {error!r}"
                raise JournalError(f"{text}; this is a defect of the program: report it") from error
            for write in batch:
                self._keep_state(write)
                self._apply(self._core.written(write.token))

    def _keep_state(self, write: Write) -> None:
        for key, document in write.state.items():
            if document is None:
                self._state.pop(key, None)
            else:
                self._state[key] = document

    def _send(self, peer: str, message: Message) -> None:
        if (session := self._sessions.get(peer)) is not None:
            try:
                session.send(message)
            except FrameError as error:
                _log.error("%s for %s cannot be sent: %s", message.TYPE, peer, error)
                if isinstance(message, Vote | Done) and message.detail is not None:
                    self._send(peer, replace(message, detail=None))  # the transaction needs the answer, not the detail

    def _set_timer(self, name: str, version: int, seconds: float) -> None:
        def fire() -> None:
            self._timers.pop(name, None)
            self._apply(self._core.timer(name, version))

        if (old := self._timers.get(name)) is not None:
            old.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, fire)

    # Effects

    def _start_effect(self, run: Run) -> None:
        tx = run.transaction.id
        if (timer := self._timers.pop(tx, None)) is not None:
            timer.cancel()
        task = asyncio.create_task(self._run_effect(run, self._effects.get(tx)), name=f"rdmp {run.kind} {tx}")
        self._effects[tx] = task
        task.add_done_callback(lambda done: self._effect_gone(tx, done))

    def _effect_gone(self, tx: str, task: asyncio.Task[None]) -> None:
        if self._effects.get(tx) is task:
            del self._effects[tx]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the effect of %s failed inside the runner", tx, exc_info=error)

    async def _run_effect(self, run: Run, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        what = f"{run.stage or run.kind} of transaction {run.transaction.id}"
        result: Result
        try:
            result = await self._effect(run)
        except Refused as refused:
            result = Denied(refused.reason, refused.detail)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            result = Failed(f"cancelled from inside: {error}")
        except Exception as error:
            _log.exception("%s failed", what)
            result = Failed(f"{type(error).__name__}: {error}")
        self._apply(self._core.ran(run.transaction.id, run.version, storable(result, what)))

    async def _effect(self, run: Run) -> Effect:
        match run.kind:
            case "prepare":
                return await self._participant.prepare(run.transaction)
            case "commit":
                return await self._participant.commit(run.transaction, run.stage or "")
            case "abort":
                return await self._participant.abort(run.transaction)

    # Events

    def _announce(self, topic: str, data: Json) -> None:
        if len(self._events) >= self.limits.publish_queue:
            self._events.popleft()
            self._events_dropped += 1
        self._events.append((topic, data))
        self._events_waiting.set()

    def _leader(self) -> Session | None:
        """Return the session with the highest epoch; one that is closing takes nothing more, and is still known."""
        open_ = {name: session for name, session in self._sessions.items() if not session.closing}
        name = max(open_, key=self._epochs.__getitem__, default=None)
        return None if name is None else open_[name]

    async def _publish_events(self) -> None:
        """Send events in order to the orchestrator with the highest epoch; each until it is stored there."""
        while True:
            self._events_waiting.clear()
            leader = self._leader()
            if leader is None or not (self._events or self._events_dropped):
                await self._events_waiting.wait()
                continue
            if self._events_dropped:
                count, self._events_dropped = self._events_dropped, 0
                self._events.appendleft((_DROPPED, {"name": self.identity.name, "count": count}))
            topic, data = event = self._events[0]
            try:
                await leader.request(functools.partial(Publish, topic=topic, data=data), self.limits.call_timeout)
            except PeerAbsent:
                # A request may fail without having waited: without a pause nothing else would ever run.
                await asyncio.sleep(self.limits.reconnect_min)
                continue
            except RpcError as error:
                if error.code in ("overloaded", "timeout", "internal"):
                    await asyncio.sleep(self.limits.reconnect_max)
                    continue
                _log.warning("event %s was refused: %s", topic, error)
                if error.code == "message_too_large" and topic != _DROPPED:
                    self._events_dropped += 1
            if self._events and self._events[0] is event:
                self._events.popleft()

    async def _shut(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._effects.values():
            task.cancel()
        sessions = list(self._sessions.values())
        for session in sessions:
            session.close("the participant is stopping")
        await asyncio.gather(*(session.wait_closed() for session in sessions))
        if self._effects:
            await asyncio.wait(list(self._effects.values()), timeout=_STOP_SECONDS)
        await self._journal.close()


def _first(failures: BaseExceptionGroup[JournalError]) -> JournalError:
    error = failures.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


class _Link(Dialler):
    """The connection to one orchestrator, made again whenever it is lost."""

    def __init__(
        self,
        runner: ParticipantRunner,
        endpoint: Endpoint,
        tls: TlsFiles | None,
        me: Identity,
        limits: Limits,
        groups: tuple[str, ...],
    ) -> None:
        super().__init__(endpoint, tls, me, limits, groups)
        self._runner = runner
        self._name = ""
        self._lost = asyncio.Event()

    async def keep(self) -> None:
        """Connect, and connect again after each loss, with a jittered bounded back-off."""
        delay = self.limits.reconnect_min
        told = ""
        while True:
            self._lost.clear()
            try:
                await self.dial(self._runner.epoch())
                told = ""
                began = time.monotonic()
                await self._lost.wait()
                if time.monotonic() - began > self.limits.reconnect_max:
                    delay = self.limits.reconnect_min  # one that ends at once again is not a success
            except (RpcError, OSError, ValueError) as error:
                if str(error) != told:  # the same reason again is no news
                    told = str(error)
                    _log.warning("%s; trying again", error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, self.limits.reconnect_max)

    def welcomed(self, session: Session, welcome: Welcome) -> None:
        self._name = welcome.name
        self._runner.welcomed(session, welcome)

    def received(self, session: Session, message: Message) -> None:
        self._runner.received(self._name, message)

    def lost(self, session: Session, reason: str) -> None:
        self._runner.lost(self._name, session, reason)
        self._lost.set()

    async def session_call(self, session: Session, method: str, params: Json, progress: ProgressSender) -> Json:
        return await self._runner.answer(method, params, progress)
