# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Open vSwitch profile: the pipeline of ``docs/fabric.md``, table by table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controller.fabric import Binding, Intent, Inventory, Port, Refusal
from controller.flows import (
    ETH_LLDP,
    OUR_TAG,
    VLAN_PRESENT,
    Action,
    FlowEntry,
    Goto,
    GroupEntry,
    Kind,
    Match,
    Metered,
    MeterEntry,
    PopVlan,
    TableSet,
    ToController,
    crc_owner,
    make_cookie,
    match,
)
from controller.profiles.base import Capabilities, SwitchProfile
from controller.profiles.openvswitch_borders import TABLE_ADVERTISE, TABLE_RESOLVE, BorderEntries
from controller.profiles.openvswitch_nodes import (
    TABLE_CLASSIFY,
    UNTAGGED,
    delivery_entries,
    member_entries,
    member_pins,
    pin_entries,
)
from controller.profiles.openvswitch_policy import policy_table
from controller.profiles.openvswitch_reach import (
    TABLE_DELIVER,
    TABLE_FROM_TRUNK,
    TABLE_TO_STATION,
    Destination,
    Ids,
    Reach,
    destination_key,
    destinations,
    ids_of,
    marks,
    reaches,
)
from controller.profiles.openvswitch_services import service_cookie, service_entries
from controller.topology import Topology

MULTICAST_BIT = 1 << 40  # lowest bit of the first byte of a MAC address
LLDP_MULTICAST = 0x0180C200000E  # IEEE 802.1AB, nearest bridge
MAX_PORT = 0xFEFF  # NXM_OF_IN_PORT has 16 bits and Open vSwitch keeps 0xff00 and above

#: What hosts and borders send to the controller has a meter of its own: their floods take nothing from the trunks.
METER_TRUNKS = MeterEntry(OUR_TAG << 8 | 1, rate=200, burst=100)
METER_STATIONS = MeterEntry(OUR_TAG << 8 | 2, rate=100, burst=50)

_EGRESS_TABLES = frozenset({TABLE_FROM_TRUNK, TABLE_TO_STATION})


class OpenVSwitchProfile(SwitchProfile):
    """Several tables, fast-failover groups, learned entries, transit VLAN on trunks, atomic bundles."""

    @property
    def name(self) -> str:
        return "openvswitch"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            tables=254,
            groups=True,
            push_vlan=True,
            tcp_flags=True,
            atomic_bundle=True,
            reflects="yes",
            ipv6=True,
            answers_neighbours=True,
            learns=True,
            keeps_dark=True,
            pins="node",
            fragments=True,
            batch=None,
            reliable_barrier=True,
        )

    def faults(self, inventory: Inventory, switch: str) -> list[Refusal]:
        found = []
        for station in inventory.stations:
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

    def compile(
        self, intent: Intent, switches: Sequence[str], down: frozenset[Port] = frozenset()
    ) -> Mapping[str, TableSet]:
        assert intent.inventory is not None
        shared = _Shared.of(intent, intent.inventory)
        return {switch: _Pipeline(shared, switch, shared.seen_from(switch)).tables() for switch in switches}

    def is_egress(self, entry: FlowEntry) -> bool:
        return entry.table in _EGRESS_TABLES


@dataclass(frozen=True, slots=True)
class _Shared:
    """What is the same on every switch."""

    intent: Intent
    inventory: Inventory
    topology: Topology
    destinations: tuple[Destination, ...]
    ids: Mapping[str, Ids]
    generation: int
    entries: tuple[FlowEntry, ...]

    @classmethod
    def of(cls, intent: Intent, inventory: Inventory) -> _Shared:
        vlans: dict[str, set[int]] = {}
        for binding in intent.bindings.values():
            vlan = intent.networks[binding.network].vlan
            if inventory.hosts[binding.host].tagged and vlan is not None:
                vlans.setdefault(binding.host, set()).add(vlan)
        found = tuple(destinations(inventory, vlans))
        return cls(
            intent=intent,
            inventory=inventory,
            topology=Topology.of(inventory),
            destinations=found,
            ids=ids_of(found),
            generation=intent.generations.get("inventory", 0),
            entries=(*policy_table(intent, inventory), *service_entries(intent)),
        )

    def seen_from(self, switch: str) -> Mapping[str, Reach]:
        """Return a switch's reach of every destination."""
        return reaches(self.inventory, self.topology, switch, self.destinations, self.ids)

    def vlan_at(self, binding: Binding, port: int, switch: str) -> int | None:
        """Return the tag that a node's frames carry on a port of its host."""
        tagged = Port(switch, port) in self.inventory.hosts[binding.host].tagged
        return self.intent.networks[binding.network].vlan if tagged else None

    def destination_of(self, binding: Binding) -> str:
        """Return the key of the destination behind which a node is."""
        tagged = bool(self.inventory.hosts[binding.host].tagged)
        vlan = self.intent.networks[binding.network].vlan if tagged else None
        return destination_key(binding.host, Kind.HOST, vlan)


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """All entries of one switch."""

    shared: _Shared
    switch: str
    reaches: Mapping[str, Reach]

    def tables(self) -> TableSet:
        return TableSet.of(self._entries(), self._groups(), (METER_TRUNKS, METER_STATIONS))

    def _groups(self) -> Iterator[GroupEntry]:
        for reach in self.reaches.values():
            yield from reach.groups()

    def _entries(self) -> Iterator[FlowEntry]:
        trunks = self.shared.topology.trunks[self.switch]
        yield from self._base(tuple(trunks))
        yield from self.shared.entries
        for border in self.shared.inventory.borders.values():
            reach = self.reaches[destination_key(border.name, Kind.BORDER, None)]
            yield from BorderEntries(border, reach, self.shared.generation, bool(trunks))
        if trunks:
            for reach in self.reaches.values():
                yield from reach.entries(self.shared.generation)
        yield from self._nodes(bool(trunks))
        yield from self._members(bool(trunks))

    def _base_entry(self, table: int, priority: int, what: Match, *actions: Action) -> FlowEntry:
        return FlowEntry(table, priority, what, actions, make_cookie(Kind.BASE, 0, self.shared.generation))

    def _base(self, trunks: tuple[int, ...]) -> Iterator[FlowEntry]:
        """Yield what every port has.  Table 0 has no entry for all ports: other ports may be other people's."""
        for table in (TABLE_RESOLVE, TABLE_ADVERTISE, TABLE_DELIVER, TABLE_FROM_TRUNK, TABLE_TO_STATION):
            yield self._base_entry(table, 0, match())
        # A mark that is not known here never becomes a third walk.
        yield self._base_entry(TABLE_TO_STATION, 60, match(eth_src=marks(self.shared.inventory.mac)))
        transit = VLAN_PRESENT | self.shared.inventory.transit_vlan
        for port in trunks:
            arrives = match(in_port=port, vlan_vid=transit)
            yield self._base_entry(TABLE_CLASSIFY, 400, arrives, PopVlan(), Goto(TABLE_FROM_TRUNK))
            yield self._base_entry(TABLE_CLASSIFY, 1, match(in_port=port))
        for station in self.shared.inventory.stations:
            port_here = station.port_on(self.switch)
            if port_here is not None:
                kind = Kind.BORDER if station.name in self.shared.inventory.borders else Kind.HOST
                cookie = make_cookie(kind, crc_owner(station.name), self.shared.generation)
                yield FlowEntry(TABLE_CLASSIFY, 1, match(in_port=port_here), (), cookie)
        for port in self.shared.inventory.ports(self.switch):
            lldp = match(in_port=port, vlan_vid=UNTAGGED, eth_dst=LLDP_MULTICAST, eth_type=ETH_LLDP)
            meter = METER_TRUNKS if port in trunks else METER_STATIONS
            yield self._base_entry(TABLE_CLASSIFY, 350, lldp, Metered(meter.meter), ToController())
            multicast = match(in_port=port, eth_dst=(MULTICAST_BIT, MULTICAST_BIT))
            yield self._base_entry(TABLE_CLASSIFY, 2, multicast)

    def _nodes(self, has_trunks: bool) -> Iterator[FlowEntry]:
        intent, mac = self.shared.intent, self.shared.inventory.mac
        for node, binding in intent.bindings.items():
            generation = intent.generations.get(f"binding/{node}", 0)
            reach = self.reaches[self.shared.destination_of(binding)]
            if reach.port is not None:
                vlan = self.shared.vlan_at(binding, reach.port, self.switch)
                yield from pin_entries(binding, intent.networks[binding.network].number, generation, reach.port, vlan)
            if reach.reachable:
                for entry in delivery_entries(binding, generation, reach.ids.first, mac):
                    if has_trunks or entry.table != TABLE_FROM_TRUNK:
                        yield entry

    def _members(self, has_trunks: bool) -> Iterator[FlowEntry]:
        """Yield how the nodes of networks with a service address are reached, and answer from it."""
        intent, mac = self.shared.intent, self.shared.inventory.mac
        for binding in intent.bindings.values():
            service = intent.services.get(binding.network)
            if service is None or not binding.phase.serves:
                continue
            reach = self.reaches[self.shared.destination_of(binding)]
            cookie = service_cookie(service, intent)
            addresses = (service.address, service.address6)
            if reach.port is not None:
                vlan = self.shared.vlan_at(binding, reach.port, self.switch)
                number = intent.networks[binding.network].number
                yield from member_pins(binding, number, cookie, addresses, reach.port, vlan)
            if reach.reachable:
                for entry in member_entries(binding, cookie, addresses, reach.ids.first, mac):
                    if has_trunks or entry.table != TABLE_FROM_TRUNK:
                        yield entry
