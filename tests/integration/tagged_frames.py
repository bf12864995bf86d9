# SPDX-License-Identifier: AGPL-3.0-or-later
"""Frames with 802.1Q tags on the cables of ``controller_support``, made and read by hand.

A kernel takes the tag out of a frame before a packet socket sees it, and tells it beside the frame (packet(7),
PACKET_AUXDATA); what is sent carries it in the frame.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from controller.fabric import Port
from controller.flows import PROTO_TCP, PROTO_UDP, TCP_ACK
from tests.integration.controller_support import CLONE_NEWNET, PREFIX

ETH_P_ALL, ETH_8021Q, ETH_IPV4 = 0x0003, 0x8100, 0x0800
SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
AUXDATA = struct.Struct("IIIHHHH")  # status, length, captured, mac, net, tag, its EtherType
VLAN_VALID = 0x10  # TP_STATUS_VLAN_VALID
TOKEN = struct.Struct("!8sQ")
_MAGIC = b"odyssey!"


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame of ours that came out of a switch port."""

    port: Port
    token: int
    vlan: int | None
    target: int
    source: int


class Cables:
    """The far ends of switch ports: host NICs and the border's device, by the port at which they hang."""

    def __init__(self, ends: Mapping[Port, tuple[str, str]]) -> None:
        self._sockets = {port: _packet_socket(*end) for port, end in ends.items()}

    @classmethod
    @contextlib.contextmanager
    def of(cls, ends: Mapping[Port, tuple[str, str]]) -> Iterator[Cables]:
        """Open a socket at each end, namespace and interface."""
        cables = cls(ends)
        try:
            yield cables
        finally:
            for one in cables._sockets.values():
                one.close()

    def send(self, at: Port, packet: Mapping[str, int], token: int) -> None:
        """Send a packet into a switch port."""
        self._sockets[at].send(frame(packet, token))

    def arrived(self, expected: Iterable[int], seconds: float, silence: float) -> list[Seen]:
        """Collect frames until all expected ones have come and then silence is kept, for at most ``seconds``."""
        missing, found = set(expected), []
        deadline = time.monotonic() + seconds
        quiet_since = time.monotonic()
        while time.monotonic() < deadline and (missing or time.monotonic() - quiet_since < silence):
            new = [seen for port, one in self._sockets.items() for seen in _read(port, one)]
            found += new
            missing -= {seen.token for seen in new}
            if new:
                quiet_since = time.monotonic()
            time.sleep(0.005)
        return found


def _packet_socket(netns: str, interface: str) -> socket.socket:
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            with open(f"/run/netns/{PREFIX}{netns}", "rb") as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns to {netns}")
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            one.bind((interface, 0))
            one.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            one.setblocking(False)
            made.append(one)
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _read(port: Port, one: socket.socket) -> Iterator[Seen]:
    while True:
        try:
            data, extra, _, address = one.recvmsg(2048, socket.CMSG_SPACE(AUXDATA.size))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # told once after an interface was shut down
                raise
            continue
        at = data.find(_MAGIC)
        if at < 0 or address[2] == PACKET_OUTGOING:
            continue
        tags = [
            AUXDATA.unpack(value[: AUXDATA.size])
            for level, kind, value in extra
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA)
        ]
        vlan = next((tag[5] & 0xFFF for tag in tags if tag[0] & VLAN_VALID), None)
        _, token = TOKEN.unpack_from(data, at)
        yield Seen(port, token, vlan, int.from_bytes(data[:6]), int.from_bytes(data[6:12]))


def frame(packet: Mapping[str, int], token: int) -> bytes:
    """Return an IPv4 packet of the evaluator as a frame; its payload is a token."""
    payload = _transport(packet) + TOKEN.pack(_MAGIC, token)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, packet["ip_proto"], 0)
    head += packet["ipv4_src"].to_bytes(4) + packet["ipv4_dst"].to_bytes(4)
    head = head[:10] + _checksum(head).to_bytes(2) + head[12:]
    tag = struct.pack("!HH", ETH_8021Q, packet["vlan_vid"] & 0xFFF) if packet["vlan_vid"] else b""
    ends = packet["eth_dst"].to_bytes(6) + packet["eth_src"].to_bytes(6)
    return ends + tag + struct.pack("!H", ETH_IPV4) + head + payload


def _transport(packet: Mapping[str, int]) -> bytes:
    if packet["ip_proto"] == PROTO_TCP:
        ports = struct.pack("!HH", packet["tcp_src"], packet["tcp_dst"])
        return ports + struct.pack("!IIBBHHH", 1, 1, 0x50, packet.get("tcp_flags", TCP_ACK), 1024, 0, 0)
    if packet["ip_proto"] == PROTO_UDP:
        return struct.pack("!HHHH", packet["udp_src"], packet["udp_dst"], 8 + TOKEN.size, 0)
    return struct.pack("!BBHI", packet["icmpv4_type"], 0, 0, 0)


def _checksum(head: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
