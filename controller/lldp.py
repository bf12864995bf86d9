# SPDX-License-Identifier: AGPL-3.0-or-later
"""LLDP frames that the controller sends out of switch ports, signed, and reads where they arrive (IEEE 802.1AB-2016).

The chassis is ``dpid:`` and the datapath id, the port its OpenFlow number, both *locally assigned*.  A TLV that is
organisationally specific carries the time and an HMAC-SHA-256 (RFC 2104) over datapath id, port and time, so that
nobody but the controller itself can say where a cable leads.  Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass

DESTINATION = bytes.fromhex("0180c200000e")  # nearest bridge: no bridge forwards it
ETHERTYPE = 0x88CC
OUI = bytes.fromhex("020df0")  # locally administered
SIGNATURE_SUBTYPE = 1
TIME_BYTES, DIGEST_BYTES = 8, 32

ETHERNET_HEADER = 14  # bytes: destination, source, EtherType
_END, _CHASSIS, _PORT, _TTL, _ORGANISATION = 0, 1, 2, 3, 127  # Table 8-1
_LOCALLY_ASSIGNED = 7  # Tables 8-2 and 8-3
_SENDER = re.compile(rb"dpid:([0-9a-f]{16})")
_NUMBER = re.compile(rb"[1-9][0-9]{0,9}")


class MalformedError(Exception):
    """A frame that is no LLDP frame."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A switch port as an LLDP frame names it; ``signature`` is time and digest, empty where there is none.

    ``size`` is that of the Ethernet frame in bytes, without the frame check sequence.
    """

    datapath_id: int
    port: int
    signature: bytes = b""
    size: int = 0


class Signer:
    """Signs announcements and knows its own again; ``max_age`` is in milliseconds."""

    def __init__(self, key: bytes, max_age: int) -> None:
        self._key = key
        self._max_age = max_age

    def frame(self, source_mac: int, datapath_id: int, port: int, now: int, size: int = 0) -> bytes:
        """Return the frame that a port shall send, padded to ``size`` bytes; ``now`` is in ms of any steady clock."""
        time = now.to_bytes(TIME_BYTES, "big")
        digest = self._digest(datapath_id, port, time)
        ttl = max(1, self._max_age // 1000).to_bytes(2, "big")
        header = DESTINATION + source_mac.to_bytes(6, "big") + ETHERTYPE.to_bytes(2, "big")
        frame = header + b"".join(
            (
                _tlv(_CHASSIS, bytes([_LOCALLY_ASSIGNED]) + b"dpid:%016x" % datapath_id),
                _tlv(_PORT, bytes([_LOCALLY_ASSIGNED]) + b"%d" % port),
                _tlv(_TTL, ttl),
                _tlv(_ORGANISATION, OUI + bytes([SIGNATURE_SUBTYPE]) + time + digest),
                _tlv(_END, b""),
            )
        )
        return frame.ljust(size, b"\0")

    def trusts(self, heard: Announcement, now: int) -> bool:
        """Tell whether an announcement is ours and not an old one that somebody plays back."""
        time, digest = heard.signature[:TIME_BYTES], heard.signature[TIME_BYTES:]
        if not hmac.compare_digest(digest, self._digest(heard.datapath_id, heard.port, time)):
            return False
        return 0 <= now - int.from_bytes(time, "big") <= self._max_age

    def _digest(self, datapath_id: int, port: int, time: bytes) -> bytes:
        text = datapath_id.to_bytes(8, "big") + port.to_bytes(4, "big") + time
        return hmac.digest(self._key, text, hashlib.sha256)


def parse(frame: bytes) -> Announcement | None:
    """Read an Ethernet frame; None where it is that of another device.  Raises MalformedError."""
    if len(frame) <= ETHERNET_HEADER or int.from_bytes(frame[12:14], "big") != ETHERTYPE:
        raise MalformedError(f"no LLDP frame: {frame[:ETHERNET_HEADER].hex()}")
    tlvs = list(_tlvs(frame[ETHERNET_HEADER:]))
    if [kind for kind, _ in tlvs[:3]] != [_CHASSIS, _PORT, _TTL]:
        raise MalformedError("it does not begin with chassis id, port id and time to live")
    chassis, port = tlvs[0][1], tlvs[1][1]
    sender, number = _SENDER.fullmatch(chassis[1:]), _NUMBER.fullmatch(port[1:])
    if sender is None or number is None or not chassis[0] == port[0] == _LOCALLY_ASSIGNED:
        return None
    head = OUI + bytes([SIGNATURE_SUBTYPE])
    signed = (value[len(head) :] for kind, value in tlvs[3:] if kind == _ORGANISATION and value.startswith(head))
    return Announcement(int(sender[1], 16), int(number[0]), next(signed, b""), len(frame))


def _tlv(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


def _tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 2 <= len(data):
        head = int.from_bytes(data[at : at + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        if kind == _END:
            return
        if at + 2 + length > len(data):
            raise MalformedError(f"TLV {kind} is longer than the frame")
        yield kind, data[at + 2 : at + 2 + length]
        at += 2 + length
