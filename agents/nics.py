# SPDX-License-Identifier: AGPL-3.0-or-later
"""The host's NICs while the agent runs: what each hears of its switch by LLDP, and when one gains or loses its carrier.

The kernel changes over by itself; the agent only puts back what went with a carrier, and tells.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import logging
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agents import lldp, vlan
from agents.facts import HostNic, cable_ends
from agents.network import NetworkError

NIC_LIMIT = 64  # NICs that are listened on
LOOK_INTERVAL = 30.0  # seconds between two looks at the NICs without a notice of the kernel
LOOK_PAUSE = 0.05  # seconds between two looks, however many notices come
FRAME_PAUSE = 0.05  # seconds between two frames of one NIC: the rest of a flood is dropped by the kernel
RECEIVE_BUFFER = 128 * 1024  # bytes for each NIC; the longest frame has to fit
NOTICE_SIZE = 64 * 1024  # bytes of one read of the kernel's notices
NOTICE_READS = 64  # before the NICs are looked at
_RTMGRP_LINK = 1  # linux/rtnetlink.h
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST, _PACKET_OUTGOING = 263, 1, 0, 4  # linux/if_packet.h

_log = logging.getLogger(__name__)


class LldpEar:
    """Listens on one NIC; must be made in the host's network namespace. Raises OSError."""

    def __init__(self, name: str, nic: HostNic, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self.index = nic.index
        self.malformed = 0
        self.foreign = 0
        self._changes = nic.changes
        self._clock = clock
        self._last: tuple[lldp.Announcement, float] | None = None
        self._largest = (0, 0.0)  # size in bytes of a frame of the same port, and when it came
        self._loop = asyncio.get_running_loop()
        # Protocol 0: nothing is received before the socket is bound to its one NIC.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            for address in lldp.DESTINATIONS:
                request = struct.pack("=IHH8s", nic.index, _PACKET_MR_MULTICAST, len(address), address)
                self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
            self._socket.bind((name, lldp.ETHERTYPE))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def follow(self, nic: HostNic) -> None:
        """Forget what was said before the carrier changed: the cable may lead elsewhere."""
        if nic.changes != self._changes:
            self._changes, self._last, self._largest = nic.changes, None, (0, 0.0)

    def heard(self) -> Mapping[str, Any] | None:
        """Return what the switch port said last, None if nothing stands (its time to live has passed, or it went)."""
        if self._last is None:
            return None
        announcement, at = self._last
        now = self._clock()
        age = now - at
        if age > announcement.ttl:
            return None
        signature, (largest, then) = announcement.signature, self._largest
        return {
            "datapathId": announcement.datapath_id,
            "port": announcement.port,
            "heard": round(age, 3),
            "bytes": largest if now - then <= announcement.ttl else announcement.size,
            "signature": None if signature is None else base64.b64encode(signature).decode("ascii"),
        }

    def _read(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.call_later(FRAME_PAUSE, self._listen)
        try:
            frame, address = self._socket.recvfrom(lldp.FRAME_LIMIT + 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
                raise
            return  # told once when the NIC goes down; it is listened on again when it is up
        if address[2] == _PACKET_OUTGOING:
            return
        try:
            announcement = lldp.parse(frame)
        except lldp.MalformedError as error:
            self.malformed += 1
            _log.debug("%s: a malformed LLDP frame: %s", address[0], error)
            return
        if announcement is None:
            self.foreign += 1
        else:
            self._heard(announcement, self._clock())

    def _heard(self, announcement: lldp.Announcement, now: float) -> None:
        size, then = self._largest
        before = self._last[0] if self._last is not None else announcement
        same = (before.datapath_id, before.port) == (announcement.datapath_id, announcement.port)
        if not same or announcement.size >= size or now - then > announcement.ttl:
            self._largest = (announcement.size, now)
        self._last = (announcement, now)

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._read)


class NicWatch:
    """Follows the host's NICs for as long as `run` runs; must be used in the host's network namespace."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Mapping[str, HostNic]]],
        changed: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` returns the host's interfaces, `changed` is called when a NIC came, went, or its carrier changed.

        Both may raise NetworkError.
        """
        self._look = look
        self._changed = changed
        self._clock = clock
        self._ears: dict[str, LldpEar] = {}

    async def run(self) -> None:
        """Follow the NICs for ever; run it as a task."""
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            notices.setblocking(False)
            notices.bind((0, _RTMGRP_LINK))
            before: dict[str, tuple[int, bool, int]] | None = None
            while True:
                try:
                    now = self._follow(await self._look())
                    if before is not None and now != before:
                        await self._changed()
                    before = now
                except NetworkError as error:
                    _log.warning("the NICs of this host cannot be looked at: %s", error)
                await asyncio.sleep(LOOK_PAUSE)
                await self._notice(notices)
        finally:
            notices.close()
            for ear in self._ears.values():
                ear.close()
            self._ears.clear()

    async def observe(self) -> dict[str, Any]:
        """Return each NIC with its MTU, carrier, and what it hears. Raises NetworkError."""
        ends = cable_ends(await self._look())
        for name in ends.keys() & self._ears.keys():
            self._ears[name].follow(ends[name])
        return {name: self._observed(nic, self._ears.get(name)) for name, nic in sorted(ends.items())}

    def _observed(self, nic: HostNic, ear: LldpEar | None) -> dict[str, Any]:
        return {
            "mtu": nic.mtu,
            "up": nic.up,
            "carrier": nic.carrier,
            "lldp": ear.heard() if ear is not None else None,
            "lldpMalformed": ear.malformed if ear is not None else 0,
            "lldpForeign": ear.foreign if ear is not None else 0,
        }

    async def _notice(self, notices: socket.socket) -> None:
        """Wait until the kernel tells of a link, or for LOOK_INTERVAL; what it tells is looked up anew."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                await _readable(notices)
        try:
            for _ in range(NOTICE_READS):
                notices.recv(NOTICE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost
                raise

    def _follow(self, nics: Mapping[str, HostNic]) -> dict[str, tuple[int, bool, int]]:
        """Listen on the NICs that stand; returns what a change is measured by."""
        ends = cable_ends(nics)
        for name in [name for name, ear in self._ears.items() if name not in ends or ends[name].index != ear.index]:
            self._ears.pop(name).close()
        for name in sorted(ends):
            if name in self._ears:
                self._ears[name].follow(ends[name])
            elif len(self._ears) < NIC_LIMIT:
                try:
                    self._ears[name] = LldpEar(name, ends[name], self._clock)
                except OSError as error:
                    _log.warning("NIC %s cannot be listened on for LLDP: %s", name, error)
        followed = {**ends, **{name: nic for name, nic in nics.items() if nic.kind == vlan.KIND}}
        return {name: (nic.index, nic.up, nic.changes) for name, nic in followed.items()}


async def _readable(source: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(source, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(source)
