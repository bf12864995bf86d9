# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs packets through table sets, switch by switch, without a switch.

The semantics are those of OpenFlow 1.3 and of Open vSwitch where they differ: an output to the ingress port is dropped,
unless register ``in_port`` was cleared; a port that is down neither receives nor sends; a fast-failover group takes the
first bucket whose port is up; a group that has none drops.  What a switch learns stays in a ``Memory``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from controller.fabric import Inventory, Port
from controller.families import Family
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    FRAG_ANY,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    VLAN_PRESENT,
    Action,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Learn,
    Match,
    Metered,
    Move,
    Multipath,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    TableSet,
    ToController,
    ToGroup,
    match,
)

Packet = Mapping[str, int]
#: Chooses one of so many slots for a packet; the one of a switch is a hash that nobody else computes.
Choose = Callable[[Packet, int], int]
_REGISTERS = ("reg0", "reg1", "reg2", "reg3", "reg4", "reg5")
_IP = frozenset({ETH_IPV4, ETH_IPV6})
_PREREQUISITES: Mapping[str, tuple[frozenset[int], int | None]] = {
    "ip_proto": (_IP, None),
    "ip_frag": (_IP, None),
    "ipv4_src": (frozenset({ETH_IPV4}), None),
    "ipv4_dst": (frozenset({ETH_IPV4}), None),
    "ipv6_src": (frozenset({ETH_IPV6}), None),
    "ipv6_dst": (frozenset({ETH_IPV6}), None),
    "tcp_src": (_IP, PROTO_TCP),
    "tcp_dst": (_IP, PROTO_TCP),
    "tcp_flags": (_IP, PROTO_TCP),
    "udp_src": (_IP, PROTO_UDP),
    "udp_dst": (_IP, PROTO_UDP),
    "icmpv4_type": (frozenset({ETH_IPV4}), PROTO_ICMP),
    "icmpv6_type": (frozenset({ETH_IPV6}), PROTO_ICMPV6),
    "icmpv6_code": (frozenset({ETH_IPV6}), PROTO_ICMPV6),
    "nd_target": (frozenset({ETH_IPV6}), PROTO_ICMPV6),
    "arp_op": (frozenset({ETH_ARP}), None),
    "arp_spa": (frozenset({ETH_ARP}), None),
    "arp_tpa": (frozenset({ETH_ARP}), None),
    "arp_sha": (frozenset({ETH_ARP}), None),
    "arp_tha": (frozenset({ETH_ARP}), None),
}
_HIDDEN_IN_FRAGMENTS = frozenset(
    {"tcp_src", "tcp_dst", "udp_src", "udp_dst", "icmpv4_type", "icmpv6_type", "icmpv6_code"}
)


def symmetric_hash(packet: Packet, slots: int) -> int:
    """Choose a slot by both addresses, both ports and the protocol; the same for both directions."""
    ends = [packet.get(f"{kind}_src", 0) ^ packet.get(f"{kind}_dst", 0) for kind in ("ipv4", "ipv6", "tcp", "udp")]
    return zlib.crc32(repr((*ends, packet.get("ip_proto", 0))).encode()) % slots


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


@dataclass(frozen=True, slots=True)
class Punt:
    """A packet that a switch sends to its controller."""

    switch: str
    packet: Packet


@dataclass(frozen=True, slots=True)
class Step:
    """One entry that a packet matched on its way."""

    switch: str
    entry: FlowEntry


@dataclass(slots=True)
class Trace:
    """What became of a packet.

    ``hops`` are the ports through which it came into a switch, ``frames`` how it then looked, ``outs`` the ports
    through which it left one, ``steps`` the entries that it matched, all in order.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    punts: list[Punt] = field(default_factory=list)
    hops: list[Port] = field(default_factory=list)
    frames: list[Packet] = field(default_factory=list)
    outs: list[Port] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


@dataclass
class Memory:
    """What each switch has learned, by table, priority and match."""

    learned: dict[str, dict[tuple[int, int, Match], FlowEntry]] = field(default_factory=dict)

    def add(self, switch: str, entry: FlowEntry) -> None:
        """Learn an entry; it replaces the one with the same match."""
        self.learned.setdefault(switch, {})[entry.key] = entry

    def of(self, switch: str, table: int) -> Iterator[FlowEntry]:
        """Yield what a switch has learned for a table."""
        return (entry for entry in self.learned.get(switch, {}).values() if entry.table == table)


class _SortedTables(dict[str, Mapping[int, tuple[FlowEntry, ...]]]):
    """Sorted entries by switch and table; a switch is sorted when a packet comes to it, which most never see."""

    def __init__(self, tables: Mapping[str, TableSet]) -> None:
        super().__init__()
        self._tables = tables

    def __missing__(self, switch: str) -> Mapping[int, tuple[FlowEntry, ...]]:
        found: dict[int, list[FlowEntry]] = {}
        for entry in self._tables[switch]:
            found.setdefault(entry.table, []).append(entry)
        self[switch] = {
            table: tuple(sorted(entries, key=lambda entry: -entry.priority)) for table, entries in found.items()
        }
        return self[switch]


@dataclass(frozen=True)
class Fabric:
    """Table sets with the cables between them; ``down`` are ports without carrier (both ends of a cut cable)."""

    tables: Mapping[str, TableSet]
    links: Mapping[Port, Port]
    down: frozenset[Port] = frozenset()
    choose: Choose = symmetric_hash

    @classmethod
    def of(cls, tables: Mapping[str, TableSet], inventory: Inventory, down: frozenset[Port] = frozenset()) -> Fabric:
        """Wire table sets as the inventory says; a link with one end down is down at both ends."""
        links = {link.a: link.b for link in inventory.links} | {link.b: link.a for link in inventory.links}
        return cls(tables, links, down | {links[port] for port in down if port in links})

    def with_down(self, down: frozenset[Port]) -> Fabric:
        """Return the same fabric with other ports down."""
        both = down | {self.links[port] for port in down if port in self.links}
        other = Fabric(self.tables, self.links, both, self.choose)
        other.__dict__["sorted_tables"] = self.sorted_tables  # they do not depend on ports
        return other

    def choosing(self, choose: Choose) -> Fabric:
        """Return the same fabric with another choice of slots."""
        other = Fabric(self.tables, self.links, self.down, choose)
        other.__dict__["sorted_tables"] = self.sorted_tables
        return other

    @cached_property
    def sorted_tables(self) -> _SortedTables:
        """The entries of each switch by table, highest priority first."""
        return _SortedTables(self.tables)

    def trace(self, packet: Packet, at: Port, memory: Memory | None = None) -> Trace:
        """Follow a packet that enters at a port until every copy is delivered or dropped; raises EvaluationError.

        ``memory`` is read and added to; without one, what is learned is forgotten.
        """
        trace = Trace()
        memory = Memory() if memory is None else memory
        queue = [(at, dict(packet))]
        while queue:
            port, frame = queue.pop(0)
            if port in trace.hops:
                raise EvaluationError(f"a packet came to {port} twice: {[*map(str, trace.hops), str(port)]}")
            trace.hops.append(port)
            trace.frames.append(frame)
            if port in self.down:
                trace.drops.append(Drop(port.switch, None, f"port {port.number} is down"))
                continue
            for number, sent in _Walk(self, port, frame, trace, memory).run():
                out = Port(port.switch, number)
                if out in trace.outs:
                    raise EvaluationError(f"a packet left by {out} twice: {[*map(str, trace.outs), str(out)]}")
                trace.outs.append(out)
                if out in self.links:
                    queue.append((self.links[out], sent))
                else:
                    trace.deliveries.append(Delivery(out, sent))
        return trace


Sent = Iterator[tuple[int, dict[str, int]]]


class _Walk:
    """One packet in one switch."""

    def __init__(self, fabric: Fabric, at: Port, packet: dict[str, int], trace: Trace, memory: Memory) -> None:
        self.fabric = fabric
        self.switch = at.switch
        self.tables = fabric.tables[at.switch]
        self.packet: dict[str, int] = {**packet, "in_port": at.number, **dict.fromkeys(_REGISTERS, 0)}
        self.ingress = at.number  # of the frame; the field in_port may be cleared
        self.tags: list[int] = []  # inner VLAN tags, while an outer one is in vlan_vid
        self.trace = trace
        self.memory = memory
        self.entry: FlowEntry | None = None

    def run(self) -> Sent:
        table: int | None = 0
        while table is not None:
            self.entry = self._lookup(table)
            if self.entry is None:
                self._drop(f"no entry of table {table} matches")
                return
            self.trace.steps.append(Step(self.switch, self.entry))
            if not self.entry.actions:
                self._drop("the entry drops")
                return
            yield from self._apply(self.entry.actions)
            last = self.entry.actions[-1]
            following = last.table if isinstance(last, Goto) else None
            if following is not None and following <= table:
                raise EvaluationError(f"goto from table {table} back to {following}")
            table = following

    def _lookup(self, table: int) -> FlowEntry | None:
        best: list[FlowEntry] = []
        for entry in self.fabric.sorted_tables[self.switch].get(table, ()):
            if best and entry.priority < best[0].priority:
                break
            if matches(entry.match, self.packet):
                best.append(entry)
        for entry in self.memory.of(self.switch, table):
            if matches(entry.match, self.packet):
                best.append(entry)
        if len(best) > 1:
            raise EvaluationError(f"two entries of one priority match: {best}")
        return best[0] if best else None

    def _drop(self, reason: str) -> None:
        self.trace.drops.append(Drop(self.switch, self.entry, reason))

    def _apply(self, actions: tuple[Action, ...]) -> Sent:
        for action in actions:
            match action:
                case Output(port):
                    yield from self._output(port)
                case OutputInPort():
                    yield from self._send(self.ingress)
                case ToGroup(group):
                    yield from self._group(group)
                case Resubmit(table):
                    yield from self._resubmit(table)
                case ToController():
                    self.trace.punts.append(Punt(self.switch, self._frame()))
                case _:
                    self._change(action)

    def _change(self, action: Action) -> None:
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
            case Multipath(slots, target):
                self.packet[target] = self.fabric.choose(self.packet, slots)
            case Learn():
                self._learn(action)
            case Goto() | Metered():
                pass
            case _:
                raise EvaluationError(f"an action that the evaluator does not know: {action}")

    def _learn(self, learn: Learn) -> None:
        terms = dict(learn.terms) | {name: self.packet[name] for name in learn.fields}
        actions = tuple(SetField(name, self.packet[name]) for name in learn.keeps)
        self.memory.add(self.switch, FlowEntry(learn.table, learn.priority, match(**terms), actions, learn.cookie))

    def _resubmit(self, table: int) -> Sent:
        """Look up another table and come back; a miss there changes nothing."""
        entry = self._lookup(table)
        if entry is not None:
            self.trace.steps.append(Step(self.switch, entry))
            yield from self._apply(entry.actions)

    def _output(self, port: int) -> Sent:
        if port == self.packet["in_port"]:
            self._drop(f"an output to the ingress port {port}")
            return
        yield from self._send(port)

    def _frame(self) -> dict[str, int]:
        return {name: value for name, value in self.packet.items() if name not in (*_REGISTERS, "in_port")}

    def _send(self, port: int) -> Sent:
        if Port(self.switch, port) in self.fabric.down:
            self._drop(f"port {port} is down")
            return
        yield port, self._frame()

    def _group(self, number: int) -> Sent:
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


def matches(match: Match, packet: Packet) -> bool:
    """Tell whether a packet matches; a field that the packet does not have matches nothing."""
    for name, value, mask in match.terms:
        if name in _PREREQUISITES:
            kinds, protocol = _PREREQUISITES[name]
            if packet.get("eth_type") not in kinds or (protocol is not None and packet.get("ip_proto") != protocol):
                return False
        # Of fragments, the first too, a switch sees no ports and types: they count as zero (ovs-ofctl(8), "frags").
        hidden = name in _HIDDEN_IN_FRAGMENTS and packet.get("ip_frag", 0) & FRAG_ANY
        if (0 if hidden else packet.get(name, 0)) & mask != value:
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


def ip_packet(family: Family, *, eth_src: int, eth_dst: int, source: int, target: int, **fields: Any) -> dict[str, int]:
    """Return an untagged IP packet; ``fields`` are those of the transport, with ``ip_proto``."""
    return {
        "vlan_vid": 0,
        "eth_type": family.eth_type,
        "eth_src": eth_src,
        "eth_dst": eth_dst,
        family.source: source,
        family.target: target,
        "ip_frag": 0,
        **fields,
    }
