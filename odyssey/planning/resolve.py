# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes an absolute goal of a wish: "two more" becomes names, "remove it" becomes what is left."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from odyssey.model.faults import fault
from odyssey.model.naming import network_key, node_ordinal
from odyssey.model.platform import Network, Platform
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import ADMITTED, STANDBY
from odyssey.planning.goal import (
    ApplyGoal,
    EnsureAbsent,
    EnsureNodes,
    Goal,
    InventoryGoal,
    MaintenanceGoal,
    RemovePlatformGoal,
    ScaleGoal,
    WeighGoal,
)
from odyssey.planning.steps import PlanRefused
from odyssey.planning.targets import fresh, names_of, ready
from odyssey.services.wish import (
    AddNetwork,
    AddNodes,
    ApplyPlatform,
    RemoveNetwork,
    RemoveNodes,
    RemovePlatform,
    ScaleNetwork,
    SetInventory,
    SetMaintenance,
    WeighNode,
    Wish,
)

_SYSTEM = "$.data[0].System"
_NETWORK = f"{_SYSTEM}.Network"
_NODE = f"{_NETWORK}.Node"


def resolve(wish: Wish, snapshot: Snapshot) -> Goal:
    """Return the goal of `wish` in the state of `snapshot`. Raises PlanRefused with every fault."""
    match wish:
        case SetInventory(document):
            return InventoryGoal(document)
        case ApplyPlatform(document):
            return _apply(document, snapshot, follow=frozenset(document["networks"]))
        case RemovePlatform(platform):
            _platform(platform, snapshot)
            return RemovePlatformGoal(platform)
        case AddNetwork():
            return _add_network(wish, snapshot)
        case RemoveNetwork():
            return _remove_network(wish, snapshot)
        case AddNodes():
            return _add_nodes(wish, snapshot)
        case RemoveNodes():
            return _remove_nodes(wish, snapshot)
        case ScaleNetwork(platform, name, count):
            network = _network(platform, name, snapshot)
            _in_scale(network, count, count, f"{_NETWORK}.count")
            return ScaleGoal(platform, name, count)
        case WeighNode():
            return _weigh(wish, snapshot)
        case SetMaintenance(switch, on, force):
            return MaintenanceGoal(switch, on, force)
    raise TypeError(f"there is no goal for a wish of type {type(wish).__name__}")


def _apply(document: Mapping[str, Any], snapshot: Snapshot, follow: frozenset[str]) -> ApplyGoal:
    """Networks in `follow` get the count of the document; others, and those without one, keep theirs if allowed."""
    platform = Platform.parse(document)
    counts = {}
    for name, network in platform.networks.items():
        state = snapshot.networks.get(network.key)
        current = network.scale.min if state is None else network.scale.clamp(state.count)
        wanted = network.scale.count if name in follow else None
        counts[name] = current if wanted is None else wanted
    return ApplyGoal(document, counts)


def _add_network(wish: AddNetwork, snapshot: Snapshot) -> ApplyGoal:
    platform = _platform(wish.platform, snapshot)
    if wish.name in platform.networks and platform.document["networks"][wish.name] != wish.document:
        expected = "a name that the platform does not have; platform apply changes networks that exist"
        raise PlanRefused(fault(f"{_NETWORK}.name", wish.name, expected))
    document = deepcopy(dict(platform.document))
    document["networks"][wish.name] = deepcopy(dict(wish.document))
    return _apply(document, snapshot, follow=frozenset({wish.name}))


def _remove_network(wish: RemoveNetwork, snapshot: Snapshot) -> ApplyGoal:
    platform = _platform(wish.platform, snapshot)
    _network(wish.platform, wish.name, snapshot)
    path = f"{_NETWORK}.name"
    if users := platform.dependents(wish.name):
        others = [name for name in users if name != wish.name]
        raise PlanRefused(fault(path, wish.name, f"a network that none depends on; {', '.join(others)} depends on it"))
    if len(platform.networks) == 1:
        raise PlanRefused(fault(path, wish.name, "not the last network; platform rm removes the platform"))
    document = deepcopy(dict(platform.document))
    del document["networks"][wish.name]
    return _apply(document, snapshot, follow=frozenset())


def _add_nodes(wish: AddNodes, snapshot: Snapshot) -> EnsureNodes:
    network = _network(wish.platform, wish.network, snapshot)
    if wish.name is not None:
        _node_name(network, wish.name, f"{_NODE}.name")
        names: tuple[str, ...] = (wish.name,)
    else:
        count = wish.count or 1
        standby = tuple(node.name for node in ready(snapshot, network)[:count])
        names = (*standby, *names_of(network, fresh(snapshot, network, count - len(standby))))
    admitted = {node.name for node in snapshot.admitted(network.key)}
    _in_scale(network, len(admitted.union(names)), wish.count or 1, f"{_NODE}.count")
    return EnsureNodes(wish.platform, wish.network, names)


def _remove_nodes(wish: RemoveNodes, snapshot: Snapshot) -> EnsureAbsent:
    network = _network(wish.platform, wish.network, snapshot)
    admitted = [node.name for node in snapshot.admitted(network.key)]
    if not wish.names:
        count = wish.count or 1
        _in_scale(network, len(admitted) - count, count, f"{_NODE}.count")
        return EnsureAbsent(wish.platform, wish.network, tuple(admitted[-count:]))
    standby = {node.name for node in snapshot.standby(network.key)}
    for name in wish.names:
        _node_name(network, name, f"{_NODE}.name")
        if name in standby:
            expected = "an admitted node; this one is standby, and lowering scale.standby removes standby nodes"
            raise PlanRefused(fault(f"{_NODE}.name", name, expected))
        if name not in snapshot.nodes:
            expected = f"a node of {network.key}: {', '.join(admitted) or 'there is none'}"
            raise PlanRefused(fault(f"{_NODE}.name", name, expected))
    left = len(set(admitted) - set(wish.names))
    if left < len(admitted):
        _in_scale(network, left, len(wish.names), f"{_NODE}.name")
    return EnsureAbsent(wish.platform, wish.network, wish.names)


def _weigh(wish: WeighNode, snapshot: Snapshot) -> WeighGoal:
    network = _network(wish.platform, wish.network, snapshot)
    if network.service is None:
        expected = "a network with a service address: without one the switches balance nothing"
        raise PlanRefused(fault(f"{_NETWORK}.name", wish.network, expected))
    node = snapshot.nodes.get(wish.name)
    known = [item.name for item in snapshot.nodes_of(network.key, ADMITTED, STANDBY)]
    if node is None or node.name not in known:
        expected = f"a node of {network.key} that is admitted or standby: {', '.join(known) or 'there is none'}"
        raise PlanRefused(fault(f"{_NODE}.name", wish.name, expected))
    return WeighGoal(wish.platform, wish.network, wish.name, wish.weight)


def _platform(name: str, snapshot: Snapshot) -> Platform:
    if name not in snapshot.platforms:
        known = ", ".join(sorted(snapshot.platforms)) or "there is none"
        raise PlanRefused(fault(f"{_SYSTEM}.platform", name, f"a platform that exists: {known}"))
    return snapshot.platforms[name]


def _network(platform: str, name: str, snapshot: Snapshot) -> Network:
    networks = _platform(platform, snapshot).networks
    if name not in networks or network_key(platform, name) not in snapshot.networks:
        known = ", ".join(networks) or "there is none"
        raise PlanRefused(fault(f"{_NETWORK}.name", name, f"a network of platform {platform}: {known}"))
    return networks[name]


def _node_name(network: Network, name: str, path: str) -> None:
    if node_ordinal(network.platform, network.name, name) is None:
        expected = f"{network.platform}-{network.name}-<number>, a name of this network's nodes"
        raise PlanRefused(fault(path, name, expected))


def _in_scale(network: Network, count: int, asked: int, path: str) -> None:
    scale = network.scale
    if not scale.min <= count <= scale.max:
        expected = f"{scale.min} to {scale.max} nodes in {network.key} (scale.min to scale.max), not {count}"
        raise PlanRefused(fault(path, asked, expected))
