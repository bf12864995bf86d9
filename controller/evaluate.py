# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs packets through table sets, switch by switch, without a switch.

The semantics are those of OpenFlow 1.3 and of Open vSwitch where they differ: an output to the ingress port is dropped,
unless register ``in_port`` was cleared; a port that is down neither receives nor sends; a fast-failover group takes the
first bucket whose port is up; a group that has none drops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.fabric import Inventory, Port
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    PROTO_ICMP,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
    Action,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Match,
    Move,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    SetField,
    TableSet,
    ToGroup,
)

Packet = Mapping[str, int]
_REGISTERS = ("reg0", "reg1")
_PREREQUISITES: Mapping[str, tuple[int, int | None]] = {
    "ip_proto": (ETH_IPV4, None),
    "ip_frag": (ETH_IPV4, None),
    "ipv4_src": (ETH_IPV4, None),
    "ipv4_dst": (ETH_IPV4, None),
    "tcp_src": (ETH_IPV4, PROTO_TCP),
    "tcp_dst": (ETH_IPV4, PROTO_TCP),
    "tcp_flags": (ETH_IPV4, PROTO_TCP),
    "udp_src": (ETH_IPV4, PROTO_UDP),
    "udp_dst": (ETH_IPV4, PROTO_UDP),
    "icmpv4_type": (ETH_IPV4, PROTO_ICMP),
    "arp_op": (ETH_ARP, None),
    "arp_spa": (ETH_ARP, None),
    "arp_tpa": (ETH_ARP, None),
    "arp_sha": (ETH_ARP, None),
    "arp_tha": (ETH_ARP, None),
}


class EvaluationError(Exception):
    """The tables are wrong: two entries of one priority match, a goto goes back, or a packet comes to a port twice."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A packet that leaves the fabric at a port, as it then looks."""

    port: Port
    packet: Packet


@dataclass(frozen=True, slots=True)
class Drop:
    """A packet that ends in a switch; ``entry`` is the last entry that it matched, None where there was none."""

    switch: str
    entry: FlowEntry | None
    reason: str


@dataclass(slots=True)
class Trace:
    """What became of a packet: ``hops`` are the ports through which it came into a switch, in order."""

    deliveries: list[Delivery] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    hops: list[Port] = field(default_factory=list)


@dataclass(frozen=True)
class Fabric:
    """Table sets with the cables between them; ``down`` are ports without carrier (both ends of a cut cable)."""

    tables: Mapping[str, TableSet]
    links: Mapping[Port, Port]
    down: frozenset[Port] = frozenset()

    @classmethod
    def of(cls, tables: Mapping[str, TableSet], inventory: Inventory, down: frozenset[Port] = frozenset()) -> Fabric:
        """Wire table sets as the inventory says; a link with one end down is down at both ends."""
        links = {link.a: link.b for link in inventory.links} | {link.b: link.a for link in inventory.links}
        return cls(tables, links, down | {links[port] for port in down if port in links})

    def trace(self, packet: Packet, at: Port) -> Trace:
        """Follow a packet that enters at a port until every copy is delivered or dropped; raises EvaluationError."""
        trace = Trace()
        queue = [(at, dict(packet))]
        while queue:
            port, frame = queue.pop(0)
            if port in trace.hops:
                raise EvaluationError(f"a packet came to {port} twice: {[*map(str, trace.hops), str(port)]}")
            trace.hops.append(port)
            if port in self.down:
                trace.drops.append(Drop(port.switch, None, f"port {port.number} is down"))
                continue
            for number, sent in _Walk(self, port.switch, frame, port.number, trace).run():
                out = Port(port.switch, number)
                if out in self.links:
                    queue.append((self.links[out], sent))
                else:
                    trace.deliveries.append(Delivery(out, sent))
        return trace


class _Walk:
    """One packet in one switch."""

    def __init__(self, fabric: Fabric, switch: str, packet: dict[str, int], in_port: int, trace: Trace) -> None:
        self.fabric = fabric
        self.switch = switch
        self.tables = fabric.tables[switch]
        self.packet: dict[str, int] = {**packet, "in_port": in_port, **dict.fromkeys(_REGISTERS, 0)}
        self.ingress = in_port  # of the frame; the field in_port may be cleared
        self.tags: list[int] = []  # inner VLAN tags, while an outer one is in vlan_vid
        self.trace = trace
        self.entry: FlowEntry | None = None

    def run(self) -> Iterator[tuple[int, dict[str, int]]]:
        table: int | None = 0
        while table is not None:
            self.entry = _lookup(self.tables, table, self.packet)
            if self.entry is None:
                self._drop(f"no entry of table {table} matches")
                return
            if not self.entry.actions:
                self._drop("the entry drops")
                return
            yield from self._apply(self.entry.actions)
            last = self.entry.actions[-1]
            following = last.table if isinstance(last, Goto) else None
            if following is not None and following <= table:
                raise EvaluationError(f"goto from table {table} back to {following}")
            table = following

    def _drop(self, reason: str) -> None:
        self.trace.drops.append(Drop(self.switch, self.entry, reason))

    def _apply(self, actions: tuple[Action, ...]) -> Iterator[tuple[int, dict[str, int]]]:
        for action in actions:
            match action:
                case SetField(name, value):
                    self.packet[name] = value
                case ClearInPort():
                    self.packet["in_port"] = 0
                case Move(source, target):
                    self.packet[target] = self.packet[source]
                case PushVlan():
                    self.tags.append(self.packet.get("vlan_vid", 0))
                    self.packet["vlan_vid"] = VLAN_PRESENT
                case PopVlan():
                    self.packet["vlan_vid"] = self.tags.pop() if self.tags else 0
                case Output(port):
                    yield from self._output(port)
                case OutputInPort():
                    yield from self._send(self.ingress)
                case ToGroup(group):
                    yield from self._group(group)
                case Goto():
                    pass

    def _output(self, port: int) -> Iterator[tuple[int, dict[str, int]]]:
        if port == self.packet["in_port"]:
            self._drop(f"an output to the ingress port {port}")
            return
        yield from self._send(port)

    def _send(self, port: int) -> Iterator[tuple[int, dict[str, int]]]:
        if Port(self.switch, port) in self.fabric.down:
            self._drop(f"port {port} is down")
            return
        yield port, {name: value for name, value in self.packet.items() if name not in (*_REGISTERS, "in_port")}

    def _group(self, number: int) -> Iterator[tuple[int, dict[str, int]]]:
        group: GroupEntry | None = self.tables.groups.get(number)
        if group is None:
            raise EvaluationError(f"{self.switch}: an entry uses the group {number}, which does not exist")
        for bucket in group.buckets:
            if Port(self.switch, bucket.watch_port) not in self.fabric.down:
                # A bucket works on a copy of the packet.
                before, tags = dict(self.packet), list(self.tags)
                yield from self._apply(bucket.actions)
                self.packet, self.tags = before, tags
                return
        self._drop(f"no bucket of group {number} is live")


def _lookup(tables: TableSet, table: int, packet: Packet) -> FlowEntry | None:
    best: list[FlowEntry] = []
    for entry in tables:
        if entry.table == table and (not best or entry.priority >= best[0].priority) and matches(entry.match, packet):
            if best and entry.priority > best[0].priority:
                best = []
            best.append(entry)
    if len(best) > 1:
        raise EvaluationError(f"two entries of one priority match: {best}")
    return best[0] if best else None


def matches(match: Match, packet: Packet) -> bool:
    """Tell whether a packet matches; a field that the packet does not have matches nothing."""
    for name, value, mask in match.terms:
        if name in _PREREQUISITES:
            kind, protocol = _PREREQUISITES[name]
            if packet.get("eth_type") != kind or (protocol is not None and packet.get("ip_proto") != protocol):
                return False
        # Of later fragments Open vSwitch sees no transport header: the ports and flags count as zero.
        if packet.get(name, 0) & mask != value:
            return False
    return True


def overlapping(tables: TableSet) -> list[tuple[FlowEntry, FlowEntry]]:
    """Return the pairs of entries of one table and priority that one packet can match: a switch may take either."""
    groups: dict[tuple[int, int], list[FlowEntry]] = {}
    for entry in tables:
        groups.setdefault((entry.table, entry.priority), []).append(entry)
    return [
        (one, other)
        for members in groups.values()
        for number, one in enumerate(members)
        for other in members[number + 1 :]
        if one.match.overlaps(other.match)
    ]


def ip_packet(*, eth_src: int, eth_dst: int, ipv4_src: int, ipv4_dst: int, **fields: Any) -> dict[str, int]:
    """Return an untagged IPv4 packet; ``fields`` are those of the transport, with ``ip_proto``."""
    return {
        "vlan_vid": 0,
        "eth_type": ETH_IPV4,
        "eth_src": eth_src,
        "eth_dst": eth_dst,
        "ipv4_src": ipv4_src,
        "ipv4_dst": ipv4_dst,
        "ip_frag": 0,
        **fields,
    }
