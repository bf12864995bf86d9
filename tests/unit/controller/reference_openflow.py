# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our values as os-ken's own message objects: what ``controller.openflow.wire`` is compared with, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from os_ken.ofproto import nicira_ext, ofproto_v1_3, ofproto_v1_3_parser

from controller.changes import Change, FlowChange, GroupChange, MeterChange
from controller.fabric import format_mac
from controller.flows import (
    ETH_VLAN,
    FIELDS,
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
    ToController,
    ToGroup,
    full_mask,
)

_P, _O = ofproto_v1_3_parser, ofproto_v1_3
_MACS = frozenset({"eth_src", "eth_dst", "arp_sha", "arp_tha", "nd_tll"})
_ADDRESSES = frozenset({"ipv4_src", "ipv4_dst", "arp_spa", "arp_tpa"})
_ADDRESSES6 = frozenset({"ipv6_src", "ipv6_dst", "nd_target"})
_NAMES = {"nd_target": "ipv6_nd_target", "nd_tll": "ipv6_nd_tll"}
#: Fields that os-ken does not know.
UNKNOWN = frozenset({"nd_reserved", "nd_options_type"})
#: Fields that Nicira's actions can name.
NICIRA = frozenset(FIELDS) - UNKNOWN - {"in_port", "vlan_vid"}

#: The order of a match as ``ovs-ofctl`` shows that Open vSwitch 3.1 answers it.
_ORDER = (
    *("in_port", "eth_src", "eth_dst", "eth_type", "vlan_vid", "ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst"),
    *("ip_frag", "ip_proto", "tcp_src", "tcp_dst", "tcp_flags", "udp_src", "udp_dst", "icmpv4_type", "icmpv6_type"),
    *("icmpv6_code", "nd_target", "nd_reserved", "nd_tll", "nd_options_type", "arp_op", "arp_spa", "arp_tpa"),
    *("arp_sha", "arp_tha", "reg0", "reg1", "reg2", "reg3", "reg4", "reg5"),
)


def _user(name: str, value: int) -> int | str:
    """Return a value as os-ken's interface takes it."""
    if name in _MACS:
        return format_mac(value)
    if name in _ADDRESSES6:
        return str(IPv6Address(value))
    return str(IPv4Address(value)) if name in _ADDRESSES else value


def _oxm(name: str) -> str:
    return _NAMES.get(name, name)


def _nxm(name: str) -> str:
    alone = name.startswith("reg") or name in ("ip_frag", "nd_target", "nd_tll")
    return name if alone else f"{name}_nxm"


def reference_match(match: Match) -> Any:
    """Return an OFPMatch."""
    fields = []
    for name, value, mask in sorted(match.terms, key=lambda term: _ORDER.index(term[0])):
        exact = mask == full_mask(name)
        fields.append((_oxm(name), _user(name, value) if exact else (_user(name, value), _user(name, mask))))
    return _P.OFPMatch(_ordered_fields=fields)


def _learn(action: Learn) -> Any:
    """Return an action without a limit: os-ken does not know the other."""
    specs = [_P.NXFlowSpecMatch(src=value, dst=(_nxm(name), 0), n_bits=FIELDS[name]) for name, value in action.terms]
    specs += [
        kind(src=(_nxm(name), 0), dst=(_nxm(name), 0), n_bits=FIELDS[name])
        for kind, names in ((_P.NXFlowSpecMatch, action.fields), (_P.NXFlowSpecLoad, action.keeps))
        for name in names
    ]
    return _P.NXActionLearn(
        table_id=action.table,
        specs=specs,
        idle_timeout=action.idle_timeout,
        priority=action.priority,
        cookie=action.cookie,
        fin_idle_timeout=action.fin_idle_timeout,
    )


_ACTIONS: Mapping[type, Callable[..., Any]] = {
    SetField: lambda action: _P.OFPActionSetField(**{_oxm(action.name): _user(action.name, action.value)}),
    ClearInPort: lambda action: _P.NXActionRegLoad(ofs_nbits=nicira_ext.ofs_nbits(0, 15), dst="in_port_nxm", value=0),
    Move: lambda action: _P.NXActionRegMove(
        src_field=_nxm(action.source), dst_field=_nxm(action.target), n_bits=FIELDS[action.source]
    ),
    PushVlan: lambda action: _P.OFPActionPushVlan(ETH_VLAN),
    PopVlan: lambda action: _P.OFPActionPopVlan(),
    Output: lambda action: _P.OFPActionOutput(action.port, 0),
    OutputInPort: lambda action: _P.OFPActionOutput(_O.OFPP_IN_PORT, 0),
    ToGroup: lambda action: _P.OFPActionGroup(action.group),
    Resubmit: lambda action: _P.NXActionResubmitTable(table_id=action.table),
    Multipath: lambda action: _P.NXActionMultipath(
        fields=1,
        basis=action.basis,
        algorithm=0,
        max_link=action.slots - 1,
        arg=0,
        ofs_nbits=nicira_ext.ofs_nbits(0, FIELDS[action.target] - 1),
        dst=_nxm(action.target),
    ),
    Learn: _learn,
    ToController: lambda action: _P.OFPActionOutput(_O.OFPP_CONTROLLER, _O.OFPCML_NO_BUFFER),
}


def reference_actions(actions: Iterable[Action]) -> list[Any]:
    """Return OFPActions; Goto and Metered are instructions and not among them."""
    return [_ACTIONS[type(action)](action) for action in actions if not isinstance(action, Goto | Metered)]


def _instructions(entry: FlowEntry) -> list[Any]:
    found = [_P.OFPInstructionMeter(action.meter) for action in entry.actions if isinstance(action, Metered)]
    if applied := reference_actions(entry.actions):
        found.append(_P.OFPInstructionActions(_O.OFPIT_APPLY_ACTIONS, applied))
    return found + [_P.OFPInstructionGotoTable(action.table) for action in entry.actions if isinstance(action, Goto)]


def _flow(datapath: Any, change: FlowChange) -> Any:
    entry = change.entry
    adds = change.op == "+"
    return _P.OFPFlowMod(
        datapath=datapath,
        cookie=entry.cookie if adds else 0,
        table_id=entry.table,
        command=_O.OFPFC_ADD if adds else _O.OFPFC_DELETE_STRICT,
        priority=entry.priority,
        out_port=_O.OFPP_ANY,
        out_group=_O.OFPG_ANY,
        match=reference_match(entry.match),
        instructions=_instructions(entry) if adds else [],
    )


def _buckets(group: GroupEntry) -> list[Any]:
    return [
        _P.OFPBucket(watch_port=bucket.watch_port, watch_group=_O.OFPG_ANY, actions=reference_actions(bucket.actions))
        for bucket in group.buckets
    ]


def _group(datapath: Any, change: GroupChange) -> Any:
    commands = {"+": _O.OFPGC_ADD, "~": _O.OFPGC_MODIFY, "-": _O.OFPGC_DELETE}
    buckets = [] if change.op == "-" else _buckets(change.group)
    return _P.OFPGroupMod(datapath, commands[change.op], _O.OFPGT_FF, change.group.group, buckets)


def _meter(datapath: Any, change: MeterChange) -> Any:
    commands = {"+": _O.OFPMC_ADD, "~": _O.OFPMC_MODIFY, "-": _O.OFPMC_DELETE}
    flags = _O.OFPMF_PKTPS | _O.OFPMF_BURST | _O.OFPMF_STATS
    meter = change.meter
    bands = [] if change.op == "-" else [_P.OFPMeterBandDrop(rate=meter.rate, burst_size=meter.burst)]
    return _P.OFPMeterMod(datapath, commands[change.op], flags, meter.meter, bands)


def reference_message(datapath: Any, change: Change) -> Any:
    """Return os-ken's message of one change."""
    if isinstance(change, FlowChange):
        return _flow(datapath, change)
    return _group(datapath, change) if isinstance(change, GroupChange) else _meter(datapath, change)


def reference_bundle_addition(datapath: Any, change: Change, bundle: int, xid: int) -> bytes:
    """Return the bytes that os-ken sends to add a change to a bundle."""
    flags = _O.ONF_BF_ATOMIC | _O.ONF_BF_ORDERED
    message = _P.ONFBundleAddMsg(datapath, bundle, flags, reference_message(datapath, change), [])
    message.set_xid(xid)
    message.serialize()
    return bytes(message.buf)
