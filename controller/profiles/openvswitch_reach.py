# SPDX-License-Identifier: AGPL-3.0-or-later
"""How stations are reached in the Open vSwitch pipeline: groups and table 32 (``docs/fabric.md``, "Two walks").

Walk 1 goes to the nearest home of a station, its source MAC is the fabric's.  Where the port there is down, or no way
is left, walk 2 goes to one certain home: its source MAC is that home's mark.  There is no third walk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.fabric import Inventory, Station
from controller.flows import (
    OUR_TAG,
    VLAN_PRESENT,
    Action,
    Bucket,
    ClearInPort,
    FlowEntry,
    GroupEntry,
    Kind,
    Output,
    PushVlan,
    SetField,
    ToGroup,
    crc_owner,
    make_cookie,
    match,
)
from controller.topology import Topology

TABLE_DELIVER = 30
TABLE_FROM_TRUNK = 31
TABLE_TO_STATION = 32


def group_ids(names: Iterable[str]) -> Mapping[str, int]:
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


def mark(fabric_mac: int, home: int) -> int:
    """Return the source MAC of walk 2 towards a station's home with this number, from 0."""
    return fabric_mac & ~0xFF | (fabric_mac + 1 + home) & 0xFF


@dataclass(frozen=True, slots=True)
class Destination:
    """A station, and the VLAN that its frames carry on its tagged ports (a host has one for each network there)."""

    key: str
    station: Station
    kind: Kind
    vlan: int | None = None


def destination_key(station: str, kind: Kind, vlan: int | None) -> str:
    """Return the name of a destination: ``host/h1``, ``host/h1@120``, ``border/edge``."""
    return f"{kind.name.lower()}/{station}" + (f"@{vlan}" if vlan is not None else "")


def destinations(inventory: Inventory, vlans: Mapping[str, Iterable[int]]) -> Iterator[Destination]:
    """Yield every destination; ``vlans`` are those of the networks that tagged hosts have nodes of."""
    for name, host in inventory.hosts.items():
        yield Destination(destination_key(name, Kind.HOST, None), host, Kind.HOST)
        for vlan in sorted(set(vlans.get(name, ()))):
            yield Destination(destination_key(name, Kind.HOST, vlan), host, Kind.HOST, vlan)
    for name, border in inventory.borders.items():
        yield Destination(destination_key(name, Kind.BORDER, None), border, Kind.BORDER, border.vlan)


@dataclass(frozen=True, slots=True)
class Ids:
    """The group ids of one destination: for walk 1, and for walk 2 through a switch to each home."""

    first: int
    second: tuple[int, ...]


def ids_of(found: Iterable[Destination]) -> Mapping[str, Ids]:
    """Return the group ids of every destination."""
    listed = list(found)
    names = [one.key for one in listed]
    names += [f"{one.key}>{home}" for one in listed for home in range(len(one.station.homes))]
    ids = group_ids(names)
    return {
        one.key: Ids(ids[one.key], tuple(ids[f"{one.key}>{home}"] for home in range(len(one.station.homes))))
        for one in listed
    }


@dataclass(frozen=True, slots=True)
class Reach:
    """How one destination is reached from one switch.

    ``first`` are the trunks of walk 1; ``second`` those of walk 2 to each home; ``home`` is the number of this switch
    among the homes, None where it is none.
    """

    destination: Destination
    ids: Ids
    port: int | None
    home: int | None
    first: tuple[int, ...]
    second: tuple[tuple[int, ...], ...]
    mac: int
    transit_vlan: int

    @property
    def reachable(self) -> bool:
        """Tell whether there is any way to it."""
        return self.port is not None or bool(self.first)

    def groups(self) -> Iterator[GroupEntry]:
        """Yield the groups of the destination on this switch."""
        if not self.reachable:
            return
        buckets = [] if self.port is None else [Bucket(self.port, self._to_port(self.port))]
        buckets += [Bucket(trunk, self._into(trunk)) for trunk in self.first]
        used = set(self.first)
        for home, trunks in enumerate(self.second):
            marked = SetField("eth_src", mark(self.mac, home))
            buckets += [Bucket(trunk, (marked, *self._into(trunk))) for trunk in trunks if trunk not in used]
            used.update(trunks)
        yield GroupEntry(self.ids.first, tuple(buckets))
        for home, trunks in enumerate(self.second):
            if trunks and self._marked(home):
                yield GroupEntry(self.ids.second[home], tuple(Bucket(trunk, self._into(trunk)) for trunk in trunks))

    def entries(self, generation: int) -> Iterator[FlowEntry]:
        """Yield the entries of table 32: register 5 is the destination."""
        if not self.reachable:
            return
        station = self.destination.station
        cookie = make_cookie(self.destination.kind, crc_owner(station.name), generation)
        to_group = (ClearInPort(), ToGroup(self.ids.first))
        yield FlowEntry(TABLE_TO_STATION, 50, match(reg5=self.ids.first), to_group, cookie)
        for home, trunks in enumerate(self.second):
            if not self._marked(home):
                continue
            what = match(reg5=self.ids.first, eth_src=mark(self.mac, home))
            actions: tuple[Action, ...] = ()
            if home == self.home and self.port is not None:
                actions = (SetField("eth_src", self.mac), *self._to_port(self.port))
            elif trunks:
                actions = (ToGroup(self.ids.second[home]),)
            yield FlowEntry(TABLE_TO_STATION, 100, what, actions, cookie)

    def _marked(self, home: int) -> bool:
        """Tell whether a frame of walk 2 to a home can come here: only where the station has another one."""
        return len(self.second) > 1 and (home == self.home or bool(self.second[home]))

    def _to_port(self, port: int) -> tuple[Action, ...]:
        vlan = self.destination.vlan
        tagged = any(one.number == port and one.switch == self._switch for one in self.destination.station.tagged)
        return (*_tag(vlan), Output(port)) if vlan is not None and tagged else (Output(port),)

    @property
    def _switch(self) -> str | None:
        return None if self.home is None else self.destination.station.homes[self.home]

    def _into(self, trunk: int) -> tuple[Action, ...]:
        return (*_tag(self.transit_vlan), Output(trunk))


def _tag(vlan: int) -> tuple[Action, ...]:
    return (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | vlan))


def reaches(
    inventory: Inventory, topology: Topology, switch: str, found: Iterable[Destination], ids: Mapping[str, Ids]
) -> Mapping[str, Reach]:
    """Return the reach of every destination from a switch, by the destination's key."""
    result = {}
    for one in found:
        station = one.station
        homes = topology.homes(station)
        result[one.key] = Reach(
            destination=one,
            ids=ids[one.key],
            port=station.port_on(switch),
            home=station.homes.index(switch) if switch in station.homes else None,
            first=() if switch in homes else topology.nearer(switch, homes),
            second=tuple(
                () if home == switch or home not in homes else topology.nearer(switch, (home,))
                for home in station.homes
            ),
            mac=inventory.mac,
            transit_vlan=inventory.transit_vlan,
        )
    return result
