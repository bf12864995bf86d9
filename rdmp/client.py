# SPDX-License-Identifier: AGPL-3.0-or-later
"""A caller's connection to one orchestrator: calls, subscriptions, publishing."""

from __future__ import annotations

import asyncio
import getpass
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rdmp.dialler import Dialler
from rdmp.endpoints import Endpoint
from rdmp.events import Event
from rdmp.limits import Limits
from rdmp.messages import Ack, Error, EventMessage, Message, Publish, Subscribe, Unsubscribe, Welcome
from rdmp.rpc import PeerAbsent, ProgressSender, RpcError
from rdmp.session import Session
from rdmp.tls import Identity, TlsFiles

__all__ = ["Client", "Endpoint", "RpcError", "Subscription", "TlsFiles"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Gap:
    """Events that were asked for and cannot be had; ``following`` is the index after them."""

    text: str
    following: int | None


class Subscription(AsyncIterator[Event]):
    """Events as they come.  Iteration ends with RpcError when the server ends it or the connection is lost.

    ``index`` was the newest event when it began; ``next_index`` is where to subscribe again after a loss.  Events that
    are no longer kept do not end it: ``lost`` is the last notice of such a gap, ``on_lost`` is called with each in its
    place among the events.  With ``until`` set, iteration stops once no event up to that index can come any more (use
    it with the topic ``>``: only events that are sent are seen).
    """

    def __init__(self, client: Client, number: str, from_index: int | None) -> None:
        self.index = 0
        self.next_index = from_index or 0
        self.lost: str | None = None
        self.on_lost: Callable[[str], None] | None = None
        self.until: int | None = None
        self._client = client
        self._number = number
        self._events: deque[Event | _Gap] = deque()
        self._error: RpcError | None = None
        self._wake = asyncio.Event()

    async def __anext__(self) -> Event:
        while self.until is None or self.next_index <= self.until:
            if self._events:
                item = self._events.popleft()
                if isinstance(item, Event):
                    self.next_index = item.index + 1
                    self._client.acknowledge(self._number, item.index)
                    return item
                self._told_of(item)
            elif self._error is not None:
                raise self._error
            else:
                self._wake.clear()
                await self._wake.wait()
        raise StopAsyncIteration

    def _told_of(self, gap: _Gap) -> None:
        self.lost = gap.text
        if gap.following is not None:
            self.next_index = max(self.next_index, gap.following)
        if self.on_lost is not None:
            self.on_lost(gap.text)

    def close(self) -> None:
        """End the subscription."""
        self._client.unsubscribe(self._number)

    def push(self, event: Event) -> None:
        """Take an event from the connection."""
        self._events.append(event)
        self._wake.set()

    def gap(self, text: str, following: int | None) -> None:
        """Take the notice that events before the index ``following`` cannot be had."""
        self._events.append(_Gap(text, following))
        self._wake.set()

    def fail(self, error: RpcError) -> None:
        """End the iteration with an error, after the events that have come."""
        self._error = error
        self._wake.set()


class Client:
    """Connect, call, subscribe, publish, close; also an asynchronous context manager.

    It does not reconnect: a call that was cut off may have been carried out, and only the caller knows what to do.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._session: Session | None = None
        self._subscriptions: dict[str, Subscription] = {}

    async def connect(self, endpoint: Endpoint, tls: TlsFiles | None = None) -> Welcome:
        """Connect; ``tls`` is needed for ``tls:`` endpoints.

        Raises PeerAbsent, RpcError with the server's refusal, OSError or ValueError for unusable certificate files.
        """
        me = tls.identity() if tls is not None and endpoint.kind == "tls" else Identity("local", "operator", _user())
        link = _Link(self, endpoint, tls, me, self.limits)
        self._session = await link.dial()
        assert link.welcome is not None
        return link.welcome

    async def call(
        self,
        method: str,
        params: Json | None = None,
        *,
        on_progress: Callable[[Json], None] | None = None,
        timeout: float | None = None,
    ) -> Json:
        """Call the orchestrator; ``timeout`` in seconds.  Raises RpcError, RpcTimeout or PeerAbsent.

        Cancelling the call cancels it at the orchestrator.
        """
        return await self._open().call(method, params or {}, timeout or self.limits.call_timeout, on_progress)

    async def subscribe(self, topics: tuple[str, ...] | list[str], from_index: int | None = None) -> Subscription:
        """Subscribe to topic patterns, from an index on (or only to what is new); raises RpcError."""
        session = self._open()
        made: list[Subscription] = []

        def message(number: str) -> Message:
            made.append(Subscription(self, number, from_index))
            self._subscriptions[number] = made[0]
            return Subscribe(number, tuple(topics), from_index)

        try:
            reply = await session.request(message, self.limits.call_timeout)
        except RpcError:
            self._subscriptions = {key: one for key, one in self._subscriptions.items() if one not in made}
            raise
        made[0].index = _index(reply)
        if from_index is None:
            made[0].next_index = made[0].index + 1
        return made[0]

    async def publish(self, topic: str, data: Json) -> int:
        """Publish an event; returns its index once it is stored.  Raises RpcError."""
        reply = await self._open().request(lambda number: Publish(number, topic, data), self.limits.call_timeout)
        return _index(reply)

    async def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            self._session.close("closed by us")
            await self._session.wait_closed()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def acknowledge(self, number: str, index: int) -> None:
        """Tell the server that events up to ``index`` were taken."""
        if self._session is not None and number in self._subscriptions:
            self._session.send(Ack(number, index))

    def unsubscribe(self, number: str) -> None:
        """End a subscription."""
        if self._subscriptions.pop(number, None) is not None and self._session is not None:
            self._session.send(Unsubscribe(number))

    def received(self, message: Message) -> None:
        """Take a message from the connection."""
        if isinstance(message, EventMessage) and (one := self._subscriptions.get(message.sub)) is not None:
            one.push(Event(message.index, message.time, message.topic, message.data))
        elif isinstance(message, Error) and (one := self._subscriptions.get(message.ref or "")) is not None:
            if message.code == "events_lost":
                one.gap(message.message, message.index)
            else:
                del self._subscriptions[message.ref or ""]
                one.fail(RpcError(message.code, message.message))

    def lost(self, reason: str) -> None:
        """The connection has ended."""
        subscriptions, self._subscriptions = self._subscriptions, {}
        for one in subscriptions.values():
            one.fail(PeerAbsent("peer_absent", reason))

    def _open(self) -> Session:
        if self._session is None:
            raise PeerAbsent("peer_absent", "not connected; call connect first")
        return self._session


class _Link(Dialler):
    """The client's side of its connection."""

    def __init__(self, client: Client, endpoint: Endpoint, tls: TlsFiles | None, me: Identity, limits: Limits) -> None:
        super().__init__(endpoint, tls, me, limits)
        self.welcome: Welcome | None = None
        self._client = client

    def welcomed(self, session: Session, welcome: Welcome) -> None:
        self.welcome = welcome

    def received(self, session: Session, message: Message) -> None:
        self._client.received(message)

    def lost(self, session: Session, reason: str) -> None:
        self._client.lost(reason)

    async def session_call(self, session: Session, method: str, params: Json, progress: ProgressSender) -> Json:
        raise RpcError("unknown_method", "a client answers no calls")


def _index(reply: Json) -> int:
    index = reply.get("index")
    if not isinstance(index, int):
        raise RpcError("bad_message", f"the reply holds no index of an event: {dict(reply)}")
    return index


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
