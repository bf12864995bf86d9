# SPDX-License-Identifier: AGPL-3.0-or-later
"""The engine's events as they concern nodes. docker-py's stream blocks without a time limit: it has its own thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import docker.errors
import requests

from agents.docker.containers import NODE, POOL, ROLE, SANDBOX, Owner, sandbox_name
from agents.docker.engine import Engine, EngineError
from agents.driver import NodeEvent

QUEUE_LIMIT = 1024  # events that may wait; beyond that the reader is told that it lost sight
RECONNECT_MIN = 0.1  # seconds
RECONNECT_MAX = 5.0
_LOST_SIGHT = NodeEvent("lost-sight", "")
_KINDS: Mapping[str, str] = {"die": "died", "start": "started"}

_log = logging.getLogger(__name__)


def parse(event: Mapping[str, Any]) -> NodeEvent | None:
    """Read one event of GET /events; None if it does not concern a node."""
    attributes: Mapping[str, str] = (event.get("Actor") or {}).get("Attributes") or {}
    name, role = attributes.get("name", ""), attributes.get(ROLE)
    sandbox = role == SANDBOX or (role == POOL and name.endswith(sandbox_name("")))
    node = name.removesuffix(sandbox_name("")) if sandbox else attributes.get(NODE, "")
    if not node or (role == POOL and not sandbox):
        return None
    exit_code = int(attributes.get("exitCode", "0"))
    match event.get("Action"):
        case "die":
            return NodeEvent("died", node, sandbox, exit_code)
        case "start":
            return NodeEvent("started", node, sandbox)
        case _:
            return None


class EventStream:
    """Reads events in a thread and hands them to an event loop."""

    def __init__(self, engine: Engine, owner: Owner) -> None:
        self._engine = engine
        self._owner = owner
        self._queue: asyncio.Queue[NodeEvent] = asyncio.Queue(QUEUE_LIMIT)
        self._stopped = threading.Event()
        self._stream: Any = None
        self._lock = threading.Lock()

    async def events(self) -> AsyncGenerator[NodeEvent, None]:
        """Yield events for ever; after each gap, and at the start, one `lost-sight`."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="docker-events", daemon=True).start()
        try:
            while True:
                yield await self._queue.get()
        finally:
            self._stop()

    def _stop(self) -> None:
        self._stopped.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()

    def _put(self, event: NodeEvent) -> None:
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            event = _LOST_SIGHT
        self._queue.put_nowait(event)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        last, pause = 0, RECONNECT_MIN
        while not self._stopped.is_set():
            try:
                stream = self._open(last)
                pause = RECONNECT_MIN
                loop.call_soon_threadsafe(self._put, _LOST_SIGHT)
                for event in stream:
                    stamp = int(event.get("timeNano", 0))
                    if stamp > last and (parsed := parse(event)) is not None:
                        loop.call_soon_threadsafe(self._put, parsed)
                    last = max(last, stamp)
            except (EngineError, docker.errors.DockerException, requests.exceptions.RequestException) as error:
                _log.warning("the events of the Docker engine cannot be read: %s; next try in %g s", error, pause)
            except RuntimeError:
                return  # the event loop is closed: the agent ends
            self._stopped.wait(pause)
            pause = min(pause * 2, RECONNECT_MAX)

    def _open(self, last: int) -> Any:
        client = self._engine.new_client()
        since = f"{last // 10**9}.{last % 10**9:09d}" if last else None
        filters = {"type": "container", "event": list(_KINDS), "label": self._owner.filters()}
        stream = client.events(since=since, filters=filters, decode=True)
        with self._lock:
            self._stream = stream
            if self._stopped.is_set():
                stream.close()
        return stream
