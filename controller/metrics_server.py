# SPDX-License-Identifier: AGPL-3.0-or-later
"""Serves metrics over HTTP: plain on the loopback, with mutual TLS everywhere else.

prometheus_client's own server shakes hands in the thread that accepts, so one silent client would stop it, and takes
every certificate of the CA.  Here each request has a thread, a time limit, and a peer of a role that may read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from controller.metrics import FabricCollector, Snapshot
from rdmp.tls import IdentityError, peer_identity

_log = logging.getLogger(__name__)

READERS = frozenset({"operator", "publisher"})
"""Certificate roles that may read metrics."""
REQUEST_SECONDS = 10.0  # for a client to send its request and take the answer
SNAPSHOT_SECONDS = 30.0  # for the switches to be read
MAX_REQUESTS = 8  # at once; others are turned away


class MetricsError(Exception):
    """The metrics cannot be served there; the text says why."""


class MetricsServer:
    """An HTTP server in threads of its own; what it tells comes from the event loop that started it."""

    def __init__(self, snapshot: Callable[[], Awaitable[Snapshot]], cluster: str, context: ssl.SSLContext) -> None:
        """``context`` is used for every address but a loopback; peers need a certificate of ``cluster``."""
        self._snapshot = snapshot
        self._cluster = cluster
        self._context = context
        self._server: _Server | None = None

    def start(self, host: str, port: int) -> int:
        """Listen, in a thread; returns the port.  Raises OSError, and MetricsError if ``host`` is no IP address."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise MetricsError(f"metrics_listen: {host!r} must be an IP address") from None
        registry = CollectorRegistry()
        loop = asyncio.get_running_loop()
        registry.register(FabricCollector(lambda: self._ask(loop)))
        server_class = _Server6 if address.version == 6 else _Server
        self._server = server_class((host, port), _Handler)
        self._server.set_app(make_wsgi_app(registry))
        if not address.is_loopback:
            self._server.secure(self._context, self._cluster)
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return int(self._server.server_address[1])

    async def stop(self) -> None:
        """End listening."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    def _ask(self, loop: asyncio.AbstractEventLoop) -> Snapshot:
        """Called in a thread of a request."""
        return asyncio.run_coroutine_threadsafe(self._await(), loop).result(SNAPSHOT_SECONDS)

    async def _await(self) -> Snapshot:
        return await self._snapshot()


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        if not server.slots.acquire(blocking=False):
            _log.warning("metrics: %s turned away, %d requests are running", self.client_address[0], MAX_REQUESTS)
            return
        try:
            if server.admits(self.connection, self.client_address[0]):
                super().handle()
        except OSError as error:
            _log.info("metrics: %s: %s", self.client_address[0], error)
        finally:
            server.slots.release()

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("metrics: %s: %s", self.client_address[0], format % args)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    address_family = socket.AF_INET

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self.slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._context: ssl.SSLContext | None = None
        self._cluster = ""
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without asking the resolver for our own name, as http.server does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def secure(self, context: ssl.SSLContext, cluster: str) -> None:
        """Speak TLS from now on."""
        self._context, self._cluster = context, cluster

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(REQUEST_SECONDS)
        if self._context is not None:
            # The handshake is the first thing that the request's own thread waits for.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def admits(self, connection: socket.socket, address: str) -> bool:
        """Shake hands and look at who it is; raises OSError."""
        if not isinstance(connection, ssl.SSLSocket):
            return self._context is None
        connection.do_handshake()
        try:
            identity = peer_identity(connection)
        except IdentityError as error:
            _log.warning("metrics: %s refused: %s", address, error)
            return False
        if identity.cluster != self._cluster or identity.role not in READERS:
            _log.warning("metrics: %s refused: %s may not read them, %s may", address, identity, sorted(READERS))
            return False
        return True


class _Server6(_Server):
    address_family = socket.AF_INET6
