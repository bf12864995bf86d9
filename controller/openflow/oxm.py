# SPDX-License-Identifier: AGPL-3.0-or-later
"""OXM and NXM: the fields of a match as bytes, and back (OpenFlow 1.3.5, 7.2.3; ovs-fields(7)).

The numbers of the fields are os-ken's.  A match is written in the order in which Open vSwitch writes it, which also
puts what a field requires (eth_type, ip_proto) before it: what the switch answers is what was sent, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from os_ken.ofproto import ofproto_v1_3

from controller.flows import FIELDS, Match, Term, full_mask, match

REMEMBERED_TERMS = 65536

_HEADER = 4  # octets; the last one tells how many follow
_EXPERIMENTER = b"\xff\xff"  # class of the fields with a longer header

#: Fields in the order in which Open vSwitch answers them (``nx_put_raw``, lib/nx-match.c).
_WIRE_ORDER = (
    *("in_port", "eth_src", "eth_dst", "eth_type", "vlan_vid", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst"),
    *("ip_frag", "ip_proto", "tcp_src", "tcp_dst", "tcp_flags", "udp_src", "udp_dst"),
    *("icmpv4_type", "icmpv6_type", "icmpv6_code", "nd_target", "nd_reserved", "nd_tll", "nd_options_type"),
    *("arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha", "reg0", "reg1", "reg2", "reg3", "reg4", "reg5"),
)
_PLACE = {name: place for place, name in enumerate(_WIRE_ORDER)}

#: os-ken's names where they are not ours.
_OXM_NAMES = {"nd_target": "ipv6_nd_target", "nd_tll": "ipv6_nd_tll"}
_NXM_NAMES = {
    name: f"{name}_nxm"
    for name in (
        *("eth_src", "eth_dst", "eth_type", "ip_proto", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst", "tcp_src"),
        *("tcp_dst", "tcp_flags", "udp_src", "udp_dst", "icmpv4_type", "icmpv6_type", "icmpv6_code"),
        *("arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"),
    )
} | {name: name for name in ("reg0", "reg1", "reg2", "reg3", "reg4", "reg5", "ip_frag", "nd_target", "nd_tll")}

#: Fields that os-ken does not know: ERICOXM_OF_ICMPV6_ND_RESERVED and ..._ND_OPTIONS_TYPE of Open vSwitch 2.11
#: (include/openvswitch/meta-flow.h), class 0x1000.
_UNKNOWN_TO_OSKEN = {"nd_reserved": (0x1000, 1), "nd_options_type": (0x1000, 2)}


class Foreign(Exception):
    """Something well-formed that our compiler never writes."""


class Malformed(Exception):
    """Bytes that do not follow OpenFlow; the text says what and where."""


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the value of a field, without and with a mask after it; ``octets`` is the value's length."""

    name: str
    octets: int
    exact: bytes
    masked: bytes


def _from_osken(name: str, theirs: str) -> _Header:
    octets = (FIELDS[name] + 7) // 8
    number, value, mask = ofproto_v1_3.oxm_from_user(theirs, 0), bytes(octets), b"\xff" * octets
    exact, masked = bytearray(), bytearray()
    ofproto_v1_3.oxm_serialize(number[0], value, None, exact, 0)
    ofproto_v1_3.oxm_serialize(number[0], value, mask, masked, 0)
    return _Header(name, octets, bytes(exact[:-octets]), bytes(masked[: -2 * octets]))


def _numbered(name: str, oxm_class: int, number: int) -> _Header:
    octets = (FIELDS[name] + 7) // 8
    exact, masked = (
        oxm_class.to_bytes(2, "big") + bytes((number << 1 | has_mask, octets << has_mask)) for has_mask in (0, 1)
    )
    return _Header(name, octets, exact, masked)


_OXM: Mapping[str, _Header] = {
    name: _numbered(name, *_UNKNOWN_TO_OSKEN[name])
    if name in _UNKNOWN_TO_OSKEN
    else _from_osken(name, _OXM_NAMES.get(name, name))
    for name in FIELDS
}
_NXM: Mapping[str, _Header] = {name: _from_osken(name, theirs) for name, theirs in _NXM_NAMES.items()}
_BY_HEADER: Mapping[bytes, tuple[str, int, bool]] = {
    header: (field.name, field.octets, header == field.masked)
    for field in (*_OXM.values(), *_NXM.values())
    for header in (field.exact, field.masked)
}
#: NXM_OF_IN_PORT, 16 bits wide; as a match we use the OXM field of 32.
NXM_IN_PORT = (2).to_bytes(4, "big")


def nxm_header(name: str) -> bytes:
    """Return the header by which Nicira's actions name a field; KeyError where they cannot."""
    return _NXM[name].exact


def named_by(header: bytes) -> str:
    """Return the field that a header of four octets names in an action; raises Foreign."""
    found = _BY_HEADER.get(header)
    if found is None or found[2]:
        raise Foreign(f"field {header.hex()}")
    return found[0]


@lru_cache(REMEMBERED_TERMS)
def encode_term(term: Term) -> bytes:
    """Return one field of a match with its header."""
    name, value, mask = term
    field = _OXM[name]
    if mask == full_mask(name):
        return field.exact + value.to_bytes(field.octets, "big")
    return field.masked + value.to_bytes(field.octets, "big") + mask.to_bytes(field.octets, "big")


def _place(term: Term) -> int:
    return _PLACE[term[0]]


def encode_fields(what: Match) -> bytes:
    """Return the fields of a match, without the header and padding of the match itself."""
    return b"".join(map(encode_term, sorted(what.terms, key=_place)))


@lru_cache(REMEMBERED_TERMS)
def decode_term(field: bytes) -> Term:
    """Return a field of ours from its header, value and mask; raises Foreign or Malformed."""
    header = field[: _HEADER * (2 if field[:2] == _EXPERIMENTER else 1)]
    known = _BY_HEADER.get(header)
    if known is None:
        raise Foreign(f"field {header.hex()}")
    name, octets, masked = known
    if len(field) != len(header) + octets * (2 if masked else 1):
        raise Malformed(f"field {name} with {len(field) - len(header)} octets")
    value = int.from_bytes(field[len(header) : len(header) + octets], "big")
    mask = int.from_bytes(field[len(header) + octets :], "big") & full_mask(name) if masked else full_mask(name)
    return (name, value & mask, mask)


def decode_fields(fields: bytes) -> Match:
    """Return a match; raises Foreign or Malformed."""
    terms: dict[str, tuple[int, int]] = {}
    start = 0
    while start < len(fields):
        end = start + _HEADER + fields[start + _HEADER - 1] if start + _HEADER <= len(fields) else len(fields) + 1
        if end > len(fields):
            raise Malformed(f"field at octet {start} of a match of {len(fields)} octets reaches beyond it")
        name, value, mask = decode_term(fields[start:end])
        if name in terms:
            raise Foreign(f"field {name} twice")
        terms[name] = (value, mask)
        start = end
    return match(**terms)
