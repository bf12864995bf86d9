# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who serves the new connections to the service addresses, given the nodes, platforms and switches that there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from odyssey.model.naming import network_key
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import ADMITTED, DRAINING, NetworkState
from odyssey.planning import slots


def balanced(after: Snapshot, state: NetworkState) -> NetworkState:
    """The state of a network with the slots and pins that fit the snapshot, moved as little as possible."""
    network = after.network(state.key)
    if network is None or network.service is None:
        return replace(state, slots=(), pins={})
    weights = {node.name: node.weight for node in after.admitted(network.key)}
    pins: dict[str, str] = {}
    if _by_client(after):
        staying = {node.name for node in after.nodes_of(network.key, ADMITTED, DRAINING)}
        pins = slots.pin(state.pins, _clients(after, network), weights, staying)
    return replace(state, slots=slots.assign(state.slots, weights, network.service.slots), pins=pins)


def balanced_with(after: Snapshot, keys: Collection[str]) -> set[str]:
    """Keys of the networks whose pins depend on the nodes of `keys`: those that they may connect to."""
    if not _by_client(after):
        return set()
    found: set[str] = set()
    for key in keys:
        network = after.network(key)
        if network is not None:
            found.update(network_key(network.platform, name) for name in network.depends_on)
    return found


def _by_client(snapshot: Snapshot) -> bool:
    return snapshot.inventory is not None and snapshot.inventory.fabric.one_table


def _clients(after: Snapshot, network: Network) -> list[str]:
    """Prefixes of those who may connect: each node of the networks that depend on this one, and parts of borders."""
    assert after.inventory is not None
    sources = [*after.dependents(network.key), *([network.key] if network.peers else [])]
    nodes = [f"{node.address}/32" for key in sources for node in after.nodes_of(key, ADMITTED, DRAINING)]
    borders = [after.inventory.fabric.borders[name] for name in network.exposed_to]
    return nodes + [part for border in borders for part in slots.parts(border.prefix)]
