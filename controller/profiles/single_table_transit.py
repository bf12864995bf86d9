# SPDX-License-Identifier: AGPL-3.0-or-later
"""The entries of the single-table pipeline besides policy: fences, frames from trunks, counters of what is dropped.

A frame from a trunk was let in by another switch: it is delivered, or goes on where the rest of the way is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controller.fabric import Binding, Station
from controller.families import Family
from controller.flows import (
    ETH_LLDP,
    VLAN_PRESENT,
    Action,
    FlowEntry,
    Kind,
    Output,
    SetField,
    ToController,
    crc_owner,
    make_cookie,
    match,
)
from controller.profiles.single_table_layers import (
    DENIED,
    FENCE,
    FENCE_BEYOND_HOSTS,
    LLDP,
    STRAY,
    TRANSIT,
    TRANSIT_SERVICE,
)
from controller.profiles.single_table_view import SwitchView, Target, Terms
from controller.profiles.single_table_ways import Way

LLDP_MULTICAST = 0x0180C200000E  # IEEE 802.1AB, nearest bridge
UNTAGGED = (0, 0x1FFF)


@dataclass(frozen=True)
class Surroundings:
    """What stands around the policies of one switch."""

    view: SwitchView

    def __iter__(self) -> Iterator[FlowEntry]:
        trunks = self.view.fabric.ways.trunks(self.view.name)
        yield from self._ports(trunks)
        yield from self._networks()
        if trunks:
            yield from self._delivered()
        if len(trunks) > 1:
            yield from self._onward()

    @property
    def _transit(self) -> int:
        return VLAN_PRESENT | self.view.fabric.inventory.transit_vlan

    def _cookie(self, kind: Kind, owner: int, document: str = "inventory") -> int:
        return make_cookie(kind, owner, self.view.fabric.intent.generations.get(document, 0))

    # Ports and VLANs

    def _ports(self, trunks: tuple[int, ...]) -> Iterator[FlowEntry]:
        inventory = self.view.fabric.inventory
        for name, host in inventory.hosts.items():
            cookie = self._cookie(Kind.HOST, crc_owner(name))
            for port in self._ports_here(host):
                yield from self._fences(port, self._strange_vlans(port, bool(trunks)), cookie)
                yield FlowEntry(0, STRAY, match(in_port=port), (), cookie)
        for name, border in inventory.borders.items():
            cookie = self._cookie(Kind.BORDER, crc_owner(name))
            for port in self._ports_here(border):
                yield from self._fences(port, [self._transit] if trunks else [], cookie)
                yield FlowEntry(0, FENCE_BEYOND_HOSTS, match(in_port=port), (), cookie)
        base = self._cookie(Kind.BASE, 0)
        for port in trunks:
            yield FlowEntry(0, FENCE_BEYOND_HOSTS, match(in_port=port), (), base)
        for port in inventory.ports(self.view.name):
            lldp = match(in_port=port, vlan_vid=UNTAGGED, eth_dst=LLDP_MULTICAST, eth_type=ETH_LLDP)
            yield FlowEntry(0, LLDP, lldp, (ToController(),), base)

    def _ports_here(self, station: Station) -> Iterator[int]:
        return (port.number for port in station.ports if port.switch == self.view.name)

    def _strange_vlans(self, port: int, has_trunks: bool) -> Iterator[int]:
        """Yield the VLANs that are in use on this switch, but not by anybody behind a port of a host."""
        if has_trunks:
            yield self._transit
        for key, entering in self.view.entering.items():
            if port not in entering:
                yield VLAN_PRESENT | self._vlan(key)

    def _fences(self, port: int, vlans: Iterable[int], cookie: int) -> Iterator[FlowEntry]:
        return (FlowEntry(0, FENCE, match(in_port=port, vlan_vid=vlan), (), cookie) for vlan in vlans)

    def _vlan(self, network: str) -> int:
        vlan = self.view.fabric.intent.networks[network].vlan
        assert vlan is not None  # its nodes are attached with tags
        return vlan

    def _networks(self) -> Iterator[FlowEntry]:
        """Count what no policy lets a network send."""
        for key in self.view.entering:
            network = self.view.fabric.intent.networks[key]
            cookie = self._cookie(Kind.NETWORK, network.number, f"network/{key}")
            yield FlowEntry(0, DENIED, match(vlan_vid=VLAN_PRESENT | self._vlan(key)), (), cookie)

    # Frames from trunks

    def _from_trunk(self, priority: int, terms: Terms, actions: tuple[Action, ...], cookie: int) -> FlowEntry:
        return FlowEntry(0, priority, match(**terms, vlan_vid=self._transit), actions, cookie)

    def _there(self, family: Family, target: Target) -> Terms:
        return {"eth_type": family.eth_type, family.target: target.term(family)}

    def _delivered(self) -> Iterator[FlowEntry]:
        fabric = self.view.fabric
        for key, nodes in self.view.here.items():
            for node, port in nodes:
                yield from self._node(node, port)
                yield from self._member(key, node, here=True)
        for name, border in fabric.inventory.borders.items():
            if fabric.ways.port(self.view.name, border) is None:
                continue
            for family in fabric.families:
                if (target := self.view.to_border(border, family)) is not None:
                    cookie = self._cookie(Kind.BORDER, crc_owner(name))
                    terms = self._there(family, target)
                    yield self._from_trunk(TRANSIT + target.length, terms, target.actions, cookie)

    def _node(self, node: Binding, port: int) -> Iterator[FlowEntry]:
        cookie = self._cookie(Kind.BINDING, int(node.address), f"binding/{node.node}")
        for family in self.view.fabric.families:
            if (target := self.view.to_node(node, port, family)) is not None:
                terms = self._there(family, target)
                yield self._from_trunk(TRANSIT + target.length, terms, target.actions, cookie)

    def _member(self, network: str, node: Binding, *, here: bool) -> Iterator[FlowEntry]:
        """Yield how a member gets what is for its service: the switch where it came in has named it by its MAC.

        Where all switches have a single table only pins name members.
        """
        fabric = self.view.fabric
        service = fabric.intent.services.get(network)
        if service is None or (fabric.ways.plain and node.node not in service.pins.values()):
            return
        cookie = self._cookie(Kind.SERVICE, crc_owner(service.key), service.key)
        for family in fabric.families:
            address = service.address_of(family)
            target = None if address is None else self.view.to_member(node, address)
            if target is not None:
                terms = self._there(family, target) | {"eth_dst": node.mac}
                if here:
                    yield self._from_trunk(TRANSIT_SERVICE, terms, target.actions, cookie)
                else:
                    way = fabric.ways.onward(self.view.name, fabric.homes(node))
                    assert way is not None  # there is a target
                    yield self._passed_on(TRANSIT_SERVICE, terms, way, cookie)

    def _onward(self) -> Iterator[FlowEntry]:
        fabric = self.view.fabric
        for family in fabric.families:
            for key, network in fabric.intent.networks.items():
                cookie = self._cookie(Kind.NETWORK, network.number, f"network/{key}")
                for block in fabric.blocks(network, family):
                    if block.label is None or self.view.name in block.label.up:
                        continue
                    if (way := fabric.ways.onward(self.view.name, block.label)) is not None:
                        terms: Terms = {"eth_type": family.eth_type, family.target: block.term(family.bits)}
                        yield self._passed_on(TRANSIT + block.length, terms, way, cookie)
            yield from self._onward_to_borders(family)
        for key in fabric.intent.services:
            for node in fabric.served[key]:
                if self.view.name not in fabric.homes(node).up:
                    yield from self._member(key, node, here=False)

    def _onward_to_borders(self, family: Family) -> Iterator[FlowEntry]:
        fabric = self.view.fabric
        for name, border in fabric.inventory.borders.items():
            homes = fabric.ways.homes(border)
            target = None if self.view.name in homes.up else self.view.to_border(border, family)
            way = None if target is None else fabric.ways.onward(self.view.name, homes)
            if target is not None and way is not None:
                cookie = self._cookie(Kind.BORDER, crc_owner(name))
                yield self._passed_on(TRANSIT + target.length, self._there(family, target), way, cookie)

    def _passed_on(self, priority: int, terms: Terms, way: Way, cookie: int) -> FlowEntry:
        """Send a frame into the next trunk.

        Where others share the fabric only frames of walk 1 go on: a third walk could make a loop.
        """
        fabric = self.view.fabric
        actions: tuple[Action, ...] = (Output(way.trunk),)
        if not fabric.ways.plain:
            terms = terms | {"eth_src": fabric.inventory.mac}
            if way.source != fabric.inventory.mac:
                actions = (SetField("eth_src", way.source), *actions)
        return self._from_trunk(priority, terms, actions, cookie)
