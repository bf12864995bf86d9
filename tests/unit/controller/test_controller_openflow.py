# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values to OpenFlow messages and back."""

from __future__ import annotations

from typing import Any

from os_ken.ofproto import ofproto_parser, ofproto_v1_3
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from controller.changes import FlowChange, GroupChange
from controller.flows import TableSet, match
from controller.openflow.decode import decode_flow, decode_group
from controller.openflow.encode import encode_change, encode_match
from tests.unit.controller import samples

DATAPATH = ProtocolDesc(ofproto_v1_3.OFP_VERSION)


def over_the_wire(message: Any) -> Any:
    message.set_xid(7)
    message.serialize()
    return ofproto_parser.msg(DATAPATH, *ofproto_parser.header(message.buf), bytes(message.buf))


def described(message: Any) -> Any:
    """Return a group as a switch describes it; os-ken has no parser for its own OFPGroupMod.

    The two differ in the first two bytes only: command there, length here (OpenFlow 1.3.5, 7.3.4.2 and 7.3.5.9).
    """
    message.set_xid(7)
    message.serialize()
    body = bytes(message.buf[ofproto_v1_3.OFP_HEADER_SIZE :])
    return DATAPATH.ofproto_parser.OFPGroupDescStats.parser(len(body).to_bytes(2, "big") + body[2:], 0)


def tables() -> TableSet:
    documents = samples.shop(app_1="dark", app_2="draining", lb_2="standby")
    documents["inventory"] = samples.inventory(switches=3)
    return samples.compiled(documents, seq=70000).tables["sw2"]


def test_every_entry_survives_the_wire() -> None:
    for entry in tables():
        assert decode_flow(over_the_wire(encode_change(DATAPATH, FlowChange("+", entry)))) == entry


def test_every_group_survives_the_wire() -> None:
    for group in tables().groups.values():
        assert decode_group(described(encode_change(DATAPATH, GroupChange("+", group)))) == group


def test_a_deletion_is_strict_and_keeps_table_priority_and_match() -> None:
    for entry in tables():
        message = over_the_wire(encode_change(DATAPATH, FlowChange("-", entry)))
        assert message.command == ofproto_v1_3.OFPFC_DELETE_STRICT
        assert (message.table_id, message.priority) == (entry.table, entry.priority)
        decoded = decode_flow(message)
        assert decoded is not None and decoded.match == entry.match


def test_prerequisites_come_before_the_fields_that_need_them() -> None:
    found = encode_match(match(ip_frag=(2, 2), tcp_dst=80, ip_proto=6, eth_type=0x800, in_port=1, reg0=1))
    names = [name for name, _ in found.items()]
    assert names.index("eth_type") < names.index("ip_frag") < names.index("tcp_dst")
    assert names.index("ip_proto") < names.index("tcp_dst")


def test_what_we_never_write_is_foreign() -> None:
    parser = DATAPATH.ofproto_parser
    goto = [parser.OFPInstructionGotoTable(3)]
    message = parser.OFPFlowMod(DATAPATH, match=parser.OFPMatch(ip_dscp=1, eth_type=0x800), instructions=goto)
    assert decode_flow(over_the_wire(message)) is None
    writes = [parser.OFPInstructionActions(ofproto_v1_3.OFPIT_WRITE_ACTIONS, [parser.OFPActionOutput(1)])]
    assert decode_flow(over_the_wire(parser.OFPFlowMod(DATAPATH, instructions=writes))) is None
    bucket = parser.OFPBucket(actions=[parser.OFPActionOutput(1)])
    message = parser.OFPGroupMod(DATAPATH, ofproto_v1_3.OFPGC_ADD, ofproto_v1_3.OFPGT_ALL, 3, [bucket])
    assert decode_group(described(message)) is None
