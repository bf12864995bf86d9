# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import pytest

from agents.lldp import FRAME_LIMIT, Announcement, MalformedError, parse
from controller.lldp import Signer
from tests.unit.agents.lldp_frames import frame, switch_port, tlv

CHASSIS, PORT, TTL, END = tlv(1, b"\x07dpid:00000000000000ab"), tlv(2, b"\x0742"), tlv(3, b"\x00\x78"), tlv(0, b"")
SIGNATURE = bytes(range(40))
SIGNED = tlv(127, bytes.fromhex("020df001") + SIGNATURE)


def announced(size: int, signature: bytes | None = None) -> Announcement:
    return Announcement("00000000000000ab", 42, 120, size, signature)


def test_a_frame_of_a_switch_is_read() -> None:
    assert parse(frame(CHASSIS, PORT, TTL, END)) == announced(60)
    signed = frame(CHASSIS, PORT, TTL, SIGNED, END)
    assert parse(signed) == announced(len(signed), SIGNATURE)
    assert parse(signed.ljust(9014, b"\0")) == announced(9014, SIGNATURE)
    assert parse(switch_port(0xAB, 42, ttl=120, signature=SIGNATURE)) == parse(frame(CHASSIS, PORT, TTL, SIGNED, END))


def test_what_the_controller_sends_is_read() -> None:
    sent = Signer(b"k" * 32, 15_000).frame(0x02FA00000001, 0xAB, 42, now=1_000, size=9014)
    found = parse(sent)
    assert found is not None
    assert (found.datapath_id, found.port, found.ttl, found.size) == ("00000000000000ab", 42, 15, 9014)
    assert found.signature is not None and sent.count(found.signature) == 1


def test_what_it_does_not_know_is_passed_over() -> None:
    name, other = tlv(5, b"sw1"), tlv(127, bytes.fromhex("00120f01") + b"x")
    more = frame(CHASSIS, PORT, TTL, name, other, SIGNED, END)
    assert parse(more) == announced(len(more), SIGNATURE)
    another_subtype = tlv(127, bytes.fromhex("020df002") + b"x")
    assert parse(frame(CHASSIS, PORT, TTL, another_subtype, END)) == announced(60)


def test_the_end_may_be_missing_and_what_follows_it_is_padding() -> None:
    whole = frame(CHASSIS, PORT, TTL, SIGNED)  # longer than the least size: nothing is padded
    assert parse(whole) == announced(len(whole), SIGNATURE)
    padded = frame(CHASSIS, PORT, TTL, END, b"\xff" * 30)
    assert parse(padded) == announced(len(padded))


@pytest.mark.parametrize("last", ["0e", "03", "00"])
def test_each_destination_of_the_standard_is_taken(last: str) -> None:
    destination = bytes.fromhex(f"0180c20000{last}")
    assert parse(frame(CHASSIS, PORT, TTL, END, destination=destination)) is not None


@pytest.mark.parametrize(
    "tlvs",
    [
        (tlv(1, b"\x04\x02\x00\x00\x00\x00\x01"), PORT, TTL, END),  # a MAC address
        (CHASSIS, tlv(2, b"\x05Eth1/1"), TTL, END),  # the name of an interface
        (tlv(1, b"\x07dpid:AB"), PORT, TTL, END),
        (tlv(1, b"\x07dpid:00000000000000AB"), PORT, TTL, END),
        (tlv(1, b"\x07dpid:00000000000000ab\n"), PORT, TTL, END),
        (CHASSIS, tlv(2, b"\x0701"), TTL, END),
        (CHASSIS, tlv(2, b"\x070"), TTL, END),
        (CHASSIS, tlv(2, b"\x07-1"), TTL, END),
        (CHASSIS, tlv(2, b"\x074294967041"), TTL, END),  # above OFPP_MAX
    ],
)
def test_other_devices_are_no_switch_of_ours(tlvs: tuple[bytes, ...]) -> None:
    assert parse(frame(*tlvs)) is None


@pytest.mark.parametrize(
    ("malformed", "why"),
    [
        (b"", "0 bytes"),
        (bytes(14), "14 bytes"),
        (frame(CHASSIS, PORT, TTL, END).ljust(FRAME_LIMIT + 1, b"\0"), "65550 bytes"),
        (frame(CHASSIS, PORT, TTL, END, destination=b"\xff" * 6), "destination"),
        (frame(CHASSIS, PORT, TTL, END, ethertype=0x0800), "EtherType"),
        (frame(END), "does not begin with"),
        (frame(PORT, CHASSIS, TTL, END), "does not begin with"),
        (frame(CHASSIS, PORT, END), "does not begin with"),
        (frame(CHASSIS, PORT, TTL, CHASSIS, END), "comes twice"),
        (frame(CHASSIS, PORT, TTL, TTL, END), "comes twice"),
        (frame(tlv(1, b"\x07"), PORT, TTL, END), "ids of 1"),
        (frame(CHASSIS, tlv(2, b"\x07" + b"1" * 256), TTL, END), "and 257 bytes"),
        (frame(CHASSIS, PORT, tlv(3, b"\x78"), END), "time to live of 1"),
        (frame(CHASSIS, PORT, tlv(3, b"\x00\x78\x00"), END), "time to live of 3"),
        (frame(CHASSIS, PORT, TTL, tlv(5, b"sw", length=400)), "longer than the frame"),
        (frame(CHASSIS, PORT, TTL, SIGNED)[:-1], "longer than the frame"),
        (frame(CHASSIS, PORT, TTL, SIGNED) + b"\x0a", "in the middle of a TLV"),
        (frame(CHASSIS, PORT, TTL, tlv(0, b"x")), "the end has a length"),
        (frame(CHASSIS, PORT, TTL, tlv(127, b"\x02\x0d\xf0"), END), "without an organisation"),
        (frame(CHASSIS, PORT, TTL, tlv(127, bytes.fromhex("020df001") + SIGNATURE[:-1]), END), "of 39 bytes"),
        (frame(CHASSIS, PORT, TTL, SIGNED, SIGNED, END), "2 signatures"),
    ],
)
def test_a_frame_that_breaks_a_rule_is_malformed(malformed: bytes, why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        parse(malformed)


def test_no_cut_of_a_frame_is_anything_but_malformed_or_whole() -> None:
    whole = frame(CHASSIS, PORT, TTL, SIGNED, END)
    for size in range(len(whole)):
        try:
            found = parse(whole[:size])
        except MalformedError:
            continue
        assert found is not None and found.port == 42  # cut between two TLVs
