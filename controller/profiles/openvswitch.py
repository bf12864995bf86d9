# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Open vSwitch profile: the pipeline of ``docs/fabric.md``, table by table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from controller.fabric import Binding, Intent, Inventory, Port, Refusal, ServiceAddress
from controller.flows import (
    ETH_LLDP,
    OUR_TAG,
    VLAN_PRESENT,
    Action,
    EntryKey,
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
from controller.profiles.base import Capabilities, SwitchProfile, Use
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
    Reach,
    destination_key,
    destinations,
    ids_of,
    marks,
    reaches,
)
from controller.profiles.openvswitch_services import service_cookie, service_entries
from controller.profiles.openvswitch_words import TABLE_NAMES, uses_of
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

    def __init__(self) -> None:
        self._fabric: _Fabric | None = None

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
        inventory = intent.inventory
        assert inventory is not None
        tags = tags_of(intent)
        generation = intent.generations.get("inventory", 0)
        # Most changes leave the fabric as it is; what follows from it alone is kept from one intent to the next.
        fabric = self._fabric  # once: another thread may compile another intent meanwhile
        if fabric is None or not fabric.is_of(inventory, generation, tags):
            fabric = self._fabric = _Fabric(inventory, generation, tags)
        nodes = _Nodes(intent, fabric, tags)
        return {switch: nodes.tables(switch) for switch in switches}

    def is_egress(self, entry: FlowEntry) -> bool:
        return entry.table in _EGRESS_TABLES

    def uses(self, entry: FlowEntry) -> tuple[Use, ...]:
        return uses_of(entry)

    def table_name(self, table: int) -> str:
        return TABLE_NAMES.get(table, "")


Entries = Mapping[EntryKey, FlowEntry]
#: The VLANs of the networks that tagged hosts have nodes of, by host.
Tags = Mapping[str, frozenset[int]]


def tags_of(intent: Intent) -> Tags:
    """Return which VLANs the frames of nodes carry on hosts that are attached with tags."""
    assert intent.inventory is not None
    tagged = {name for name, host in intent.inventory.hosts.items() if host.tagged}
    found: dict[str, set[int]] = {}
    for binding in intent.bindings.values() if tagged else ():
        vlan = intent.networks[binding.network].vlan
        if binding.host in tagged and vlan is not None:
            found.setdefault(binding.host, set()).add(vlan)
    return {host: frozenset(vlans) for host, vlans in found.items()}


@dataclass(frozen=True)
class _Seen:
    """What one switch has because of the fabric alone."""

    trunks: tuple[int, ...]
    unreachable: frozenset[str]
    entries: Entries
    groups: tuple[GroupEntry, ...]


@dataclass
class _Fabric:
    """What follows from the inventory alone: ways, groups, base entries, borders."""

    inventory: Inventory
    generation: int
    tags: Tags
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.destinations = tuple(destinations(self.inventory, self.tags))
        self.ids = ids_of(self.destinations)
        self._topology = Topology.of(self.inventory)

    def is_of(self, inventory: Inventory, generation: int, tags: Tags) -> bool:
        """Tell whether it is what follows from these."""
        same = self.inventory is inventory or self.inventory == inventory
        return same and self.generation == generation and self.tags == tags

    def seen_from(self, switch: str) -> _Seen:
        """Return what a switch has."""
        if switch not in self._seen:
            found = reaches(self.inventory, self._topology, switch, self.destinations, self.ids)
            trunks = tuple(self._topology.trunks[switch])
            self._seen[switch] = _Seen(
                trunks=trunks,
                unreachable=frozenset(key for key, reach in found.items() if not reach.reachable),
                entries=TableSet.of(self._entries(switch, trunks, found)).entries,
                groups=tuple(group for reach in found.values() for group in reach.groups()),
            )
        return self._seen[switch]

    def _entries(self, switch: str, trunks: tuple[int, ...], found: Mapping[str, Reach]) -> Iterator[FlowEntry]:
        yield from self._base(switch, trunks)
        for border in self.inventory.borders.values():
            reach = found[destination_key(border.name, Kind.BORDER, None)]
            yield from BorderEntries(border, reach, self.generation, bool(trunks))
        if trunks:
            for reach in found.values():
                yield from reach.entries(self.generation)

    def _base_entry(self, table: int, priority: int, what: Match, *actions: Action) -> FlowEntry:
        return FlowEntry(table, priority, what, actions, make_cookie(Kind.BASE, 0, self.generation))

    def _base(self, switch: str, trunks: tuple[int, ...]) -> Iterator[FlowEntry]:
        """Yield what every port has.  Table 0 has no entry for all ports: other ports may be other people's."""
        for table in (TABLE_RESOLVE, TABLE_ADVERTISE, TABLE_DELIVER, TABLE_FROM_TRUNK, TABLE_TO_STATION):
            yield self._base_entry(table, 0, match())
        # A mark that is not known here never becomes a third walk.
        yield self._base_entry(TABLE_TO_STATION, 60, match(eth_src=marks(self.inventory.mac)))
        transit = VLAN_PRESENT | self.inventory.transit_vlan
        for port in trunks:
            arrives = match(in_port=port, vlan_vid=transit)
            yield self._base_entry(TABLE_CLASSIFY, 400, arrives, PopVlan(), Goto(TABLE_FROM_TRUNK))
            yield self._base_entry(TABLE_CLASSIFY, 1, match(in_port=port))
        for station in self.inventory.stations:
            port_here = station.port_on(switch)
            if port_here is not None:
                kind = Kind.BORDER if station.name in self.inventory.borders else Kind.HOST
                cookie = make_cookie(kind, crc_owner(station.name), self.generation)
                yield FlowEntry(TABLE_CLASSIFY, 1, match(in_port=port_here), (), cookie)
        for port in self.inventory.ports(switch):
            lldp = match(in_port=port, vlan_vid=UNTAGGED, eth_dst=LLDP_MULTICAST, eth_type=ETH_LLDP)
            meter = METER_TRUNKS if port in trunks else METER_STATIONS
            yield self._base_entry(TABLE_CLASSIFY, 350, lldp, Metered(meter.meter), ToController())
            multicast = match(in_port=port, eth_dst=(MULTICAST_BIT, MULTICAST_BIT))
            yield self._base_entry(TABLE_CLASSIFY, 2, multicast)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node is: its destination, and the tag that its frames carry on the tagged ports of its host."""

    binding: Binding
    destination: str
    vlan: int | None


@dataclass(frozen=True)
class _Nodes:
    """The tables of an intent: what nodes, policies and services add to the fabric."""

    intent: Intent
    fabric: _Fabric
    tags: Tags

    def tables(self, switch: str) -> TableSet:
        """Return everything of one switch."""
        seen = self.fabric.seen_from(switch)
        standing = (seen.entries, self._deliveries(seen.unreachable, bool(seen.trunks)))
        return TableSet.of(self._pins(switch), seen.groups, (METER_TRUNKS, METER_STATIONS), standing)

    @cached_property
    def _places(self) -> Mapping[str, tuple[_Place, ...]]:
        """The nodes of each host."""
        found: dict[str, list[_Place]] = {}
        for binding in self.intent.bindings.values():
            vlan = self.intent.networks[binding.network].vlan if binding.host in self.tags else None
            place = _Place(binding, destination_key(binding.host, Kind.HOST, vlan), vlan)
            found.setdefault(binding.host, []).append(place)
        return {host: tuple(places) for host, places in found.items()}

    @cached_property
    def _policy(self) -> Entries:
        """Tables 10 and 20 to 23: the same on every switch."""
        policy = policy_table(self.intent, self.fabric.inventory)
        return TableSet.of(itertools.chain(policy, service_entries(self.intent))).entries

    @cached_property
    def _delivered(self) -> dict[tuple[frozenset[str], bool], Entries]:
        return {}

    def _deliveries(self, unreachable: frozenset[str], with_trunks: bool) -> Entries:
        """Return tables 10 to 30, and 31 where there are trunks, without what is behind unreachable destinations.

        Most switches have the same.
        """
        key = (unreachable, with_trunks)
        if key not in self._delivered:
            entries = (entry for entry in self._to_nodes(unreachable) if with_trunks or entry.table != TABLE_FROM_TRUNK)
            self._delivered[key] = TableSet.of(entries, standing=(self._policy,)).entries
        return self._delivered[key]

    def _to_nodes(self, unreachable: frozenset[str]) -> Iterator[FlowEntry]:
        intent, mac = self.intent, self.fabric.inventory.mac
        for place in itertools.chain.from_iterable(self._places.values()):
            if place.destination in unreachable:
                continue
            binding, group = place.binding, self.fabric.ids[place.destination].first
            yield from delivery_entries(binding, intent.generations.get(f"binding/{binding.node}", 0), group, mac)
            service = self._service_of(binding)
            if service is not None:
                addresses = (service.address, service.address6)
                yield from member_entries(binding, service_cookie(service, intent), addresses, group, mac)

    def _service_of(self, binding: Binding) -> ServiceAddress | None:
        """Return the service that a node is a member of."""
        return self.intent.services.get(binding.network) if binding.phase.serves else None

    def _pins(self, switch: str) -> Iterator[FlowEntry]:
        """Yield what nodes may send on the ports of their hosts; members of a service answer from its addresses too."""
        intent = self.intent
        for host in self.fabric.inventory.hosts.values():
            port = host.port_on(switch)
            if port is None:
                continue
            tagged = Port(switch, port) in host.tagged
            for place in self._places.get(host.name, ()):
                binding, vlan = place.binding, place.vlan if tagged else None
                number = intent.networks[binding.network].number
                generation = intent.generations.get(f"binding/{binding.node}", 0)
                yield from pin_entries(binding, number, generation, port, vlan)
                service = self._service_of(binding)
                if service is not None:
                    addresses = (service.address, service.address6)
                    yield from member_pins(binding, number, service_cookie(service, intent), addresses, port, vlan)
