# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ways through the fabric: what it costs each switch to come to the switches of a station, on any graph of links.

Frames go from a switch only to a neighbour from which the rest is cheaper, and every switch counts alike.  So they
make no loop, whatever cables there are and whichever ports are down.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from controller.fabric import Inventory, Link, Port

REMEMBERED_FABRICS = 4

#: Whose detour it is, and the trunk by which it goes on, None where it ends.
Detour = tuple[str, int | None]


@dataclass(frozen=True)
class Topology:
    """The trunks of each switch, port number to the far end; ways go through ``avoided`` switches last of all."""

    trunks: Mapping[str, Mapping[int, Port]]
    avoided: frozenset[str] = frozenset()
    _known: dict[tuple[str, ...], Mapping[str, int]] = field(default_factory=dict, compare=False, repr=False)
    _nearer: dict[tuple[str, tuple[str, ...]], tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)
    _detours: dict[tuple[str, ...], Mapping[str, tuple[Detour, ...]]] = field(
        default_factory=dict, compare=False, repr=False
    )
    _bridges: dict[frozenset[str], bool] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, inventory: Inventory, *, avoid_maintained: bool = True) -> Topology:
        """Read the links of an inventory; switches in maintenance are avoided, unless told otherwise."""
        maintained = frozenset(name for name, switch in inventory.switches.items() if switch.maintenance)
        return _topology(tuple(inventory.switches), inventory.links, maintained if avoid_maintained else frozenset())

    def costs(self, goals: tuple[str, ...]) -> Mapping[str, int]:
        """Return what it costs each switch to come to the cheapest of ``goals``; unreachable ones are left out.

        A hop costs 1, one into an avoided switch more than any way around it.
        """
        if goals not in self._known:
            self._known[goals] = self._spread(goals)
        return self._known[goals]

    def nearer(self, switch: str, goals: tuple[str, ...]) -> tuple[int, ...]:
        """Return the trunk ports of ``switch`` through which the ways to ``goals`` are cheapest, in order."""
        key = (switch, goals)
        if key not in self._nearer:
            costs = self.costs(goals)
            here = costs.get(switch, 0)
            self._nearer[key] = tuple(
                number
                for number, far in self.trunks[switch].items()
                if far.switch in costs and costs[far.switch] + self._entering(far.switch) < here
            )
        return self._nearer[key]

    def detours(self, goals: tuple[str, ...]) -> Mapping[str, tuple[Detour, ...]]:
        """Return the detours to ``goals`` that pass each switch.

        A switch that is no goal has one where all ways to the goals, and to each of them, go through one trunk.  It is
        the cheapest way without the switch at the other end of that trunk, or at least without that link.
        """
        if goals not in self._detours:
            found: dict[str, list[Detour]] = {}
            for switch in self.trunks.keys() - set(goals):
                way = self._around(switch, goals)
                for port in way:
                    found.setdefault(port.switch, []).append((switch, port.number))
                if way:
                    end = self.trunks[way[-1].switch][way[-1].number].switch
                    found.setdefault(end, []).append((switch, None))
            self._detours[goals] = {
                switch: tuple(sorted(passing, key=lambda one: one[0])) for switch, passing in found.items()
            }
        return self._detours[goals]

    def _around(self, switch: str, goals: tuple[str, ...]) -> tuple[Port, ...]:
        trunks = {trunk for some in (goals, *((goal,) for goal in goals)) for trunk in self.nearer(switch, some)}
        if len(trunks) != 1:
            return ()
        past = self.trunks[switch][trunks.pop()].switch
        if self._is_bridge(switch, past):
            return ()
        return self._without(past)._way(switch, goals) or self._without_link(switch, past)._way(switch, goals)

    def _entering(self, switch: str) -> int:
        return len(self.trunks) if switch in self.avoided else 0

    def _spread(self, goals: tuple[str, ...]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        queue = [(0, goal) for goal in goals if goal in self.trunks]
        while queue:
            cost, here = heapq.heappop(queue)
            if here not in found:
                found[here] = cost
                onward = cost + self._entering(here) + 1
                for far in self.trunks[here].values():
                    heapq.heappush(queue, (onward, far.switch))
        return found

    def _way(self, switch: str, goals: tuple[str, ...]) -> tuple[Port, ...]:
        way = []
        while ports := self.nearer(switch, goals):
            way.append(Port(switch, ports[0]))
            switch = self.trunks[switch][ports[0]].switch
        return tuple(way)

    def _without(self, switch: str) -> Topology:
        trunks = {
            name: {number: far for number, far in ends.items() if far.switch != switch and name != switch}
            for name, ends in self.trunks.items()
        }
        return Topology(trunks, self.avoided)

    def _without_link(self, a: str, b: str) -> Topology:
        trunks = {
            name: {number: far for number, far in ends.items() if {name, far.switch} != {a, b}}
            for name, ends in self.trunks.items()
        }
        return Topology(trunks, self.avoided)

    def _is_bridge(self, a: str, b: str) -> bool:
        """Tell whether the fabric falls apart without the link between two switches."""
        link = frozenset((a, b))
        if link not in self._bridges:
            self._bridges[link] = b not in self._without_link(a, b).costs((a,))
        return self._bridges[link]


@lru_cache(maxsize=REMEMBERED_FABRICS)
def _topology(switches: tuple[str, ...], links: tuple[Link, ...], avoided: frozenset[str]) -> Topology:
    """Remembered with its ways: from one intent to the next the fabric seldom changes."""
    trunks: dict[str, dict[int, Port]] = {switch: {} for switch in switches}
    for link in links:
        for near, far in ((link.a, link.b), (link.b, link.a)):
            if near.switch in trunks and far.switch in trunks:
                trunks[near.switch][near.number] = far
    return Topology({switch: dict(sorted(ends.items())) for switch, ends in trunks.items()}, avoided)
