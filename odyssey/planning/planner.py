# SPDX-License-Identifier: AGPL-3.0-or-later
"""The planner: one function for each kind of goal.

A plan of n nodes on h hosts in b batches costs O(n * h) for placement and O(b * (n + neighbours)) for snapshots and
neighbour files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from odyssey.model.faults import by_path, fault
from odyssey.model.inventory import Inventory
from odyssey.model.inventory_rules import inventory_faults
from odyssey.model.naming import network_document, network_key, platform_document
from odyssey.model.platform import Network, Platform
from odyssey.model.rules import change_faults, platform_faults
from odyssey.model.snapshot import Snapshot
from odyssey.planning.builder import Builder, store_node, told
from odyssey.planning.documents import intent
from odyssey.planning.goal import (
    ApplyGoal,
    EnsureAbsent,
    EnsureNodes,
    Goal,
    InventoryGoal,
    MaintenanceGoal,
    RemovePlatformGoal,
    ScaleGoal,
    Settle,
    WeighGoal,
)
from odyssey.planning.maintenance import follow, maintain
from odyssey.planning.netconf import device_faults
from odyssey.planning.nodes import TargetOf, grow, keep_standby, keys_of, network_tiers, retire, settle, shrink
from odyssey.planning.operations import ADD, RETIRE, RETURN, Draft
from odyssey.planning.reshape import between, store_platform
from odyssey.planning.steps import Plan, PlanOptions, PlanRefused
from odyssey.planning.targets import Target, to_count, with_nodes, without_nodes

ALL_PLATFORMS = "platforms"
"""Lock of whatever changes which platforms and networks there are: subnets, VLANs and ids are cluster-wide."""


def plan(snapshot: Snapshot, goal: Goal, options: PlanOptions | None = None) -> Plan:
    """Return the steps from `snapshot` to `goal`; none if it is reached. Raises PlanRefused with every fault."""
    builder = Builder(snapshot, options or PlanOptions())
    match goal:
        case InventoryGoal():
            return _inventory(builder, goal)
        case ApplyGoal():
            return _apply(builder, goal)
        case RemovePlatformGoal(platform):
            return _remove(builder, platform)
        case ScaleGoal(platform, name, count):
            network = _existing(snapshot, platform, name)
            return _resize(builder, network, lambda item: to_count(builder.now, item, count))
        case EnsureNodes(platform, name, nodes):
            network = _existing(snapshot, platform, name)
            return _resize(builder, network, lambda item: with_nodes(builder.now, item, nodes))
        case EnsureAbsent(platform, name, nodes):
            network = _existing(snapshot, platform, name)
            return _resize(builder, network, lambda item: without_nodes(builder.now, item, nodes))
        case WeighGoal(platform, name):
            return _weigh(builder, _existing(snapshot, platform, name), goal)
        case MaintenanceGoal():
            maintain(builder, goal)
            return builder.finish({"inventory"})
        case Settle(networks):
            return _settle(builder, networks)
    raise TypeError(f"there is no plan for a goal of type {type(goal).__name__}")


def _inventory(builder: Builder, goal: InventoryGoal) -> Plan:
    before = builder.now.inventory
    inventory = Inventory.parse(goal.document)
    if faults := inventory_faults(inventory, builder.now) + device_faults(inventory):
        raise PlanRefused(*faults)
    if before is None or before.document != goal.document:
        draft = Draft("set the inventory", RETURN)
        draft.change("inventory", goal.document)
        follow(builder, draft, inventory)
        after = builder.now.folded(draft.changes)
        draft.intend("admit", "inventory", inventory.for_controller(after.maintenance))
        builder.recount(draft, builder.now.networks)
        builder.serve(draft, "admit")
        draft.event("inventory.changed", cluster=inventory.cluster, hosts=sorted(inventory.hosts))
        builder.add(draft)
    return builder.finish({"inventory", ALL_PLATFORMS, *map(network_document, builder.now.networks)})


def _apply(builder: Builder, goal: ApplyGoal) -> Plan:
    wanted = Platform.parse(goal.document)
    if faults := platform_faults(wanted, builder.now) + change_faults(wanted, builder.now):
        raise PlanRefused(*faults)
    before = builder.now.platforms.get(wanted.name)
    builder.counts = {network_key(wanted.name, name): count for name, count in goal.counts.items()}
    locks = {ALL_PLATFORMS, platform_document(wanted.name), *map(network_document, keys_of(wanted))}
    if before is not None:
        locks.update(map(network_document, keys_of(before)))
        settle(builder, keys_of(before))
        _require_settled(builder, (net.key for name, net in before.networks.items() if name not in wanted.networks))
        builder.counts |= {key: 0 for key in keys_of(before) if key not in builder.counts}
    meanwhile = between(before, wanted)

    def target(network: Network) -> Target:
        return to_count(builder.now, network, builder.counts[network.key])

    leaving = [network for name, network in meanwhile.networks.items() if name not in wanted.networks]
    moves = any(not target(network).reached for network in meanwhile.networks.values())
    moves = moves or any(builder.now.standby(network.key) for network in leaving)
    store_platform(builder, meanwhile if moves else wanted)
    # The order follows the dependencies of both documents: those that go still bind nodes that run.
    tiers = network_tiers(meanwhile)
    grow(builder, [[network for network in tier if network not in leaving] for tier in tiers], target)
    retire(builder, [node for network in leaving for node in builder.now.standby(network.key)])
    shrink(builder, reversed(tiers), target)
    store_platform(builder, wanted, counts=True)
    keep_standby(builder, wanted.networks.values())
    return builder.finish(locks)


def _remove(builder: Builder, name: str) -> Plan:
    platform = builder.now.platforms.get(name)
    if platform is None:
        return builder.finish({ALL_PLATFORMS, platform_document(name)})
    keys = keys_of(platform)
    settle(builder, keys)
    _require_settled(builder, keys)
    builder.counts = dict.fromkeys(keys, 0)
    retire(builder, [node for key in keys for node in builder.now.standby(key)])
    groups = reversed(network_tiers(platform))
    shrink(builder, groups, lambda network: to_count(builder.now, network, 0))
    draft = Draft(f"remove platform {name}", RETIRE)
    draft.change(platform_document(name), None)
    for key in intent(platform, builder.now.networks):
        draft.intend("retire", key, None)
    for key in keys:
        draft.change(network_document(key), None)
        draft.hold(f"network-id/{builder.now.networks[key].id}")
    draft.event("platform.removed", platform=name)
    builder.add(draft)
    return builder.finish({ALL_PLATFORMS, platform_document(name), *map(network_document, keys)})


def _require_settled(builder: Builder, leaving: Iterable[str]) -> None:
    """See that networks can leave: a node that still drains on a host that is away would be left without its network.

    Raises PlanRefused, before anything is taken down.
    """
    faults = {}
    for key in leaving:
        for node in builder.now.draining(key):
            expected = f"the agent of {node.host} to be connected: {node.name} is still there"
            faults[node.host] = fault(f"$.hosts.{node.host}", "not connected", expected)
    if faults:
        raise PlanRefused(*by_path(faults.values()))


def _resize(builder: Builder, network: Network, target_of: TargetOf) -> Plan:
    """Change the nodes of one network."""
    users = builder.now.dependents(network.key)
    settle(builder, [network.key])
    count = target_of(network).count
    builder.counts = {network.key: count}
    groups: Sequence[Sequence[Network]] = [[network]]
    grow(builder, groups, target_of)
    shrink(builder, groups, target_of)
    if builder.now.networks[network.key].count != count:
        draft = Draft(f"set the count of {network.key}", ADD)
        builder.recount(draft, [network.key])
        builder.touch(draft, network.key)
        builder.add(draft)
    keep_standby(builder, [network])
    return builder.finish(map(network_document, (network.key, *users)))


def _weigh(builder: Builder, network: Network, goal: WeighGoal) -> Plan:
    """Change the weight of one node; established connections stay where they are."""
    node = builder.now.nodes.get(goal.node)
    if node is None or node.key != network.key:
        known = ", ".join(item.name for item in builder.now.nodes_of(network.key)) or "there is none"
        raise PlanRefused(fault("$.data[0].System.Network.Node.name", goal.node, f"a node of {network.key}: {known}"))
    if node.weight != goal.weight:
        draft = Draft(f"weigh {node.name} {goal.weight}", ADD)
        store_node(draft, replace(node, weight=goal.weight))
        builder.recount(draft, [network.key])
        builder.touch(draft, network.key)
        builder.serve(draft, "admit")
        draft.event("node.weighed", **told(node), weight=goal.weight)
        builder.add(draft)
    return builder.finish({network_document(network.key)})


def _settle(builder: Builder, networks: Iterable[str]) -> Plan:
    keys = sorted(set(networks).intersection(builder.now.networks) if networks else builder.now.networks)
    drained = [key for key in keys if any(map(builder.reachable, builder.now.draining(key)))]
    settle(builder, drained)
    return builder.finish(map(network_document, drained))


def _existing(snapshot: Snapshot, platform: str, name: str) -> Network:
    network = snapshot.network(network_key(platform, name))
    if network is None or network.key not in snapshot.networks:
        known = ", ".join(sorted(snapshot.networks)) or "there is none"
        raise PlanRefused(fault("$.data[0].System.Network.name", network_key(platform, name), f"a network: {known}"))
    return network
