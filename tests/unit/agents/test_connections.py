# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import sys

import pytest

from agents.connections import Connections, count

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
NODE, PEER, ANY, LOOP = "0314 10AC", "0214 10AC", "00000000", "0100007F"


def line(local: str, port: int, remote: str, other: int, state: int, inode: int = 7) -> str:
    """A line of /proc/net/tcp; addresses as hexadecimal numbers in the machine's byte order."""
    ends = f"{local.replace(' ', '')}:{port:04X} {remote.replace(' ', '')}:{other:04X}"
    return f"   0: {ends} {state:02X} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 20 4 30 10 -1\n"


@pytest.fixture(autouse=True)
def little() -> None:
    if sys.byteorder != "little":
        pytest.skip("the tables here are of a little-endian machine")


def test_directions() -> None:
    table = (
        HEAD + line(ANY, 8080, ANY, 0, 0x0A) + line(NODE, 8080, PEER, 40000, 0x01) + line(NODE, 40001, PEER, 5432, 1)
    )
    assert count(table) == Connections(1, 1, frozenset({8080}))


@pytest.mark.parametrize(
    ("state", "inode", "counted"),
    [
        (0x01, 7, 1), (0x02, 7, 1), (0x03, 0, 1), (0x04, 7, 1), (0x05, 7, 1), (0x05, 0, 0), (0x06, 0, 0), (0x07, 0, 0),
        (0x08, 7, 1), (0x09, 0, 1), (0x0A, 7, 0), (0x0B, 0, 1), (0x0C, 0, 1),
    ],
)  # fmt: skip
def test_states(state: int, inode: int, counted: int) -> None:
    assert count(HEAD + line(NODE, 40001, PEER, 5432, state, inode)).outbound == counted


def test_what_stays_inside_is_not_counted() -> None:
    table = line(LOOP, 5432, LOOP, 40000, 1) + line(NODE, 8080, NODE, 40000, 1) + line(NODE, 40000, NODE, 8080, 1)
    assert count(table) == Connections()


def test_a_port_that_was_listened_on_stays_inbound() -> None:
    table = line(NODE, 8080, PEER, 40000, 1)
    assert count(table).outbound == 1
    assert count(table, frozenset({8080})).inbound == 1


def test_ipv4_in_ipv6_sockets() -> None:
    mapped = "0000000000000000FFFF0000"
    any6, loop6 = "0" * 32, "00000000000000000000000001000000"
    table = (
        line(any6, 80, any6, 0, 0x0A)
        + line(mapped + NODE, 80, mapped + PEER, 40000, 1)
        + line(loop6, 80, loop6, 40000, 1)
        + line(mapped + LOOP, 80, mapped + LOOP, 40000, 1)
    )
    assert count(table) == Connections(1, 0, frozenset({80}))
