# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events: the abstract log, topics, and the bus that appends events and sends them to subscribers.

A subscriber's place is an index in the log, so a slow one costs no memory: the bus reads the log for it, at most
``event_window`` events ahead of its acknowledgement.  One that stays silent for ``ack_timeout`` is told and cut.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rdmp.frames import FrameError
from rdmp.limits import Limits
from rdmp.messages import Error, EventMessage
from rdmp.moment import rfc3339
from rdmp.rpc import RpcError
from rdmp.session import Session
from rdmp.texts import clip

Json = Mapping[str, Any]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event before it has a place in the log. ``time`` is RFC 3339, UTC."""

    topic: str
    data: Json
    time: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log; ``index`` rises by one with each."""

    index: int
    time: str
    topic: str
    data: Json


class EventLog(ABC):
    """Keeps events in order.  All methods may be called concurrently from one event loop."""

    @abstractmethod
    async def append(self, events: Sequence[NewEvent]) -> int:
        """Append events and return the index of the last."""

    @abstractmethod
    async def read(self, from_index: int, limit: int) -> Sequence[Event]:
        """Return at most ``limit`` events with ``index >= from_index``, in order."""

    @abstractmethod
    async def last_index(self) -> int:
        """Return the index of the newest event, 0 if there is none."""


class MemoryEventLog(EventLog):
    """The newest ``kept`` events in memory, none of them more than ``max_age`` seconds older than the newest."""

    def __init__(self, kept: int = 10_000, max_age: float | None = None) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._max_age = max_age
        self._last = 0

    async def append(self, events: Sequence[NewEvent]) -> int:
        for event in events:
            self._last += 1
            self._events.append(Event(self._last, event.time, event.topic, event.data))
        while self._max_age is not None and self._age() > self._max_age:
            self._events.popleft()
        return self._last

    def _age(self) -> float:
        """Return the seconds between the oldest and the newest event that are kept."""
        oldest, newest = (datetime.fromisoformat(self._events[place].time) for place in (0, -1))
        return (newest - oldest).total_seconds()

    async def read(self, from_index: int, limit: int) -> Sequence[Event]:
        return [event for event in self._events if event.index >= from_index][:limit]

    async def last_index(self) -> int:
        return self._last

    def all(self) -> tuple[Event, ...]:
        """Return every event that is kept."""
        return tuple(self._events)


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic matches a pattern: ``*`` stands for one level, a last ``>`` for one or more."""
    wanted, levels = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(levels) <= len(wanted):
            return False
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(one in ("*", level) for one, level in zip(wanted, levels, strict=True))


@dataclass(slots=True)
class _Subscription:
    session: Session
    id: str
    topics: tuple[str, ...]
    cursor: int
    newest: int  # what stood in the log when it began: where the log has nothing up to here, it was forgotten
    sent: deque[int] = field(default_factory=deque)  # indexes sent and not acknowledged
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class EventBus:
    """Appends events to a log and feeds subscriptions from it."""

    def __init__(self, log: EventLog, limits: Limits, clock: Callable[[], float]) -> None:
        self._log = log
        self._limits = limits
        self._clock = clock
        self._queue: deque[tuple[NewEvent, asyncio.Future[int] | None]] = deque()
        self._appender: asyncio.Task[None] | None = None
        self._subscriptions: dict[tuple[Session, str], _Subscription] = {}
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """How many events wait to be stored."""
        return len(self._queue)

    @property
    def subscriptions(self) -> int:
        """How many subscriptions there are."""
        return len(self._subscriptions)

    async def publish(self, topic: str, data: Json) -> int:
        """Append an event and return its index; raises RpcError ``overloaded`` or what the log raised."""
        if len(self._queue) >= self._limits.publish_queue:
            raise RpcError("overloaded", f"{len(self._queue)} events wait to be stored ([rdmp] publish_queue)")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._enqueue(topic, data, future)
        return await future

    def announce(self, topic: str, data: Json) -> None:
        """Append an event without waiting; when too many wait it is dropped and counted."""
        if len(self._queue) >= self._limits.publish_queue:
            self.dropped += 1
            _log.warning(
                "event %s dropped: %d wait to be stored; %d dropped so far", topic, len(self._queue), self.dropped
            )
            return
        self._enqueue(topic, data, None)

    def grown(self) -> None:
        """The log has new events that were appended elsewhere, such as those of a decision."""
        for subscription in self._subscriptions.values():
            subscription.wake.set()

    async def subscribe(self, session: Session, number: str, topics: tuple[str, ...], from_index: int | None) -> int:
        """Begin a subscription and return the newest index; without ``from_index`` only later events follow."""
        mine = sum(other is session for other, _ in self._subscriptions)
        if mine >= self._limits.subscriptions_per_peer:
            raise RpcError("too_many_subscriptions", f"{mine} subscriptions on this connection")
        if (session, number) in self._subscriptions:
            raise RpcError("duplicate_id", f"subscription {number} exists already")
        subscription = _Subscription(session, number, topics, 0, 0)
        self._subscriptions[session, number] = subscription  # before the wait, so that many at once are counted
        try:
            last = await self._log.last_index()
        except BaseException:
            self._subscriptions.pop((session, number), None)
            raise
        if session.closing or self._subscriptions.get((session, number)) is not subscription:
            self._subscriptions.pop((session, number), None)
            raise RpcError("cancelled", "the subscription ended before it began")
        subscription.cursor = last + 1 if from_index is None else max(1, from_index)
        subscription.newest = last
        subscription.task = asyncio.create_task(self._feed(subscription), name="rdmp subscription")
        return last

    def acknowledge(self, session: Session, number: str, index: int) -> None:
        """The subscriber has every event up to ``index``."""
        if (subscription := self._subscriptions.get((session, number))) is not None:
            while subscription.sent and subscription.sent[0] <= index:
                subscription.sent.popleft()
            subscription.wake.set()

    def unsubscribe(self, session: Session, number: str | None = None) -> None:
        """End one subscription of a session, or all of them."""
        for key in [key for key in self._subscriptions if key[0] is session and number in (None, key[1])]:
            if (task := self._subscriptions.pop(key).task) is not None:
                task.cancel()

    async def close(self) -> None:
        """Store what waits and end all subscriptions."""
        if self._appender is not None:
            await asyncio.wait([self._appender])
        tasks = [subscription.task for subscription in self._subscriptions.values() if subscription.task]
        self._subscriptions.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _enqueue(self, topic: str, data: Json, future: asyncio.Future[int] | None) -> None:
        self._queue.append((NewEvent(topic, data, rfc3339(self._clock(), 3)), future))
        if self._appender is None or self._appender.done():
            self._appender = asyncio.create_task(self._append(), name="rdmp events")

    async def _append(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._limits.event_batch))]
            waiting = [future for _, future in batch]
            try:
                last = await self._log.append([event for event, _ in batch])
            except Exception as error:
                _log.exception("%d events could not be stored", len(batch))
                for future in waiting:
                    if future is not None and not future.done():
                        future.set_exception(RpcError("internal", f"the event could not be stored: {error}"))
                continue
            for index, future in enumerate(waiting, last - len(batch) + 1):
                if future is not None and not future.done():
                    future.set_result(index)
            self.grown()

    async def _feed(self, one: _Subscription) -> None:
        try:
            while True:
                one.wake.clear()
                events = await self._log.read(one.cursor, self._limits.event_batch)
                if not events:
                    if one.cursor <= one.newest:
                        self._lost(one, one.newest + 1)
                    await one.wake.wait()
                    continue
                if events[0].index > one.cursor:
                    self._lost(one, events[0].index)
                for event in events:
                    one.cursor = event.index + 1
                    if any(matches(pattern, event.topic) for pattern in one.topics):
                        await self._room(one)
                        self._send(one, event)
        except TimeoutError:
            text = f"no acknowledgement for {self._limits.ack_timeout:g} s; subscribe again from index {one.cursor - 1}"
            one.session.send(Error("slow_subscriber", text, None, one.id, one.cursor - 1))
            self._subscriptions.pop((one.session, one.id), None)
        except Exception as error:
            _log.exception("a subscription failed")
            one.session.send(Error("internal", clip(f"the subscription failed: {error}"), None, one.id))
            self._subscriptions.pop((one.session, one.id), None)

    def _lost(self, one: _Subscription, following: int) -> None:
        """Tell the subscriber that it cannot have what stood before the index ``following``."""
        text = f"events {one.cursor} to {following - 1} are no longer kept"
        one.cursor = following
        one.session.send(Error("events_lost", text, None, one.id, following))

    async def _room(self, one: _Subscription) -> None:
        """Wait until the subscriber may be sent another event; raises TimeoutError."""
        async with asyncio.timeout(self._limits.ack_timeout):
            while len(one.sent) >= self._limits.event_window:
                one.wake.clear()
                await one.wake.wait()
            await one.session.drain()

    def _send(self, one: _Subscription, event: Event) -> None:
        one.sent.append(event.index)
        try:
            one.session.send(EventMessage(one.id, event.index, event.time, event.topic, event.data))
        except FrameError as error:
            one.sent.pop()
            text = f"event {event.index} ({event.topic}) cannot be sent: {error}"
            one.session.send(Error("events_lost", text, None, one.id, event.index + 1))
