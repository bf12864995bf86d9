# SPDX-License-Identifier: AGPL-3.0-or-later
"""The service classes, System > Network > Node and System > Switch. Their methods return wishes and do nothing else.

Each method runs when its object and those above it have their properties, so it finds in `parent_object` what it lacks.
Registered by `esbconfig`; only microesb imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from microesb import microesb

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
)


class System(microesb.ClassHandler):
    """The cluster, or one platform in it."""

    platform: str
    document: Mapping[str, Any]

    def set_inventory(self) -> SetInventory:
        """setInventory: `document` becomes the inventory."""
        return SetInventory(self.document)

    def add_platform(self) -> ApplyPlatform:
        """addPlatform: the platform becomes what `document` says."""
        return ApplyPlatform(self.document)

    def remove_platform(self) -> RemovePlatform:
        """removePlatform."""
        return RemovePlatform(self.platform)


class Network(microesb.ClassHandler):
    """One network of the platform above it."""

    name: str
    document: Mapping[str, Any]
    count: int

    @property
    def platform(self) -> str:
        """Name of the platform."""
        return str(self.parent_object.platform)

    def add(self) -> AddNetwork:
        """addNetwork: the platform gets this network, as `document` says."""
        return AddNetwork(self.platform, self.name, self.document)

    def remove(self) -> RemoveNetwork:
        """removeNetwork."""
        return RemoveNetwork(self.platform, self.name)

    def scale(self) -> ScaleNetwork:
        """scaleNetwork: the network gets `count` admitted nodes."""
        return ScaleNetwork(self.platform, self.name, self.count)


class Node(microesb.ClassHandler):
    """Nodes of the network above it, by number or by name."""

    name: str | list[str] | None
    count: int | None
    weight: int

    def add(self) -> AddNodes:
        """addNode: `count` nodes more, or the one called `name`."""
        network = self.parent_object
        name = self.name[0] if isinstance(self.name, list) else self.name
        return AddNodes(network.platform, network.name, self.count, name)

    def remove(self) -> RemoveNodes:
        """removeNode: the `count` highest ordinals, or those called `name`."""
        network = self.parent_object
        names = [self.name] if isinstance(self.name, str) else self.name or []
        return RemoveNodes(network.platform, network.name, self.count, tuple(names))

    def weigh(self) -> WeighNode:
        """weighNode: the node called `name` gets the weight."""
        network = self.parent_object
        return WeighNode(network.platform, network.name, str(self.name), self.weight)


class Switch(microesb.ClassHandler):
    """A switch of the fabric."""

    name: str
    maintenance: bool
    force: bool | None

    def maintain(self) -> SetMaintenance:
        """setMaintenance: the switch is taken out of use, or back into it."""
        return SetMaintenance(self.name, self.maintenance, bool(self.force))
