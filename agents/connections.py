# SPDX-License-Identifier: AGPL-3.0-or-later
"""Count a node's TCP connections from the text of /proc/<pid>/net/tcp and tcp6. Pure.

Counted is what may still carry data: ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2 (while a process holds the
socket), CLOSE_WAIT, LAST_ACK and CLOSING. Not counted: LISTEN, TIME_WAIT, CLOSE, an orphaned FIN_WAIT2, and what stays
inside the node (loopback, and its own address on both sides, as of the health check).
Format: Documentation/networking/proc_net_tcp.rst; state numbers: include/net/tcp_states.h.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass

_LISTEN = 0x0A
_FIN_WAIT2 = 0x05
_OPEN = frozenset({0x01, 0x02, 0x03, 0x04, _FIN_WAIT2, 0x08, 0x09, 0x0B, 0x0C})

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class _Entry:
    local: _Address
    port: int
    remote: _Address
    state: int
    inode: int


@dataclass(frozen=True, slots=True)
class Connections:
    """Open connections of one node; `inbound` ones came to a port that it listens on."""

    inbound: int = 0
    outbound: int = 0
    listening: frozenset[int] = frozenset()


def count(tables: str, known: Set[int] = frozenset()) -> Connections:
    """Count the connections in the text of both tables.

    `known` are ports that the node listened on before: a draining server closes its listener first.
    """
    entries = list(_entries(tables))
    listening = frozenset(entry.port for entry in entries if entry.state == _LISTEN)
    inbound = outbound = 0
    for entry in entries:
        if entry.state not in _OPEN or (entry.state == _FIN_WAIT2 and entry.inode == 0):
            continue
        if entry.local.is_loopback or entry.remote.is_loopback or entry.local == entry.remote:
            continue
        if entry.port in listening or entry.port in known:
            inbound += 1
        else:
            outbound += 1
    return Connections(inbound, outbound, listening)


def _entries(tables: str) -> Iterator[_Entry]:
    for line in tables.splitlines():
        words = line.split()
        if len(words) < 10 or not words[0].endswith(":"):
            continue
        local, port = _endpoint(words[1])
        remote, _ = _endpoint(words[2])
        yield _Entry(local, port, remote, int(words[3], 16), int(words[9]))


def _endpoint(text: str) -> tuple[_Address, int]:
    """Read `0100007F:1F90`: the address as 32 bit words in the byte order of the machine, the port as a number."""
    address, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
    number = ipaddress.ip_address(packed)
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped:
        return number.ipv4_mapped, int(port, 16)
    return number, int(port, 16)
