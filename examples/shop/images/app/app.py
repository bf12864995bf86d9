#!/usr/bin/python3 -u
# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shop's application: counts visits in the database and answers in JSON.

``/`` counts a visit; ``/healthz`` answers 200 when the database answers.  The database's address comes from the
neighbours file, which is read again when it changes; the password from the secret file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg2

NEIGHBOURS = Path("/run/odyssey/neighbours.json")
PASSWORD_FILE = Path("/run/secrets/db-password")
PORT = int(os.environ.get("PORT", "8080"))
DATABASE_NETWORK = os.environ.get("DATABASE_NETWORK", "db")
UNPRIVILEGED = 103

CONNECT_TIMEOUT = 3
"""Seconds to reach the database."""

IDLE_LIMIT = 1.0
"""Seconds after which an unused database connection is closed, so that a node without requests drains soon."""


class Neighbours:
    """The neighbours file, parsed again only when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._document: dict[str, Any] = {}
        self._lock = threading.Lock()

    def document(self) -> dict[str, Any]:
        """The document as the file holds it now. Raises OSError or ValueError if it cannot be read."""
        status = self._path.stat()
        with self._lock:
            if self._seen != (status.st_ino, status.st_mtime_ns):
                self._document = json.loads(self._path.read_text(encoding="utf-8"))
                self._seen = (status.st_ino, status.st_mtime_ns)
            return self._document

    def database(self) -> tuple[str, int]:
        """Address and port of the database. Raises LookupError if none is known."""
        network = self.document().get("dependencies", {}).get(DATABASE_NETWORK, {})
        if not network.get("nodes") or not network.get("ports"):
            raise LookupError(f"{self._path} names no node of the network {DATABASE_NETWORK}")
        return network["nodes"][0]["address"], network["ports"][0]["port"]


class Pool:
    """Database connections that are used again while requests come, and closed soon after the last."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._idle: list[tuple[float, tuple[str, int], Any]] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._close_idle, daemon=True).start()

    @contextmanager
    def connection(self, target: tuple[str, int]) -> Iterator[Any]:
        """Lend a connection to `target`; after an error it is closed instead of kept."""
        connection = self._take(target) or self._connect(target)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append((time.monotonic(), target, connection))

    def _connect(self, target: tuple[str, int]) -> Any:
        connection = psycopg2.connect(
            host=target[0],
            port=target[1],
            user="shop",
            password=self._password,
            dbname="shop",
            connect_timeout=CONNECT_TIMEOUT,
        )
        connection.autocommit = True
        return connection

    def _take(self, target: tuple[str, int]) -> Any:
        """The connection that was used last, if the database has not closed it meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                _, address, connection = self._idle.pop()
            # Something to read on an idle connection is its end.
            if address == target and not select.select([connection.fileno()], [], [], 0)[0]:
                return connection
            connection.close()

    def _close_idle(self) -> None:
        while True:
            time.sleep(IDLE_LIMIT / 4)
            limit = time.monotonic() - IDLE_LIMIT
            with self._lock:
                old = [connection for since, _, connection in self._idle if since < limit]
                self._idle = [entry for entry in self._idle if entry[0] >= limit]
            for connection in old:
                connection.close()


class Handler(BaseHTTPRequestHandler):
    """One HTTP request."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    neighbours: Neighbours
    pool: Pool

    def do_GET(self) -> None:
        """Answer `/` and `/healthz`."""
        try:
            if self.path == "/healthz":
                self.health()
            elif self.path.split("?")[0] == "/":
                self.visit()
            else:
                self.answer(404, {"error": f"there is no {self.path}; try /"})
        except (psycopg2.Error, LookupError, OSError, ValueError) as error:
            self.log_error("%s: %s", type(error).__name__, str(error).strip())
            self.answer(503, {"error": str(error).strip()})

    def health(self) -> None:
        """Ask the database something."""
        with self.pool.connection(self.neighbours.database()) as connection, connection.cursor() as cursor:
            cursor.execute("select 1")
        self.answer(200, {"healthy": True})

    def visit(self) -> None:
        """Count a visit and tell who served it."""
        node = self.neighbours.document().get("node", socket.gethostname())
        target = self.neighbours.database()
        with self.pool.connection(target) as connection, connection.cursor() as cursor:
            cursor.execute(
                "insert into visits as v (node, count) values (%s, 1) "
                "on conflict (node) do update set count = v.count + 1 returning count",
                (node,),
            )
            served = cursor.fetchone()[0]
            cursor.execute("select sum(count)::bigint from visits")
            visits = cursor.fetchone()[0]
        peer = self.client_address[0].removeprefix("::ffff:")
        client = self.headers.get("X-Forwarded-For", peer)
        answer = {"node": node, "client": client, "balancer": peer, "database": target[0]}
        self.answer(200, {**answer, "served": served, "visits": visits})

    def answer(self, status: int, document: dict[str, Any]) -> None:
        """Send a JSON document."""
        body = json.dumps(document).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing for a request that went well; errors log themselves."""


class Server(ThreadingHTTPServer):
    """Ends by itself when told to: open requests are answered first."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = False
    request_queue_size = 128

    def server_bind(self) -> None:
        """Serve IPv4 and IPv6 on one socket, where the kernel can."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    try:
        Handler.pool = Pool(PASSWORD_FILE.read_text(encoding="utf-8").strip())
    except OSError as error:
        print(f"shop-app: the secret cannot be read: {error}", file=sys.stderr)
        return 1
    Handler.neighbours = Neighbours(NEIGHBOURS)
    server = Server(("", PORT), Handler)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(UNPRIVILEGED)
        os.setuid(UNPRIVILEGED)
    # shutdown() waits for the serving loop, so it needs a thread beside it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"shop-app: serving on port {PORT}")
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
