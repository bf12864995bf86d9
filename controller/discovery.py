# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds out where the cables lead: sends signed LLDP frames out of every port and listens where they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller import lldp
from controller.cabling import FAULTS, Cable, Heard, Nic, judge
from controller.channel import Channel, ChannelError
from controller.fabric import Inventory, Port
from controller.lldp import Announcement, MalformedError, Signer

_log = logging.getLogger(__name__)

#: How many times the interval an announcement stays good.
AGES = 3
KEY_BYTES = 32
Publish = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class Counts:
    """What came to the controller, by what became of it."""

    ours: int = 0
    forged: int = 0
    other_devices: int = 0
    malformed: int = 0


@dataclass(slots=True)
class _Lately:
    other: Port
    at: float
    full_at: float


@dataclass
class Discovery:
    """What each port has heard lately.

    Only the controller that leads may send.  The key lives in its process: whoever leads next signs with another one.
    """

    inventory: Callable[[], Inventory | None]
    leads: Callable[[], bool]
    publish: Publish
    interval: float
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._signer = Signer(secrets.token_bytes(KEY_BYTES), int(self.interval * AGES * 1000))
        self._heard: dict[Port, _Lately] = {}
        self._told: frozenset[str] = frozenset()

    async def serve(self, name: str, channel: Channel) -> None:
        """Announce every port of a switch again and again, until the connection ends or this is cancelled."""
        channel.on_packet(lambda port, frame: self._received(Port(name, port), frame))
        while True:
            inventory = self.inventory()
            if inventory is not None and name in inventory.switches and self.leads():
                with contextlib.suppress(ChannelError):  # the end of a connection is told by others
                    await self._announce(name, channel, inventory)
            await asyncio.sleep(self.interval)

    async def _announce(self, name: str, channel: Channel, inventory: Inventory) -> None:
        """Let each port send a frame as large as the fabric's MTU allows and then a small one.

        The large one tells whether the cable carries what nodes may send; behind it, since who hears the small one
        must have heard it already.
        """
        now, full = _milliseconds(), inventory.mtu + lldp.ETHERNET_HEADER
        packets = [
            (port, self._signer.frame(inventory.mac, channel.datapath_id, port, now, size))
            for port in inventory.ports(name)
            for size in (full, 0)
        ]
        await channel.send_packets(packets)
        self._tell()

    def _received(self, at: Port, frame: bytes) -> None:
        try:
            heard = lldp.parse(frame)
        except MalformedError as error:
            self.counts.malformed += 1
            _log.debug("%s: %s", at, error)
            return
        if heard is None:
            self.counts.other_devices += 1
        elif (other := self.verified(heard)) is not None:
            self.counts.ours += 1
            now, before = time.monotonic(), self._heard.get(at)
            full = self.is_full(heard)
            full_at = now if full else before.full_at if before is not None and before.other == other else 0.0
            self._heard[at] = _Lately(other, now, full_at)
        else:
            self.counts.forged += 1

    def verified(self, heard: Announcement) -> Port | None:
        """Return the switch port that an announcement names, if it is a fresh one of ours."""
        inventory = self.inventory()
        if inventory is None or not self._signer.trusts(heard, _milliseconds()):
            return None
        names = (name for name, switch in inventory.switches.items() if switch.datapath_id == heard.datapath_id)
        name = next(names, f"{heard.datapath_id:016x}")
        return Port(name, heard.port)

    def is_full(self, heard: Announcement) -> bool:
        """Tell whether an announcement was as large as the fabric's MTU."""
        inventory = self.inventory()
        return inventory is not None and heard.size >= inventory.mtu + lldp.ETHERNET_HEADER

    def heard(self) -> dict[Port, Heard]:
        """Return which port each port has heard lately."""
        oldest = time.monotonic() - self.interval * AGES
        return {port: Heard(one.other, one.full_at >= oldest) for port, one in self._heard.items() if one.at >= oldest}

    def cables(
        self, nics: Mapping[Nic, Heard | None], attachments: Mapping[Nic, Port], down: frozenset[Port]
    ) -> tuple[Cable, ...]:
        """Judge the cables by what was heard lately and what the agents of the hosts tell."""
        inventory = self.inventory()
        return () if inventory is None else judge(inventory, self.heard(), nics, attachments, down)

    def _tell(self) -> None:
        """Publish each wrong cable once, when it is found and when it is gone."""
        cables = self.cables({}, {}, frozenset())
        wrong = frozenset(cable.text for cable in cables if cable.state in FAULTS)
        if wrong != self._told:
            for text in sorted(wrong - self._told):
                _log.warning("cabling: %s", text)
            self.publish("switch.cabling", {"wrong": sorted(wrong)})
            self._told = wrong


def _milliseconds() -> int:
    return time.monotonic_ns() // 1_000_000
