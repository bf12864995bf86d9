# SPDX-License-Identifier: AGPL-3.0-or-later
"""LLDP: nobody but the controller can say where a cable leads; each wrong cable is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cabling import Heard, Nic, judge
from controller.fabric import Inventory, Port, parse_mac
from controller.lldp import DESTINATION, Announcement, MalformedError, Signer, parse
from tests.unit.controller import samples

KEY = b"k" * 32
MAC = parse_mac(samples.FABRIC_MAC)
NOW = 1_000_000


def frame(signer: Signer, **changes: Any) -> bytes:
    return signer.frame(**{"source_mac": MAC, "datapath_id": 1, "port": 101, "now": NOW} | changes)


def heard(data: bytes) -> Announcement:
    found = parse(data)
    assert found is not None
    return found


def test_a_frame_is_read_as_it_was_written() -> None:
    signer = Signer(KEY, 15_000)
    data = frame(signer)
    assert data.startswith(DESTINATION + bytes.fromhex(samples.FABRIC_MAC.replace(":", "")) + b"\x88\xcc")
    found = heard(data)
    assert (found.datapath_id, found.port) == (1, 101)
    assert signer.trusts(found, NOW) and signer.trusts(found, NOW + 15_000)


def test_forged_and_old_frames_are_not_trusted() -> None:
    signer = Signer(KEY, 15_000)
    found = heard(frame(signer))
    assert not signer.trusts(found, NOW + 15_001), "played back later"
    assert not signer.trusts(found, NOW - 1), "from the future"
    assert not signer.trusts(Announcement(2, 101, found.signature), NOW), "another switch"
    assert not signer.trusts(Announcement(1, 102, found.signature), NOW), "another port"
    assert not signer.trusts(Announcement(1, 101), NOW), "no signature"
    assert not Signer(b"x" * 32, 15_000).trusts(found, NOW), "another key"


def test_other_devices_are_told_from_malformed_frames() -> None:
    header = DESTINATION + bytes(6) + b"\x88\xcc"
    device = header + bytes.fromhex("0207040200000000010403056c616e0602007800 00".replace(" ", ""))
    with pytest.raises(MalformedError):
        parse(device[:20])
    with pytest.raises(MalformedError, match="no LLDP frame"):
        parse(b"\x00" * 60)
    foreign = header + b"\x02\x07\x04\x02\x00\x00\x00\x00\x01" + b"\x04\x04\x05lan" + b"\x06\x02\x00\x78\x00\x00"
    assert parse(foreign) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    for text in (data, DESTINATION + bytes(6) + b"\x88\xcc" + data):
        try:
            found = parse(text)
        except MalformedError:
            continue
        assert found is None or found.port > 0


def inventory() -> Inventory:
    found = samples.compiled({"inventory": samples.inventory(switches=2)}).intent.inventory
    assert found is not None
    return found


def texts(heard_ports: dict[Port, Port], nics: dict[Nic, Port | None] | None = None, **more: Any) -> list[str]:
    attachments = {Nic("h1", "eth0"): Port("sw1", 1), Nic("h1", "eth1"): Port("sw2", 1)}
    narrow = more.get("narrow", ())
    told = {at: Heard(other, at not in narrow) for at, other in heard_ports.items()}
    by_nic = {nic: None if other is None else Heard(other) for nic, other in (nics or {}).items()}
    cables = judge(inventory(), told, by_nic, attachments, more.get("down", frozenset()))
    return [f"{cable.state}: {cable.text}" for cable in cables]


A, B = Port("sw1", 101), Port("sw2", 101)


def test_right_cables_are_right() -> None:
    assert texts({A: B, B: A}) == ["right: sw1:101: sw2:101", "right: sw2:101: sw1:101"]


def test_each_wrong_cable_is_named() -> None:
    found = texts({A: Port("sw2", 7), Port("sw2", 7): A, Port("sw1", 2): Port("sw2", 3)})
    assert found == [
        "wrong: sw1:101 is cabled to sw2:7; the inventory says sw2:101",
        "wrong: sw1:2 is cabled to sw2:3; the inventory says host h2",
        "silent: sw2:101 hears nothing; the inventory says sw1:101",
        "unexpected: sw2:7 is cabled to sw1:101; the inventory has nothing there",
    ]


def test_swapped_nics_and_silent_ones_are_named() -> None:
    nics = {Nic("h1", "eth0"): Port("sw2", 1), Nic("h1", "eth1"): None, Nic("h1", "eth7"): Port("sw1", 9)}
    found = [text for text in texts({A: B, B: A}, nics) if "h1" in text]
    assert found == [
        "wrong: h1 eth0 is cabled to sw2:1; the inventory says sw1:1",
        "silent: h1 eth1 hears nothing; the inventory says sw2:1",
        "unexpected: h1 eth7 is cabled to sw1:9; the inventory has nothing there",
    ]


def test_a_port_that_is_down_is_not_called_silent() -> None:
    assert texts({B: A}, down=frozenset({A}))[0] == "down: sw1:101 is down; the inventory says sw2:101"


def test_a_cable_that_carries_no_full_frames_is_named() -> None:
    [narrow, right] = texts({A: B, B: A}, narrow=(A,))
    assert narrow == "narrow: sw1:101 hears sw2:101, but no frames of the fabric's MTU of 1500 bytes arrive"
    assert right.startswith("right")


def test_frames_are_padded_to_the_size_that_is_asked_for() -> None:
    signer = Signer(KEY, 15_000)
    data = frame(signer, size=9014)
    assert len(data) == 9014 and heard(data).size == 9014 and signer.trusts(heard(data), NOW)
