# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes as OpenFlow 1.3 messages in bytes (OpenFlow 1.3.5, 7.3.4; ONF EXT-230, bundles).

os-ken makes an object of every field of every message, which costs 150 us for an entry.  Here an entry becomes bytes
once and is remembered, so that a switch that comes back empty is sent what is there already; only the headers around
it, with their transaction ids, are packed anew.  Tests compare every byte with what os-ken writes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence

from os_ken.ofproto import ofproto_common, ofproto_v1_3

from controller.changes import Change, FlowChange, GroupChange, MeterChange
from controller.flows import FlowEntry, GroupEntry, Match
from controller.openflow.actions import encode_actions, encode_instructions, padded
from controller.openflow.oxm import encode_fields

_O = ofproto_v1_3

#: Entries whose bytes are kept, together with the entry: about 1.5 KiB each.
KEPT_ENTRIES = 65536
#: What is sent at once.
CHUNK_BYTES = 64 * 1024

HEADER = struct.Struct("!BBHI")  # version, type, length, transaction id
#: Cookie and its mask, table, command, timeouts (idle, hard), priority, buffer, output port and group, flags.
_FLOW_MOD = struct.Struct("!QQBBHHHIIIH2x")
_GROUP_MOD = struct.Struct("!HBxI")  # command, type, group
_METER_MOD = struct.Struct("!HHI")  # command, flags, meter
DROP_BAND = struct.Struct("!HHII4x")  # type, length, rate, burst
_BUCKET = struct.Struct("!HHII4x")  # length, weight, port and group to watch
_MATCH = struct.Struct("!HH")
#: Header, experimenter and its type, bundle, flags, then the header of the message that is added.
_BUNDLE_ADD = struct.Struct("!BBHIIII2xHBBHI")

BUNDLE_FLAGS = _O.ONF_BF_ATOMIC | _O.ONF_BF_ORDERED

METER_FLAGS = _O.OFPMF_PKTPS | _O.OFPMF_BURST | _O.OFPMF_STATS

_GROUP_COMMANDS: Mapping[str, int] = {"+": _O.OFPGC_ADD, "~": _O.OFPGC_MODIFY, "-": _O.OFPGC_DELETE}
_METER_COMMANDS: Mapping[str, int] = {"+": _O.OFPMC_ADD, "~": _O.OFPMC_MODIFY, "-": _O.OFPMC_DELETE}


def _match(what: Match) -> bytes:
    fields = encode_fields(what)
    return padded(_MATCH.pack(_O.OFPMT_OXM, _MATCH.size + len(fields)) + fields)


def _flow_mod(entry: FlowEntry, command: int, cookie: int, instructions: bytes) -> bytes:
    fixed = _FLOW_MOD.pack(
        *(cookie, 0, entry.table, command, 0, 0, entry.priority),
        *(_O.OFP_NO_BUFFER, _O.OFPP_ANY, _O.OFPG_ANY, 0),
    )
    return fixed + _match(entry.match) + instructions


def _addition(entry: FlowEntry) -> bytes:
    return _flow_mod(entry, _O.OFPFC_ADD, entry.cookie, encode_instructions(entry.actions))


def _buckets(group: GroupEntry) -> bytes:
    found = []
    for bucket in group.buckets:
        actions = encode_actions(bucket.actions)
        found.append(_BUCKET.pack(_BUCKET.size + len(actions), 0, bucket.watch_port, _O.OFPG_ANY) + actions)
    return b"".join(found)


class _Kept:
    """The bytes of entries that were added; an entry is never changed, so it is known by its identity."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bodies: dict[int, tuple[FlowEntry, bytes]] = {}
        self._lock = threading.Lock()

    def body(self, entry: FlowEntry) -> bytes:
        """Return the body of the message that adds an entry."""
        found = self._bodies.get(id(entry))  # its id is nobody else's while we hold the entry
        if found is not None:
            return found[1]
        body = _addition(entry)
        with self._lock:
            while len(self._bodies) >= self._most:
                del self._bodies[next(iter(self._bodies))]
            self._bodies[id(entry)] = (entry, body)
        return body


_kept = _Kept(KEPT_ENTRIES)


def encode_change(change: Change) -> tuple[int, bytes]:
    """Return type and body of the message of one change; a deletion is strict, whatever cookie the entry has."""
    if isinstance(change, FlowChange):
        if change.op == "+":
            return _O.OFPT_FLOW_MOD, _kept.body(change.entry)
        return _O.OFPT_FLOW_MOD, _flow_mod(change.entry, _O.OFPFC_DELETE_STRICT, 0, b"")
    if isinstance(change, GroupChange):
        return _O.OFPT_GROUP_MOD, _group_mod(change)
    return _O.OFPT_METER_MOD, _meter_mod(change)


def _group_mod(change: GroupChange) -> bytes:
    head = _GROUP_MOD.pack(_GROUP_COMMANDS[change.op], _O.OFPGT_FF, change.group.group)
    return head if change.op == "-" else head + _buckets(change.group)


def _meter_mod(change: MeterChange) -> bytes:
    meter = change.meter
    head = _METER_MOD.pack(_METER_COMMANDS[change.op], METER_FLAGS, meter.meter)
    if change.op == "-":
        return head
    return head + DROP_BAND.pack(_O.OFPMBT_DROP, DROP_BAND.size, meter.rate, meter.burst)


def messages(changes: Sequence[Change], first_xid: int) -> bytes:
    """Return the messages of changes outside of a bundle; they have consecutive ids."""
    found: list[bytes] = []
    for xid, change in enumerate(changes, start=first_xid):
        kind, body = encode_change(change)
        found += (HEADER.pack(_O.OFP_VERSION, kind, HEADER.size + len(body), xid), body)
    return b"".join(found)


def bundle_additions(changes: Sequence[Change], bundle: int, first_xid: int) -> Iterator[bytes]:
    """Return the messages that add changes to a bundle, in pieces to be sent; they have consecutive ids."""
    chunk: list[bytes] = []
    size = 0
    for xid, change in enumerate(changes, start=first_xid):
        kind, body = encode_change(change)
        length = HEADER.size + len(body)
        head = _BUNDLE_ADD.pack(
            *(_O.OFP_VERSION, _O.OFPT_EXPERIMENTER, _BUNDLE_ADD.size + len(body), xid),
            *(ofproto_common.ONF_EXPERIMENTER_ID, _O.ONF_ET_BUNDLE_ADD_MESSAGE, bundle, BUNDLE_FLAGS),
            *(_O.OFP_VERSION, kind, length, xid),
        )
        chunk += (head, body)
        size += len(head) + len(body)
        if size >= CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)
