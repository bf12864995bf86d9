# SPDX-License-Identifier: AGPL-3.0-or-later
"""Flow entries and groups as comparable values, independent of any OpenFlow library.

A match is a tuple of terms (field, value, mask) in the order of ``FIELDS``; all values are integers.  Two entries with
the same table, priority and match are the same entry for a switch; an addition of one replaces the other.
``controller/texts.py`` writes them the way ovs-ofctl does.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

#: Width in bits of each field that our pipelines use, in the order in which a match is written.
FIELDS: Mapping[str, int] = {
    "in_port": 32,
    "reg0": 32,
    "reg1": 32,
    "reg2": 32,
    "reg3": 32,
    "reg4": 32,
    "reg5": 32,
    "vlan_vid": 13,
    "eth_src": 48,
    "eth_dst": 48,
    "eth_type": 16,
    "ip_proto": 8,
    "ip_frag": 8,
    "ipv4_src": 32,
    "ipv4_dst": 32,
    "ipv6_src": 128,
    "ipv6_dst": 128,
    "tcp_src": 16,
    "tcp_dst": 16,
    "tcp_flags": 12,
    "udp_src": 16,
    "udp_dst": 16,
    "icmpv4_type": 8,
    "icmpv6_type": 8,
    "icmpv6_code": 8,
    "nd_target": 128,
    "nd_tll": 48,
    "nd_reserved": 32,
    "nd_options_type": 8,
    "arp_op": 16,
    "arp_spa": 32,
    "arp_tpa": 32,
    "arp_sha": 48,
    "arp_tha": 48,
}
_ORDER = {name: number for number, name in enumerate(FIELDS)}

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_IPV6 = 0x86DD
ETH_LLDP = 0x88CC
ETH_VLAN = 0x8100
PROTO_ICMP, PROTO_TCP, PROTO_UDP, PROTO_ICMPV6 = 1, 6, 17, 58
VLAN_PRESENT = 0x1000  # OFPVID_PRESENT of OpenFlow 1.3
FRAG_ANY, FRAG_LATER = 1, 2  # bits of NXM_NX_IP_FRAG
TCP_SYN, TCP_ACK = 0x002, 0x010
SYN_WITHOUT_ACK = (TCP_SYN, TCP_SYN | TCP_ACK)  # value and mask of tcp_flags

Term = tuple[str, int, int]


def full_mask(name: str) -> int:
    """Return the mask that compares every bit of a field."""
    return (1 << FIELDS[name]) - 1


@dataclass(frozen=True, slots=True, order=True, eq=True)
class Match:
    """What a packet must look like; build it with ``match``."""

    terms: tuple[Term, ...] = ()
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Matches are keys of large tables, looked up far more often than they are made.
        object.__setattr__(self, "_hash", hash(self.terms))

    def __hash__(self) -> int:
        return self._hash

    def get(self, name: str) -> tuple[int, int] | None:
        """Return value and mask of a field, None where it is not compared."""
        return next(((value, mask) for term, value, mask in self.terms if term == name), None)

    def overlaps(self, other: Match) -> bool:
        """Tell whether one packet can match both."""
        mine = {name: (value, mask) for name, value, mask in self.terms}
        for name, value, mask in other.terms:
            own_value, own_mask = mine.get(name, (0, 0))
            if (value ^ own_value) & mask & own_mask:
                return False
        return True


def match(**terms: int | tuple[int, int]) -> Match:
    """Build a match: ``field=value`` or ``field=(value, mask)``; a mask of zero compares nothing and is left out."""
    found = []
    for name, term in terms.items():
        value, mask = (term, full_mask(name)) if isinstance(term, int) else term
        if mask:
            found.append((name, value & mask, mask))
    found.sort(key=lambda term: _ORDER[term[0]])
    return Match(tuple(found))


@dataclass(frozen=True, slots=True)
class SetField:
    """Set a whole field."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class ClearInPort:
    """``load:0->NXM_OF_IN_PORT[]``: afterwards an output to the ingress port is not dropped."""


@dataclass(frozen=True, slots=True)
class Move:
    """Copy a whole field to another of the same width."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class PushVlan:
    """Push an 802.1Q tag; a SetField of vlan_vid follows."""


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Remove the outer tag."""


@dataclass(frozen=True, slots=True)
class Output:
    """Send out of a port."""

    port: int


@dataclass(frozen=True, slots=True)
class OutputInPort:
    """Send out of the port on which the packet came in (the reserved port IN_PORT)."""


@dataclass(frozen=True, slots=True)
class ToGroup:
    """Hand over to a group."""

    group: int


@dataclass(frozen=True, slots=True)
class Goto:
    """Go on in a later table; always last."""

    table: int


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look the packet up in another table, keep what that changes, and come back (``resubmit(,table)``)."""

    table: int


@dataclass(frozen=True, slots=True)
class Multipath:
    """Set a register to a hash of the connection modulo ``slots`` (Open vSwitch, ``multipath``).

    The hash is ``symmetric_l4``: the same for both directions, over addresses, ports and protocol.
    """

    slots: int
    target: str
    basis: int = 0


@dataclass(frozen=True, slots=True)
class Learn:
    """Add an entry for this packet's connection to a later table (Open vSwitch, NXAST_LEARN2).

    It matches the constants ``terms`` and the packet's own values of ``fields``, and sets each register of ``keeps``
    to what it is now.  None is added while ``limit`` entries with this cookie stand in the table.  Timeouts are in
    seconds.
    """

    table: int
    priority: int
    cookie: int
    idle_timeout: int
    fin_idle_timeout: int
    limit: int
    terms: tuple[tuple[str, int], ...]
    fields: tuple[str, ...]
    keeps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metered:
    """Drop what exceeds a meter; always first (an OpenFlow instruction)."""

    meter: int


@dataclass(frozen=True, slots=True)
class ToController:
    """Send the whole packet to the controller."""


Action = (
    SetField
    | ClearInPort
    | Move
    | PushVlan
    | PopVlan
    | Output
    | OutputInPort
    | ToGroup
    | Resubmit
    | Multipath
    | Learn
    | Metered
    | ToController
    | Goto
)
EntryKey = tuple[int, int, Match]


class Kind(enum.IntEnum):
    """What an entry belongs to: the second byte of its cookie."""

    BASE = 0
    BINDING = 1
    POLICY = 2
    BORDER = 3
    HOST = 4
    NETWORK = 5
    SERVICE = 6
    LEARNED = 7  # made by a switch for one connection; neither compared nor counted
    PROBE = 8  # there for a moment, to see what a switch does


_KINDS: Mapping[int, Kind] = {kind.value: kind for kind in Kind}

OUR_TAG = 0x0D  # first byte of every cookie and group id of ours
COOKIE_OWNER_MASK = ((1 << 48) - 1) << 16  # tag, kind and owner; not the generation


def crc_owner(name: str) -> int:
    """Return the owner number of something that is known by a name."""
    return zlib.crc32(name.encode())


def make_cookie(kind: Kind, owner: int, generation: int) -> int:
    """Return the cookie of an entry: tag, kind, owner (32 bits) and generation (16 bits)."""
    return OUR_TAG << 56 | kind << 48 | owner << 16 | generation


def is_ours(cookie: int) -> bool:
    """Tell whether the cookie carries our tag."""
    return cookie >> 56 == OUR_TAG


def is_learned(cookie: int) -> bool:
    """Tell whether an entry of ours was made by the switch itself."""
    return cookie >> 48 == OUR_TAG << 8 | Kind.LEARNED


def is_our_group(group: int) -> bool:
    """Tell whether the group id carries our tag."""
    return group >> 24 == OUR_TAG


def is_our_meter(meter: int) -> bool:
    """Tell whether the meter id carries our tag; switches have few meters, so ids are small."""
    return meter >> 8 == OUR_TAG


@dataclass(frozen=True, slots=True)
class FlowEntry:
    """One flow entry; no actions means drop.  ``key`` is what makes it unique in its switch."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...]
    cookie: int
    key: EntryKey = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.table, self.priority, self.match))

    @property
    def owner(self) -> int:
        """The cookie without its generation."""
        return self.cookie & COOKIE_OWNER_MASK

    @property
    def kind(self) -> Kind | None:
        """What the entry belongs to; None where its cookie tells no kind of ours."""
        return _KINDS.get(self.cookie >> 48 & 0xFF)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One choice of a fast-failover group: taken while ``watch_port`` is live."""

    watch_port: int
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """A fast-failover group: the first bucket whose port is live."""

    group: int
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """A meter that drops what comes faster than ``rate`` packets in a second, after ``burst`` packets at once."""

    meter: int
    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class TableSet:
    """All entries, groups and meters of one switch."""

    entries: Mapping[EntryKey, FlowEntry] = field(default_factory=dict)
    groups: Mapping[int, GroupEntry] = field(default_factory=dict)
    meters: Mapping[int, MeterEntry] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        entries: Iterable[FlowEntry],
        groups: Iterable[GroupEntry] = (),
        meters: Iterable[MeterEntry] = (),
        standing: Sequence[Mapping[EntryKey, FlowEntry]] = (),
    ) -> TableSet:
        """Collect entries; raises ValueError if two have the same table, priority and match, or two groups one id.

        ``standing`` are entries that were collected before.
        """
        by_key: dict[EntryKey, FlowEntry] = {}
        for collected in standing:
            expected = len(by_key) + len(collected)
            by_key |= collected
            if len(by_key) != expected:
                raise ValueError(f"{expected - len(by_key)} entries with the same table, priority and match as others")
        for entry in entries:
            if entry.key in by_key:
                raise ValueError(f"two entries with the same table, priority and match: {by_key[entry.key]}, {entry}")
            by_key[entry.key] = entry
        by_id: dict[int, GroupEntry] = {}
        for group in groups:
            if group.group in by_id:
                raise ValueError(f"two groups with the id {group.group:#x}")
            by_id[group.group] = group
        return cls(by_key, by_id, {meter.meter: meter for meter in meters})

    def __iter__(self) -> Iterator[FlowEntry]:
        return iter(self.entries.values())

    def owned_by(self, owners: frozenset[int]) -> Mapping[EntryKey, FlowEntry]:
        """Return the entries whose cookie, without generation, is in ``owners``."""
        return {key: entry for key, entry in self.entries.items() if entry.owner in owners}
