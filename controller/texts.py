# SPDX-License-Identifier: AGPL-3.0-or-later
"""Matches, actions and groups in the words of ovs-ofctl (ovs-fields(7), ovs-actions(7))."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from controller.fabric import format_mac
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    FRAG_LATER,
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
    ToGroup,
    full_mask,
)

_NAMES = {
    "eth_src": "dl_src",
    "eth_dst": "dl_dst",
    "ipv4_src": "nw_src",
    "ipv4_dst": "nw_dst",
    "tcp_src": "tp_src",
    "tcp_dst": "tp_dst",
    "udp_src": "tp_src",
    "udp_dst": "tp_dst",
    "icmpv4_type": "icmp_type",
}
_MACS = frozenset({"eth_src", "eth_dst", "arp_sha", "arp_tha"})
_ADDRESSES = frozenset({"ipv4_src", "ipv4_dst", "arp_spa", "arp_tpa"})
_HEXADECIMAL = frozenset({"reg0", "reg1", "eth_type"})
_TRANSPORTS = {PROTO_ICMP: "icmp", PROTO_TCP: "tcp", PROTO_UDP: "udp"}
_TCP_FLAGS = ((0x002, "syn"), (0x010, "ack"), (0x001, "fin"), (0x004, "rst"), (0x008, "psh"))
_NXM = {
    "eth_src": "NXM_OF_ETH_SRC[]",
    "eth_dst": "NXM_OF_ETH_DST[]",
    "arp_sha": "NXM_NX_ARP_SHA[]",
    "arp_tha": "NXM_NX_ARP_THA[]",
    "arp_spa": "NXM_OF_ARP_SPA[]",
    "arp_tpa": "NXM_OF_ARP_TPA[]",
}


def match_text(match: Match) -> str:
    """Return a match as ``ovs-ofctl add-flow`` takes it; the empty string matches everything."""
    words = [_protocol(match)]
    for name, value, mask in match.terms:
        if name not in ("eth_type", "ip_proto"):
            words.append(_term(name, value, mask))
    return ",".join(word for word in words if word)


def _protocol(match: Match) -> str:
    kind = match.get("eth_type")
    if kind is None:
        return ""
    if kind[0] == ETH_ARP:
        return "arp"
    transport = match.get("ip_proto")
    if kind[0] == ETH_IPV4:
        return "ip" if transport is None else _TRANSPORTS.get(transport[0], f"ip,nw_proto={transport[0]}")
    return f"dl_type={kind[0]:#06x}"


def _term(name: str, value: int, mask: int) -> str:
    exact = mask == full_mask(name)
    if name == "vlan_vid":
        if exact and value & VLAN_PRESENT:
            return f"dl_vlan={value & ~VLAN_PRESENT}"
        return f"vlan_tci={value:#06x}/{mask:#06x}"
    if name == "ip_frag":
        return "nw_frag=later" if (value, mask) == (FRAG_LATER, FRAG_LATER) else f"nw_frag={value}/{mask}"
    if name == "tcp_flags":
        return "tcp_flags=" + "".join(("+" if value & bit else "-") + word for bit, word in _TCP_FLAGS if mask & bit)
    text = _value(name, value)
    if exact:
        return f"{_NAMES.get(name, name)}={text}"
    if name in _ADDRESSES and _is_prefix(mask):
        return f"{_NAMES.get(name, name)}={text}/{mask.bit_count()}"
    return f"{_NAMES.get(name, name)}={text}/{_value(name, mask)}"


def _is_prefix(mask: int) -> bool:
    inverse = ~mask & 0xFFFFFFFF
    return inverse & (inverse + 1) == 0


def _value(name: str, value: int) -> str:
    if name in _MACS:
        return format_mac(value)
    if name in _ADDRESSES:
        return str(IPv4Address(value))
    if name in _HEXADECIMAL:
        return f"{value:#x}"
    return str(value)


def _field_target(name: str) -> str:
    return {"ipv4_src": "ip_src", "ipv4_dst": "ip_dst"}.get(name, name)


_ACTION_TEXTS: dict[type, Callable[..., str]] = {
    SetField: lambda action: f"set_field:{_value(action.name, action.value)}->{_field_target(action.name)}",
    ClearInPort: lambda action: "load:0->NXM_OF_IN_PORT[]",
    Move: lambda action: f"move:{_NXM[action.source]}->{_NXM[action.target]}",
    PushVlan: lambda action: "push_vlan:0x8100",
    PopVlan: lambda action: "pop_vlan",
    Output: lambda action: f"output:{action.port}",
    OutputInPort: lambda action: "IN_PORT",
    ToGroup: lambda action: f"group:{action.group}",
    Goto: lambda action: f"goto_table:{action.table}",
}


def actions_text(actions: Iterable[Action]) -> str:
    """Return actions as ``ovs-ofctl`` takes them; no actions are ``drop``."""
    return ",".join(_ACTION_TEXTS[type(action)](action) for action in actions) or "drop"


def entry_text(entry: FlowEntry) -> str:
    """Return one entry as a line for ``ovs-ofctl add-flow``."""
    match = match_text(entry.match)
    return (
        f"cookie={entry.cookie:#x}, table={entry.table}, priority={entry.priority}{',' if match else ''}{match} "
        f"actions={actions_text(entry.actions)}"
    )


def group_text(group: GroupEntry) -> str:
    """Return one group as a line for ``ovs-ofctl add-group``."""
    buckets = "".join(
        f",bucket=watch_port:{bucket.watch_port},actions={actions_text(bucket.actions)}" for bucket in group.buckets
    )
    return f"group_id={group.group},type=ff{buckets}"
