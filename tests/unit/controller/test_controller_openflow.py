# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values to OpenFlow messages and back: as os-ken writes them, as Open vSwitch prints them, and what is refused."""

from __future__ import annotations

import contextlib
import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from os_ken.ofproto import ofproto_v1_3
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from controller.changes import Change, FlowChange, GroupChange, MeterChange, difference
from controller.channel import CountedEntry, GroupReading
from controller.flows import (
    FIELDS,
    FlowEntry,
    GroupEntry,
    Kind,
    MeterEntry,
    Output,
    TableSet,
    is_learned,
    make_cookie,
    match,
)
from controller.openflow import replies, wire
from controller.openflow.oxm import Malformed, encode_fields
from tests.unit.controller import random_flows, samples
from tests.unit.controller.reference_openflow import NICIRA, UNKNOWN, reference_bundle_addition, reference_message

DATAPATH = ProtocolDesc(ofproto_v1_3.OFP_VERSION)
ALL = frozenset(FIELDS)
KNOWN = ALL - UNKNOWN
LIMITS = st.integers(0, 0xFFFFFFFF)
PARSER = DATAPATH.ofproto_parser

#: What os-ken can say as well: no field that it does not know, no limit of what is learned.
entries_of_osken = random_flows.entries(KNOWN, NICIRA, st.just(0))
groups_of_osken = random_flows.groups(KNOWN, NICIRA)
any_entry = random_flows.entries(ALL, NICIRA, LIMITS).filter(lambda entry: not is_learned(entry.cookie))
any_group = random_flows.groups(ALL, NICIRA)


def tables() -> TableSet:
    documents = samples.shop(app_1="dark", app_2="draining", lb_2="standby")
    documents["inventory"] = samples.inventory(switches=3)
    return samples.compiled(documents).tables["sw2"]


def bundled(*changes: Change) -> bytes:
    return b"".join(wire.bundle_additions(changes, 9, 70))


def osken(*changes: Change) -> bytes:
    return b"".join(
        reference_bundle_addition(DATAPATH, change, 9, xid) for xid, change in zip(itertools.count(70), changes)
    )


def statistics(entry: FlowEntry, *, timeouts: bytes = bytes(4), flags: int = 0) -> bytes:
    """Return an entry as a switch describes it: the body of the message that adds it, with another head."""
    _, body = wire.encode_change(FlowChange("+", entry))
    rest = body[40:]  # match and instructions
    head = struct.pack("!HBxIIH", 48 + len(rest), entry.table, 5, 500_000_000, entry.priority) + timeouts
    return head + struct.pack("!H4xQQQ", flags, entry.cookie, 7, 700) + rest


def description(group: GroupEntry) -> bytes:
    """Return a group as a switch describes it: the two differ in the first two octets only, command and length."""
    _, body = wire.encode_change(GroupChange("+", group))
    return struct.pack("!H", len(body)) + body[2:]


def described(message: Any) -> bytes:
    """Return the body of one of os-ken's messages."""
    message.set_xid(7)
    message.serialize()
    return bytes(message.buf[ofproto_v1_3.OFP_HEADER_SIZE :])


@settings(max_examples=300)
@given(entries_of_osken, st.sampled_from("+-"))
def test_every_entry_is_written_as_os_ken_writes_it(entry: FlowEntry, op: Any) -> None:
    change = FlowChange(op, entry)
    assert bundled(change).hex() == osken(change).hex()


@given(groups_of_osken, st.sampled_from("+~-"))
def test_every_group_is_written_as_os_ken_writes_it(group: GroupEntry, op: Any) -> None:
    change = GroupChange(op, group)
    assert bundled(change).hex() == osken(change).hex()


@given(st.builds(MeterEntry, st.integers(1, 0xFFFF0000), LIMITS, LIMITS), st.sampled_from("+~-"))
def test_every_meter_is_written_as_os_ken_writes_it(meter: MeterEntry, op: Any) -> None:
    change = MeterChange(op, meter)
    kind, body = wire.encode_change(change)
    message = reference_message(DATAPATH, change)
    assert (kind, body) == (message.cls_msg_type, described(message))


def test_many_changes_are_sent_in_pieces_with_consecutive_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", 1000)
    changes = [FlowChange("+", entry) for entry in tables()]
    pieces = list(wire.bundle_additions(changes, 9, 70))
    assert len(pieces) > 3 and all(1000 <= len(piece) < 2000 for piece in pieces[:-1])
    assert b"".join(pieces) == osken(*changes)


def test_an_entry_that_was_added_is_kept_as_bytes_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_kept", wire._Kept(2))
    first, second, third = [FlowChange("+", entry) for entry in itertools.islice(tables(), 3)]
    one = wire.encode_change(first)[1]
    assert wire.encode_change(first)[1] is one
    wire.encode_change(second)
    assert wire.encode_change(first)[1] is one
    wire.encode_change(third)
    again = wire.encode_change(first)[1]
    assert again == one and again is not one


def test_prerequisites_come_before_the_fields_that_need_them() -> None:
    found = encode_fields(match(ip_frag=(2, 2), tcp_dst=80, ip_proto=6, eth_type=0x800, in_port=1, reg0=1))
    places = [found.index(bytes.fromhex(header)) for header in ("80000a02", "00013502", "80001401", "80001c02")]
    assert places == sorted(places)


@settings(max_examples=300)
@given(any_entry)
def test_every_entry_survives_the_wire(entry: FlowEntry) -> None:
    reading = replies.flows(statistics(entry))
    assert reading.entries == (CountedEntry(entry, 7, 700, 5.5),)
    assert (reading.foreign, reading.learned) == (0, 0)


@given(st.lists(any_group, max_size=3, unique_by=lambda group: group.group))
def test_every_group_survives_the_wire(groups: list[GroupEntry]) -> None:
    reading = replies.groups(b"".join(map(description, groups)))
    assert list(reading.groups) == groups and reading.foreign == 0


def test_a_whole_switch_survives_the_wire() -> None:
    body = b"".join(map(statistics, tables()))
    assert [counted.entry for counted in replies.flows(body).entries] == list(tables())


def test_what_we_never_write_is_foreign() -> None:
    mine = next(iter(tables()))
    goto = [PARSER.OFPInstructionGotoTable(3)]
    applies = ofproto_v1_3.OFPIT_APPLY_ACTIONS
    writes = PARSER.OFPInstructionActions(ofproto_v1_3.OFPIT_WRITE_ACTIONS, [PARSER.OFPActionOutput(1)])
    partly = PARSER.NXActionRegMove(src_field="reg0", dst_field="reg1", n_bits=16)
    sixteen = PARSER.NXActionRegLoad(ofs_nbits=15, dst="reg0", value=1)
    others = [
        PARSER.OFPFlowMod(DATAPATH, match=PARSER.OFPMatch(ip_dscp=1, eth_type=0x800), instructions=goto),
        PARSER.OFPFlowMod(DATAPATH, instructions=[writes]),
        PARSER.OFPFlowMod(DATAPATH, instructions=[PARSER.OFPInstructionActions(applies, [partly])]),
        PARSER.OFPFlowMod(DATAPATH, instructions=[PARSER.OFPInstructionActions(applies, [sixteen])]),
        PARSER.OFPFlowMod(DATAPATH, instructions=[PARSER.OFPInstructionActions(applies, [PARSER.OFPActionOutput(
            ofproto_v1_3.OFPP_CONTROLLER, 128)])]),
    ]  # fmt: skip
    for other in others:
        rest = described(other)[40:]
        head = struct.pack("!HBxIIHHHH4xQQQ", 48 + len(rest), 0, 0, 0, 0, 0, 0, 0, mine.cookie, 0, 0)
        reading = replies.flows(statistics(mine) + head + rest)
        assert [counted.entry for counted in reading.entries] == [mine] and reading.foreign == 1


def test_an_entry_that_would_time_out_or_has_flags_is_foreign() -> None:
    mine = next(iter(tables()))
    for others in ({"timeouts": b"\0\1\0\0"}, {"timeouts": b"\0\0\0\1"}, {"flags": 1}):
        assert replies.flows(statistics(mine, **others)).foreign == 1


def test_what_the_switch_learned_for_connections_is_counted_apart() -> None:
    mine = next(iter(tables()))
    cookie = make_cookie(Kind.LEARNED, 5, 1)
    learned = statistics(FlowEntry(21, 100, mine.match, (), cookie), timeouts=b"\x01\x2c\0\0")
    reading = replies.flows(learned + statistics(mine) + learned)
    assert (len(reading.entries), reading.foreign, reading.learned) == (1, 0, 2)


def test_entries_and_groups_of_somebody_else_are_only_counted() -> None:
    mine = next(iter(tables()))
    theirs = FlowEntry(mine.table, mine.priority, mine.match, mine.actions, 5)
    assert replies.flows(statistics(theirs)).foreign == 1
    reading = groups_read(ofproto_v1_3.OFPGT_FF, 3, PARSER.OFPActionOutput(1))
    assert reading.groups == () and reading.foreign == 1


def groups_read(kind: int, number: int, action: Any) -> GroupReading:
    bucket = PARSER.OFPBucket(watch_port=1, actions=[action])
    body = described(PARSER.OFPGroupMod(DATAPATH, ofproto_v1_3.OFPGC_ADD, kind, number, [bucket]))
    return replies.groups(len(body).to_bytes(2, "big") + body[2:])


def test_a_group_of_ours_that_was_bent_is_modified_and_not_added_once_more() -> None:
    """A switch refuses to add a group that exists."""
    wanted = next(iter(tables().groups.values()))
    bent = (
        (ofproto_v1_3.OFPGT_ALL, PARSER.OFPActionOutput(1)),
        (ofproto_v1_3.OFPGT_FF, PARSER.OFPActionSetQueue(7)),
    )
    for kind, action in bent:
        reading = groups_read(kind, wanted.group, action)
        assert reading.foreign == 0
        held = TableSet.of((), reading.groups)
        assert difference(held, TableSet.of((), (wanted,))) == (GroupChange("~", wanted),)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\0\0" + bytes(60), "flow statistics at octet 0 of 62 has the length 0"),
        (b"\0\x60" + bytes(60), "flow statistics at octet 0 of 62 has the length 96"),
        (b"\0", "flow statistics at octet 0 of 1 has the length 0"),
    ],
)
def test_malformed_statistics_are_refused_with_the_place(octets: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        replies.flows(octets)


def test_lengths_inside_an_entry_are_checked() -> None:
    entry = FlowEntry(1, 2, match(in_port=3), (Output(4),), 0x0D << 56)
    good = statistics(entry)
    assert good[50:52] == b"\0\x0c", "the match's own length"
    for place, octets, reason in (
        (50, b"\xff\xff", "match of type 1 and length 65535"),
        (50, b"\0\0", "match of type 1 and length 0"),
        (55, b"\x09", "field at octet 0 of a match of 8 octets reaches beyond it"),
        (66, b"\0\0", "instruction at octet 0 of 24 has the length 0"),
        (74, b"\0\x18", "action at octet 0 of 16 has the length 24"),
    ):
        bad = good[:place] + octets + good[place + len(octets) :]
        with pytest.raises(Malformed, match=reason):
            replies.flows(bad)


@settings(max_examples=500)
@given(any_entry, st.data())
def test_altered_octets_are_read_or_refused_and_nothing_else(entry: FlowEntry, data: st.DataObject) -> None:
    octets = bytearray(statistics(entry))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        reading = replies.flows(bytes(octets))
    except Malformed:
        return
    assert len(reading.entries) + reading.foreign + reading.learned >= 1
    for counted in reading.entries:
        assert replies.flows(statistics(counted.entry)).entries[0].entry == counted.entry


@given(st.binary(max_size=200))
def test_any_octets_are_read_or_refused_as_groups(octets: bytes) -> None:
    with contextlib.suppress(Malformed):
        replies.groups(octets)
