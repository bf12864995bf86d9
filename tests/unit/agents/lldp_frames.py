# SPDX-License-Identifier: AGPL-3.0-or-later
"""LLDP frames built by hand, byte for byte as IEEE 802.1AB-2016 has them."""

from __future__ import annotations

NEAREST_BRIDGE = bytes.fromhex("0180c200000e")


def tlv(kind: int, value: bytes, length: int | None = None) -> bytes:
    """7 bits of type, 9 bits of length, the value."""
    return (kind << 9 | (len(value) if length is None else length)).to_bytes(2, "big") + value


def frame(*tlvs: bytes, destination: bytes = NEAREST_BRIDGE, ethertype: int = 0x88CC) -> bytes:
    """An Ethernet frame, padded to the least size."""
    return (destination + bytes.fromhex("02fa00000001") + ethertype.to_bytes(2, "big") + b"".join(tlvs)).ljust(
        60, b"\0"
    )


def switch_port(datapath: int, port: int, *, ttl: int, signature: bytes | None = None) -> bytes:
    """What the controller sends out of a port of a switch."""
    signed = [] if signature is None else [tlv(127, bytes.fromhex("020df001") + signature)]
    return frame(
        tlv(1, b"\x07" + f"dpid:{datapath:016x}".encode()),
        tlv(2, b"\x07" + str(port).encode()),
        tlv(3, ttl.to_bytes(2, "big")),
        *signed,
        tlv(0, b""),
    )
