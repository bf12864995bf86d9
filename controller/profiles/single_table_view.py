# SPDX-License-Identifier: AGPL-3.0-or-later
"""What single-table switches need to know of an intent: who sends where, and by which prefixes others are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from controller.fabric import Binding, Border, Intent, Inventory, Network, Phase
from controller.families import Address, Family, Prefix
from controller.flows import VLAN_PRESENT, Action, Output, OutputInPort, SetField
from controller.profiles.prefixes import Block, covers
from controller.profiles.single_table_layers import OF_BORDERS, OF_NETWORKS, Layers
from controller.profiles.single_table_ways import SINGLE_TABLE_PROFILES, Homes, Way, Ways

Terms = dict[str, int | tuple[int, int]]


@dataclass(frozen=True)
class FabricView:
    """What is the same for every switch."""

    intent: Intent
    inventory: Inventory
    ways: Ways
    families: tuple[Family, ...]
    icmp_errors: bool
    _blocks: dict[tuple[str, Family, bool], tuple[Block[Homes | None], ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def served(self) -> Mapping[str, tuple[Binding, ...]]:
        """The nodes of each network that others may reach."""
        return self._by_network(lambda binding: binding.phase.serves)

    @cached_property
    def answered(self) -> Mapping[str, tuple[Binding, ...]]:
        """The same with the dark nodes that some switch delivers to: they get answers, and nothing else."""
        return self._by_network(lambda binding: binding.phase.serves or self._is_answered(binding))

    def _by_network(self, wanted: Callable[[Binding], bool]) -> Mapping[str, tuple[Binding, ...]]:
        found: dict[str, list[Binding]] = {key: [] for key in self.intent.networks}
        for binding in self.intent.bindings.values():
            if wanted(binding):
                found[binding.network].append(binding)
        return {key: tuple(nodes) for key, nodes in found.items()}

    @cached_property
    def served_at(self) -> Mapping[str, Mapping[str, tuple[Binding, ...]]]:
        """The nodes of each network that are served at each switch, by the name of the switch."""
        found: dict[str, dict[str, list[Binding]]] = {}
        for key, nodes in self.served.items():
            for node in nodes:
                for home in self.inventory.hosts[node.host].homes:
                    found.setdefault(home, {}).setdefault(key, []).append(node)
        return {switch: {key: tuple(nodes) for key, nodes in networks.items()} for switch, networks in found.items()}

    def _is_answered(self, binding: Binding) -> bool:
        homes = self.inventory.hosts[binding.host].homes
        profiles = {self.inventory.switches[home].profile for home in homes}
        return binding.phase is Phase.DARK and not profiles <= SINGLE_TABLE_PROFILES

    def homes(self, binding: Binding) -> Homes:
        """Return the homes of a node's host."""
        return self.ways.homes(self.inventory.hosts[binding.host])

    def blocks(self, network: Network, family: Family, *, answering: bool = True) -> tuple[Block[Homes | None], ...]:
        """Return the blocks of addresses of a network that have the same homes.

        They are the same on every switch, so that an address that nobody has goes astray nowhere.  Unless
        ``answering``, what belongs to dark nodes is labelled None.
        """
        key = (network.key, family, answering)
        if key not in self._blocks:
            self._blocks[key] = tuple(self._partition(network, family, answering))
        return self._blocks[key]

    def _partition(self, network: Network, family: Family, answering: bool) -> Iterator[Block[Homes | None]]:
        prefix = network.prefix_of(family)
        nodes = self.answered[network.key]
        if prefix is None:
            return
        labels: list[Block[Homes | None]] = [
            Block(int(address), prefix.max_prefixlen, self.homes(node) if answering or node.phase.serves else _BARRED)
            for node in nodes
            if (address := node.address_of(family)) is not None
        ]
        for block in covers(labels, prefix):
            yield Block(block.value, block.length, None if block.label is _BARRED else block.label)


#: Stands for what must not be covered; no switch has such a name.
_BARRED = Homes(("-",), ())


@dataclass(frozen=True, slots=True)
class Target:
    """Where packets for a block of addresses go: the port, and what is done with those that came in at another one.

    ``node``: it is delivered here.
    """

    value: int
    length: int
    actions: tuple[Action, ...]
    port: int
    node: str | None = None

    @classmethod
    def of(cls, value: int, length: int, sets: tuple[Action, ...], port: int, node: str | None = None) -> Target:
        """Set what is to be set, and send."""
        return cls(value, length, (*sets, Output(port)), port, node)

    def term(self, family: Family) -> tuple[int, int]:
        """Return value and mask of the destination."""
        return Block(self.value, self.length, None).term(family.bits)

    def back(self) -> tuple[Action, ...]:
        """Return the actions where it came in at this port."""
        return (*self.actions[:-1], OutputInPort())


@dataclass(frozen=True, slots=True)
class Source:
    """Who sends into a switch: ``bases`` are how its frames look, without the address, one for each way in.

    ``entering`` are the ports of hosts by which they come, with the nodes behind each.
    """

    key: str
    bases: tuple[Terms, ...]
    prefix: Prefix
    layers: Layers
    entering: Mapping[int, frozenset[str]]


@dataclass(frozen=True)
class SwitchView:
    """One switch, ``name``; ``reflects``: it can send back out of the ingress port."""

    fabric: FabricView
    name: str
    reflects: bool
    _targets: dict[tuple[str, Family, bool], tuple[Target, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def here(self) -> Mapping[str, tuple[tuple[Binding, int], ...]]:
        """The nodes of each network that are delivered here, with the port."""
        found: dict[str, list[tuple[Binding, int]]] = {}
        for key, nodes in self._served.items():
            for node in nodes:
                port = self.fabric.ways.port(self.name, self.fabric.inventory.hosts[node.host])
                if port is not None:
                    found.setdefault(key, []).append((node, port))
        return {key: tuple(nodes) for key, nodes in found.items()}

    @cached_property
    def entering(self) -> Mapping[str, Mapping[int, frozenset[str]]]:
        """The ports here by which each network sends, with its nodes there."""
        found: dict[str, dict[int, set[str]]] = {key: {} for key in self._served}
        for key, nodes in self._served.items():
            for node in nodes:
                for port in self.fabric.inventory.hosts[node.host].ports:
                    if port.switch == self.name:
                        found[key].setdefault(port.number, set()).add(node.node)
        return {key: {number: frozenset(nodes) for number, nodes in ports.items()} for key, ports in found.items()}

    @property
    def _served(self) -> Mapping[str, tuple[Binding, ...]]:
        return self.fabric.served_at.get(self.name, {})

    def of_network(self, network: Network, family: Family) -> Source | None:
        """Return a network as a source, None where it does not send into this switch."""
        prefix, entering = network.prefix_of(family), self.entering.get(network.key)
        if prefix is None or entering is None or network.vlan is None:
            return None
        base: Terms = {"vlan_vid": VLAN_PRESENT | network.vlan, "eth_type": family.eth_type}
        return Source(network.key, (base,), prefix, OF_NETWORKS, entering)

    def of_border(self, border: Border, family: Family) -> Source | None:
        """Return a border as a source, None where it has no port here."""
        prefix = border.prefix_of(family)
        ports = [port.number for port in border.ports if port.switch == self.name]
        if prefix is None or not ports or border.vlan is None:
            return None
        frame: Terms = {"vlan_vid": VLAN_PRESENT | border.vlan, "eth_dst": self.fabric.inventory.mac}
        bases = tuple(frame | {"in_port": port, "eth_type": family.eth_type} for port in ports)
        return Source(border.name, bases, prefix, OF_BORDERS, {})

    def to_node(self, node: Binding, port: int, family: Family) -> Target | None:
        """Return how a node is delivered here, None where it has no address of the family."""
        address = node.address_of(family)
        if address is None:
            return None
        return Target.of(
            int(address), address.max_prefixlen, self._rewrite(self._vlan(node), node.mac), port, node.node
        )

    def to_network(self, network: Network, family: Family, *, answering: bool = False) -> tuple[Target, ...]:
        """Return how all of a network is reached; with ``answering`` also what only gets answers."""
        key = (network.key, family, answering)
        if key not in self._targets:
            here = (self.to_node(node, port, family) for node, port in self.here.get(network.key, ()))
            covered = self._covered(network, family, answering)
            self._targets[key] = (*(target for target in here if target is not None), *covered)
        return self._targets[key]

    def _covered(self, network: Network, family: Family, answering: bool) -> Iterator[Target]:
        """Yield the prefixes that go to trunks.  What is delivered here does not count: its own entries win."""
        prefix = network.prefix_of(family)
        if prefix is None:
            return
        labelled: list[Block[Way | None]] = []
        for block in self.fabric.blocks(network, family, answering=answering):
            if block.label is None:
                labelled.append(Block(block.value, block.length, None))
            elif self.name not in block.label.up and (way := self.fabric.ways.onward(self.name, block.label)):
                labelled.append(Block(block.value, block.length, way))
        for cover in covers(labelled, prefix):
            yield Target.of(cover.value, cover.length, self.into(cover.label), cover.label.trunk)

    def to_border(self, border: Border, family: Family) -> Target | None:
        """Return how a border is reached, None where it is not."""
        prefix = border.prefix_of(family)
        if prefix is None:
            return None
        value, ways = int(prefix.network_address), self.fabric.ways
        if (port := ways.port(self.name, border)) is not None and border.vlan is not None:
            return Target.of(value, prefix.prefixlen, self._rewrite(border.vlan, border.peer_mac), port)
        way = ways.onward(self.name, ways.homes(border))
        return None if way is None else Target.of(value, prefix.prefixlen, self.into(way), way.trunk)

    def to_member(self, node: Binding, address: Address) -> Target | None:
        """Return how a node is reached under the address of its service, None where it is not."""
        value, length, ways = int(address), address.max_prefixlen, self.fabric.ways
        host = self.fabric.inventory.hosts[node.host]
        if (port := ways.port(self.name, host)) is not None:
            return Target.of(value, length, self._rewrite(self._vlan(node), node.mac), port, node.node)
        way = ways.onward(self.name, ways.homes(host))
        if way is None:
            return None
        return Target.of(value, length, (*self.into(way), SetField("eth_dst", node.mac)), way.trunk)

    def into(self, way: Way) -> tuple[Action, ...]:
        """Return what is set on the way into a trunk."""
        transit = VLAN_PRESENT | self.fabric.inventory.transit_vlan
        return (SetField("vlan_vid", transit), SetField("eth_src", way.source))

    def _rewrite(self, vlan: int, mac: int) -> tuple[Action, ...]:
        fabric_mac = self.fabric.inventory.mac
        return (
            SetField("vlan_vid", VLAN_PRESENT | vlan),
            SetField("eth_src", fabric_mac),
            SetField("eth_dst", mac),
        )

    def _vlan(self, node: Binding) -> int:
        vlan = self.fabric.intent.networks[node.network].vlan
        assert vlan is not None  # its host is attached with tags
        return vlan
