# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two small faces for events: a publisher that repeats, and a subscriber that outlives its connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rdmp.client import Client, Subscription
from rdmp.endpoints import Endpoint
from rdmp.events import Event
from rdmp.limits import Limits
from rdmp.rpc import PeerAbsent, RpcError, RpcTimeout
from rdmp.tls import TlsFiles

_AGAIN = frozenset({"overloaded", "internal", "stopping", "replaced"})
"""Codes after which the same thing may succeed a moment later."""


class _Connected:
    """A client that is made again, with jittered growing pauses, when its connection is lost."""

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None, limits: Limits | None) -> None:
        self.limits = limits or Limits()
        self._endpoint = endpoint
        self._tls = tls
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._delay = self.limits.reconnect_min

    async def _connect(self) -> Client:
        """Return a connected client; raises what ``Client.connect`` raises, and RpcError ``closed`` after ``close``."""
        async with self._connecting:  # of two that connect at once, one connection would belong to nobody
            if self._closed:
                raise RpcError("closed", f"the connection to {self._endpoint} was closed here")
            if self._client is None:
                client = Client(self.limits)
                await client.connect(self._endpoint, self._tls)
                self._client = client
            return self._client

    def _final(self, error: RpcError) -> bool:
        return self._closed or (not isinstance(error, PeerAbsent | RpcTimeout) and error.code not in _AGAIN)

    async def _pause(self, client: Client | None) -> None:
        """Wait a moment and drop ``client``, unless another task has replaced it already."""
        if client is not None and self._client is client:
            await self._drop()
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
        self._delay = min(2 * self._delay, self.limits.reconnect_max)

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        """End the connection for good; whoever waits for something is told."""
        self._closed = True
        async with self._connecting:
            await self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Publisher(_Connected):
    """Publishes events, each at least once: repeated after a lost connection, so it may be there twice."""

    def __init__(
        self, endpoint: Endpoint, tls: TlsFiles | None = None, *, patience: float = 60.0, limits: Limits | None = None
    ) -> None:
        """``patience`` is how long one event is tried, in seconds."""
        super().__init__(endpoint, tls, limits)
        self._patience = patience

    async def publish(self, topic: str, data: Mapping[str, Any]) -> int:
        """Return the index of the event once it is stored.

        Raises RpcError when it is refused, RpcTimeout when ``patience`` is over (it may be stored then).
        """
        last = "no answer"
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    client = None
                    try:
                        client = await self._connect()
                        index = await client.publish(topic, data)
                        self._delay = self.limits.reconnect_min
                        return index
                    except RpcError as error:
                        last = str(error)
                        if self._final(error):
                            raise
                    await self._pause(client)
        except TimeoutError:
            raise RpcTimeout("timeout", f"{topic} was not stored within {self._patience:g} s: {last}") from None


class Subscriber(_Connected, AsyncIterator[Event]):
    """Events as they come, over lost connections and restarts of the orchestrator; ends only with a refusal.

    ``next_index`` is where it goes on; whoever stores it with his own work resumes there after his own crash, and gets
    each event at least once.  ``on_lost`` is told of events that are no longer kept.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        topics: Iterable[str],
        tls: TlsFiles | None = None,
        *,
        from_index: int | None = None,
        on_lost: Callable[[str], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Without ``from_index`` it begins with what is new when it first connects."""
        super().__init__(endpoint, tls, limits)
        self.next_index = from_index
        self._topics = tuple(topics)
        self._on_lost = on_lost
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Connect and subscribe now instead of at the first event; raises RpcError when refused."""
        await self._subscribed()

    async def _subscribed(self) -> Subscription:
        while self._subscription is None:
            client = None
            try:
                client = await self._connect()
                subscription = await client.subscribe(self._topics, self.next_index)
                subscription.on_lost = self._on_lost
                self.next_index = subscription.next_index
                self._subscription = subscription
            except RpcError as error:
                if self._final(error):
                    raise
                await self._pause(client)
        return self._subscription

    async def __anext__(self) -> Event:
        while True:
            subscription = None
            try:
                subscription = await self._subscribed()
                event = await anext(subscription)
            except RpcError as error:
                await self._ended(subscription, error)
                continue
            self.next_index = event.index + 1
            self._delay = self.limits.reconnect_min
            return event

    async def _ended(self, subscription: Subscription | None, error: RpcError) -> None:
        """Prepare to subscribe again; raises what ends the iteration."""
        if self._closed:
            raise StopAsyncIteration
        if subscription is None:
            raise error
        self.next_index, self._subscription = subscription.next_index, None
        if error.code == "slow_subscriber":
            return  # what it has not taken is sent again
        if not isinstance(error, PeerAbsent) and error.code not in _AGAIN:
            raise error
        await self._pause(self._client)

    async def close(self) -> None:
        """End the connection for good, and the iteration with it."""
        self._subscription = None
        await super().close()
