# SPDX-License-Identifier: AGPL-3.0-or-later
"""A program that sends datagrams from one namespace to another all the time and knows when each arrived.

``python -m tests.bench.fabric.probe JSON``; the settings name the namespaces, addresses, port and pause.  Times are the
machine's monotonic clock in nanoseconds, which every process reads alike.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections import deque

from tests.bench.rdmp.support import Json, obey
from tests.integration.controller_support import socket_at

REMEMBERED = 200_000
_STAMP = struct.Struct("!Q")


class Probe:
    """One sender and one receiver."""

    def __init__(self, settings: Json) -> None:
        self._pause: float = settings["pause"]
        self._target = (settings["target"], settings["port"])
        self._sender = socket_at(settings["from"], socket.SOCK_DGRAM)
        self._receiver = socket_at(settings["to"], socket.SOCK_DGRAM)
        self._receiver.bind(self._target)
        self._arrived: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)  # when it was sent, when it arrived
        self._sent = 0
        self._changed = threading.Condition()

    def start(self) -> None:
        for work in (self._send, self._receive):
            threading.Thread(target=work, daemon=True).start()

    def _send(self) -> None:
        while True:
            self._sender.sendto(_STAMP.pack(time.monotonic_ns()), self._target)
            self._sent += 1
            time.sleep(self._pause)

    def _receive(self) -> None:
        while True:
            [sent] = _STAMP.unpack(self._receiver.recv(64))
            now = time.monotonic_ns()
            with self._changed:
                self._arrived.append((sent, now))
                self._changed.notify_all()

    def first(self, after: int, seconds: float) -> int | None:
        """Return when the first datagram arrived that was sent after ``after``; None if none did within a time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for sent, arrived in self._arrived:
                    if sent > after:
                        return arrived
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return None

    def forget(self) -> None:
        """Drop what arrived so far."""
        with self._changed:
            self._arrived.clear()


async def _main(settings: Json) -> None:
    probe = Probe(settings)
    probe.start()

    async def first(order: Json) -> Json:
        return {"arrived": await asyncio.to_thread(probe.first, order["after"], order["seconds"])}

    async def forget(order: Json) -> Json:
        probe.forget()
        return {}

    await obey({"ready": True}, {"first": first, "forget": forget})


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
