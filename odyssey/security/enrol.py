# SPDX-License-Identifier: AGPL-3.0-or-later
"""The enrolment server: a newcomer with a one-time token gets its first certificate.

The newcomer has no certificate yet, so TLS 1.3 shows only the server's; the token shows who the newcomer is. Messages
are JSN1 frames with RDMP's `call` and `reply`, without `hello`. Two methods:

- `enrol.ca` {} -> {"ca": PEM}: the newcomer compares its SHA-256 with the one in its token, then connects again and
  trusts nothing else.
- `enrol.sign` {"token", "role", "name", "csr"} -> {"certificate", "ca", "cluster"}.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odyssey.security.ca import CaError, CertificateAuthority
from odyssey.security.ratelimit import RateLimiter, rate_key
from odyssey.security.tokens import JoinTokens, TokenRefused
from rdmp.frames import Decoder, FrameError, encode

_log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], Awaitable[None]]

_PARAMETERS = {"token": 256, "role": 32, "name": 64, "csr": 16 * 1024}
"""The parameters of `enrol.sign` and their greatest length in characters."""


@dataclass(frozen=True, slots=True)
class EnrolLimits:
    """Bounds of the enrolment server. Times in seconds."""

    max_message_bytes: int = 64 * 1024
    connections: int = 64
    connections_per_address: int = 16
    messages_per_connection: int = 8
    handshake_timeout: float = 5.0
    idle_timeout: float = 10.0
    lifetime: float = 30.0
    """How long one connection may last in all."""
    burst: int = 20
    """Messages from one address at once."""
    per_minute: float = 30.0
    addresses: int = 4096
    """Addresses whose rate is remembered."""


class EnrolRefused(Exception):
    """A message is not answered with what it asked for."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def enrol_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 with the server's certificate only. Raises OSError or ssl.SSLError for files that do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(cert, key)
    return context


class EnrolServer:
    """Listens for newcomers. Everything that a stranger can make it hold is bounded by `limits`."""

    def __init__(
        self,
        authority: CertificateAuthority,
        tokens: JoinTokens,
        context: ssl.SSLContext,
        *,
        limits: EnrolLimits | None = None,
        report: Report | None = None,
    ) -> None:
        """`report` is told {"role", "name", "address"} of each certificate before it is handed out.

        If `report` raises, the newcomer gets no certificate: what cannot be accounted does not happen.
        """
        self._authority = authority
        self._tokens = tokens
        self._context = context
        self._limits = limits or EnrolLimits()
        self._report = report
        self._rates = RateLimiter(self._limits.burst, self._limits.per_minute, self._limits.addresses)
        self._addresses: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None

    async def serve(self, host: str, port: int) -> int:
        """Listen on `host`:`port` (0: any free port) and return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        family, _, _, _, address = (
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )[0]
        self._listener = socket.create_server((address[0], address[1]), family=family, backlog=self._limits.connections)
        self._listener.setblocking(False)
        self._acceptor = asyncio.create_task(self._accept(self._listener), name="enrol accept")
        bound: int = self._listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and end every connection."""
        tasks = [task for task in (self._acceptor, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self._acceptor = self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        """Take connections; what is above the limits is closed before it costs a TLS handshake."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("enrolment: cannot accept a connection: %s; trying again", error)
                await asyncio.sleep(0.1)
                continue
            address = str(peer[0])
            if (
                len(self._tasks) >= self._limits.connections
                or self._addresses[rate_key(address)] >= self._limits.connections_per_address
            ):
                _log.warning("enrolment: too many connections, %s is turned away", address)
                connection.close()
                continue
            self._addresses[rate_key(address)] += 1
            task = asyncio.create_task(self._guarded(connection, address), name=f"enrol {address}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _guarded(self, connection: socket.socket, address: str) -> None:
        """One connection from handshake to end; whatever goes wrong ends this one only."""
        try:
            async with asyncio.timeout(self._limits.lifetime):
                await self._converse(connection, address)
        except (OSError, TimeoutError, ssl.SSLError, EOFError) as error:
            _log.info("enrolment: connection from %s ended: %s", address, error or type(error).__name__)
        finally:
            key = rate_key(address)
            self._addresses[key] -= 1
            if self._addresses[key] <= 0:
                del self._addresses[key]

    async def _converse(self, connection: socket.socket, address: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limits.max_message_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=self._context,
            ssl_handshake_timeout=self._limits.handshake_timeout,
            ssl_shutdown_timeout=self._limits.handshake_timeout,
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._messages(reader, writer, address)
        except BaseException:
            transport.abort()  # the socket belongs to the transport: it must go with it, not before
            raise
        writer.close()
        await writer.wait_closed()

    async def _messages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        decoder = Decoder(self._limits.max_message_bytes)
        answered = 0
        while answered < self._limits.messages_per_connection:
            async with asyncio.timeout(self._limits.idle_timeout):
                data = await reader.read(self._limits.max_message_bytes)
            if not data:
                return
            try:
                for message in decoder.feed(data):
                    answered += 1
                    await self._send(writer, await self._answer(message, address))
                    if answered >= self._limits.messages_per_connection:
                        return
            except FrameError as error:
                await self._send(writer, {"type": "error", "code": error.code, "message": str(error)})
                return

    async def _send(self, writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
        writer.write(encode(message, self._limits.max_message_bytes))
        async with asyncio.timeout(self._limits.idle_timeout):
            await writer.drain()

    async def _answer(self, message: Mapping[str, Any], address: str) -> Mapping[str, Any]:
        """The reply to one message; a refusal says why."""
        call_id = message.get("id")
        if message.get("type") != "call" or not isinstance(call_id, str | int) or len(str(call_id)) > 128:
            return {"type": "error", "code": "bad_message", "message": "only `call` messages with an id are taken here"}
        try:
            self._check_rate(address)
            result = await self._dispatch(message.get("method"), message.get("params"), address)
        except (EnrolRefused, TokenRefused) as refused:
            _log.warning("enrolment: refused %s: %s", address, refused)
            return {"type": "reply", "id": call_id, "error": {"code": refused.code, "message": str(refused)}}
        except Exception:
            _log.exception("enrolment: the request of %s failed", address)
            text = "the orchestrator could not finish the request (its log says why); the token may be used up"
            return {"type": "reply", "id": call_id, "error": {"code": "internal", "message": text}}
        return {"type": "reply", "id": call_id, "result": result}

    def _check_rate(self, address: str) -> None:
        delay = self._rates.wait(address, time.monotonic())
        if delay > 0:
            raise EnrolRefused("rate", f"too many attempts from {address}: wait {delay:.0f} s, then try again")

    async def _dispatch(self, method: object, params: object, address: str) -> Mapping[str, Any]:
        if not isinstance(params, dict):
            raise EnrolRefused("bad_message", "params must be an object")
        if method == "enrol.ca":
            return {"ca": self._authority.pem.decode()}
        if method == "enrol.sign":
            return await self._sign(_texts(params), address)
        raise EnrolRefused("unknown_method", "there are enrol.ca and enrol.sign; everything else needs a certificate")

    async def _sign(self, params: Mapping[str, str], address: str) -> Mapping[str, Any]:
        """Sign first, then use the token up, then hand out: a request that cannot be signed costs no token."""
        role, name = params["role"], params["name"]
        record = await self._tokens.check(params["token"], role, name)
        try:
            certificate = self._authority.sign(params["csr"].encode(), record.role, record.name)
        except CaError as error:
            raise EnrolRefused("request", f"{error}; the token is still good") from error
        await self._tokens.use(record, address)
        if self._report is not None:
            await self._report({"role": record.role, "name": record.name, "address": address})
        _log.info("enrolment: %s/%s joined from %s", record.role, record.name, address)
        return {
            "certificate": certificate.decode(),
            "ca": self._authority.pem.decode(),
            "cluster": self._authority.cluster,
        }


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of `enrol.sign`. Raises EnrolRefused that names the faulty one."""
    texts: dict[str, str] = {}
    for name, longest in _PARAMETERS.items():
        value = params.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= longest:
            raise EnrolRefused("bad_message", f"$.params.{name} must be a text of 1 to {longest} characters")
        texts[name] = value
    return texts
