# SPDX-License-Identifier: AGPL-3.0-or-later
"""The immutable picture of everything that a plan is made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

from odyssey.model.inventory import Inventory
from odyssey.model.maintenance import Maintenance
from odyssey.model.platform import Network, Platform
from odyssey.model.state import ADMITTED, DRAINING, STANDBY, NetworkState, NodeState

Documents = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State as of `index`, what open transactions hold, and what the hosts reported.

    `reserved` names objects that open transactions hold (``node/shop-app-3``, ``address/172.16.20.3``); `pending` are
    the nodes among them, which take room on their hosts, and `coming` the platforms. `images` maps host and image
    reference to image id, and `present` names the participants that are connected. `maintenance` are the switches that
    are out of use, and `switches` those that the controller said are connected (only asked where a plan depends on it).
    """

    index: int
    inventory: Inventory | None
    platforms: Mapping[str, Platform]
    networks: Mapping[str, NetworkState]
    nodes: Mapping[str, NodeState]
    reserved: frozenset[str] = frozenset()
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    pending: Mapping[str, NodeState] = field(default_factory=dict)
    coming: Mapping[str, Platform] = field(default_factory=dict)
    maintenance: Mapping[str, Maintenance] = field(default_factory=dict)
    switches: frozenset[str] = frozenset()
    _by_network: dict[str, list[NodeState]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for node in sorted(self.nodes.values(), key=lambda item: item.ordinal):
            self._by_network.setdefault(node.key, []).append(node)

    @classmethod
    def from_documents(
        cls,
        index: int,
        documents: Documents,
        *,
        reserved: frozenset[str] = frozenset(),
        images: Mapping[str, Mapping[str, str]] | None = None,
        present: frozenset[str] = frozenset(),
        pending: Documents | None = None,
        switches: frozenset[str] = frozenset(),
    ) -> Snapshot:
        """Parse state documents; keys of other kinds are ignored.

        `pending` are documents that open transactions would set; only its nodes and platforms are read.
        """
        empty = cls(index, None, {}, {}, {}, reserved, images or {}, present, switches=switches)
        after = empty.folded(pending or {})
        waiting = {name: node for name, node in after.nodes.items() if f"node/{name}" not in documents}
        return replace(empty.folded(documents), index=index, pending=waiting, coming=after.platforms)

    def folded(self, changes: Mapping[str, Mapping[str, Any] | None]) -> Snapshot:
        """What the snapshot is after a decision that sets these documents; None deletes. The index rises by one."""
        inventory = self.inventory
        platforms, networks, nodes = dict(self.platforms), dict(self.networks), dict(self.nodes)
        maintenance = dict(self.maintenance)
        for key, document in changes.items():
            kind, _, name = key.partition("/")
            match kind:
                case "inventory" if not name:
                    inventory = Inventory.parse(document) if document is not None else None
                case "platform":
                    _put(platforms, name, Platform.parse(document) if document is not None else None)
                case "network":
                    _put(networks, name, NetworkState.parse(name, document) if document is not None else None)
                case "node":
                    _put(nodes, name, NodeState.parse(document) if document is not None else None)
                case "maintenance":
                    _put(maintenance, name, Maintenance.parse(document) if document is not None else None)
                case _:
                    continue
        return replace(
            self, index=self.index + 1, inventory=inventory, platforms=platforms, networks=networks, nodes=nodes,
            maintenance=maintenance,
        )  # fmt: skip

    def documents(self) -> dict[str, Mapping[str, Any]]:
        """The state documents that this snapshot stands for."""
        documents: dict[str, Mapping[str, Any]] = {}
        if self.inventory is not None:
            documents["inventory"] = self.inventory.document
        documents |= {f"platform/{name}": platform.document for name, platform in self.platforms.items()}
        documents |= {f"network/{key}": network.document() for key, network in self.networks.items()}
        documents |= {f"node/{name}": node.document() for name, node in self.nodes.items()}
        documents |= {f"maintenance/{name}": item.document() for name, item in self.maintenance.items()}
        return documents

    def unused(self) -> dict[str, Maintenance]:
        """The switches that are out of use now."""
        return {name: item for name, item in self.maintenance.items() if not item.over}

    def network(self, key: str) -> Network | None:
        """The definition of the network ``shop/app``, or None."""
        return _network(self.platforms, key)

    def network_to_be(self, key: str) -> Network | None:
        """The definition of a network that is there, or else comes with an open transaction; or None."""
        return _network(self.platforms, key) or _network(self.coming, key)

    def nodes_of(self, key: str, *phases: str) -> tuple[NodeState, ...]:
        """Nodes of a network by ordinal, all of them or those in one of `phases`."""
        nodes = self._by_network.get(key, ())
        return tuple(node for node in nodes if not phases or node.phase in phases)

    def admitted(self, key: str) -> tuple[NodeState, ...]:
        """Admitted nodes of a network by ordinal."""
        return self.nodes_of(key, ADMITTED)

    def standby(self, key: str) -> tuple[NodeState, ...]:
        """Standby nodes of a network by ordinal."""
        return self.nodes_of(key, STANDBY)

    def draining(self, key: str) -> tuple[NodeState, ...]:
        """Draining nodes of a network by ordinal."""
        return self.nodes_of(key, DRAINING)

    def dependents(self, key: str) -> tuple[str, ...]:
        """Keys of the networks that depend on the network `key`, sorted."""
        platform, _, name = key.partition("/")
        found = self.platforms.get(platform)
        return tuple(f"{platform}/{other}" for other in found.dependents(name)) if found else ()

    def taken_names(self) -> frozenset[str]:
        """Node names that exist or that an open transaction holds."""
        held = {name.removeprefix("node/") for name in self.reserved if name.startswith("node/")}
        return frozenset(held.union(self.nodes, self.pending))

    def taken_addresses(self) -> frozenset[IPv4Address]:
        """Addresses that nodes have or that an open transaction holds."""
        held = {IPv4Address(name.removeprefix("address/")) for name in self.reserved if name.startswith("address/")}
        nodes = (*self.nodes.values(), *self.pending.values())
        return frozenset(held.union(node.address for node in nodes))

    def taken_network_ids(self) -> frozenset[int]:
        """Network ids that are in use or that an open transaction holds."""
        prefix = "network-id/"
        held = {int(name.removeprefix(prefix)) for name in self.reserved if name.startswith(prefix)}
        return frozenset(held.union(network.id for network in self.networks.values()))


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if value is None:
        table.pop(name, None)
    else:
        table[name] = value


def _network(platforms: Mapping[str, Platform], key: str) -> Network | None:
    platform, _, name = key.partition("/")
    found = platforms.get(platform)
    return found.networks.get(name) if found else None
