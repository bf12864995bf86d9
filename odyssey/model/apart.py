# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes that must not share a host.

Two nodes of one host meet in a switch, which has to send the frame out of the port on which it came in. Where a switch
is not known to do that, nodes that may talk never share a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from odyssey.model.inventory import Inventory
from odyssey.model.platform import Platform
from odyssey.model.state import NodeState


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes (`nodes`, as text) on one host; `networks` are the one that may connect and the one it connects to."""

    host: str
    networks: tuple[str, str]
    nodes: str
    reason: str


def why_apart(inventory: Inventory, host: str) -> str | None:
    """Why nodes that may talk cannot share this host; None if they can."""
    mute = sorted({switch.name for switch in inventory.switches_of(host) if not switch.reflecting})
    if not mute:
        return None
    verb = "is" if len(mute) == 1 else "are"
    return (
        f"{', '.join(mute)} {verb} not known to send frames out of the port on which they came in "
        "(odysseyctl switch probe finds out; then set reflects in the inventory)"
    )


def not_apart(
    inventory: Inventory, platforms: Mapping[str, Platform], nodes: Iterable[NodeState]
) -> Iterator[Pair]:
    """Pairs of nodes of `platforms` that may talk and share a host that cannot carry it; one for each two networks."""
    by_host: dict[str, dict[tuple[str, str], list[str]]] = {}
    for node in nodes:
        by_host.setdefault(node.host, {}).setdefault((node.platform, node.network), []).append(node.name)
    for host, tenants in sorted(by_host.items()):
        reason = why_apart(inventory, host) if host in inventory.hosts else None
        if reason is None:
            continue
        for (name, network), here in sorted(tenants.items()):
            platform = platforms.get(name)
            if platform is None or network not in platform.networks:
                continue
            if platform.networks[network].peers and len(here) > 1:
                yield Pair(host, (network, network), " and ".join(sorted(here)[:2]), reason)
            for other in platform.networks[network].depends_on:
                if there := tenants.get((name, other)):
                    yield Pair(host, (network, other), f"{min(here)} and {min(there)}", reason)
