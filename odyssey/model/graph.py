# SPDX-License-Identifier: AGPL-3.0-or-later
"""The dependency graph of a platform: its cycles and its tiers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Graph = Mapping[str, Collection[str]]
"""A network's name and the names of those it depends on. Names that are not keys are ignored."""


def cycles(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Return one full cycle for each knot of the graph, each beginning and ending with its smallest name.

    Networks are peeled off while they depend on nothing that is left; what stays either lies on a cycle or leads to
    one. O(n * (n + e)) in the worst case of many cycles.
    """
    left = {name: {other for other in sorted(graph[name]) if other in graph} for name in sorted(graph)}
    found: list[tuple[str, ...]] = []
    while True:
        _peel(left)
        if not left:
            return tuple(found)
        cycle = _walk(left)
        found.append(cycle)
        for name in cycle[:-1]:
            left.pop(name, None)


def _peel(left: dict[str, set[str]]) -> None:
    """Remove whatever depends on nothing that is left."""
    while free := [name for name, needs in left.items() if not any(other in left for other in needs)]:
        for name in free:
            del left[name]


def _walk(left: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Follow dependencies from the smallest name until one repeats; every name left has one that is left."""
    path: list[str] = []
    name = min(left)
    while name not in path:
        path.append(name)
        name = min(other for other in left[name] if other in left)
    cycle = path[path.index(name) :]
    start = cycle.index(min(cycle))
    return (*cycle[start:], *cycle[: start + 1])


def tiers(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Group networks so that each depends only on earlier groups; a network stands as early as it can.

    Raises ValueError if there is a cycle.
    """
    if found := cycles(graph):
        raise ValueError(f"dependency cycle: {' -> '.join(found[0])}")
    left = {name: {other for other in graph[name] if other in graph} for name in sorted(graph)}
    result: list[tuple[str, ...]] = []
    while left:
        tier = tuple(name for name, needs in left.items() if not any(other in left for other in needs))
        for name in tier:
            del left[name]
        result.append(tier)
    return tuple(result)
