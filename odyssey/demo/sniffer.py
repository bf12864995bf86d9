# SPDX-License-Identifier: AGPL-3.0-or-later
"""Listens with packet sockets for probe tokens that come out of a network interface.

One-way traffic cannot be judged by its sender: whether a frame leaked is seen only where it arrives. A packet socket
on every host interface, every interface of every node and the border client sees each frame that the switches let
out, also one that the receiving kernel would drop (packet(7)).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from odyssey.demo import frames, netns

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23  # <linux/if_packet.h>: frames that this machine sends itself are not heard
RECEIVE_BUFFER = 4 << 20  # bytes; a burst of all probes fits many times
MAX_FRAME = 2048


@dataclass(frozen=True, slots=True)
class Tap:
    """An interface on which to listen; `place` is its name in findings."""

    place: str
    namespace: Path
    interface: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A probe's frame came in at this place."""

    run: int
    probe: int
    place: str


class Sniffer:
    """Collects the tokens that arrive at its taps, from entry to exit of the `async with` block."""

    def __init__(self, taps: Iterable[Tap]) -> None:
        self._taps = tuple(taps)
        self._sockets: dict[socket.socket, Tap] = {}
        self._seen: dict[Sighting, int] = {}
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Sniffer:
        loop = asyncio.get_running_loop()
        try:
            for tap in self._taps:
                self._open(loop, tap)
        except OSError:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _open(self, loop: asyncio.AbstractEventLoop, tap: Tap) -> None:
        opened = netns.open_socket(tap.namespace, socket.AF_PACKET, socket.SOCK_RAW)
        self._sockets[opened] = tap
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        try:
            opened.bind((tap.interface, ETH_P_ALL))
        except OSError as error:
            raise OSError(error.errno, f"cannot listen at {tap.place} on {tap.interface}: {error.strerror}") from error
        loop.add_reader(opened, self._read, opened, tap)

    def _close(self) -> None:
        loop = asyncio.get_running_loop()
        for opened in self._sockets:
            loop.remove_reader(opened)
            opened.close()
        self._sockets.clear()

    def _read(self, opened: socket.socket, tap: Tap) -> None:
        for _ in range(256):  # then let other sockets be read
            try:
                frame = opened.recv(MAX_FRAME)
            except BlockingIOError:
                return
            found = frames.find_token(frame)
            if found is not None:
                sighting = Sighting(found[0], found[1], tap.place)
                self._seen[sighting] = self._seen.get(sighting, 0) + 1
                self._arrived.set()

    def seen(self, run: int) -> Mapping[int, frozenset[str]]:
        """The probes of one run that arrived anywhere: probe number to the places where it came in."""
        places: dict[int, set[str]] = {}
        for sighting in self._seen:
            if sighting.run == run:
                places.setdefault(sighting.probe, set()).add(sighting.place)
        return {probe: frozenset(found) for probe, found in places.items()}

    async def quiet(self, silence: float, longest: float) -> None:
        """Return when no probe has arrived for `silence` seconds, at the latest after `longest` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + longest
        while loop.time() < end:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), silence)
            except TimeoutError:
                return


def new_run() -> int:
    """A number for one run of the probes that no other run uses."""
    return int.from_bytes(os.urandom(4), "big")
