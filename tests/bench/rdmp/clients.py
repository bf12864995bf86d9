# SPDX-License-Identifier: AGPL-3.0-or-later
"""The smallest clients that load the peers' servers: etcd's JSON gateway over HTTP/1.1, and NATS.

Each does one durable operation on `await operate()`; many may wait at a time. They are Python like RDMP's own side, and
do nothing beyond what the measured operation needs.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
from abc import ABC, abstractmethod
from collections import deque

from tests.bench.rdmp.servers import HOST
from tests.bench.rdmp.support import BenchError

TIMEOUT = 30.0
VALUE = "x" * 200
KEYS = 100


class Loader(ABC):
    """One operation of a peer, to be done as often as wanted."""

    @abstractmethod
    async def open(self, parallel: int) -> None:
        """Connect, for at most `parallel` operations at a time."""

    @abstractmethod
    async def operate(self, number: int) -> None:
        """Do it once, until it is acknowledged."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class Etcd(Loader):
    """`put` of one key, or a transaction that puts `keys` keys; one connection for each that is open at a time."""

    def __init__(self, port: int, keys: int) -> None:
        self._port = port
        self._keys = keys
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def open(self, parallel: int) -> None:
        for _ in range(parallel):
            reader, writer = await asyncio.open_connection(HOST, self._port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._idle.append((reader, writer))

    async def operate(self, number: int) -> None:
        puts = [
            {"key": _base64(f"bench/{(number * self._keys + index) % KEYS}"), "value": _base64(VALUE)}
            for index in range(self._keys)
        ]
        if self._keys == 1:
            path, body = "/v3/kv/put", json.dumps(puts[0]).encode()
        else:
            path, body = "/v3/kv/txn", json.dumps({"success": [{"requestPut": put} for put in puts]}).encode()
        connection = self._idle.popleft()
        reader, writer = connection
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        if " 200 " not in lines[0]:
            raise BenchError(f"etcd: {lines[0]}")
        length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
        await reader.readexactly(length)
        self._idle.append(connection)

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class NatsProtocol(asyncio.Protocol):
    """A client's side of the NATS protocol, as far as it is needed."""

    SUBSCRIBE = b""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n' + self.SUBSCRIBE)

    def message(self, subject: bytes, reply: bytes, payload: bytes) -> None:
        """A message came for a subscription."""

    def write(self, data: bytes) -> None:
        """Send bytes of the protocol."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line = self._buffer[:end]
            stop = end + 2
            if line.startswith(b"MSG "):
                fields = line.split(b" ")
                size = int(fields[-1])
                if len(self._buffer) < stop + size + 2:
                    return
                self.message(fields[1], fields[3] if len(fields) == 5 else b"", self._buffer[stop : stop + size])
                stop += size + 2
            elif line == b"PING":
                self.write(b"PONG\r\n")
            self._buffer = self._buffer[stop:]


class _Requester(NatsProtocol):
    """Publishes with an inbox for the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = f"_INBOX.b.{id(self)}"
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(f"SUB {self.inbox}.* 1\r\n".encode())

    def message(self, subject: bytes, reply: bytes, payload: bytes) -> None:
        if (future := self.waiting.pop(subject, None)) is not None and not future.done():
            future.set_result(payload)


class Nats(Loader):
    """Request and reply; with `stream`, publishes to a JetStream stream that is kept in files."""

    def __init__(self, port: int, subject: str, stream: bool) -> None:
        self._port = port
        self._subject = subject
        self._stream = stream
        self._protocol: _Requester | None = None
        self._numbers = itertools.count()

    async def open(self, parallel: int) -> None:
        loop = asyncio.get_running_loop()
        _, self._protocol = await loop.create_connection(_Requester, HOST, self._port)
        if self._stream:
            config = {"name": "bench", "subjects": [self._subject], "storage": "file", "max_msgs": 100_000}
            answer = json.loads(await self.request("$JS.API.STREAM.CREATE.bench", json.dumps(config).encode()))
            if "error" in answer:
                raise BenchError(f"NATS: {answer['error']}")

    async def request(self, subject: str, payload: bytes) -> bytes:
        """Send one message and wait for the answer."""
        assert self._protocol is not None
        inbox = f"{self._protocol.inbox}.{next(self._numbers)}"
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._protocol.waiting[inbox.encode()] = future
        self._protocol.write(f"PUB {subject} {inbox} {len(payload)}\r\n".encode() + payload + b"\r\n")
        async with asyncio.timeout(TIMEOUT):
            return await future

    async def operate(self, number: int) -> None:
        answer = await self.request(self._subject, VALUE.encode())
        if self._stream and b'"error"' in answer:
            raise BenchError(f"NATS: {answer.decode()}")

    async def close(self) -> None:
        if self._protocol is not None:
            self._protocol.close()
