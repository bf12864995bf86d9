# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbered datagrams between nodes, sent all the time and counted where they arrive."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.integration.controller_support import socket_in

SO_RCVBUFFORCE = 33  # socket(7)
PAUSE = 0.004  # seconds between two datagrams of one stream
ROOM = 8 << 20  # bytes of a receiver's buffer: nothing may be lost in our own sockets


@dataclass(frozen=True)
class Route:
    """Who sends to whom: names of namespaces, the target's address and UDP port; ``source_port`` 0 is any."""

    source: str
    target: str
    address: str
    port: int
    source_port: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.source_port or '*'} -> {self.target}:{self.port}"


@dataclass
class Stream:
    """One route under traffic.

    ``receivers`` are the namespaces in which it may arrive; ``moments`` is the number of the change that was under way
    when each datagram was sent.
    """

    route: Route
    receivers: tuple[str, ...]
    moments: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    @property
    def sent(self) -> int:
        return len(self.moments)

    @property
    def lost(self) -> list[int]:
        """The changes under which datagrams were lost."""
        return [moment for number, moment in enumerate(self.moments) if number not in self.seen]


class Traffic:
    """All streams, in one thread that sends and one that receives."""

    def __init__(self, routes: Iterable[tuple[Route, tuple[str, ...]]], moment: Callable[[], int]) -> None:
        self.streams = [Stream(route, receivers) for route, receivers in routes]
        self._moment = moment
        self._sending, self._receiving = threading.Event(), threading.Event()
        self._selector = selectors.DefaultSelector()
        self._senders: list[socket.socket] = []
        self._listening: dict[tuple[str, int], socket.socket] = {}
        for stream in self.streams:
            for receiver in stream.receivers:
                self._listen(receiver, stream.route.port)
        for number, stream in enumerate(self.streams):
            self._senders.append(self._sender(stream.route, number))
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]

    def _listen(self, netns: str, port: int) -> None:
        if (netns, port) in self._listening:
            return
        made = socket_in(netns, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        made.bind(("0.0.0.0", port))
        made.setblocking(False)
        self._selector.register(made, selectors.EVENT_READ)
        self._listening[netns, port] = made

    def _sender(self, route: Route, number: int) -> socket.socket:
        if (route.source, route.source_port) in self._listening:  # a server that speaks from its port
            return self._listening[route.source, route.source_port]
        made = socket_in(route.source, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", route.source_port or 40000 + number))
        made.setblocking(False)
        return made

    def start(self) -> None:
        self._sending.set()
        self._receiving.set()
        for thread in self._threads:
            thread.start()

    def stop(self, settle: float = 1.0) -> None:
        """Stop sending, wait for what is on its way, stop receiving."""
        self._sending.clear()
        self._threads[0].join()
        time.sleep(settle)
        self._receiving.clear()
        self._threads[1].join()
        self._selector.close()
        for one in {*self._senders, *self._listening.values()}:
            one.close()

    def _send(self) -> None:
        while self._sending.is_set():
            for number, (stream, sender) in enumerate(zip(self.streams, self._senders, strict=True)):
                text = b"%d %d" % (number, stream.sent)
                # An ICMP error to an earlier datagram is told here: the datagram that is refused was not sent.
                with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
                    sender.sendto(text, (stream.route.address, stream.route.port))
                    stream.moments.append(self._moment())
            time.sleep(PAUSE)

    def _receive(self) -> None:
        while self._receiving.is_set():
            for key, _ in self._selector.select(0.2):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        stream, number = key.fileobj.recv(100).split()  # type: ignore[union-attr]
                        self.streams[int(stream)].seen.add(int(number))
