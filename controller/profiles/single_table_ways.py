# SPDX-License-Identifier: AGPL-3.0-or-later
"""How stations are reached from switches that cannot fail over by themselves.

The compiler chooses the port: the first that is up.  Where all switches are of this kind, ways go around whatever is
down.  Where others share the fabric, ways stay on the costs by which those go, and two walks are told apart as in
``openvswitch_reach``: walk 1 to the cheapest home of a station, else walk 2 to one certain home, marked by its source
MAC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from controller.fabric import Inventory, Port, Station
from controller.profiles.openvswitch_reach import mark
from controller.topology import Topology

SINGLE_TABLE_PROFILES = frozenset({"nexus9000", "alliedtelesis"})


@dataclass(frozen=True, slots=True)
class Homes:
    """The switches of a station, and those of them where it has a port that is up: stations with the same are alike."""

    all: tuple[str, ...]
    up: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Way:
    """A trunk, and the source MAC that frames get on it."""

    trunk: int
    source: int


@dataclass(frozen=True)
class Ways:
    """All ways of a fabric; ``plain``: all of its switches are of this kind."""

    inventory: Inventory
    topology: Topology
    down: frozenset[Port]
    plain: bool
    _homes: dict[str, Homes] = field(default_factory=dict, compare=False, repr=False)
    _onward: dict[tuple[str, Homes], Way | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, inventory: Inventory, down: frozenset[Port]) -> Ways:
        """Take ports that have no carrier as down, the other ends of their cables, and those of isolated switches."""
        down = down | frozenset(_isolated(inventory))
        down |= {end for link in inventory.links for end in (link.a, link.b) if down & {link.a, link.b}}
        plain = all(switch.profile in SINGLE_TABLE_PROFILES for switch in inventory.switches.values())
        topology = Topology.of(inventory)
        if plain and down:
            trunks = {
                name: {number: far for number, far in ends.items() if Port(name, number) not in down}
                for name, ends in topology.trunks.items()
            }
            topology = Topology(trunks, topology.avoided)
        return cls(inventory, topology, down, plain)

    def trunks(self, switch: str) -> tuple[int, ...]:
        """Return the trunk ports of a switch, whether up or down, sorted."""
        return tuple(self.inventory.trunks(switch))

    def homes(self, station: Station) -> Homes:
        """Return the homes of a station."""
        found = self._homes.get(station.name)
        if found is None:
            up = tuple(home for home in station.homes if self.port(home, station) is not None)
            found = self._homes[station.name] = Homes(up if self.plain else station.homes, up)
        return found

    def port(self, switch: str, station: Station) -> int | None:
        """Return the port of a switch at which a station is reached, None where it has none that is up."""
        ports = (port for port in station.ports if port.switch == switch and port not in self.down)
        return next((port.number for port in ports), None)

    def onward(self, switch: str, homes: Homes) -> Way | None:
        """Return how frames go on to stations that cannot be reached at a port of this switch; None: not at all."""
        key = (switch, homes)
        if key not in self._onward:
            self._onward[key] = next(self._choices(switch, homes), None)
        return self._onward[key]

    def _choices(self, switch: str, homes: Homes) -> Iterator[Way]:
        if not homes.up:
            return
        mac = self.inventory.mac
        if switch not in homes.all:
            yield from (Way(trunk, mac) for trunk in self._nearer(switch, homes.all))
        if self.plain:
            return
        for number, home in enumerate(homes.all):
            if home in homes.up:
                yield from (Way(trunk, mark(mac, number)) for trunk in self._nearer(switch, (home,)))

    def _nearer(self, switch: str, goals: tuple[str, ...]) -> Iterator[int]:
        trunks = self.topology.nearer(switch, goals)
        return (trunk for trunk in trunks if Port(switch, trunk) not in self.down)


def _isolated(inventory: Inventory) -> Iterator[Port]:
    for station in inventory.stations:
        yield from (port for port in station.ports if inventory.switches[port.switch].isolated)
