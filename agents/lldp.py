# SPDX-License-Identifier: AGPL-3.0-or-later
"""LLDP frames of Odyssey's switches (IEEE 802.1AB-2016), read strictly. Pure.

A controller sends them out of every port: the chassis is `dpid:` and the switch's datapath id, the port is the OpenFlow
port number, both of the subtype *locally assigned*. An organisationally specific TLV carries a signature, which only
the controller can check: the agent hands it on. Some are padded to the fabric's MTU, to show what the cable carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

ETHERTYPE = 0x88CC
# Table 7-1: nearest bridge, nearest non-TPMR bridge, nearest customer bridge.
DESTINATIONS = tuple(bytes.fromhex(f"0180c20000{last}") for last in ("0e", "03", "00"))
FRAME_LIMIT = 14 + 65535  # bytes, without the frame check sequence: a switch pads some to the fabric's MTU
OUI = bytes.fromhex("020df0")  # locally administered
SIGNATURE_SUBTYPE = 1
SIGNATURE_SIZE = 40  # bytes: a time in ms and an HMAC-SHA-256

_HEADER = 14  # bytes: destination, source, EtherType
_END, _CHASSIS, _PORT, _TTL, _ORGANISATION = 0, 1, 2, 3, 127  # Table 8-1
_LOCALLY_ASSIGNED = 7  # Tables 8-2 and 8-3
_ID_LIMIT = 256  # bytes of a chassis or port id TLV
_DATAPATH = re.compile(rb"dpid:([0-9a-f]{16})")
_NUMBER = re.compile(rb"[1-9][0-9]{0,9}")
_PORT_MAX = 0xFFFFFF00  # OFPP_MAX, OpenFlow 1.3.5, A.2.1


class MalformedError(Exception):
    """The frame breaks a rule of the standard, or carries a signature of the wrong size."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A switch port says who it is, in a frame of `size` bytes. `ttl` is in seconds; 0: it goes (clause 8.5.4)."""

    datapath_id: str
    port: int
    ttl: int
    size: int
    signature: bytes | None = None


def parse(frame: bytes) -> Announcement | None:
    """Read an Ethernet frame; None: well formed, but not of a switch of ours. Raises MalformedError."""
    if not _HEADER < len(frame) <= FRAME_LIMIT:
        raise MalformedError(f"{len(frame)} bytes")
    if frame[:6] not in DESTINATIONS or int.from_bytes(frame[12:14], "big") != ETHERTYPE:
        raise MalformedError(f"destination {frame[:6].hex(':')}, EtherType 0x{frame[12:14].hex()}")
    tlvs = list(_tlvs(frame[_HEADER:]))
    if [kind for kind, _ in tlvs[:3]] != [_CHASSIS, _PORT, _TTL]:
        raise MalformedError("it does not begin with chassis id, port id and time to live")
    if any(kind in (_CHASSIS, _PORT, _TTL) for kind, _ in tlvs[3:]):
        raise MalformedError("chassis id, port id or time to live comes twice")
    (_, chassis), (_, port), (_, ttl) = tlvs[:3]
    if not 2 <= len(chassis) <= _ID_LIMIT or not 2 <= len(port) <= _ID_LIMIT or len(ttl) != 2:
        raise MalformedError(f"ids of {len(chassis)} and {len(port)} bytes, time to live of {len(ttl)}")
    datapath, number = _DATAPATH.fullmatch(chassis[1:]), _NUMBER.fullmatch(port[1:])
    if chassis[0] != _LOCALLY_ASSIGNED or port[0] != _LOCALLY_ASSIGNED or datapath is None or number is None:
        return None
    if int(number[0]) > _PORT_MAX:
        return None
    return Announcement(
        datapath_id=datapath[1].decode(),
        port=int(number[0]),
        ttl=int.from_bytes(ttl, "big"),
        size=len(frame),
        signature=_signature(tlvs[3:]),
    )


def _signature(tlvs: list[tuple[int, bytes]]) -> bytes | None:
    head = OUI + bytes([SIGNATURE_SUBTYPE])
    found = [value[len(head) :] for kind, value in tlvs if kind == _ORGANISATION and value.startswith(head)]
    if not found:
        return None
    if len(found) > 1 or len(found[0]) != SIGNATURE_SIZE:
        raise MalformedError(f"{len(found)} signatures, the first of {len(found[0])} bytes")
    return found[0]


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each TLV before the end (clause 8.4: 7 bits of type, 9 bits of length)."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise MalformedError("it ends in the middle of a TLV")
        head = int.from_bytes(data[at : at + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        at += 2
        if at + length > len(data):
            raise MalformedError(f"TLV {kind} is longer than the frame")
        if kind == _END:
            if length:
                raise MalformedError("the end has a length")
            return  # what follows is padding of the frame
        if kind == _ORGANISATION and length < 4:
            raise MalformedError("an organisationally specific TLV without an organisation")
        yield kind, data[at : at + length]
        at += length
