# SPDX-License-Identifier: AGPL-3.0-or-later
"""One connection, the same on both sides: frames, heartbeats, a bounded send queue, calls in both directions.

What a message means beyond that is the owner's business (hub, runner, client).  Heartbeats have a lane of their own: a
long queue does not delay them, and a peer counts as lost only when nothing at all has come from it for some beats.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import math
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from rdmp.frames import Decoder, FrameError, encode
from rdmp.limits import Limits
from rdmp.messages import Call, Cancel, Error, Message, MessageError, Ping, Pong, Progress, Reply, parse
from rdmp.rpc import PeerAbsent, ProgressSender, RpcError, RpcTimeout
from rdmp.texts import clip, clipped

Json = Mapping[str, Any]
_log = logging.getLogger(__name__)
_FAULTS = 16  # faults of one wrong message that are told
_WRITE_BYTES = 65536  # at most so much is given to the transport at once, so that heartbeats can pass the rest
_CLOSE_SECONDS = 2.0  # how long a closing connection may take to send what is left


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection came from: ``kind`` is tls, unix or tcp; ``user`` the user name of a local peer."""

    kind: str
    address: str
    user: str = ""


class SessionOwner(ABC):
    """Gives a session its meaning.  All but ``session_call`` are called from the event loop and must not block."""

    @abstractmethod
    def session_opened(self, session: Session) -> None:
        """The connection (and its TLS handshake) stands."""

    @abstractmethod
    def session_message(self, session: Session, message: Message) -> None:
        """A message that the session does not handle itself."""

    @abstractmethod
    def session_closed(self, session: Session, reason: str) -> None:
        """The connection has ended."""

    @abstractmethod
    async def session_call(self, session: Session, method: str, params: Json, progress: ProgressSender) -> Json:
        """Answer a call of the peer; raises RpcError."""

    def session_refused(self, session: Session, code: str, text: str) -> None:  # noqa: B027
        """The peer was refused something, or cut, for the reason ``code``; for counters."""


@dataclass(slots=True)
class _Pending:
    """A call that waits for its reply."""

    future: asyncio.Future[Json]
    on_progress: Callable[[Json], None] | None


class Session(asyncio.Protocol):
    """A connection to one peer; made by a listener or a dialler."""

    def __init__(self, owner: SessionOwner, limits: Limits, origin: Origin) -> None:
        self.origin = origin
        self.label = origin.address
        self.established = False
        self._owner = owner
        self._limits = limits
        self._decoder = Decoder(min(limits.max_hello_bytes, limits.max_message_bytes))
        self._peer_max_bytes = limits.max_message_bytes
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._urgent: deque[bytes] = deque()
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._flush_due = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._silent_beats = 0
        self._messages = 0  # received, since the connection stands
        self._messages_per_second = math.inf  # known when the peer is
        self._last_beat = (0.0, 0)  # when it was, and the messages until then
        self._frame_since = (0.0, -1)  # when a begun frame was first seen, and the messages until then
        self._offences = 0
        self._timer: asyncio.TimerHandle | None = None
        self._reason: str | None = None
        self._told: tuple[float, str] | None = None  # the newest error that is about the connection, and when it came
        self._ended = asyncio.Event()
        self._ids = itertools.count(1)
        self._pending: dict[str, _Pending] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}

    # Life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        if self.closing:
            made.abort()
            return
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = self._loop.call_later(
            self._limits.handshake_timeout, self._cut, "handshake_timeout", "the handshake took too long"
        )
        self._owner.session_opened(self)

    def establish(
        self, heartbeat: float, peer_max_bytes: int | None = None, messages_per_second: float = math.inf
    ) -> None:
        """The handshake is over: begin heartbeats every ``heartbeat`` seconds.

        A peer that sends more than ``messages_per_second`` is cut; whoever dialled the peer wants what it sends.
        """
        self.established = True
        self._decoder.max_bytes = self._limits.max_message_bytes
        self._messages_per_second = messages_per_second
        self._last_beat = (self._loop.time(), self._messages)
        if peer_max_bytes is not None:
            self._peer_max_bytes = min(peer_max_bytes, self._limits.max_message_bytes)
        self._next_beat(heartbeat, 1)

    def close(self, reason: str) -> None:
        """Send what is queued (for a short time), then end the connection.  May be called twice."""
        if self._reason is None:
            self._reason = reason
            if self._timer is not None:
                self._timer.cancel()
            if self._transport is not None:
                self._flush(force=True)
                self._transport.close()
                self._timer = self._loop.call_later(_CLOSE_SECONDS, self._transport.abort)

    async def wait_closed(self) -> None:
        """Wait until a connection that was closed has ended."""
        await self._ended.wait()

    def refuse(self, code: str, text: str) -> None:
        """Tell the peer why, then close."""
        if not self.closing:
            self._owner.session_refused(self, code, text)
            self._write_urgent(Error(code, clip(text)))
            self.close(f"{code}: {text}")

    def offence(self, code: str, text: str) -> None:
        """Count something wrong or forbidden that was answered; the peer is cut when there is no end of it."""
        self._owner.session_refused(self, code, text)
        self._offences += 1
        if self._offences >= self._limits.offences_per_connection:
            self.refuse("too_many_offences", f"{self._offences} wrong or forbidden messages; the last: {text}")

    def _cut(self, code: str, text: str) -> None:
        self._owner.session_refused(self, code, text)
        self.close(text)

    @property
    def closing(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._reason is not None

    @property
    def size(self) -> int:
        """How many bytes the newest message had; for use in ``session_message``."""
        return self._decoder.size

    @property
    def queued(self) -> int:
        """How many messages wait to be sent."""
        return len(self._queue)

    @property
    def calling(self) -> int:
        """How many calls to the peer wait for their reply."""
        return len(self._pending)

    def info(self, name: str) -> Any:
        """Return the transport's extra information, such as ``ssl_object``."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        lost = f"connection lost: {exc}" if exc else "closed by the peer"
        reason = self._reason = self._reason or self._farewell() or lost
        self._writable.set()
        self._ended.set()
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(PeerAbsent("peer_absent", f"{self.label}: {reason}"))
        self._pending.clear()
        for task in self._serving.values():
            task.cancel()
        self._owner.session_closed(self, reason)

    def told(self, error: Error) -> None:
        """Keep what the peer says of the connection; for owners that believe their peer, as it reaches the log."""
        self._told = (self._loop.time(), f"{error.code}: {error.message}")

    def _farewell(self) -> str | None:
        """Return what the peer said a moment before it closed: its reason is worth more than that it did."""
        return self._told[1] if self._told and self._loop.time() - self._told[0] < 2 * _CLOSE_SECONDS else None

    def _beat(self, heartbeat: float, number: int) -> None:
        if self._silent_beats >= self._limits.heartbeat_misses:
            self._cut("silent", f"no sign of life for {heartbeat * self._silent_beats:g} s")
            return
        self._check_rate()
        self._check_frame()
        if self._reason is not None:
            return
        # Beats are counted, not seconds: a pause of this process is one beat, not a lost peer.
        self._silent_beats += 1
        self._write_urgent(Ping(number))
        if not self.closing:  # the ping may have been one too many; the timer is that of the close then
            self._next_beat(heartbeat, number + 1)

    def _next_beat(self, heartbeat: float, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(heartbeat, self._beat, heartbeat, number)

    def _check_rate(self) -> None:
        """Refuse a peer that sent too much since the last beat; a look at each beat costs nothing for each message."""
        now = self._loop.time()
        (before, seen), self._last_beat = self._last_beat, (now, self._messages)
        rate = (self._messages - seen) / max(now - before, 1e-3)
        if rate > self._messages_per_second:
            text = f"{rate:.0f} messages in a second; the limit is {self._messages_per_second:g}"
            self.refuse("rate_exceeded", f"{text} ([rdmp] messages_per_second, participant_messages_per_second)")

    def _check_frame(self) -> None:
        """Refuse a peer whose begun frame does not end."""
        now, (since, seen) = self._loop.time(), self._frame_since
        if not self._decoder.partial:
            self._frame_since = (now, -1)
        elif seen != self._messages:
            self._frame_since = (now, self._messages)
        elif now - since > self._limits.frame_timeout:
            self.refuse("slow_frame", f"a message has not ended after {now - since:.0f} s ([rdmp] frame_timeout)")

    # Receiving

    def data_received(self, data: bytes) -> None:
        self._silent_beats = 0
        if self._reason is not None:
            return
        try:
            for value in self._decoder.feed(data):
                if self.closing:
                    return
                self._messages += 1
                self._receive(value)
        except FrameError as error:
            self.refuse(error.code, str(error))

    def _receive(self, value: dict[str, Any]) -> None:
        try:
            message = parse(value)
        except MessageError as error:
            self._bad_message(value, error)
            return
        match message:
            case Ping(n) if self.established:
                self._write_urgent(Pong(n))
            case Pong() if self.established:
                pass
            case Reply() | Progress() if message.id in self._pending:
                self._answered(message)
            case Reply() | Progress() if self.established:
                pass  # it crossed with the cancel of its call
            case Call() if self.established:
                self._begin_call(message)
            case Cancel() if message.id in self._serving:
                self._serving[message.id].cancel()
            case Cancel():
                pass  # the reply and the cancel crossed
            case _:
                self._owner.session_message(self, message)

    def _bad_message(self, value: dict[str, Any], error: MessageError) -> None:
        ref = next((value[key] for key in ("tx", "id", "sub") if isinstance(value.get(key), str)), None)
        path = error.faults[0].path if error.faults else None
        self._fail_pending(value, error)
        if not self.established:
            self.refuse("bad_message", str(error))
            return
        if value.get("type") in ("call", "publish", "subscribe") and ref:
            faults = tuple(dataclasses.replace(fault, found=None) for fault in error.faults[:_FAULTS])
            self._reply(Reply(ref[:64], error=RpcError("bad_message", clip(str(error)), faults).to_json()))
        else:
            self._write_urgent(Error("bad_message", clip(str(error)), clipped(path), ref and ref[:128]))
        self.offence("bad_message", f"{self.label}: {error}")

    def _fail_pending(self, value: dict[str, Any], error: MessageError) -> None:
        """A reply that cannot be read is an answer too: whoever waits for it is told at once."""
        number = value.get("id")
        if value.get("type") != "reply" or not isinstance(number, str) or number not in self._pending:
            return
        future = self._pending[number].future
        if not future.done():
            text = f"{self.label} answered, but its reply is {error} (it may have been carried out)"
            future.set_exception(RpcError("bad_message", text, error.faults))

    # Sending

    def send(self, message: Message) -> None:
        """Queue a message.  Raises FrameError if it is too large; a full queue ends the connection.

        What is queued in one turn of the event loop leaves together: one TLS record and one system call for many.
        """
        data = encode(message.to_json(), self._peer_max_bytes)
        if self.closing or self._transport is None:
            return
        if not self._writable.is_set() and (
            len(self._queue) >= self._limits.send_queue_messages
            or self._queued_bytes + len(data) > self._limits.send_queue_bytes
        ):
            text = f"the peer reads too slowly: {len(self._queue)} messages, {self._queued_bytes} bytes wait for it"
            self._queue.clear()
            self._queued_bytes = 0
            self.refuse("overloaded", text)
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes >= _WRITE_BYTES:
            self._flush()
        else:
            self._flush_soon()

    async def drain(self) -> None:
        """Wait until the peer has taken what is queued, or is gone."""
        await self._writable.wait()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        self._flush()

    def _write_urgent(self, message: Message) -> None:
        if len(self._urgent) >= self._limits.send_queue_messages:
            self._urgent.clear()
            self.refuse("overloaded", "the peer sends and does not read what it is answered")
            return
        try:
            self._urgent.append(encode(message.to_json(), self._peer_max_bytes))
        except FrameError as error:  # the peer accepts only very small messages
            code = message.code if isinstance(message, Error) else error.code
            self._urgent.append(encode(Error(code, "").to_json(), self._limits.max_message_bytes))
        if isinstance(message, Pong):  # of a flood, one write for many
            self._flush_soon()
        else:
            self._flush()

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self, force: bool = False) -> None:
        """Write what is queued, heartbeats and errors first, until the transport has enough."""
        if self._transport is None:
            return
        while (self._urgent or self._queue) and (force or self._writable.is_set()):
            parts = list(self._urgent)
            self._urgent.clear()
            size = sum(map(len, parts))
            while self._queue and (not parts or size + len(self._queue[0]) <= _WRITE_BYTES):
                data = self._queue.popleft()
                self._queued_bytes -= len(data)
                size += len(data)
                parts.append(data)
            self._transport.write(b"".join(parts))

    # Calls

    async def call(
        self,
        method: str,
        params: Json,
        timeout: float,
        on_progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Call the peer and return its result.  ``timeout`` is in seconds.

        Raises RpcError (as the peer answered), RpcTimeout or PeerAbsent.  A call that is given up is cancelled there.
        """
        call = Call(str(next(self._ids)), method, params, timeout)
        future: asyncio.Future[Json] = self._loop.create_future()
        return await self._ask(call.id, call, future, timeout, on_progress)

    async def request(self, make: Callable[[str], Message], timeout: float) -> Json:
        """Send the message that ``make`` builds from a new id and return the result of its reply, as ``call`` does."""
        number = str(next(self._ids))
        return await self._ask(number, make(number), self._loop.create_future(), timeout, None)

    async def _ask(
        self,
        number: str,
        message: Message,
        future: asyncio.Future[Json],
        timeout: float,
        on_progress: Callable[[Json], None] | None,
    ) -> Json:
        if self.closing:
            raise PeerAbsent("peer_absent", f"{self.label}: {self._reason}")
        self._pending[number] = _Pending(future, on_progress)
        try:
            self.send(message)
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():  # on_progress raised it
                raise
            raise RpcTimeout("timeout", f"{self.label} did not answer within {timeout:g} s") from None
        except FrameError as error:
            raise RpcError(error.code, str(error)) from error
        finally:
            self._pending.pop(number, None)
            if not future.done() or future.cancelled():
                self.send(Cancel(number))

    def _answered(self, message: Reply | Progress) -> None:
        pending = self._pending[message.id]
        if isinstance(message, Progress):
            if pending.on_progress is not None and not pending.future.done():
                try:
                    pending.on_progress(message.data)
                except Exception as error:  # the caller's own, and his alone: the connection serves others too
                    pending.future.set_exception(error)
                    self.send(Cancel(message.id))
        elif not pending.future.done():
            if message.error is not None:
                pending.future.set_exception(RpcError.from_json(message.error))
            else:
                pending.future.set_result(message.result or {})

    def _begin_call(self, call: Call) -> None:
        if call.id in self._serving:
            self._reply(Reply(call.id, error={"code": "duplicate_id", "message": f"call {call.id} is still running"}))
        elif len(self._serving) >= self._limits.calls_per_peer:
            text = f"{self._limits.calls_per_peer} calls of this connection are running ([rdmp] calls_per_peer)"
            self._owner.session_refused(self, "too_many_calls", text)
            self._reply(Reply(call.id, error={"code": "too_many_calls", "message": text}))
        else:
            task = self._serving[call.id] = self._loop.create_task(self._serve(call), name=f"rdmp call {call.method}")
            task.add_done_callback(lambda _: self._serving.pop(call.id, None))

    async def _serve(self, call: Call) -> None:
        async def progress(data: Json) -> None:
            self.send(Progress(call.id, data))
            await self.drain()

        seconds = min(call.deadline or self._limits.call_timeout, self._limits.call_timeout_max)
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                result = await self._owner.session_call(self, call.method, call.params, progress)
            reply = Reply(call.id, result=result)
        except RpcError as error:
            reply = Reply(call.id, error=error.to_json())
        except asyncio.CancelledError:
            self._reply(Reply(call.id, error={"code": "cancelled", "message": f"{call.method} was cancelled"}))
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():  # any other comes from inside, and is no limit here
                failure = {"code": "timeout", "message": f"{call.method} took longer than {seconds:g} s"}
            else:
                _log.exception("%s: call %s failed", self.label, call.method)
                text = f"{call.method} failed inside: {type(error).__name__}: {error} (see the log of the callee)"
                failure = {"code": "internal", "message": text}
            reply = Reply(call.id, error=failure)
        self._reply(reply)

    def _reply(self, reply: Reply) -> None:
        try:
            self.send(reply)
        except FrameError as error:
            self.send(Reply(reply.id, error={"code": error.code, "message": f"the result cannot be sent: {error}"}))
