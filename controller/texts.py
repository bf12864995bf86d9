# SPDX-License-Identifier: AGPL-3.0-or-later
"""Matches, actions, groups and meters in the words of ovs-ofctl (ovs-fields(7), ovs-actions(7))."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from controller.changes import Change, FlowChange, GroupChange
from controller.fabric import format_mac
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    FRAG_ANY,
    FRAG_LATER,
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
    MeterEntry,
    Move,
    Multipath,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    ToController,
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
    "icmpv6_type": "icmp_type",
    "icmpv6_code": "icmp_code",
}
_MACS = frozenset({"eth_src", "eth_dst", "arp_sha", "arp_tha", "nd_tll"})
_ADDRESSES = frozenset({"ipv4_src", "ipv4_dst", "arp_spa", "arp_tpa"})
_ADDRESSES6 = frozenset({"ipv6_src", "ipv6_dst", "nd_target"})
_HEXADECIMAL = frozenset({"reg0", "reg1", "reg2", "reg3", "reg4", "reg5", "eth_type", "nd_reserved"})
_TRANSPORTS = {PROTO_ICMP: "icmp", PROTO_TCP: "tcp", PROTO_UDP: "udp"}
_TRANSPORTS6 = {PROTO_ICMPV6: "icmp6", PROTO_TCP: "tcp6", PROTO_UDP: "udp6"}
_TCP_FLAGS = ((0x002, "syn"), (0x010, "ack"), (0x001, "fin"), (0x004, "rst"), (0x008, "psh"))
_NXM = {
    "eth_src": "NXM_OF_ETH_SRC[]",
    "eth_dst": "NXM_OF_ETH_DST[]",
    "arp_sha": "NXM_NX_ARP_SHA[]",
    "arp_tha": "NXM_NX_ARP_THA[]",
    "arp_spa": "NXM_OF_ARP_SPA[]",
    "arp_tpa": "NXM_OF_ARP_TPA[]",
    "ipv4_src": "NXM_OF_IP_SRC[]",
    "ipv4_dst": "NXM_OF_IP_DST[]",
    "ipv6_src": "NXM_NX_IPV6_SRC[]",
    "ipv6_dst": "NXM_NX_IPV6_DST[]",
    "tcp_src": "NXM_OF_TCP_SRC[]",
    "tcp_dst": "NXM_OF_TCP_DST[]",
    **{f"reg{number}": f"NXM_NX_REG{number}[]" for number in range(6)},
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
    if kind[0] == ETH_IPV6:
        return "ipv6" if transport is None else _TRANSPORTS6.get(transport[0], f"ipv6,nw_proto={transport[0]}")
    return f"dl_type={kind[0]:#06x}"


def _term(name: str, value: int, mask: int) -> str:
    exact = mask == full_mask(name)
    if name == "vlan_vid":
        if exact and value & VLAN_PRESENT:
            return f"dl_vlan={value & ~VLAN_PRESENT}"
        return f"vlan_tci={value:#06x}/{mask:#06x}"
    if name == "ip_frag":
        known = {(FRAG_ANY, FRAG_ANY): "yes", (FRAG_LATER, FRAG_LATER): "later"}
        return f"nw_frag={known.get((value, mask), f'{value}/{mask}')}"
    if name == "tcp_flags":
        return "tcp_flags=" + "".join(("+" if value & bit else "-") + word for bit, word in _TCP_FLAGS if mask & bit)
    text = _value(name, value)
    if exact:
        return f"{_NAMES.get(name, name)}={text}"
    if name in _ADDRESSES | _ADDRESSES6 and _is_prefix(mask, full_mask(name)):
        return f"{_NAMES.get(name, name)}={text}/{mask.bit_count()}"
    return f"{_NAMES.get(name, name)}={text}/{_value(name, mask)}"


def _is_prefix(mask: int, full: int) -> bool:
    inverse = ~mask & full
    return inverse & (inverse + 1) == 0


def _value(name: str, value: int) -> str:
    if name in _MACS:
        return format_mac(value)
    if name in _ADDRESSES:
        return str(IPv4Address(value))
    if name in _ADDRESSES6:
        return str(IPv6Address(value))
    if name in _HEXADECIMAL:
        return f"{value:#x}"
    return str(value)


_FIELD_TARGETS = {"ipv4_src": "ip_src", "ipv4_dst": "ip_dst"}


def _learn_text(learn: Learn) -> str:
    words = [f"table={learn.table}", f"idle_timeout={learn.idle_timeout}", f"fin_idle_timeout={learn.fin_idle_timeout}"]
    words += [f"priority={learn.priority}", f"cookie={learn.cookie:#x}", f"limit={learn.limit}"]
    words += [f"{_NAMES.get(name, name)}={_value(name, value)}" for name, value in learn.terms]
    words += [_NXM[name] for name in learn.fields]
    words += [f"load:{_NXM[name]}->{_NXM[name]}" for name in learn.keeps]
    return f"learn({','.join(words)})".replace("ip_proto=", "nw_proto=")


_ACTION_TEXTS: dict[type, Callable[..., str]] = {
    SetField: lambda one: f"set_field:{_value(one.name, one.value)}->{_FIELD_TARGETS.get(one.name, one.name)}",
    ClearInPort: lambda one: "load:0->NXM_OF_IN_PORT[]",
    Move: lambda one: f"move:{_NXM[one.source]}->{_NXM[one.target]}",
    PushVlan: lambda one: "push_vlan:0x8100",
    PopVlan: lambda one: "pop_vlan",
    Output: lambda one: f"output:{one.port}",
    OutputInPort: lambda one: "IN_PORT",
    ToGroup: lambda one: f"group:{one.group}",
    Resubmit: lambda one: f"resubmit(,{one.table})",
    Multipath: lambda one: f"multipath(symmetric_l4,{one.basis},modulo_n,{one.slots},0,{_NXM[one.target]})",
    Learn: _learn_text,
    Metered: lambda one: f"meter:{one.meter}",
    ToController: lambda one: "CONTROLLER:65535",
    Goto: lambda one: f"goto_table:{one.table}",
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


def meter_text(meter: MeterEntry) -> str:
    """Return one meter as ``ovs-ofctl add-meter`` takes it."""
    return f"meter={meter.meter},pktps,burst,stats,bands=type=drop rate={meter.rate} burst_size={meter.burst}"


def change_text(change: Change) -> str:
    """Return what a change is about, without whether it comes or goes."""
    if isinstance(change, FlowChange):
        return entry_text(change.entry)
    return group_text(change.group) if isinstance(change, GroupChange) else meter_text(change.meter)
