# SPDX-License-Identifier: AGPL-3.0-or-later
"""A blocking client for scripts and threads, built on ``jsocket.JsonClient``.

jsocket gives the frame format and the checks of a header.  Replaced are: how it connects (TLS, Unix sockets, no Nagle
delay, one attempt instead of ten), how it sends (one write for header and payload), how it reads (strict JSON, and one
time limit for a whole call instead of one for each ``recv``).  Each call has an id; a call that runs out of time closes
the connection, so that a late answer can never be taken for that of the next call.
"""

from __future__ import annotations

import getpass
import itertools
import socket
import ssl
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jsocket

from rdmp.endpoints import Endpoint
from rdmp.frames import FrameError, encode, parse
from rdmp.limits import Limits
from rdmp.messages import (
    PROTOCOL_OLDEST,
    PROTOCOL_VERSION,
    Call,
    Error,
    Hello,
    Message,
    MessageError,
    Ping,
    Pong,
    Progress,
    Publish,
    Reply,
    Welcome,
    largest_message,
)
from rdmp.messages import parse as parse_message
from rdmp.rpc import PeerAbsent, RpcError, RpcTimeout
from rdmp.tls import Identity, IdentityError, TlsFiles, peer_identity

Json = Mapping[str, Any]
T = TypeVar("T")
_Files = tuple[ssl.SSLContext | None, Identity]
_BOOT = uuid.uuid4().hex


class BlockingClient(jsocket.JsonClient):
    """Call and publish from any thread; calls of one client run one after the other.

    It connects at the first call, and again when the connection was lost in between (a client that is silent for some
    heartbeats is cut by the server).  A call that was already sent is never sent again by itself.
    """

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None = None, limits: Limits | None = None) -> None:
        """``tls`` is needed for ``tls:`` endpoints; ``limits`` as for ``rdmp.client.Client``."""
        self.endpoint = endpoint
        self.limits = limits or Limits()
        self._tls = tls
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._until = 0.0
        self._largest = self.limits.max_message_bytes  # what the server accepts
        self._told = ""  # its newest error that is about the connection
        super().__init__(endpoint.host or endpoint.path, endpoint.port, timeout=self.limits.handshake_timeout)
        self.max_message_size = self.limits.max_message_bytes
        super().close()  # jsocket made a socket for IPv4; ours is made by connect

    # What callers use

    def connect(self) -> Welcome:
        """Connect and shake hands within ``handshake_timeout``.

        Raises PeerAbsent, RpcTimeout, RpcError with the server's refusal, OSError or ValueError for unusable files.
        """
        with self._lock:
            self._until = time.monotonic() + self.limits.handshake_timeout
            files = self._files()
            return self._guarded(lambda: self._connect(*files))

    def call(
        self,
        method: str,
        params: Json | None = None,
        *,
        timeout: float | None = None,
        on_progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Call the orchestrator; ``timeout`` in seconds is for everything, connecting included.

        Raises RpcError as it answered, RpcTimeout or PeerAbsent; after those two it may have been carried out.  Raises
        OSError or ValueError for unusable files.
        """

        def message(number: str) -> Message:
            return Call(number, method, params or {}, self._remaining())

        return self._ask(message, timeout or self.limits.call_timeout, on_progress)

    def publish(self, topic: str, data: Json, *, timeout: float | None = None) -> int:
        """Publish an event; returns its index once it is stored.  Raises as ``call`` does."""
        seconds = timeout or self.limits.call_timeout
        reply = self._ask(lambda number: Publish(number, topic, data), seconds, None)
        if not isinstance(index := reply.get("index"), int):
            raise RpcError("bad_message", f"the reply holds no index of an event: {dict(reply)}")
        return index

    def close(self) -> None:
        """End the connection; the next call makes a new one."""
        with self._lock:
            super().close()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # jsocket's hooks

    def send_obj(self, obj: Json) -> None:
        """Send one message with one write."""
        left = memoryview(encode(obj, self._largest))
        while left:
            self.conn.settimeout(self._remaining())
            left = left[self.conn.send(left) :]

    def read_obj(self) -> dict[str, Any]:
        """Read one message: strict JSON, bounded in length, within the time of the call."""
        size, checksum = self._read_header()
        body = self._read(size)
        if zlib.crc32(body) != checksum:
            raise FrameError("bad_frame", "the checksum of a frame is wrong")
        return parse(body)

    def _read(self, size: int, allow_timeout: bool = False) -> bytes:
        data = bytearray()
        while len(data) < size:
            self.conn.settimeout(self._remaining())
            part = self.conn.recv(size - len(data))
            if not part:
                raise ConnectionError("closed by the server")
            data += part
        return bytes(data)

    # Inside

    def _ask(
        self, make: Callable[[str], Message], seconds: float, on_progress: Callable[[Json], None] | None
    ) -> Json:
        until = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            raise RpcTimeout("timeout", f"another thread's call on this client took longer than {seconds:g} s")
        try:
            self._until = until
            files = None if self._stands() else self._files()
            return self._guarded(lambda: self._exchange(files, make, on_progress))
        finally:
            self._lock.release()

    def _exchange(
        self, files: _Files | None, make: Callable[[str], Message], on_progress: Callable[[Json], None] | None
    ) -> Json:
        if files is not None:
            self._connect(*files)
        number = str(next(self._ids))
        self.send_obj(make(number).to_json())
        while True:
            message = self._receive()
            match message:
                case Progress(id=number_, data=data) if number_ == number:
                    if on_progress is not None:
                        on_progress(data)
                case Reply(id=number_) if number_ == number:
                    if message.error is not None:
                        raise RpcError.from_json(message.error)
                    return message.result or {}
                case _:
                    pass  # nothing else is meant for a caller

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do ``work``; whatever leaves the stream in an unknown state closes the connection."""
        kept = False
        try:
            result = work()
            kept = True
            return result
        except TimeoutError as error:
            raise RpcTimeout("timeout", f"{self.endpoint} did not answer in time") from error
        except (FrameError, MessageError) as error:
            raise RpcError(getattr(error, "code", "bad_message"), f"{self.endpoint}: {error}") from error
        except (jsocket.jsocket_base.FramingError, RuntimeError, OSError) as error:
            raise PeerAbsent("peer_absent", f"{self.endpoint}: {self._told or error}") from error
        except RpcError as error:
            kept = not isinstance(error, _Refused)  # an error as answer leaves the connection in order
            raise
        finally:
            if not kept:
                super().close()

    def _files(self) -> _Files:
        """Read what proves who we are: an error of our own files says nothing about the server."""
        return self._context(), self._me()

    def _connect(self, context: ssl.SSLContext | None, me: Identity) -> Welcome:
        super().close()
        self._largest, self._told = self.limits.max_message_bytes, ""
        self.socket = self.conn = self._open(context, me)
        limits = {"max_message_bytes": self.limits.max_message_bytes}
        versions = (PROTOCOL_OLDEST, PROTOCOL_VERSION)
        self.send_obj(Hello(versions, me.name, me.role, _BOOT, 0, limits).to_json())
        message = self._receive()
        if isinstance(message, Error):
            raise _Refused(message.code, f"{self.endpoint}: {message.message}")
        if not isinstance(message, Welcome):
            raise _Refused("bad_message", f"{self.endpoint}: expected welcome, found {message.TYPE}")
        if not PROTOCOL_OLDEST <= message.version <= PROTOCOL_VERSION:
            raise _Refused("version", f"{self.endpoint}: version {message.version} was chosen; it is not spoken here")
        self._largest = min(self._largest, largest_message(message) or self._largest)
        return message

    def _context(self) -> ssl.SSLContext | None:
        if self.endpoint.kind != "tls":
            return None
        if self._tls is None:
            raise ValueError(f"{self.endpoint} needs a certificate, a key and the CA")
        return self._tls.client_context()

    def _open(self, context: ssl.SSLContext | None, me: Identity) -> socket.socket:
        where = self.endpoint
        if where.kind == "unix":
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                plain.settimeout(self._remaining())
                plain.connect(where.path)
            except BaseException:
                plain.close()
                raise
            return plain
        plain = socket.create_connection((where.host, where.port), self._remaining())
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            return plain
        secure = context.wrap_socket(plain)
        try:
            server = peer_identity(secure)
            if server.role != "orchestrator" or server.cluster != me.cluster:
                raise IdentityError(f"{server} is no orchestrator of the cluster {me.cluster}")
        except IdentityError as error:
            secure.close()
            raise _Refused("wrong_server", f"{where}: {error}") from error
        return secure

    def _me(self) -> Identity:
        if self._tls is not None and self.endpoint.kind == "tls":
            return self._tls.identity()
        return Identity("local", "operator", getpass.getuser())

    def _stands(self) -> bool:
        """Answer the pings that came meanwhile, and tell whether the connection still stands."""
        if self.conn is None or self.conn.fileno() == -1:
            return False
        try:
            while self._readable():
                self._receive()
        except (OSError, RuntimeError, FrameError, MessageError, jsocket.jsocket_base.FramingError):
            super().close()
            return False
        return True

    def _readable(self) -> bool:
        if isinstance(self.conn, ssl.SSLSocket) and self.conn.pending():
            return True
        self.conn.settimeout(0.0)
        try:
            if isinstance(self.conn, ssl.SSLSocket):
                # A TLS socket cannot be peeked at; the bytes below it can.
                raw = socket.socket(fileno=self.conn.fileno())
                try:
                    raw.setblocking(False)
                    raw.recv(1, socket.MSG_PEEK)
                finally:
                    raw.detach()
            else:
                self.conn.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        return True

    def _receive(self) -> Message:
        """Return the next message; pings are answered on the way."""
        message = parse_message(self.read_obj())
        if isinstance(message, Ping):
            self.send_obj(Pong(message.n).to_json())
        elif isinstance(message, Error) and message.ref is None:
            self._told = f"{message.code}: {message.message}"
        return message

    def _remaining(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Refused(RpcError):
    """The server refused the connection, or is not ours; the connection ends."""

