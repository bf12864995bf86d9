# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pulls cables and shuts ports under a thousand packets a second, with no controller alive, and counts what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.integration.controller_support import Lab, inside, socket_in, wait_until

RATE = 1000  # packets a second
PORT = 9001
SECONDS = 1.5  # of traffic after each change


@dataclass(frozen=True)
class Fault:
    """An interface that goes down and comes back: in a host (NIC) or in a switch (port)."""

    name: str
    netns: str
    interface: str


FAULTS = (
    Fault("NIC of the sender's host", "h1", "eth0"),
    Fault("NIC of the receiver's host", "h2", "eth0"),
    Fault("switch port of the sender's host", "sw1", "p-h1"),
    Fault("switch port of the receiver's host", "sw1", "p-h2"),
    Fault("link between the switches", "sw1", "trunk"),
)


class Counter:
    """Numbered datagrams at a steady rate between two nodes."""

    def __init__(self, source: str, target: str, address: str) -> None:
        self._receiver = socket_in(target, socket.SOCK_DGRAM)
        self._receiver.bind(("0.0.0.0", PORT))
        self._receiver.settimeout(0.2)
        self._sender = socket_in(source, socket.SOCK_DGRAM)
        self._sender.connect((address, PORT))
        self.sent = 0
        self.received = 0
        self._going = True
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        begun = time.perf_counter()
        while self._going:
            while self.sent < (time.perf_counter() - begun) * RATE:
                with contextlib.suppress(OSError):  # no route for a moment: that packet is lost too
                    self._sender.send(b"%d" % self.sent)
                self.sent += 1
            time.sleep(0.0005)

    def _receive(self) -> None:
        quiet = False
        while self._going or not quiet:
            try:
                self._receiver.recv(100)
                self.received += 1
                quiet = False
            except TimeoutError:
                quiet = True

    def stop(self) -> int:
        """Return how many were lost."""
        self._going = False
        for thread in self._threads:
            thread.join()
        self._sender.close()
        self._receiver.close()
        return self.sent - self.received


@dataclass(frozen=True)
class Lost:
    """What a fault cost: lost when the interface went down and when it came back, of so many sent."""

    fault: Fault
    down: int
    up: int
    sent: int


async def measure(lab: Lab, fault: Fault, source: str, target: str, address: str) -> Lost:
    """Let one interface go down and come back under traffic."""

    def phase(change: Callable[[], object]) -> tuple[int, int]:
        counter = Counter(source, target, address)
        time.sleep(0.3)
        change()
        time.sleep(SECONDS)
        return counter.stop(), counter.sent

    def settled() -> bool:
        ports = "".join(switch.ofctl("show").split(" LOCAL(")[0] for switch in lab.switches.values())
        return "LINK_DOWN" not in ports

    def set_link(state: str) -> Callable[[], object]:
        return lambda: inside(fault.netns, "ip", "link", "set", fault.interface, state)

    down, sent = await asyncio.to_thread(phase, set_link("down"))
    up, more = await asyncio.to_thread(phase, set_link("up"))
    await asyncio.to_thread(wait_until, settled, "all ports are up")
    return Lost(fault, down, up, sent + more)
