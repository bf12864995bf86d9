# SPDX-License-Identifier: AGPL-3.0-or-later
"""Chooses a host and an address for each new node. One `Allocator` serves one phase of one plan.

Placing a node looks at each host once: O(hosts); giving an address looks at the blocks of the host.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from odyssey.model.faults import fault, network_path
from odyssey.model.inventory import Host
from odyssey.model.ipam import AddressPool
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.planning.images import Image
from odyssey.planning.separation import Separation
from odyssey.planning.steps import PlanRefused
from schemas import Fault


@dataclass(slots=True)
class _Room:
    """What is in use on one host."""

    host: Host
    millicpus: int = 0
    memory: int = 0
    nodes: int = 0
    networks: Counter[str] = field(default_factory=Counter)

    def take(self, key: str, network: Network | None) -> None:
        self.nodes += 1
        self.networks[key] += 1
        if network is not None:
            self.millicpus += network.resources.millicpus
            self.memory += network.resources.memory

    def lacks(self, network: Network) -> str | None:
        """Why a node does not fit here, with numbers; None if it fits."""
        cpus, memory = self.host.capacity.millicpus - self.millicpus, self.host.capacity.memory - self.memory
        if self.nodes >= self.host.nodes:
            return f"holds {self.nodes} of {self.host.nodes} nodes"
        if cpus < network.resources.millicpus:
            return f"{cpus / 1000:g} of {self.host.capacity.cpus:g} cpus free"
        if memory < network.resources.memory:
            return f"{memory} of {self.host.capacity.memory} MiB free"
        return None

    def used(self) -> float:
        """The larger used share of CPUs and memory, 0 to 1."""
        return max(self.millicpus / self.host.capacity.millicpus, self.memory / self.host.capacity.memory)


class Allocator:
    """Hosts and addresses as they fill up while a plan is made."""

    def __init__(self, snapshot: Snapshot) -> None:
        assert snapshot.inventory is not None
        self._snapshot = snapshot
        self._separation = Separation(snapshot)
        self._taken = set(snapshot.taken_addresses())
        self._pools: dict[str, AddressPool] = {}
        self._rooms = {name: _Room(host) for name, host in sorted(snapshot.inventory.hosts.items())}
        self._nodes: dict[str, dict[IPv4Address, str]] = {}
        for node in (*snapshot.nodes.values(), *snapshot.pending.values()):
            self._nodes.setdefault(node.key, {})[node.address] = node.host
            if node.host in self._rooms:
                self._rooms[node.host].take(node.key, snapshot.network_to_be(node.key))

    def place(self, network: Network, node: str, image: Image, home: str | None) -> tuple[str, IPv4Address]:
        """The host and the address of a new node. Raises PlanRefused with the numbers of each host.

        A stateful node with a `home` goes there or nowhere: its volume is there.
        """
        reasons: dict[str, str] = {}
        best: tuple[tuple[bool, bool, int, int, float, str], _Room] | None = None
        for name, room in self._rooms.items():
            reason = self._objection(room, network, image, home)
            if reason is not None:
                reasons[name] = reason
                continue
            foreign = self._separation.foreign(name, network)
            rank = (name not in image.holders, foreign, room.networks[network.key], room.nodes, room.used(), name)
            if best is None or rank < best[0]:
                best = (rank, room)
        if best is None:
            raise PlanRefused(_no_host(network, node, reasons))
        room = best[1]
        address = self._pool(network).allot(room.host.name)
        if address is None:
            expected = f"a free address for {node}; all are in use or held by open transactions"
            raise PlanRefused(fault(network_path(network.name, "subnet"), str(network.subnet), expected))
        room.take(network.key, network)
        return room.host.name, address

    def _objection(self, room: _Room, network: Network, image: Image, home: str | None) -> str | None:
        name = room.host.name
        if home is not None and name != home:
            return f"the node's volume is on {home}"
        if name not in self._snapshot.present:
            return "not connected"
        if not room.host.matches(network.labels):
            return "labels do not match"
        if not image.runs_on(name):
            return f"does not have image {image.reference}"
        return room.lacks(network) or self._separation.objection(name, network, room.networks)

    def _pool(self, network: Network) -> AddressPool:
        if network.key not in self._pools:
            used: dict[IPv4Address, str] = self._nodes.get(network.key, {})
            held = sorted(address for address in self._taken.difference(used) if address in network.subnet)
            self._pools[network.key] = AddressPool(network.subnet, used, held, network.reserved)
        return self._pools[network.key]


def _no_host(network: Network, node: str, reasons: dict[str, str]) -> Fault:
    need = f"{network.resources.cpus:g} cpus and {network.resources.memory} MiB for {node}"
    expected = "a host with room; " + "; ".join(f"{host}: {reason}" for host, reason in reasons.items())
    return fault(network_path(network.name, "resources"), need, expected)
