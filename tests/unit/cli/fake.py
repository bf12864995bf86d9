# SPDX-License-Identifier: AGPL-3.0-or-later
"""An odysseyd that answers from a script, on a real Unix socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdmp.frames import Decoder, encode

MAX = 4 * 1024 * 1024


class Hangup(Exception):
    """Raised by an answer: the connection breaks, as when the daemon is killed."""


@dataclass(frozen=True)
class RpcFault(Exception):
    """Raised by an answer: it becomes the error of the reply."""

    code: str
    message: str
    faults: Sequence[Mapping[str, Any]] = ()


@dataclass
class Call:
    """One call as it came; `progress` sends a progress message."""

    method: str
    params: dict[str, Any]
    progress: Callable[[Mapping[str, Any]], None]
    daemon: FakeDaemon


Answer = Callable[[Call], Any]


@dataclass
class FakeDaemon:
    """`answers[method]` is a value, or a callable that gets a Call; `events` are sent to every subscriber."""

    path: Path
    answers: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    cut_after_events: int | None = None
    """Break the connection once after so many events."""
    hold: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.AbstractServer | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def start(self) -> FakeDaemon:
        self._thread.start()
        self._do(self._listen())
        return self

    def stop(self) -> None:
        self._do(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _hang_up(self) -> None:
        self.hold.set()
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            async for message in _messages(reader):
                await self._take(message, writer)
        except (Hangup, ConnectionError):
            writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _take(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        kind = message["type"]
        if kind == "hello":
            _send(writer, {
                "type": "welcome", "version": 1, "name": "odysseyd", "cluster": "lab", "epoch": 1,
                "incarnation": "i", "heartbeat": 2.0,
            })  # fmt: skip
        elif kind == "ping":
            _send(writer, {"type": "pong", "n": message["n"]})
        elif kind == "call":
            await self._answer(message, writer)
        elif kind == "subscribe":
            await self._subscribe(message, writer)

    async def _answer(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        method, params, call_id = message["method"], message.get("params", {}), message["id"]
        self.calls.append((method, params))
        answer = self.answers.get(method)
        reply: dict[str, Any] = {"type": "reply", "id": call_id}
        try:
            if answer is None:
                raise RpcFault("unknown_method", f"there is no method {method}")
            if callable(answer):

                def progress(data: Mapping[str, Any]) -> None:
                    self._loop.call_soon_threadsafe(_send, writer, {"type": "progress", "id": call_id, "data": data})

                answer = await asyncio.to_thread(answer, Call(method, params, progress, self))
            reply["result"] = answer
        except RpcFault as fault:
            error: dict[str, Any] = {"code": fault.code, "message": fault.message}
            if fault.faults:
                error["faults"] = list(fault.faults)
            reply["error"] = error
        _send(writer, reply)

    async def _subscribe(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.subscriptions.append(message)
        last = max((event["index"] for event in self.events), default=0)
        _send(writer, {"type": "reply", "id": message["id"], "result": {"index": last}})
        sent = 0
        for event in self.events:
            if event["index"] < (message.get("from") or 0):
                continue
            _send(writer, {"type": "event", "sub": message["id"], **event})
            sent += 1
            if sent == self.cut_after_events:
                self.cut_after_events = None
                await writer.drain()
                await asyncio.sleep(0.05)
                raise Hangup


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    decoder = Decoder(MAX)
    while data := await reader.read(65536):
        for message in decoder.feed(data):
            yield message


def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(encode(message, MAX))
