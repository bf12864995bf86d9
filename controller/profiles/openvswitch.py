# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Open vSwitch profile: the pipeline of ``docs/fabric.md``, table by table."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from controller.fabric import Binding, Border, Intent, Inventory, Phase, Refusal, Station
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    OUR_TAG,
    PROTO_TCP,
    SYN_WITHOUT_ACK,
    VLAN_PRESENT,
    Action,
    Bucket,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Kind,
    Match,
    Move,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    SetField,
    TableSet,
    ToGroup,
    crc_owner,
    make_cookie,
    match,
)
from controller.profiles.base import Capabilities, SwitchProfile
from controller.profiles.openvswitch_policy import BORDER_BIT, DARK_BIT, RETURN_TRAFFIC, TABLE_POLICY, policy_table
from controller.topology import Topology, loop_faults

TABLE_CLASSIFY = 0
TABLE_ARP = 5
TABLE_DELIVER = 30
TABLE_FROM_TRUNK = 31

ARP_REQUEST, ARP_REPLY = 1, 2
MULTICAST_BIT = 1 << 40  # lowest bit of the first byte of a MAC address
UNTAGGED = (0, 0x1FFF)
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
        reaches = _reaches(intent.inventory, topology, switch)
        pipeline = _Pipeline(intent, intent.inventory, switch, topology, reaches)
        return TableSet.of(pipeline.entries(), pipeline.groups())


@lru_cache(maxsize=16)
def group_ids(names: tuple[str, ...]) -> Mapping[str, int]:
    """Give each name a group id that stays when other names come and go, unless their hashes collide."""
    ids: dict[str, int] = {}
    used: set[int] = set()
    for name in sorted(names):
        number = zlib.crc32(name.encode()) & 0xFFFFFF
        while number in used:
            number = (number + 1) & 0xFFFFFF
        used.add(number)
        ids[name] = OUR_TAG << 24 | number
    return ids


@dataclass(frozen=True, slots=True)
class _Reach:
    """How a host or border is reached from one switch.

    ``trunks`` lead to its other switches, the nearest first; ``onward`` tells for each trunk on which a frame comes in
    through which one it goes on, where the station has no port here.
    """

    group: int
    port: int | None
    trunks: tuple[int, ...]
    onward: tuple[tuple[int, int], ...]

    @property
    def reachable(self) -> bool:
        return self.port is not None or bool(self.trunks)


def _reaches(inventory: Inventory, topology: Topology, switch: str) -> Mapping[str, _Reach]:
    stations: dict[str, Station] = {f"host/{name}": host for name, host in inventory.hosts.items()}
    stations |= {f"border/{name}": border for name, border in inventory.borders.items()}
    ids = group_ids(tuple(stations))
    found = {}
    for key, station in stations.items():
        port = station.port_on(switch)
        onward = []
        for trunk in topology.trunks[switch] if port is None else ():
            onward += [(trunk, out) for out in topology.towards(switch, station, came_from=trunk)[:1]]
        found[key] = _Reach(ids[key], port, topology.towards(switch, station), tuple(onward))
    return found


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """All entries of one switch."""

    intent: Intent
    inventory: Inventory
    switch: str
    topology: Topology
    reaches: Mapping[str, _Reach]

    def entries(self) -> Iterator[FlowEntry]:
        yield from self._base()
        for host in self.inventory.hosts.values():
            yield from self._spoof_counter(host, Kind.HOST)
        for border in self.inventory.borders.values():
            yield from self._spoof_counter(border, Kind.BORDER)
            yield from self._border(border)
        yield from policy_table(self.intent, self.inventory)
        for binding in self.intent.bindings.values():
            yield from self._binding(binding)

    def groups(self) -> Iterator[GroupEntry]:
        for reach in self.reaches.values():
            local = () if reach.port is None else (Bucket(reach.port, (Output(reach.port),)),)
            remote = tuple(Bucket(trunk, self._into_trunk(trunk)) for trunk in reach.trunks)
            if reach.reachable:
                yield GroupEntry(reach.group, local + remote)

    def _into_trunk(self, port: int) -> tuple[Action, ...]:
        return (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | self.inventory.transit_vlan), Output(port))

    def _entry(
        self, kind: Kind, owner: int, seq: int, table: int, priority: int, what: Match, actions: tuple[Action, ...] = ()
    ) -> FlowEntry:
        return FlowEntry(table, priority, what, actions, make_cookie(kind, owner, seq))

    def _of_inventory(
        self, kind: Kind, owner: int, table: int, priority: int, what: Match, actions: tuple[Action, ...] = ()
    ) -> FlowEntry:
        return self._entry(kind, owner, self.intent.seqs.get("inventory", 0), table, priority, what, actions)

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
            yield entry(TABLE_DELIVER, 100, there, *self._rewrite(border.peer_mac), ClearInPort(), ToGroup(reach.group))
        for what, actions in self._from_trunk(reach, border.peer_mac, prefix):
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

    def _rewrite(self, mac: int) -> tuple[Action, ...]:
        return (SetField("eth_src", self.inventory.mac), SetField("eth_dst", mac))

    def _from_trunk(
        self, reach: _Reach, mac: int, address: int | tuple[int, int]
    ) -> Iterator[tuple[Match, tuple[Action, ...]]]:
        if reach.port is not None and self.topology.trunks[self.switch]:
            yield match(eth_type=ETH_IPV4, ipv4_dst=address), (*self._rewrite(mac), Output(reach.port))
        for trunk, out in reach.onward:
            yield match(in_port=trunk, eth_type=ETH_IPV4, ipv4_dst=address), self._into_trunk(out)

    def _binding(self, binding: Binding) -> Iterator[FlowEntry]:
        if binding.phase is Phase.STANDBY:
            return
        reach = self.reaches[f"host/{binding.host}"]
        address = int(binding.address)
        seq = self.intent.seqs.get(f"binding/{binding.node}", 0)

        def entry(table: int, priority: int, what: Match, *actions: Action) -> FlowEntry:
            return self._entry(Kind.BINDING, address, seq, table, priority, what, actions)

        if reach.port is not None:
            yield entry(TABLE_CLASSIFY, 300, *self._pin(binding, reach.port))
        if reach.reachable:
            here = match(eth_type=ETH_IPV4, ipv4_dst=address)
            if binding.phase is Phase.DRAINING:
                opens = match(eth_type=ETH_IPV4, ip_proto=PROTO_TCP, ipv4_dst=address, tcp_flags=SYN_WITHOUT_ACK)
                yield entry(TABLE_DELIVER, 300, opens)
            if binding.phase is Phase.DARK:
                here = match(reg1=RETURN_TRAFFIC, eth_type=ETH_IPV4, ipv4_dst=address)
            yield entry(TABLE_DELIVER, 200, here, *self._rewrite(binding.mac), ClearInPort(), ToGroup(reach.group))
        for what, actions in self._from_trunk(reach, binding.mac, address):
            yield entry(TABLE_FROM_TRUNK, 200, what, *actions)

    def _pin(self, binding: Binding, port: int) -> tuple[Match, Action, Action]:
        terms: dict[str, int | tuple[int, int]] = {
            "in_port": port,
            "vlan_vid": UNTAGGED,
            "eth_src": binding.mac,
            "eth_type": ETH_IPV4,
            "ipv4_src": int(binding.address),
        }
        register = self.intent.networks[binding.network].number
        if binding.phase is Phase.DARK:
            terms["ip_proto"] = PROTO_TCP
            register |= DARK_BIT
        return match(**terms), SetField("reg0", register), Goto(TABLE_POLICY)
