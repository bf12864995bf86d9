# SPDX-License-Identifier: AGPL-3.0-or-later
"""How stations are reached in the Open vSwitch pipeline: groups and table 32 (``docs/fabric.md``, "Two walks").

Walk 1 goes to the nearest home of a station, its source MAC is the fabric's.  Where the port there is down, or no
trunk is left, walk 2 begins: to one certain home, or along the detour of one switch around its only trunk.  Its source
MAC is a mark that says which.  There is no third walk.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

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
    Match,
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
REMEMBERED_TRUNKS = 4096
REMEMBERED_MARKS = 1 << 17  # destinations times marks: a ring of 100 switches with 200 hosts has 20,000


def group_ids(names: Iterable[str]) -> Mapping[str, int]:
    """Give each name a group id that stays when other names come and go, unless their hashes collide."""
    return {name: OUR_TAG << 24 | number for name, number in _hashed(names, 24).items()}


def _hashed(names: Iterable[str], bits: int) -> Mapping[str, int]:
    numbers: dict[str, int] = {}
    used: set[int] = set()
    full = (1 << bits) - 1
    for name in sorted(names):
        number = zlib.crc32(name.encode()) & full
        while number in used:
            number = (number + 1) & full
        used.add(number)
        numbers[name] = number
    return numbers


MARK_BIT = 1 << 23  # of a MAC address: differs between the fabric's and the marks of walk 2
_MARKS = 0xFFFFFF << 24 | MARK_BIT  # mask of what all marks have in common
_DETOUR = 1 << 16


def marks(fabric_mac: int) -> tuple[int, int]:
    """Return value and mask that all source MACs of walk 2 have in common, and the fabric's MAC has not."""
    return (fabric_mac ^ MARK_BIT) & _MARKS, _MARKS


def mark(fabric_mac: int, home: int) -> int:
    """Return the source MAC of walk 2 towards a station's home with this number, from 0."""
    return marks(fabric_mac)[0] | home + 1


def detour_marks(fabric_mac: int, switches: Iterable[str]) -> Mapping[str, int]:
    """Return the source MAC of walk 2 along the detours of each switch; few change when switches come and go."""
    numbers = _hashed(switches, 16)
    return {name: marks(fabric_mac)[0] | _DETOUR | number for name, number in numbers.items()}


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
    among the homes, None where it is none.  ``detours`` are those that pass here: the mark and the trunk where they go
    on, None where they end; ``own`` is the mark of this switch's own.
    """

    destination: Destination
    ids: Ids
    port: int | None
    home: int | None
    first: tuple[int, ...]
    second: tuple[tuple[int, ...], ...]
    detours: tuple[tuple[int, int | None], ...]
    own: int
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
            to_home = SetField("eth_src", mark(self.mac, home))
            buckets += [Bucket(trunk, (to_home, *self._into(trunk))) for trunk in trunks if trunk not in used]
            used.update(trunks)
        buckets += [
            Bucket(trunk, (SetField("eth_src", marked), *self._into(trunk)))
            for marked, trunk in self.detours
            if marked == self.own and trunk is not None
        ]
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
        for home in range(len(self.second)):
            if not self._marked(home):
                continue
            if home == self.home and self.port is not None:
                yield self._marked_entry(mark(self.mac, home), cookie, self._arrive(self.port))
            else:
                yield self._marked_entry(mark(self.mac, home), cookie, (ToGroup(self.ids.second[home]),))
        for marked, trunk in self.detours:
            if trunk is not None and marked != self.own:
                yield self._marked_entry(marked, cookie, self._into(trunk))
            elif trunk is None and self.port is not None:
                yield self._marked_entry(marked, cookie, self._arrive(self.port))

    def _marked_entry(self, marked: int, cookie: int, actions: tuple[Action, ...]) -> FlowEntry:
        return FlowEntry(TABLE_TO_STATION, 100, _marked_match(self.ids.first, marked), actions, cookie)

    def _arrive(self, port: int) -> tuple[Action, ...]:
        return (SetField("eth_src", self.mac), *self._to_port(port))

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
        return _into(self.transit_vlan, trunk)


@lru_cache(REMEMBERED_MARKS)
def _marked_match(group: int, marked: int) -> Match:
    """One object for all switches that a detour passes, which may be as many as there are."""
    return match(reg5=group, eth_src=marked)


@lru_cache(REMEMBERED_TRUNKS)
def _into(transit_vlan: int, trunk: int) -> tuple[Action, ...]:
    return (*_tag(transit_vlan), Output(trunk))


def _tag(vlan: int) -> tuple[Action, ...]:
    return (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | vlan))


def reaches(
    inventory: Inventory, topology: Topology, switch: str, found: Iterable[Destination], ids: Mapping[str, Ids]
) -> Mapping[str, Reach]:
    """Return the reach of every destination from a switch, by the destination's key."""
    detour_mark = detour_marks(inventory.mac, inventory.switches)
    result = {}
    for one in found:
        station = one.station
        detours = topology.detours(station.homes).get(switch, ())
        result[one.key] = Reach(
            destination=one,
            ids=ids[one.key],
            port=station.port_on(switch),
            home=station.homes.index(switch) if switch in station.homes else None,
            first=topology.nearer(switch, station.homes),
            second=tuple(topology.nearer(switch, (home,)) for home in station.homes),
            detours=tuple((detour_mark[origin], trunk) for origin, trunk in detours),
            own=detour_mark[switch],
            mac=inventory.mac,
            transit_vlan=inventory.transit_vlan,
        )
    return result
