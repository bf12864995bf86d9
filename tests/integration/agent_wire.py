# SPDX-License-Identifier: AGPL-3.0-or-later
"""The far ends of the cables of a host in the agent's tests, and sockets inside its nodes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from agents.namespace import Namespace
from tests.integration.agent_support import FABRIC_MAC, WIRE, DockerHost, inside

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_ALL = 0x0003
WAIT = 10.0


class Wire:
    """The far end of one cable: sees every frame of one EtherType and can send any."""

    def __init__(self, number: int, ethertype: int = ETHERTYPE_IPV4) -> None:
        with Namespace(os.open(f"/run/netns/{WIRE}", os.O_RDONLY)), inside(WIRE):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
            self._socket.bind((f"wire{number}", ethertype))
        self._socket.setblocking(False)

    async def frame(self, payload: bytes) -> bytes:
        """Return the next frame that holds the payload."""
        async with asyncio.timeout(WAIT):
            while True:
                try:
                    seen = await asyncio.get_running_loop().sock_recv(self._socket, 2048)
                except OSError as error:
                    if error.errno != errno.ENETDOWN:  # told once after the cable was pulled
                        raise
                    continue
                if payload in seen:
                    return seen

    def send(self, frame: bytes) -> None:
        """Put a frame on the cable."""
        self._socket.send(frame)

    def quiet(self, payload: bytes) -> bool:
        """Tell whether no frame with the payload has come."""
        while True:
            try:
                if payload in self._socket.recv(2048):
                    return False
            except BlockingIOError:
                return True

    @contextlib.contextmanager
    def reflecting(self, *nodes: int) -> Iterator[None]:
        """Do what a switch does for nodes of one host: rewrite the MACs by the destination and send the frame back."""
        macs = {socket.inet_aton(f"172.16.20.{number}"): bytes([2, 0, 172, 16, 20, number]) for number in nodes}

        def reflect() -> None:
            frame = self._socket.recv(2048)
            if frame[0:6] == packed(FABRIC_MAC) and frame[30:34] in macs:
                self.send(macs[frame[30:34]] + packed(FABRIC_MAC) + frame[12:])

        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, reflect)
        try:
            yield
        finally:
            loop.remove_reader(self._socket)

    def seen(self) -> list[bytes]:
        """Return the frames that have come and were not asked for yet."""
        frames = []
        while True:
            try:
                frames.append(self._socket.recv(2048))
            except BlockingIOError:
                return frames
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise

    def close(self) -> None:
        """Let go of the cable."""
        self._socket.close()


async def udp(host: DockerHost, node: str) -> socket.socket:
    """Return a UDP socket of the node."""
    return await node_socket(host, node, socket.AF_INET, socket.SOCK_DGRAM)


async def node_socket(host: DockerHost, node: str, family: int, kind: int) -> socket.socket:
    """Return a socket of the node."""
    with Namespace(os.open(f"/proc/{host.pid(node)}/ns/net", os.O_RDONLY)) as namespace:
        return await namespace.socket(family, kind)


def packed(mac: str) -> bytes:
    """Return a MAC address as it stands in a frame."""
    return bytes.fromhex(mac.replace(":", ""))
