# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can reach what over the links of a fabric when switches are left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from itertools import combinations

from odyssey.model.inventory import Fabric


def cut_off(
    fabric: Fabric, stations: Mapping[str, Set[str]], switch: str, unused: Collection[str] = ()
) -> tuple[str, str] | None:
    """Two stations that reach each other now and would not without `switch`; None if there are none.

    `stations` are the switches on which each host and border hangs. A station that hangs on `switch` alone is left
    out: it loses everybody. O(links + stations + groups^2); there are as many groups as sets of separate parts.
    """
    now, then = _parts(fabric, set(unused)), _parts(fabric, {switch, *unused})
    groups: dict[tuple[frozenset[str], frozenset[str]], str] = {}
    for station in sorted(stations):
        reached = _reached(then, stations[station])
        if reached:
            groups.setdefault((_reached(now, stations[station]), reached), station)
    for one, other in combinations(groups, 2):
        if one[0] & other[0] and not one[1] & other[1]:
            return groups[one], groups[other]
    return None


def _reached(part_of: Mapping[str, str], switches: Set[str]) -> frozenset[str]:
    """The parts of the fabric on which a station hangs."""
    return frozenset(part_of[name] for name in switches if name in part_of)


def _parts(fabric: Fabric, without: Set[str]) -> dict[str, str]:
    """Each switch and the name of the part it is in: the first switch of that part."""
    ends: dict[str, set[str]] = {name: set() for name in fabric.switches if name not in without}
    for one, other in fabric.links:
        if one.switch in ends and other.switch in ends:
            ends[one.switch].add(other.switch)
            ends[other.switch].add(one.switch)
    part_of: dict[str, str] = {}
    for first in sorted(ends):
        waiting = [first] if first not in part_of else []
        while waiting:
            name = waiting.pop()
            if name not in part_of:
                part_of[name] = first
                waiting += ends[name]
    return part_of
