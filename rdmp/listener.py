# SPDX-License-Identifier: AGPL-3.0-or-later
"""Listening sockets: TLS, Unix (0600, peer credentials) and plain TCP on the loopback, with a limit on connections.

Connections are accepted here and not by asyncio's server so that the limit also counts those in their TLS handshake,
and so that the credentials of a Unix peer are read before anything else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import pwd
import socket
import ssl
import stat
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rdmp.limits import Limits
from rdmp.session import Origin, Session
from rdmp.tuning import small_buffers

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_ESTABLISHED = 1  # tcpi_state in linux/tcp.h
_SLOW_SECONDS = 0.5  # a handshake that takes longer waits for its peer, and no longer keeps others waiting
_PAUSE_SECONDS = 0.2  # after an accept that failed, for example for want of file descriptors
_UCRED = struct.Struct("3i")  # pid, uid, gid: socket(7), SO_PEERCRED


SessionFactory = Callable[[Origin], Session]


class Listener:
    """One listening socket; ``factory`` makes the session of each connection."""

    def __init__(
        self, sock: socket.socket, kind: str, factory: SessionFactory, limits: Limits, context: ssl.SSLContext | None
    ) -> None:
        self._socket = sock
        self._kind = kind
        self._factory = factory
        self._limits = limits
        self._context = context
        self._open: set[Session] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._waiting: deque[socket.socket] = deque()  # accepted, and not yet shaking hands
        self._working = 0  # handshakes that the waiting ones wait for
        self._loop = asyncio.get_running_loop()
        if context is not None:
            small_buffers()
        self._task = self._loop.create_task(self._accept(), name=f"rdmp listener {kind}")

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._socket.getsockname()[1])

    def closed(self, session: Session) -> None:
        """A session of this listener has ended."""
        self._open.discard(session)

    async def close(self) -> None:
        """Stop accepting; sessions stay."""
        self._task.cancel()
        waiting, self._waiting = self._waiting, deque()
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(self._task, *self._handshakes, return_exceptions=True)
        for sock in waiting:
            sock.close()
        if self._kind == "unix":
            Path(self._socket.getsockname()).unlink(missing_ok=True)
        self._socket.close()

    async def _accept(self) -> None:
        while True:
            try:
                sock, _ = await self._loop.sock_accept(self._socket)
            except OSError as error:
                _log.error("cannot accept a connection: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if len(self._open) + len(self._handshakes) + len(self._waiting) >= self._limits.max_connections:
                _log.warning("refused a connection: %d are open ([rdmp] max_connections)", self._limits.max_connections)
                sock.close()
                continue
            self._waiting.append(sock)
            self._begin()
            await asyncio.sleep(0)  # a crowd at the door must not keep the rest of the program waiting

    def _begin(self) -> None:
        """Let those shake hands who came first, so many at a time that nobody's heartbeats are late."""
        while self._waiting and self._working < self._limits.handshakes:
            sock = self._waiting.popleft()
            if _has_left(sock):
                sock.close()
                continue
            task = self._loop.create_task(self._connect(sock))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)
            self._occupy(task)

    def _occupy(self, task: asyncio.Task[None]) -> None:
        """Count a handshake until it has ended or is slow."""
        self._working += 1
        occupied = True

        def release(*_: object) -> None:
            nonlocal occupied
            if occupied:
                occupied = False
                timer.cancel()
                self._working -= 1
                self._begin()

        timer = self._loop.call_later(_SLOW_SECONDS, release)
        task.add_done_callback(release)

    async def _connect(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        tls_limits = {"ssl_handshake_timeout": self._limits.handshake_timeout, "ssl_shutdown_timeout": 1.0}
        origin = None
        try:
            origin = self._origin(sock)
            session = self._factory(origin)
            await self._loop.connect_accepted_socket(
                lambda: session, sock, ssl=self._context, **(tls_limits if self._context else {})
            )
            if not session.closing:
                self._open.add(session)
        except (OSError, ssl.SSLError) as error:
            _log.info("connection from %s failed: %s", origin.address if origin else "an unknown peer", error)
            sock.close()

    def _origin(self, sock: socket.socket) -> Origin:
        if self._kind == "unix":
            uid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
            if uid not in (0, os.getuid()):
                raise PermissionError(f"user id {uid} may not use this socket")
            return Origin("unix", "local", _user_name(uid))
        host, port = sock.getpeername()[:2]
        return Origin(self._kind, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


async def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        return _ready(sock)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error


async def listen_loopback(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket for plain connections; raises ValueError unless ``host`` is a loopback address."""
    if not ipaddress.ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
        raise ValueError(f"{host} is not a loopback address; without TLS only the loopback may be used")
    return await listen_tcp(host, port)


def listen_unix(path: Path) -> socket.socket:
    """Return a listening Unix socket of mode 0600, replacing one that nobody listens on; raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        old = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
        return _ready(sock)
    except OSError:
        sock.close()
        raise


def _ready(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.listen(_BACKLOG)
    return sock


def _has_left(sock: socket.socket) -> bool:
    """Tell whether the peer of a TCP connection gave up while it waited."""
    if sock.family == socket.AF_UNIX:
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is no socket; remove it or choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise FileExistsError(f"{path} is in use by another process")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
