# SPDX-License-Identifier: AGPL-3.0-or-later
"""The goal that leads back, for calls that want all or nothing."""

from __future__ import annotations

from odyssey.model.snapshot import Snapshot
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


def undo(goal: Goal, before: Snapshot) -> Goal | None:
    """The goal that restores what `goal` began to change from `before`; None where nothing can lead back.

    Nodes come back under their names, but as new containers; a drained node cannot be kept from retiring, and the first
    inventory of a cluster cannot be taken away.
    """
    match goal:
        case InventoryGoal():
            return InventoryGoal(before.inventory.document) if before.inventory is not None else None
        case ApplyGoal() | RemovePlatformGoal():
            return _platform(goal.platform, before)
        case ScaleGoal(platform, network):
            return ScaleGoal(platform, network, len(before.admitted(f"{platform}/{network}")))
        case EnsureNodes(platform, network, nodes):
            admitted = {node.name for node in before.admitted(f"{platform}/{network}")}
            return EnsureAbsent(platform, network, tuple(name for name in nodes if name not in admitted))
        case EnsureAbsent(platform, network, nodes):
            admitted = {node.name for node in before.admitted(f"{platform}/{network}")}
            return EnsureNodes(platform, network, tuple(name for name in nodes if name in admitted))
        case WeighGoal(platform, network, name):
            node = before.nodes.get(name)
            return WeighGoal(platform, network, name, node.weight) if node is not None else None
        case MaintenanceGoal(switch, on):
            return MaintenanceGoal(switch, not on) if (switch in before.unused()) is not on else None
    return None


def _platform(name: str, before: Snapshot) -> Goal:
    platform = before.platforms.get(name)
    if platform is None:
        return RemovePlatformGoal(name)
    counts = {network.name: len(before.admitted(network.key)) for network in platform.networks.values()}
    return ApplyGoal(platform.document, counts)
