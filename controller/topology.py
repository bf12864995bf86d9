# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ways through the fabric: how far each switch is from the switches of a station, on any graph of links.

Frames go from a switch only to a neighbour that is nearer to where they are going.  So they make no loop, whatever
cables there are and whichever ports are down.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.fabric import Inventory, Port, Station


@dataclass(frozen=True, slots=True)
class _Ways:
    """Distances to some switches, and the switches that are on nobody's way there."""

    distances: Mapping[str, int]
    closed: frozenset[str]


@dataclass(frozen=True)
class Topology:
    """The trunks of each switch, port number to the far end; ``avoided`` switches are no way to anywhere."""

    trunks: Mapping[str, Mapping[int, Port]]
    avoided: frozenset[str] = frozenset()
    _known: dict[tuple[str, ...], _Ways] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, inventory: Inventory, *, avoid_maintained: bool = True) -> Topology:
        """Read the links of an inventory; switches in maintenance are avoided, unless told otherwise."""
        trunks: dict[str, dict[int, Port]] = {switch: {} for switch in inventory.switches}
        for link in inventory.links:
            for near, far in ((link.a, link.b), (link.b, link.a)):
                if near.switch in trunks and far.switch in trunks:
                    trunks[near.switch][near.number] = far
        maintained = frozenset(name for name, switch in inventory.switches.items() if switch.maintenance)
        return cls(
            {switch: dict(sorted(ends.items())) for switch, ends in trunks.items()},
            maintained if avoid_maintained else frozenset(),
        )

    def homes(self, station: Station) -> tuple[str, ...]:
        """Return the switches by which a station is reached: none that is avoided, where it has another."""
        return tuple(home for home in station.homes if home not in self.avoided) or station.homes

    def distances(self, goals: tuple[str, ...]) -> Mapping[str, int]:
        """Return the number of hops from each switch to the nearest of ``goals``; unreachable ones are left out."""
        return self._ways(goals).distances

    def nearer(self, switch: str, goals: tuple[str, ...]) -> tuple[int, ...]:
        """Return the trunk ports of ``switch`` that lead to a switch that is nearer to ``goals``, in order."""
        ways = self._ways(goals)
        here = ways.distances.get(switch, 0)
        return tuple(
            number
            for number, far in self.trunks[switch].items()
            if far.switch not in ways.closed and ways.distances.get(far.switch, here) < here
        )

    def _ways(self, goals: tuple[str, ...]) -> _Ways:
        if goals not in self._known:
            # Avoided switches are passed only where somebody has no other way.
            closed = self.avoided - set(goals)
            ways, all_ways = self._spread(goals, closed), self._spread(goals, frozenset())
            cut_off = all_ways.distances.keys() - ways.distances.keys() - self.avoided
            self._known[goals] = all_ways if cut_off else ways
        return self._known[goals]

    def _spread(self, goals: tuple[str, ...], closed: frozenset[str]) -> _Ways:
        found = {goal: 0 for goal in goals if goal in self.trunks}
        queue = deque(found)
        while queue:
            here = queue.popleft()
            for far in self.trunks[here].values():
                if far.switch not in found:
                    found[far.switch] = found[here] + 1
                    if far.switch not in closed:
                        queue.append(far.switch)
        return _Ways(found, closed)
