# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ways through the fabric: which trunk leads where, on switches that form a tree."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from controller.fabric import Inventory, Port, Refusal, Station


@dataclass(frozen=True, slots=True)
class Topology:
    """The trunks of each switch: port number to the far end."""

    trunks: Mapping[str, Mapping[int, Port]]

    @classmethod
    def of(cls, inventory: Inventory) -> Topology:
        """Read the links of an inventory."""
        return cls({switch: inventory.trunks(switch) for switch in inventory.switches})

    def towards(self, switch: str, station: Station, *, came_from: int | None = None) -> tuple[int, ...]:
        """Return the trunk ports of ``switch`` that lead to other switches of ``station``, the nearest first.

        The trunk ``came_from`` is not used: on a tree a frame that never turns back never comes to a switch twice.
        """
        homes = {port.switch for port in station.ports} - {switch}
        found: list[int] = []
        seen = {switch}
        queue: deque[tuple[str, int]] = deque()
        for number, far in self.trunks[switch].items():
            if number != came_from and far.switch not in seen:
                seen.add(far.switch)
                queue.append((far.switch, number))
        while queue:
            here, first = queue.popleft()
            if here in homes and first not in found:
                found.append(first)
            for _, far in self.trunks[here].items():
                if far.switch not in seen:
                    seen.add(far.switch)
                    queue.append((far.switch, first))
        return tuple(found)


def loop_faults(inventory: Inventory) -> list[Refusal]:
    """Return a refusal for each link that closes a loop: with it a frame could come to a switch twice."""
    faults = []
    root = {switch: switch for switch in inventory.switches}

    def find(switch: str) -> str:
        while root[switch] != switch:
            switch = root[switch]
        return switch

    for link in inventory.links:
        if link.a.switch not in root or link.b.switch not in root:
            continue
        a, b = find(link.a.switch), find(link.b.switch)
        if a == b:
            reason = f"the link {link.a} - {link.b} closes a loop; the switches must form a tree"
            faults.append(Refusal("inventory", reason))
        root[a] = b
    return faults
