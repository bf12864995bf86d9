# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our values as os-ken's OpenFlow 1.3 messages, with the Nicira and ONF extensions that Open vSwitch has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    Match,
    Metered,
    Move,
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
MAC_FIELDS = frozenset({"eth_src", "eth_dst", "arp_sha", "arp_tha", "nd_tll"})
ADDRESS6_FIELDS = frozenset({"ipv6_src", "ipv6_dst"})
ADDRESS_FIELDS = frozenset({"ipv4_src", "ipv4_dst", "arp_spa", "arp_tpa"})
IN_PORT_BITS = 16  # width of NXM_OF_IN_PORT

#: Open vSwitch wants the prerequisites of a field before it; os-ken's own order, by number, puts the Nicira field
#: ip_frag before eth_type, which is refused with BAD_PREREQ.
_PREREQUISITES = ("eth_type", "ip_proto")


def _user(name: str, value: int) -> int | str:
    """Return a value as os-ken's interface takes it."""
    if name in MAC_FIELDS:
        return format_mac(value)
    if name in ADDRESS6_FIELDS:
        return str(IPv6Address(value))
    return str(IPv4Address(value)) if name in ADDRESS_FIELDS else value


def encode_match(match: Match) -> Any:
    """Return an OFPMatch."""
    fields = []
    for name, value, mask in sorted(match.terms, key=lambda term: _wire_place(term[0])):
        exact = mask == full_mask(name)
        fields.append((name, _user(name, value) if exact else (_user(name, value), _user(name, mask))))
    return _P.OFPMatch(_ordered_fields=fields)


def _wire_place(name: str) -> int:
    return _PREREQUISITES.index(name) if name in _PREREQUISITES else len(_PREREQUISITES)


_ENCODERS: dict[type, Callable[..., Any]] = {
    SetField: lambda action: _P.OFPActionSetField(**{action.name: _user(action.name, action.value)}),
    ClearInPort: lambda action: _P.NXActionRegLoad(
        ofs_nbits=nicira_ext.ofs_nbits(0, IN_PORT_BITS - 1), dst="in_port_nxm", value=0
    ),
    Move: lambda action: _P.NXActionRegMove(
        src_field=action.source, dst_field=action.target, n_bits=FIELDS[action.source]
    ),
    PushVlan: lambda action: _P.OFPActionPushVlan(ETH_VLAN),
    PopVlan: lambda action: _P.OFPActionPopVlan(),
    Output: lambda action: _P.OFPActionOutput(action.port, 0),
    OutputInPort: lambda action: _P.OFPActionOutput(_O.OFPP_IN_PORT, 0),
    ToGroup: lambda action: _P.OFPActionGroup(action.group),
    Resubmit: lambda action: _P.NXActionResubmitTable(in_port=_O.OFPP_IN_PORT & 0xFFFF, table_id=action.table),
    ToController: lambda action: _P.OFPActionOutput(_O.OFPP_CONTROLLER, _O.OFPCML_NO_BUFFER),
}


def encode_actions(actions: Iterable[Action]) -> list[Any]:
    """Return OFPActions; Goto and Metered are instructions and not among them."""
    return [_ENCODERS[type(action)](action) for action in actions if not isinstance(action, Goto | Metered)]


def _instructions(entry: FlowEntry) -> list[Any]:
    applied = encode_actions(entry.actions)
    found = [_P.OFPInstructionMeter(action.meter) for action in entry.actions if isinstance(action, Metered)]
    found += [_P.OFPInstructionActions(_O.OFPIT_APPLY_ACTIONS, applied)] if applied else []
    return found + [_P.OFPInstructionGotoTable(action.table) for action in entry.actions if isinstance(action, Goto)]


def encode_flow(datapath: Any, change: FlowChange) -> Any:
    """Return the OFPFlowMod of a change; a deletion is strict, whatever cookie the entry has."""
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
        match=encode_match(entry.match),
        instructions=_instructions(entry) if adds else [],
    )


def _buckets(group: GroupEntry) -> list[Any]:
    return [
        _P.OFPBucket(watch_port=bucket.watch_port, watch_group=_O.OFPG_ANY, actions=encode_actions(bucket.actions))
        for bucket in group.buckets
    ]


def encode_group(datapath: Any, change: GroupChange) -> Any:
    """Return the OFPGroupMod of a change."""
    commands = {"+": _O.OFPGC_ADD, "~": _O.OFPGC_MODIFY, "-": _O.OFPGC_DELETE}
    buckets = [] if change.op == "-" else _buckets(change.group)
    return _P.OFPGroupMod(datapath, commands[change.op], _O.OFPGT_FF, change.group.group, buckets)


def encode_meter(datapath: Any, change: MeterChange) -> Any:
    """Return the OFPMeterMod of a change."""
    commands = {"+": _O.OFPMC_ADD, "~": _O.OFPMC_MODIFY, "-": _O.OFPMC_DELETE}
    flags = _O.OFPMF_PKTPS | _O.OFPMF_BURST | _O.OFPMF_STATS
    meter = change.meter
    bands = [] if change.op == "-" else [_P.OFPMeterBandDrop(rate=meter.rate, burst_size=meter.burst)]
    return _P.OFPMeterMod(datapath, commands[change.op], flags, meter.meter, bands)


def encode_change(datapath: Any, change: Change) -> Any:
    """Return the message of one change."""
    if isinstance(change, FlowChange):
        return encode_flow(datapath, change)
    return encode_group(datapath, change) if isinstance(change, GroupChange) else encode_meter(datapath, change)
