# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a switch says that it holds: entries and groups from the bytes of its answers (OpenFlow 1.3.5, 7.3.5).

os-ken's parser makes some thousand entries in a second and turns what it cannot parse into nothing; ``install`` puts a
parser before it that leaves the bodies of these answers as bytes, and ``flows``, ``groups`` and ``meters`` read them.
The fields, actions and whole entries that came before are remembered by their bytes.

A switch may hold what our compiler never writes.  Such an entry is foreign, whatever its cookie.  An answer that does
not follow OpenFlow is refused whole.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from os_ken.ofproto import ofproto_common, ofproto_parser, ofproto_v1_3, ofproto_v1_3_parser

from controller.channel import CountedEntry, FlowReading, GroupReading, MeterReading
from controller.flows import (
    Action,
    Bucket,
    FlowEntry,
    GroupEntry,
    Match,
    MeterEntry,
    is_learned,
    is_our_group,
    is_our_meter,
    is_ours,
)
from controller.openflow.actions import decode_actions, decode_instructions
from controller.openflow.oxm import Foreign, Malformed, decode_fields
from controller.openflow.wire import DROP_BAND, METER_FLAGS

REMEMBERED_ENTRIES = 65536

_O, _P = ofproto_v1_3, ofproto_v1_3_parser
#: Length, table, seconds and nanoseconds since it was added, priority, timeouts (idle, hard), flags, cookie, packets,
#: bytes; then the match.
_FLOW = struct.Struct("!HBxIIHHHH4xQQQ")
_MATCH = struct.Struct("!HH")
_GROUP = struct.Struct("!HBxI")  # length, type, group
_BUCKET = struct.Struct("!HHII4x")
_METER = struct.Struct("!HHI")  # length, flags, meter
_ALIGNMENT = 8

_RAW = {
    _O.OFPMP_FLOW: _P.OFPFlowStatsReply,
    _O.OFPMP_GROUP_DESC: _P.OFPGroupDescStatsReply,
    _O.OFPMP_METER_CONFIG: _P.OFPMeterConfigStatsReply,
}
_KIND = struct.Struct(_O.OFP_MULTIPART_REPLY_PACK_STR)


def install() -> None:
    """Let os-ken leave the bodies of these answers alone."""

    @ofproto_parser.register_msg_parser(_O.OFP_VERSION)
    def parse(datapath: Any, version: int, msg_type: int, msg_len: int, xid: int, buf: bytearray) -> Any:
        if msg_type == _O.OFPT_MULTIPART_REPLY and msg_len >= _O.OFP_MULTIPART_REPLY_SIZE:
            kind, flags = _KIND.unpack_from(buf, ofproto_common.OFP_HEADER_SIZE)
            if kind in _RAW:
                message = _RAW[kind](datapath)
                message.set_headers(version, msg_type, msg_len, xid)
                message.type, message.flags = kind, flags
                message.body = bytes(buf[_O.OFP_MULTIPART_REPLY_SIZE : msg_len])
                return message
        return _P.msg_parser(datapath, version, msg_type, msg_len, xid, buf)


def _pieces(body: bytes, least: int, what: str) -> Iterator[tuple[int, int]]:
    """Return where each piece of a body begins and ends; a piece starts with its length.  Raises Malformed."""
    start = 0
    while start < len(body):
        length = int.from_bytes(body[start : start + 2], "big")
        if length < least or start + length > len(body):
            raise Malformed(f"{what} at octet {start} of {len(body)} has the length {length}")
        yield start, start + length
        start += length


def flows(body: bytes) -> FlowReading:
    """Return what one part of an answer to a request for flow statistics says; raises Malformed."""
    found, foreign, learned = [], 0, 0
    for start, end in _pieces(body, _FLOW.size + _ALIGNMENT, "flow statistics"):
        _, table, seconds, nanoseconds, priority, idle, hard, flags, cookie, packets, octets = _FLOW.unpack_from(
            body, start
        )
        if is_learned(cookie):
            learned += 1
            continue
        # Our compiler sets none of these: an entry that would time out is not what it looks like.
        rest = None if not is_ours(cookie) or idle or hard or flags else _rest(body[start + _FLOW.size : end])
        if rest is None:
            foreign += 1
        else:
            entry = FlowEntry(table, priority, *rest, cookie)
            found.append(CountedEntry(entry, packets, octets, seconds + nanoseconds / 1e9))
    return FlowReading(tuple(found), foreign, learned)


@lru_cache(REMEMBERED_ENTRIES)
def _rest(octets: bytes) -> tuple[Match, tuple[Action, ...]] | None:
    """Return match and actions of an entry, None if they cannot be ours."""
    kind, length = _MATCH.unpack_from(octets)
    end = length + -length % _ALIGNMENT
    if kind != _O.OFPMT_OXM or length < _MATCH.size or end > len(octets):
        raise Malformed(f"match of type {kind} and length {length} in {len(octets)} octets")
    try:
        return decode_fields(octets[_MATCH.size : length]), decode_instructions(octets[end:])
    except Foreign:
        return None


def groups(body: bytes) -> GroupReading:
    """Return what one part of an answer to a request for group descriptions says; raises Malformed.

    Another kind of group with one of our ids, or one with actions that our compiler never writes, has no buckets: it is
    ours to change, and cannot be added once more.
    """
    found, foreign = [], 0
    for start, end in _pieces(body, _GROUP.size, "group description"):
        _, kind, number = _GROUP.unpack_from(body, start)
        if not is_our_group(number):
            foreign += 1
            continue
        buckets: tuple[Bucket, ...] = ()
        if kind == _O.OFPGT_FF:
            with contextlib.suppress(Foreign):
                buckets = tuple(_buckets(body[start + _GROUP.size : end]))
        found.append(GroupEntry(number, buckets))
    return GroupReading(tuple(found), foreign)


def _buckets(octets: bytes) -> Iterator[Bucket]:
    for start, end in _pieces(octets, _BUCKET.size, "bucket"):
        _, _, port, _ = _BUCKET.unpack_from(octets, start)
        yield Bucket(port, decode_actions(octets[start + _BUCKET.size : end]))


def meters(body: bytes) -> MeterReading:
    """Return what one part of an answer to a request for meter configurations says; raises Malformed.

    Another kind of meter with one of our ids has the rate 0: it is ours to change, and cannot be added once more.
    """
    found = []
    for start, end in _pieces(body, _METER.size, "meter configuration"):
        _, flags, number = _METER.unpack_from(body, start)
        if not is_our_meter(number):
            continue
        bands = body[start + _METER.size : end]
        rate = burst = 0
        if flags == METER_FLAGS and len(bands) == DROP_BAND.size:
            kind, _, its_rate, its_burst = DROP_BAND.unpack(bands)
            if kind == _O.OFPMBT_DROP:
                rate, burst = its_rate, its_burst
        found.append(MeterEntry(number, rate, burst))
    return MeterReading(tuple(found))
