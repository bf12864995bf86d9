# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ethernet frames for the policy probes, each with a token by which it is known again wherever it comes out.

Pure: values in, bytes out. Sources: RFC 791 (IPv4), RFC 793 (TCP), RFC 768 (UDP), RFC 792 (ICMP), RFC 826 (ARP),
IEEE 802.1Q (VLAN tag).
"""

from __future__ import annotations

import ipaddress
import struct

ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_VLAN = 0x8100

ICMP, TCP, UDP = 1, 6, 17
SYN, ACK = 0x02, 0x10

BROADCAST = "ff:ff:ff:ff:ff:ff"

TOKEN_MAGIC = b"ODYSSEY-PROBE:"
TOKEN_LENGTH = len(TOKEN_MAGIC) + 8  # a run (u32) and a probe (u32) follow the magic


def token(run: int, probe: int) -> bytes:
    """The mark of probe number `probe` in one run of the probes; both are unsigned 32-bit."""
    return TOKEN_MAGIC + struct.pack("!II", run, probe)


def find_token(frame: bytes) -> tuple[int, int] | None:
    """`(run, probe)` of the token inside a frame, or None. Some senders pad frames, so it may stand anywhere."""
    start = frame.find(TOKEN_MAGIC)
    if start < 0 or len(frame) < start + TOKEN_LENGTH:
        return None
    run, probe = struct.unpack_from("!II", frame, start + len(TOKEN_MAGIC))
    return int(run), int(probe)


def mac_bytes(mac: str) -> bytes:
    """`02:00:ac:10:14:03` as six bytes."""
    return bytes(int(part, 16) for part in mac.split(":"))


def address_bytes(address: str) -> bytes:
    """An IPv4 address as four bytes."""
    return ipaddress.IPv4Address(address).packed


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(source: str, destination: str, kind: int, payload: bytes, *, vlan: int | None = None) -> bytes:
    """An Ethernet frame, with an 802.1Q tag when `vlan` is given, padded to the smallest legal size."""
    tag = b"" if vlan is None else struct.pack("!HH", ETH_VLAN, vlan)
    frame = mac_bytes(destination) + mac_bytes(source) + tag + struct.pack("!H", kind) + payload
    return frame.ljust(60, b"\0")


def ipv4(source: str, destination: str, protocol: int, payload: bytes, *, fragment_offset: int = 0) -> bytes:
    """An IPv4 packet; `fragment_offset` counts in units of eight bytes (0: not a fragment)."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(payload), 0x0D15, fragment_offset & 0x1FFF, 64, protocol, 0,
        address_bytes(source), address_bytes(destination),
    )  # fmt: skip
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def _pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    return address_bytes(source) + address_bytes(destination) + struct.pack("!BBH", 0, protocol, length)


def tcp(source: tuple[str, int], destination: tuple[str, int], payload: bytes, *, flags: int = SYN) -> bytes:
    """A TCP segment between `(address, port)` pairs. A SYN may carry data; receivers without Fast Open ignore it."""
    head = struct.pack("!HHIIBBHHH", source[1], destination[1], 0x0D15EA5E, 0, 5 << 4, flags, 64240, 0, 0)
    pseudo = _pseudo_header(source[0], destination[0], TCP, len(head) + len(payload))
    summed = checksum(pseudo + head + payload)
    return head[:16] + struct.pack("!H", summed) + head[18:] + payload


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """A UDP datagram between `(address, port)` pairs."""
    head = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)
    summed = checksum(_pseudo_header(source[0], destination[0], UDP, len(head) + len(payload)) + head + payload)
    return head[:6] + struct.pack("!H", summed or 0xFFFF) + payload


def icmp_echo(payload: bytes) -> bytes:
    """An ICMP echo request."""
    head = struct.pack("!BBHHH", 8, 0, 0, 0x0D15, 1)
    return head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:] + payload


def arp_request(mac: str, address: str, wanted: str, trailer: bytes) -> bytes:
    """An ARP request for `wanted`; the trailer stands where Ethernet's padding would."""
    fixed = struct.pack("!HHBBH", 1, ETH_IPV4, 6, 4, 1)
    return fixed + mac_bytes(mac) + address_bytes(address) + bytes(6) + address_bytes(wanted) + trailer
