# SPDX-License-Identifier: AGPL-3.0-or-later
"""With what a switch is probed: a VLAN and a priority that nobody uses, a port, and what is tried there.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.fabric import Intent, Inventory
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    ETH_VLAN,
    FRAG_LATER,
    OUR_TAG,
    PROTO_ICMPV6,
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
    Learn,
    Match,
    Metered,
    MeterEntry,
    Move,
    Multipath,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    SetField,
    ToController,
    ToGroup,
    make_cookie,
    match,
)

COOKIE = make_cookie(Kind.PROBE, 0, 0)
COOKIE_MASK = 0xFFFF << 48
TABLE = 0  # where packets come in, and all there is on devices with one table
PRIORITY = 0xFFF0  # above every entry of ours
BELOW = PRIORITY - 1
LAST_VLAN = 4094
ETH_EXPERIMENT = 0x88B5  # IEEE Std 802, local experimental EtherType 1
TARGET_MAC = 0x020D00000000  # locally administered; the low bits tell one test packet from another
SOURCE_MAC = 0x020D0000FFFF
GROUP = OUR_TAG << 24 | 0xFFFFFF
METER = OUR_TAG << 8 | 0xFF
FRAME_BYTES = 60  # the shortest Ethernet frame, without its check sequence


class ProbeRefused(Exception):
    """A switch must not be probed so; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An entry that a switch may refuse; ``group`` and ``meter`` are what it needs."""

    name: str
    entry: FlowEntry
    group: GroupEntry | None = None
    meter: MeterEntry | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to use on ``switch``: a VLAN that nobody uses there, and a port of ours that is up (None: there is none)."""

    switch: str
    vlan: int
    port: int | None

    @property
    def tag(self) -> int:
        """The VLAN as the field vlan_vid."""
        return VLAN_PRESENT | self.vlan

    def entry(self, what: Match, *actions: Action, table: int = TABLE, priority: int = PRIORITY) -> FlowEntry:
        """Return an entry of the probe."""
        return FlowEntry(table, priority, what, actions, COOKIE)

    def numbered(self, number: int, *actions: Action) -> FlowEntry:
        """Return one of many entries: each matches frames to a MAC of its own."""
        return self.entry(match(vlan_vid=self.tag, eth_type=ETH_EXPERIMENT, eth_dst=TARGET_MAC + number), *actions)

    def frame(self, number: int) -> bytes:
        """Return a frame that entry ``number`` matches."""
        tagged = (ETH_VLAN.to_bytes(2) + self.vlan.to_bytes(2)) + ETH_EXPERIMENT.to_bytes(2)
        return ((TARGET_MAC + number).to_bytes(6) + SOURCE_MAC.to_bytes(6) + tagged).ljust(FRAME_BYTES, b"\0")

    def matches(self) -> Iterator[Trial]:
        """Yield what is matched in other ways than by whole fields and prefixes."""
        ours = {"vlan_vid": self.tag, "eth_type": ETH_IPV4}
        port = {} if self.port is None else {"in_port": self.port}
        kinds: Mapping[str, Match] = {
            "mask on eth_src": match(
                vlan_vid=self.tag, eth_type=ETH_EXPERIMENT, eth_src=(0x020000000001, 0x0300000000FF)
            ),
            "IPv4 mask that is no prefix": match(**ours, ipv4_src=(0x0A000001, 0xFF0000FF)),
            "mask on vlan_vid": match(
                **port, vlan_vid=(VLAN_PRESENT, VLAN_PRESENT), eth_type=ETH_EXPERIMENT, eth_dst=TARGET_MAC
            ),
            "tcp_flags": match(**ours, ip_proto=PROTO_TCP, tcp_flags=SYN_WITHOUT_ACK),
            "ip_frag": match(**ours, ip_frag=(FRAG_LATER, FRAG_LATER)),
            "register": match(vlan_vid=self.tag, reg0=1),
            "IPv6 prefix": match(vlan_vid=self.tag, eth_type=ETH_IPV6, ipv6_dst=(0xFD << 120, 0xFF << 120)),
        }
        for name, what in kinds.items():
            yield Trial(name, self.entry(what))

    def fields(self) -> Iterator[Trial]:
        """Yield an entry that sets it for each field that the pipelines set."""
        out = () if self.port is None else (Output(self.port),)
        tagged = {"vlan_vid": self.tag}
        arp = tagged | {"eth_type": ETH_ARP}
        neighbour = tagged | {"eth_type": ETH_IPV6, "ip_proto": PROTO_ICMPV6, "icmpv6_code": 0, "icmpv6_type": 136}
        wanted: Iterable[tuple[str, int, Mapping[str, int]]] = (
            ("vlan_vid", VLAN_PRESENT | self.vlan, tagged | {"eth_type": ETH_EXPERIMENT}),
            ("eth_src", SOURCE_MAC, tagged | {"eth_type": ETH_EXPERIMENT}),
            ("eth_dst", TARGET_MAC, tagged | {"eth_type": ETH_EXPERIMENT}),
            ("ipv6_src", 1, tagged | {"eth_type": ETH_IPV6}),
            ("arp_op", 2, arp),
            ("arp_spa", 1, arp),
            ("arp_sha", SOURCE_MAC, arp),
            ("icmpv6_type", 136, neighbour),
            ("nd_tll", SOURCE_MAC, neighbour),
            ("nd_reserved", 0, neighbour),
            ("nd_options_type", 2, neighbour),
            ("reg0", 1, tagged | {"eth_type": ETH_EXPERIMENT}),
        )
        for name, value, what in wanted:
            yield Trial(name, self.entry(match(**what), SetField(name, value), *out))

    def actions(self) -> Iterator[Trial]:
        """Yield what else the pipelines do with a packet."""
        what = match(vlan_vid=self.tag, eth_type=ETH_EXPERIMENT)
        output = 1 if self.port is None else self.port
        group = GroupEntry(GROUP, (Bucket(output, (Output(output),)),))
        meter = MeterEntry(METER, rate=1000, burst=1000)
        learn = Learn(1, 1, COOKIE, 1, 1, 1, (("eth_type", ETH_IPV4),), ("ipv4_src",), ())
        ipv4 = match(vlan_vid=self.tag, eth_type=ETH_IPV4)
        yield Trial("push_vlan", self.entry(what, PushVlan(), SetField("vlan_vid", self.tag), Output(output)))
        yield Trial("pop_vlan", self.entry(what, PopVlan(), Output(output)))
        yield Trial("fast-failover group", self.entry(what, ToGroup(GROUP)), group=group)
        yield Trial("meter", self.entry(what, Metered(METER), Output(output)), meter=meter)
        yield Trial("output to the controller", self.entry(what, ToController()))
        yield Trial("goto", self.entry(what, Goto(1)))
        yield Trial("output to IN_PORT", self.entry(what, OutputInPort()))
        yield Trial("clear in_port", self.entry(what, ClearInPort(), Output(output)))
        yield Trial("move", self.entry(what, Move("eth_src", "eth_dst"), Output(output)))
        yield Trial("hash to a slot", self.entry(ipv4, Multipath(4, "reg3"), Output(output)))
        yield Trial("learn", self.entry(ipv4, learn))




def make_plan(intent: Intent, switch: str, up: Iterable[int], vlan: int | None) -> Plan:
    """Choose what to probe a switch with; raises ProbeRefused.  ``up`` are its ports that are up."""
    inventory = intent.inventory
    assert inventory is not None
    used = used_vlans(intent, inventory)
    owned = inventory.owned_vlans
    if vlan is not None:
        if vlan in used:
            raise ProbeRefused(f"VLAN {vlan} is that of {used[vlan]}; name one that nobody uses (--vlan)")
        if owned is not None and not any(vlan in numbers for numbers in owned):
            raise ProbeRefused(f"VLAN {vlan} is not in the owned ranges of the inventory; name one of ours (--vlan)")
        return Plan(switch, vlan, _port(inventory, switch, up))
    every = [number for numbers in owned or (range(2, LAST_VLAN + 1),) for number in numbers]
    free = next((number for number in sorted(every, reverse=True) if number not in used), None)
    if free is None:
        raise ProbeRefused("every owned VLAN is used; name another one that nobody uses (--vlan)")
    return Plan(switch, free, _port(inventory, switch, up))


def used_vlans(intent: Intent, inventory: Inventory) -> Mapping[int, str]:
    """Return by what each VLAN is used."""
    used = {network.vlan: f"network {key}" for key, network in intent.networks.items() if network.vlan is not None}
    used |= {border.vlan: f"border {name}" for name, border in inventory.borders.items() if border.vlan is not None}
    return used | {inventory.transit_vlan: "the trunks (transitVlan)"}


def _port(inventory: Inventory, switch: str, up: Iterable[int]) -> int | None:
    """Return a port of ours that is up: that of a host, else of a border, else a trunk."""
    alive = set(up)
    hosts = [port.number for host in inventory.hosts.values() for port in host.ports if port.switch == switch]
    return next((number for number in (*sorted(hosts), *inventory.ports(switch)) if number in alive), None)


def touched(intent: Intent, switch: str) -> list[str]:
    """Return what uses a switch: nodes by host, borders and trunks; empty where nothing does."""
    inventory = intent.inventory
    assert inventory is not None
    found = []
    for name, host in inventory.hosts.items():
        nodes = sum(binding.host == name for binding in intent.bindings.values())
        if nodes and host.port_on(switch) is not None:
            found.append(f"{nodes} {'node' if nodes == 1 else 'nodes'} of host {name}")
    found += [f"border {name}" for name, border in inventory.borders.items() if border.port_on(switch) is not None]
    trunks = inventory.trunks(switch)
    return found + ([f"{len(trunks)} {'trunk' if len(trunks) == 1 else 'trunks'}"] if trunks and found else [])
