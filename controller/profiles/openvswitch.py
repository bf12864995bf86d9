# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Open vSwitch profile: the pipeline of ``docs/fabric.md``, table by table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controller.fabric import Border, Intent, Inventory, Refusal, Station
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    VLAN_PRESENT,
    Action,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Kind,
    Match,
    Move,
    OutputInPort,
    PopVlan,
    SetField,
    TableSet,
    ToGroup,
    crc_owner,
    make_cookie,
    match,
)
from controller.profiles.base import Capabilities, SwitchProfile
from controller.profiles.openvswitch_nodes import TABLE_CLASSIFY, UNTAGGED, node_entries
from controller.profiles.openvswitch_policy import BORDER_BIT, TABLE_POLICY, policy_table
from controller.profiles.openvswitch_reach import TABLE_DELIVER, TABLE_FROM_TRUNK, Reach, reaches
from controller.topology import Topology, loop_faults

TABLE_ARP = 5

ARP_REQUEST, ARP_REPLY = 1, 2
MULTICAST_BIT = 1 << 40  # lowest bit of the first byte of a MAC address
MAX_PORT = 0xFEFF  # NXM_OF_IN_PORT has 16 bits and Open vSwitch keeps 0xff00 and above


class OpenVSwitchProfile(SwitchProfile):
    """Several tables, fast-failover groups, transit VLAN on trunks, atomic bundles."""

    @property
    def name(self) -> str:
        return "openvswitch"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(tables=254, groups=True, push_vlan=True, tcp_flags=True, atomic_bundle=True, reflects="yes")

    def faults(self, inventory: Inventory, switch: str) -> list[Refusal]:
        found = loop_faults(inventory)
        for station in (*inventory.hosts.values(), *inventory.borders.values()):
            numbers = [port.number for port in station.ports if port.switch == switch]
            if len(numbers) > 1:
                ports = " and ".join(map(str, numbers))
                reason = f"{station.name} has ports {ports} on it; this profile serves one port on each switch"
                found.append(Refusal(switch, reason))
            found += [
                Refusal(switch, f"port {number} of {station.name} is above {MAX_PORT}")
                for number in numbers
                if number > MAX_PORT
            ]
        return found

    def compile(self, intent: Intent, switch: str) -> TableSet:
        assert intent.inventory is not None
        topology = Topology.of(intent.inventory)
        found = reaches(intent.inventory, topology, switch)
        pipeline = _Pipeline(intent, intent.inventory, switch, topology, found)
        return TableSet.of(pipeline.entries(), pipeline.groups())


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """All entries of one switch."""

    intent: Intent
    inventory: Inventory
    switch: str
    topology: Topology
    reaches: Mapping[str, Reach]

    def entries(self) -> Iterator[FlowEntry]:
        yield from self._base()
        for host in self.inventory.hosts.values():
            yield from self._spoof_counter(host, Kind.HOST)
        for border in self.inventory.borders.values():
            yield from self._spoof_counter(border, Kind.BORDER)
            yield from self._border(border)
        yield from policy_table(self.intent, self.inventory)
        for node, binding in self.intent.bindings.items():
            generation = self.intent.generations.get(f"binding/{node}", 0)
            reach = self.reaches[f"host/{binding.host}"]
            yield from node_entries(binding, self.intent.networks[binding.network].number, generation, reach)

    def groups(self) -> Iterator[GroupEntry]:
        return (reach.group_entry() for reach in self.reaches.values() if reach.reachable)

    def _of_inventory(
        self, kind: Kind, owner: int, table: int, priority: int, what: Match, actions: tuple[Action, ...] = ()
    ) -> FlowEntry:
        cookie = make_cookie(kind, owner, self.intent.generations.get("inventory", 0))
        return FlowEntry(table, priority, what, actions, cookie)

    def _base(self) -> Iterator[FlowEntry]:
        tables = (TABLE_CLASSIFY, TABLE_ARP, TABLE_DELIVER, TABLE_FROM_TRUNK)
        for table in tables:
            yield self._of_inventory(Kind.BASE, 0, table, 0, match())
        yield self._of_inventory(Kind.BASE, 0, TABLE_CLASSIFY, 2, match(eth_dst=(MULTICAST_BIT, MULTICAST_BIT)))
        transit = VLAN_PRESENT | self.inventory.transit_vlan
        arrives = (PopVlan(), Goto(TABLE_FROM_TRUNK))
        for port in self.topology.trunks[self.switch]:
            yield self._of_inventory(Kind.BASE, 0, TABLE_CLASSIFY, 1, match(in_port=port))
            yield self._of_inventory(Kind.BASE, 0, TABLE_CLASSIFY, 400, match(in_port=port, vlan_vid=transit), arrives)

    def _spoof_counter(self, station: Station, kind: Kind) -> Iterator[FlowEntry]:
        port = station.port_on(self.switch)
        if port is not None:
            yield self._of_inventory(kind, crc_owner(station.name), TABLE_CLASSIFY, 1, match(in_port=port))

    def _border(self, border: Border) -> Iterator[FlowEntry]:
        prefix = (int(border.prefix.network_address), int(border.prefix.netmask))
        register = BORDER_BIT | border.number
        gateway = int(border.gateway)
        owner = crc_owner(border.name)

        def entry(table: int, priority: int, what: Match, *actions: Action) -> FlowEntry:
            return self._of_inventory(Kind.BORDER, owner, table, priority, what, actions)

        port = border.port_on(self.switch)
        if port is not None:
            enters = SetField("reg0", register)
            yield entry(
                TABLE_CLASSIFY,
                300,
                match(in_port=port, vlan_vid=UNTAGGED, eth_dst=self.inventory.mac, eth_type=ETH_IPV4, ipv4_src=prefix),
                enters,
                Goto(TABLE_POLICY),
            )
            asks = match(in_port=port, vlan_vid=UNTAGGED, eth_type=ETH_ARP, arp_spa=prefix)
            yield entry(TABLE_CLASSIFY, 300, asks, enters, Goto(TABLE_ARP))
            request = match(reg0=register, eth_type=ETH_ARP, arp_op=ARP_REQUEST, arp_tpa=gateway)
            yield entry(TABLE_ARP, 100, request, *self._arp_answer(gateway))
        reach = self.reaches[f"border/{border.name}"]
        if reach.reachable:
            yield entry(TABLE_DELIVER, 150, match(eth_type=ETH_IPV4, ipv4_dst=gateway))
            there = match(eth_type=ETH_IPV4, ipv4_dst=prefix)
            yield entry(TABLE_DELIVER, 100, there, *reach.rewrite(border.peer_mac), ClearInPort(), ToGroup(reach.group))
        for what, actions in reach.from_trunk(border.peer_mac, prefix):
            yield entry(TABLE_FROM_TRUNK, 100, what, *actions)

    def _arp_answer(self, gateway: int) -> tuple[Action, ...]:
        return (
            Move("eth_src", "eth_dst"),
            SetField("eth_src", self.inventory.mac),
            SetField("arp_op", ARP_REPLY),
            Move("arp_sha", "arp_tha"),
            Move("arp_spa", "arp_tpa"),
            SetField("arp_sha", self.inventory.mac),
            SetField("arp_spa", gateway),
            OutputInPort(),
        )
