# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a switch says that it holds, as our values.

A switch may hold what our compiler never writes.  Such an entry is returned as None: it is foreign, whatever its
cookie.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from os_ken.ofproto import ofproto_v1_3, ofproto_v1_3_parser

from controller.fabric import parse_mac
from controller.flows import (
    ETH_VLAN,
    FIELDS,
    Action,
    Bucket,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Match,
    Metered,
    MeterEntry,
    Move,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    SetField,
    ToController,
    ToGroup,
    full_mask,
    match,
)
from controller.openflow.encode import ADDRESS_FIELDS, MAC_FIELDS

_P, _O = ofproto_v1_3_parser, ofproto_v1_3
#: Other names of our fields: Open vSwitch answers with the one or the other number.
_ALIASES = {
    "eth_type_nxm": "eth_type",
    "eth_src_nxm": "eth_src",
    "eth_dst_nxm": "eth_dst",
    "arp_sha_nxm": "arp_sha",
    "arp_tha_nxm": "arp_tha",
    "arp_spa_nxm": "arp_spa",
    "arp_tpa_nxm": "arp_tpa",
    "tcp_flags_nxm": "tcp_flags",
}


class _Foreign(Exception):
    """Something that our compiler never writes."""


def _name(name: str) -> str:
    known = _ALIASES.get(name, name)
    if known not in FIELDS:
        raise _Foreign(name)
    return known


def _integer(name: str, value: Any) -> int:
    if name in MAC_FIELDS:
        return parse_mac(value)
    return int(IPv4Address(value)) if name in ADDRESS_FIELDS else int(value)


def decode_match(found: Any) -> Match:
    """Return a match of ours; raises an error for fields that we do not use."""
    terms: dict[str, tuple[int, int]] = {}
    for raw, user in found.items():
        name = _name(raw)
        if isinstance(user, tuple):
            terms[name] = (_integer(name, user[0]), _integer(name, user[1]) & full_mask(name))
        else:
            terms[name] = (_integer(name, user), full_mask(name))
    return match(**terms)


def _decode_action(found: Any) -> Action:
    match found:
        case _P.OFPActionOutput():
            reserved: dict[int, Action] = {_O.OFPP_IN_PORT: OutputInPort(), _O.OFPP_CONTROLLER: ToController()}
            return reserved.get(found.port) or Output(found.port)
        case _P.OFPActionGroup():
            return ToGroup(found.group_id)
        case _P.OFPActionSetField():
            name = _name(found.key)
            return SetField(name, _integer(name, found.value))
        case _P.OFPActionPushVlan() if found.ethertype == ETH_VLAN:
            return PushVlan()
        case _P.OFPActionPopVlan():
            return PopVlan()
        case _P.NXActionRegLoad() if found.dst == "in_port_nxm" and found.value == 0:
            return ClearInPort()
        case _P.NXActionRegMove() if found.src_ofs == found.dst_ofs == 0:
            source, target = _name(found.src_field), _name(found.dst_field)
            if found.n_bits == FIELDS[source]:
                return Move(source, target)
    raise _Foreign(str(found))


def _decode_instructions(instructions: list[Any]) -> tuple[Action, ...]:
    actions: list[Action] = []
    order = {_O.OFPIT_METER: 0, _O.OFPIT_GOTO_TABLE: 2}
    for instruction in sorted(instructions, key=lambda one: order.get(one.type, 1)):
        if instruction.type == _O.OFPIT_METER:
            actions.append(Metered(instruction.meter_id))
        elif instruction.type == _O.OFPIT_GOTO_TABLE:
            actions.append(Goto(instruction.table_id))
        elif instruction.type == _O.OFPIT_APPLY_ACTIONS:
            actions += [_decode_action(action) for action in instruction.actions]
        else:
            raise _Foreign(str(instruction))
    return tuple(actions)


def decode_flow(found: Any) -> FlowEntry | None:
    """Return the entry of an OFPFlowStats (or OFPFlowMod), None if it cannot be one of ours."""
    try:
        actions = _decode_instructions(found.instructions)
        return FlowEntry(found.table_id, found.priority, decode_match(found.match), actions, found.cookie)
    except _Foreign:
        return None


def decode_meter(found: Any) -> MeterEntry | None:
    """Return the meter of an OFPMeterConfigStats, None if it cannot be one of ours."""
    bands = found.bands
    if len(bands) != 1 or not isinstance(bands[0], _P.OFPMeterBandDrop) or not found.flags & _O.OFPMF_PKTPS:
        return None
    return MeterEntry(found.meter_id, bands[0].rate, bands[0].burst_size)


def decode_group(found: Any) -> GroupEntry | None:
    """Return the group of an OFPGroupDescStats (or OFPGroupMod), None if it cannot be one of ours."""
    if found.type != _O.OFPGT_FF:
        return None
    try:
        buckets = tuple(
            Bucket(bucket.watch_port, tuple(_decode_action(action) for action in bucket.actions))
            for bucket in found.buckets
        )
    except _Foreign:
        return None
    return GroupEntry(found.group_id, buckets)
