# SPDX-License-Identifier: AGPL-3.0-or-later
"""Connecting to an RDMP server: transport, proof of who it is, hello and welcome."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from abc import abstractmethod

from rdmp.endpoints import Endpoint
from rdmp.limits import Limits
from rdmp.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, Error, Hello, Message, Welcome, largest_message
from rdmp.rpc import PeerAbsent, RpcError
from rdmp.session import Origin, Session, SessionOwner
from rdmp.tls import Identity, IdentityError, TlsFiles, peer_identity
from rdmp.tuning import small_buffers

BOOT = uuid.uuid4().hex
"""New at each start of the process."""


class Dialler(SessionOwner):
    """The dialling side of one connection.  A subclass says what follows the welcome."""

    def __init__(
        self, endpoint: Endpoint, tls: TlsFiles | None, me: Identity, limits: Limits, groups: tuple[str, ...] = ()
    ) -> None:
        self.groups = groups
        self.endpoint = endpoint
        self.me = me
        self.limits = limits
        self._tls = tls
        self._epoch = 0
        self._welcome: asyncio.Future[Welcome] | None = None
        self._context: ssl.SSLContext | None = None
        self._stamp: tuple[tuple[int, ...], ...] = ()

    async def dial(self, epoch: int = 0) -> Session:
        """Connect and shake hands; ``epoch`` is the highest that was seen.

        Raises PeerAbsent when nobody answers there, RpcError with the server's reason when it refuses, OSError or
        ValueError when our own certificate files cannot be used.
        """
        self._epoch = epoch
        if self.endpoint.kind == "tls" and self._tls is None:
            raise ValueError(f"{self.endpoint} needs a certificate, a key and the CA")
        context = self._client_context() if self.endpoint.kind == "tls" else None
        self._welcome = asyncio.get_running_loop().create_future()
        session = Session(self, self.limits, Origin(self.endpoint.kind, str(self.endpoint)))
        try:
            async with asyncio.timeout(2 * self.limits.handshake_timeout):
                await self._connect(session, context)
                await self._welcome
        except TimeoutError:
            session.close("the handshake took too long")
            raise PeerAbsent("peer_absent", f"{self.endpoint}: no welcome in time") from None
        except OSError as error:
            session.close(str(error))
            raise PeerAbsent("peer_absent", f"{self.endpoint}: cannot connect: {error}") from error
        except BaseException:
            session.close("given up")
            raise
        return session

    @abstractmethod
    def welcomed(self, session: Session, welcome: Welcome) -> None:
        """The handshake is over; called before any later message."""

    @abstractmethod
    def received(self, session: Session, message: Message) -> None:
        """A message after the handshake."""

    @abstractmethod
    def lost(self, session: Session, reason: str) -> None:
        """An established connection has ended."""

    def session_opened(self, session: Session) -> None:
        if (secure := session.info("ssl_object")) is not None:
            try:
                server = peer_identity(secure)
                if server.role != "orchestrator" or server.cluster != self.me.cluster:
                    raise IdentityError(f"{server} is no orchestrator of the cluster {self.me.cluster}")
            except IdentityError as error:
                self._fail(RpcError("wrong_server", f"{self.endpoint}: {error}"))
                session.close(str(error))
                return
        versions = (PROTOCOL_OLDEST, PROTOCOL_VERSION)
        limits = {"max_message_bytes": self.limits.max_message_bytes}
        session.send(Hello(versions, self.me.name, self.me.role, BOOT, self._epoch, limits, self.groups or None))

    def session_message(self, session: Session, message: Message) -> None:
        if session.established:
            if isinstance(message, Error) and message.ref is None:
                session.told(message)
            self.received(session, message)
        elif isinstance(message, Welcome) and not PROTOCOL_OLDEST <= message.version <= PROTOCOL_VERSION:
            text = f"version {message.version} was chosen; {PROTOCOL_OLDEST} to {PROTOCOL_VERSION} are spoken here"
            self._fail(RpcError("version", f"{self.endpoint}: {text}"))
            session.refuse("version", text)
        elif isinstance(message, Welcome):
            session.establish(message.heartbeat, largest_message(message))
            self.welcomed(session, message)
            if self._welcome is not None and not self._welcome.done():
                self._welcome.set_result(message)
        elif isinstance(message, Error):
            self._fail(RpcError(message.code, f"{self.endpoint}: {message.message}"))
        else:
            session.refuse("bad_message", f"expected welcome, found {message.TYPE}")

    def session_closed(self, session: Session, reason: str) -> None:
        self._fail(PeerAbsent("peer_absent", f"{self.endpoint}: {reason}"))
        if session.established:
            self.lost(session, reason)

    def _fail(self, error: RpcError) -> None:
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(error)
            self._welcome.exception()  # the dialling may have ended already, and nobody may be waiting

    def _client_context(self) -> ssl.SSLContext:
        """Return the context of our files, read again when one of them was renewed."""
        assert self._tls is not None
        files = [path.stat() for path in (self._tls.cert, self._tls.key, self._tls.ca)]
        stamp = tuple((file.st_ino, file.st_mtime_ns, file.st_size, file.st_mode) for file in files)
        if self._context is None or stamp != self._stamp:
            self._context, self._stamp = self._tls.client_context(), stamp
        return self._context

    async def _connect(self, session: Session, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        where = self.endpoint
        if where.kind == "unix":
            await loop.create_unix_connection(lambda: session, where.path)
        elif context is None:
            await loop.create_connection(lambda: session, where.host, where.port)
        else:
            small_buffers()
            await loop.create_connection(
                lambda: session, where.host, where.port, ssl=context, server_hostname="",
                ssl_handshake_timeout=self.limits.handshake_timeout, ssl_shutdown_timeout=1.0,
            )  # fmt: skip
