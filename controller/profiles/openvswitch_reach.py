# SPDX-License-Identifier: AGPL-3.0-or-later
"""How hosts and borders are reached from one switch: groups, trunks, and table 31 (``docs/fabric.md``)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from controller.fabric import Inventory, Station
from controller.flows import (
    ETH_IPV4,
    OUR_TAG,
    VLAN_PRESENT,
    Action,
    Bucket,
    GroupEntry,
    Match,
    Output,
    PushVlan,
    SetField,
    match,
)
from controller.topology import Topology

TABLE_DELIVER = 30
TABLE_FROM_TRUNK = 31


@lru_cache(maxsize=16)
def group_ids(names: tuple[str, ...]) -> Mapping[str, int]:
    """Give each name a group id that stays when other names come and go, unless their hashes collide."""
    ids: dict[str, int] = {}
    used: set[int] = set()
    for name in sorted(names):
        number = zlib.crc32(name.encode()) & 0xFFFFFF
        while number in used:
            number = (number + 1) & 0xFFFFFF
        used.add(number)
        ids[name] = OUR_TAG << 24 | number
    return ids


@dataclass(frozen=True, slots=True)
class Reach:
    """How a host or border is reached from one switch.

    ``trunks`` lead to its other switches, the nearest first; ``onward`` tells for each trunk on which a frame comes in
    through which one it goes on, where the station has no port here; ``has_trunks`` whether this switch has any.
    """

    group: int
    port: int | None
    trunks: tuple[int, ...]
    onward: tuple[tuple[int, int], ...]
    has_trunks: bool
    mac: int
    transit_vlan: int

    @property
    def reachable(self) -> bool:
        """Tell whether there is any way to it."""
        return self.port is not None or bool(self.trunks)

    def group_entry(self) -> GroupEntry:
        """Return its group: the port here, then the trunks."""
        local = () if self.port is None else (Bucket(self.port, (Output(self.port),)),)
        return GroupEntry(self.group, local + tuple(Bucket(trunk, self._into(trunk)) for trunk in self.trunks))

    def rewrite(self, mac: int) -> tuple[Action, ...]:
        """Return the actions that address a packet to a station."""
        return (SetField("eth_src", self.mac), SetField("eth_dst", mac))

    def from_trunk(self, mac: int, address: int | tuple[int, int]) -> Iterator[tuple[Match, tuple[Action, ...]]]:
        """Yield what table 31 does with frames to an address behind it."""
        if self.port is not None and self.has_trunks:
            yield match(eth_type=ETH_IPV4, ipv4_dst=address), (*self.rewrite(mac), Output(self.port))
        for trunk, out in self.onward:
            yield match(in_port=trunk, eth_type=ETH_IPV4, ipv4_dst=address), self._into(out)

    def _into(self, trunk: int) -> tuple[Action, ...]:
        return (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | self.transit_vlan), Output(trunk))


def reaches(inventory: Inventory, topology: Topology, switch: str) -> Mapping[str, Reach]:
    """Return the reach of every station: ``host/<name>`` and ``border/<name>``."""
    stations: dict[str, Station] = {f"host/{name}": host for name, host in inventory.hosts.items()}
    stations |= {f"border/{name}": border for name, border in inventory.borders.items()}
    ids = group_ids(tuple(stations))
    found = {}
    for key, station in stations.items():
        port = station.port_on(switch)
        onward = []
        for trunk in topology.trunks[switch] if port is None else ():
            onward += [(trunk, out) for out in topology.towards(switch, station, came_from=trunk)[:1]]
        found[key] = Reach(
            group=ids[key],
            port=port,
            trunks=topology.towards(switch, station),
            onward=tuple(onward),
            has_trunks=bool(topology.trunks[switch]),
            mac=inventory.mac,
            transit_vlan=inventory.transit_vlan,
        )
    return found
