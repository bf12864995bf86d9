# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server side of RDMP: who is connected, what they may send, and where it goes."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmp.decisionlog import DecisionLog
from rdmp.driver import Driver
from rdmp.events import EventBus, EventLog
from rdmp.groups import Groups
from rdmp.limits import Limits
from rdmp.listener import Listener, listen_loopback, listen_tcp, listen_unix
from rdmp.messages import (
    MIN_MESSAGE_BYTES,
    PROTOCOL_OLDEST,
    PROTOCOL_VERSION,
    Aborted,
    Ack,
    Done,
    Error,
    Hello,
    Inquire,
    Message,
    Publish,
    Reply,
    Subscribe,
    Unsubscribe,
    Vote,
    Welcome,
    largest_message,
)
from rdmp.records import TxProgress, TxRecord
from rdmp.refusals import Refusals
from rdmp.rpc import PeerAbsent, ProgressSender, RpcError, RpcHandler, RpcTimeout
from rdmp.session import Origin, Session, SessionOwner
from rdmp.texts import clip
from rdmp.tls import Identity, IdentityError, peer_identity, reserved_role

__all__ = ["Hub", "PeerAbsent", "PeerInfo", "RpcError", "RpcHandler", "RpcTimeout"]

Json = Mapping[str, Any]
_log = logging.getLogger(__name__)
PARTICIPANT_ROLES = frozenset({"agent", "controller", "netconf"})
HUB_TOPICS = ("tx", "peer", "hub")
"""First levels of topics that only the hub itself publishes."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connection. ``since`` is seconds since 1970, ``queue`` the messages that wait to be sent."""

    name: str
    role: str
    since: float
    boot: str
    queue: int
    address: str
    groups: tuple[str, ...] = ()


@dataclass(slots=True)
class _Peer:
    """What the hub knows of a session."""

    origin: Origin
    identity: Identity | None = None
    name: str = ""
    boot: str = ""
    since: float = 0.0
    participant: bool = False
    requests: int = 0  # publish and subscribe that are being answered
    counted: bool = False  # in _certificates


class Hub(SessionOwner):
    """All sessions of an orchestrator, its transactions and its events."""

    def __init__(
        self,
        identity: Identity,
        log: DecisionLog,
        events: EventLog,
        handler: RpcHandler,
        epoch: int,
        incarnation: str,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``epoch`` and ``incarnation`` are those of the store; ``clock`` gives seconds since 1970.

        Must be called in the event loop.
        """
        self.identity = identity
        self.epoch = epoch
        self.limits = limits or Limits()
        self._log = log
        self._handler = handler
        self._incarnation = incarnation
        self._clock = clock
        self._fenced_by = 0
        self._listeners: list[Listener] = []
        self._sessions: dict[Session, _Peer] = {}
        self._participants: dict[str, Session] = {}
        self._certificates: Counter[Identity] = Counter()
        self._refusals = Refusals()
        self._tasks: set[asyncio.Task[None]] = set()
        self._groups = Groups(self.limits)
        self._bus = EventBus(events, self.limits, clock)
        self._driver = Driver(log, epoch, self.limits, self._send_to, self._bus.announce, self._bus.grown)

    # Serving

    async def serve_tls(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listen with TLS (``tls.server_context``); returns the port.  Raises OSError."""
        return self._listen(await listen_tcp(host, port), "tls", context).port

    async def serve_unix(self, path: Path | str) -> None:
        """Listen on a Unix socket of mode 0600; its peers are operators.  Raises OSError."""
        self._listen(listen_unix(Path(path)), "unix", None)

    async def serve_plain(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Development only: listen without TLS on a loopback address; returns the port.

        Anybody on this machine is an operator there.  Raises ValueError for any other address.
        """
        _log.warning("listening without TLS on %s: everybody on this machine may do everything", host)
        return self._listen(await listen_loopback(host, port), "tcp", None).port

    async def close(self) -> None:
        """Stop serving; open transactions stay in the log and are taken up by ``recover`` after the next start."""
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        await self._driver.close()
        sessions = list(self._sessions)
        for session in sessions:
            session.close("the orchestrator is stopping")
        await asyncio.gather(*(session.wait_closed() for session in sessions))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._bus.close()

    def _listen(self, sock: Any, kind: str, context: ssl.SSLContext | None) -> Listener:
        def session(origin: Origin) -> Session:
            return Session(self, self.limits, origin)

        listener = Listener(sock, kind, session, self.limits, context, self._refusals.add)
        self._listeners.append(listener)
        return listener

    # Transactions

    async def execute(self, record: TxRecord, on_progress: Callable[[TxProgress], None] | None = None) -> TxRecord:
        """Carry out one transaction and return its record.

        Returns when it is committed and every stage is done, or aborted everywhere reachable.  When a participant
        lets a stage wait longer than ``stage_wait``, returns the record as decided with ``finished`` False;
        ``record.missing()`` names who is awaited, and it goes on in the background.  Cancelling the caller does not
        stop the transaction.  Raises ValueError for a wrong record, RpcError ``overloaded``, and what
        ``DecisionLog.create`` raised.
        """
        return await self._driver.execute(record, on_progress)

    def abort(self, tx: str, reason: str) -> bool:
        """Abort an open transaction unless it is decided; False if it is not open here."""
        return self._driver.abort(tx, reason)

    def awaited(self, tx: str) -> tuple[str, ...]:
        """Return the participants whose answer an open transaction waits for now."""
        return self._driver.awaited(tx)

    def give_up(self, tx: str, peers: Sequence[str], reason: str) -> bool:
        """The last resort: wait no longer for ``peers`` to carry out a transaction that is decided.

        It ends *degraded* with ``reason``; the decision stays what it is, and a peer that comes back is told it.
        Returns False if the transaction is not open here.  The decision log must keep its record for as long as a peer
        may ask.
        """
        return self._driver.give_up(tx, peers, reason)

    async def recover(self) -> None:
        """Take up what the log holds open: undecided transactions are aborted, decided ones carried on.

        To be called once before serving; returns when everything is decided.
        """
        await self._driver.recover(await self._log.open())

    # RPC and events

    async def call(
        self,
        peer: str,
        method: str,
        params: Json,
        timeout: float | None = None,
        on_progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Call a connected participant; ``timeout`` in seconds.  Raises PeerAbsent, RpcTimeout or RpcError."""
        session = self._participants.get(peer)
        if session is None:
            raise PeerAbsent("peer_absent", f"{peer} is not connected")
        return await session.call(method, params, timeout or self.limits.call_timeout, on_progress)

    async def call_any(
        self, group: str, method: str, params: Json, timeout: float | None = None, attempts: int = 3
    ) -> Json:
        """Call any one connected member of ``group``; when it dies before it answers, another one, **at least once**.

        ``timeout`` in seconds is for all attempts together; each is told what remains of it.  The answer of a member
        is final, an error too.  Raises RpcError ``undelivered`` after ``attempts``, or when there is no member for
        ``peer_wait``; RpcTimeout when the time is over; RpcError as the member answered.
        """
        seconds = timeout or self.limits.call_timeout
        return await self._groups.call(group, method, params, seconds, attempts)

    async def publish(self, topic: str, data: Json) -> int:
        """Append an event and send it to its subscribers; returns its index."""
        return await self._bus.publish(topic, data)

    def announce(self, topic: str, data: Json) -> None:
        """Append an event without waiting for it; dropped, counted and logged when too many wait."""
        self._bus.announce(topic, data)

    def events_grown(self) -> None:
        """Tell the hub that the event log was appended to from elsewhere."""
        self._bus.grown()

    def counters(self) -> Mapping[str, Any]:
        """Return what was counted since the start: ``refused`` by reason (docs/rdmp.md), ``events_dropped``."""
        return {"refused": self._refusals.counts(), "events_dropped": self._bus.dropped}

    def statistics(self) -> Mapping[str, int]:
        """Return numbers for operators: connections, subscriptions, events that wait to be stored or were dropped."""
        return {
            "connections": len(self._sessions), "subscriptions": self._bus.subscriptions,
            "eventsWaiting": self._bus.waiting, "eventsDropped": self._bus.dropped,
        }  # fmt: skip

    def peers(self) -> Sequence[PeerInfo]:
        """Return every peer that is connected."""
        return [
            PeerInfo(
                peer.name, peer.identity.role, peer.since, peer.boot, session.queued, peer.origin.address,
                self._groups.of(session),
            )
            for session, peer in self._sessions.items()
            if peer.identity is not None and session.established and not session.closing
        ]

    def connected(self, role: str) -> Mapping[str, str]:
        """Return the connected participants of one certificate role by name, each with a mark of its connection."""
        peers = ((name, self._sessions[session]) for name, session in self._participants.items())
        return {
            name: f"{peer.boot} {peer.since}" for name, peer in peers
            if peer.identity is not None and peer.identity.role == role
        }  # fmt: skip

    # Sessions

    def session_opened(self, session: Session) -> None:
        peer = self._sessions[session] = _Peer(session.origin)
        if session.origin.kind != "tls":
            peer.identity = Identity(self.identity.cluster, "operator", f"local:{session.origin.user or 'anybody'}")
            return
        try:
            identity = peer.identity = peer_identity(session.info("ssl_object"))
        except IdentityError as error:
            session.refuse("forbidden", str(error))
            return
        limit = self.limits.connections_per_certificate
        if self._certificates[identity] >= limit:
            text = f"{identity} has {limit} connections already ([rdmp] connections_per_certificate)"
            session.refuse("too_many_connections", text)
            return
        self._certificates[identity] += 1
        peer.counted = True

    def session_message(self, session: Session, message: Message) -> None:
        peer = self._sessions[session]
        if not session.established:
            self._hello(session, peer, message)
            return
        match message:
            case Vote() | Done() | Aborted() | Inquire() if peer.participant:
                if not self._driver.received(peer.name, message.tx, message):
                    self._forbid(session, f"{message.tx} is no transaction of yours", message.tx)
            case Error(ref=str()) if peer.participant:
                self._driver.received(peer.name, message.ref or "", message)
            case Error():
                session.offence("peer_error", f"{session.label}: {message.message} ({message.code})")
            case Publish() | Subscribe():
                self._request(session, peer, message)
            case Unsubscribe():
                self._bus.unsubscribe(session, message.sub)
            case Ack():
                self._bus.acknowledge(session, message.sub, message.index)
            case _:
                self._forbid(session, f"{message.TYPE} is not yours to send")

    def session_refused(self, session: Session, code: str, text: str) -> None:
        """Count what a peer was refused."""
        self._refusals.add(code, f"{session.label}: {text}")

    def session_closed(self, session: Session, reason: str) -> None:
        for listener in self._listeners:
            listener.closed(session)
        peer = self._sessions.pop(session)
        if peer.counted and peer.identity is not None:
            self._certificates[peer.identity] -= 1
            if self._certificates[peer.identity] <= 0:
                del self._certificates[peer.identity]
        self._groups.left(session)
        self._bus.unsubscribe(session)
        if self._participants.get(peer.name) is session:
            del self._participants[peer.name]
            _log.info("%s %s left: %s", peer.identity and peer.identity.role, peer.name, reason)
            self._driver.disconnected(peer.name)
            self._bus.announce("peer.lost", {"name": peer.name, "reason": reason})

    async def session_call(self, session: Session, method: str, params: Json, progress: ProgressSender) -> Json:
        """Answer a call of a peer."""
        identity = self._sessions[session].identity
        assert identity is not None
        return await self._handler.call(identity, method, params, progress)

    def _send_to(self, name: str, message: Message) -> None:
        if (session := self._participants.get(name)) is not None:
            session.send(message)

    def _hello(self, session: Session, peer: _Peer, hello: Message) -> None:
        if not isinstance(hello, Hello):
            session.refuse("bad_message", f"the first message must be hello; found {hello.TYPE}")
            return
        identity = peer.identity
        assert identity is not None
        if (refusal := self._refusal(peer.origin, identity, hello)) is not None:
            session.refuse(*refusal)
            return
        peer.name = identity.name
        peer.boot = hello.boot
        peer.since = self._clock()
        peer.participant = identity.role in PARTICIPANT_ROLES
        session.label = f"{identity.role} {identity.name}"
        old = self._participants.get(peer.name) if peer.participant else None
        if old is not None:
            old.refuse("replaced", f"{peer.name} connected again from {peer.origin.address}")
        limits = self.limits
        rate = limits.participant_messages_per_second if peer.participant else limits.messages_per_second
        session.establish(limits.heartbeat, largest_message(hello), rate)
        version = min(hello.versions[1], PROTOCOL_VERSION)
        me = self.identity
        accepted = {"max_message_bytes": limits.max_message_bytes}
        session.send(
            Welcome(version, me.name, me.cluster, self.epoch, self._incarnation, limits.heartbeat, accepted)
        )
        if peer.participant:
            self._participants[peer.name] = session
            self._groups.joined(session, peer.name, self._allowed_groups(identity, hello))
            _log.info("%s %s connected from %s", identity.role, peer.name, peer.origin.address)
            if old is not None:
                self._driver.disconnected(peer.name)
            self._driver.connected(peer.name)
            data = {"name": peer.name, "role": identity.role, "boot": hello.boot, "address": peer.origin.address}
            self._bus.announce("peer.connected", data)

    def _allowed_groups(self, identity: Identity, hello: Hello) -> tuple[str, ...]:
        """Return the groups that a participant declares and may be in."""
        wanted = hello.groups or ()
        if refused := [group for group in wanted if not self._handler.may_join(identity, group)]:
            _log.warning("%s may not be in the groups %s", identity, ", ".join(refused))
        return tuple(group for group in wanted if group not in refused)

    def _refusal(self, origin: Origin, identity: Identity, hello: Hello) -> tuple[str, str] | None:
        """Return code and reason if the peer may not connect."""
        oldest, newest = hello.versions
        if newest < PROTOCOL_OLDEST or oldest > PROTOCOL_VERSION:
            return "version", (
                f"versions {oldest} to {newest} are offered, {PROTOCOL_OLDEST} to {PROTOCOL_VERSION} are spoken here"
            )
        largest = (hello.limits or {}).get("max_message_bytes")
        if isinstance(largest, int) and largest < MIN_MESSAGE_BYTES:
            return "bad_message", f"limits.max_message_bytes is {largest}; it must be at least {MIN_MESSAGE_BYTES}"
        if identity.cluster != self.identity.cluster:
            return "forbidden", f"{identity} is not of the cluster {self.identity.cluster}"
        if hello.role != identity.role or (origin.kind == "tls" and hello.name != identity.name):
            return "forbidden", f"hello says {hello.role} {hello.name}, the connection proves {identity}"
        if (reserved := reserved_role(identity.name)) not in (None, identity.role):
            return "forbidden", f"{identity}: the name {identity.name} belongs to the role {reserved}"
        if identity.role == "controller" and reserved is None:
            return "forbidden", f"{identity}: a controller is named controller, controller-2 and so on"
        if identity.role == "netconf" and reserved is None:
            return "forbidden", f"{identity}: the participant of this role is named netconf"
        if hello.epoch > self.epoch:
            # Callers take part in no transaction: what they say of epochs proves nothing.
            if identity.role in PARTICIPANT_ROLES and hello.epoch > self._fenced_by:
                self._fenced_by = hello.epoch
                self._bus.announce("hub.fenced", {"peer": identity.name, "epoch": hello.epoch, "own": self.epoch})
            return "stale_epoch", f"epoch {hello.epoch} was seen; this orchestrator has {self.epoch} and leads no more"
        return None

    def _forbid(self, session: Session, text: str, ref: str | None = None) -> None:
        session.send(Error("forbidden", clip(text), None, ref))
        session.offence("forbidden", text)

    # Events of peers

    def _request(self, session: Session, peer: _Peer, message: Publish | Subscribe) -> None:
        """Answer a publish or subscribe in a task of its own, a bounded number of them at once."""
        error = None
        if peer.requests >= self.limits.requests_per_peer:
            text = f"{peer.requests} requests of this connection wait ([rdmp] requests_per_peer)"
            error = RpcError("too_many_calls", text)
        elif isinstance(message, Publish) and session.size > self.limits.max_event_bytes:
            text = f"an event of {session.size} bytes; the limit is {self.limits.max_event_bytes}"
            error = RpcError("message_too_large", f"{text} ([rdmp] max_event_bytes)")
        if error is not None:
            self.session_refused(session, error.code, error.message)
            session.send(Reply(message.id, error=error.to_json()))
            return
        work = self._publish(peer, message) if isinstance(message, Publish) else self._subscribe(session, peer, message)
        peer.requests += 1
        self._spawn(self._reply(session, peer, message.id, work))

    async def _reply(self, session: Session, peer: _Peer, number: str, work: Coroutine[Any, Any, Json]) -> None:
        try:
            reply = Reply(number, result=await work)
        except RpcError as error:
            reply = Reply(number, error=error.to_json())
            if error.code in ("forbidden", "duplicate_id", "too_many_subscriptions") and not session.closing:
                session.offence(error.code, error.message)
        except Exception as error:
            _log.exception("a request of %s failed", session.label)
            reply = Reply(number, error={"code": "internal", "message": f"{type(error).__name__}: {error}"})
        finally:
            peer.requests -= 1
        session.send(reply)

    async def _publish(self, peer: _Peer, message: Publish) -> Json:
        assert peer.identity is not None
        first = message.topic.split(".", 1)[0]
        if first in HUB_TOPICS or not self._handler.may_publish(peer.identity, message.topic):
            raise RpcError("forbidden", f"{peer.identity} may not publish {message.topic}")
        return {"index": await self._bus.publish(message.topic, message.data)}

    async def _subscribe(self, session: Session, peer: _Peer, message: Subscribe) -> Json:
        assert peer.identity is not None
        if not self._handler.may_subscribe(peer.identity, message.topics):
            raise RpcError("forbidden", f"{peer.identity} may not subscribe to {', '.join(message.topics)}")
        index = await self._bus.subscribe(session, message.id, message.topics, message.from_index)
        return {"index": index}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
