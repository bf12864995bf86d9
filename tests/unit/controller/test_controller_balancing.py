# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service addresses in the evaluator: who gets a new connection, and what becomes of one that stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import ceil
from typing import Any

import pytest

from controller.compiler import Compilation
from controller.evaluate import Fabric, Memory
from controller.fabric import Port, parse_mac
from controller.families import IPV4, IPV6, Family
from controller.flows import TCP_ACK, TCP_SYN
from odyssey.planning.slots import assign
from tests.unit.controller import samples

SLOTS = 64
SERVICE = {IPV4: int(IPv4Address("172.16.20.1")), IPV6: 0x20010DB8000000020000000000000001}
CLIENT, ENTRANCE = "shop-lb-1", Port("sw1", 1)
#: As Linux chooses them for connect(): all even.
SOURCE_PORTS = range(32768, 33768, 2)


def node(number: int, phase: str = "admitted") -> dict[str, Any]:
    """One of the nodes of the served network; every second one has a port on sw2 only."""
    document = samples.binding(f"shop-app-{number}", "shop/app", f"172.16.20.{number + 1}", f"h{number % 3 + 1}", phase)
    return {**document, "address6": f"2001:db8:0:2::{number + 1:x}"}


def served(slots: Sequence[str], nodes: Iterable[dict[str, Any]]) -> Compilation:
    """The shop with a service address for ``shop/app``."""
    documents = samples.shop()
    for host in ("h2", "h3"):
        del documents["inventory"]["hosts"][host]["attachments"][0]
    for network in ("lb", "app"):
        number = documents[f"network/shop/{network}"]["id"]
        documents[f"network/shop/{network}"]["subnet6"] = f"2001:db8:0:{number}::/64"
    documents["binding/shop-lb-1"]["address6"] = "2001:db8:0:1::2"
    for key in [key for key in documents if key.startswith("binding/shop-app")]:
        del documents[key]
    documents |= {f"binding/{one['node']}": one for one in nodes}
    documents["service/shop/app"] = {
        "network": "shop/app",
        "address": "172.16.20.1",
        "address6": "2001:db8:0:2::1",
        "slots": list(slots),
    }
    return samples.compiled(documents)


@dataclass(frozen=True)
class Client:
    """Opens and uses connections to the service; ``memory`` is what the switches learned of them."""

    memory: Memory
    family: Family = IPV4

    def send(self, compilation: Compilation, source_port: int, flags: int) -> str | None:
        """Return the node that gets a packet of a connection."""
        intent = compilation.intent
        assert intent.inventory is not None
        client = intent.bindings[CLIENT]
        frame = {
            "vlan_vid": 0,
            "eth_type": self.family.eth_type,
            "eth_src": client.mac,
            "eth_dst": parse_mac(samples.FABRIC_MAC),
            self.family.source: int(client.address_of(self.family) or 0),
            self.family.target: SERVICE[self.family],
            "ip_frag": 0,
            **samples.ack(source_port, 8080, flags),
        }
        trace = Fabric.of(compilation.tables, intent.inventory).trace(frame, ENTRANCE, self.memory)
        macs = {binding.mac: name for name, binding in intent.bindings.items()}
        return macs[trace.deliveries[0].packet["eth_dst"]] if trace.deliveries else None

    def open(self, compilation: Compilation, ports: Iterable[int] = SOURCE_PORTS) -> Mapping[int, str | None]:
        """Open connections; returns who got each."""
        return {port: self.send(compilation, port, TCP_SYN) for port in ports}

    def use(self, compilation: Compilation, ports: Iterable[int]) -> Mapping[int, str | None]:
        """Send on open connections; returns who got each packet."""
        return {port: self.send(compilation, port, TCP_ACK) for port in ports}


def names(count: int) -> dict[str, int]:
    return {f"shop-app-{number}": 1 for number in range(1, count + 1)}


def of(count: int) -> list[dict[str, Any]]:
    return [node(number) for number in range(1, count + 1)]


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["IPv4", "IPv6"])
def test_connections_stay_when_slots_move_and_new_ones_follow_the_slots(family: Family) -> None:
    before = assign((), names(3), SLOTS)
    old = served(before, of(3))
    client = Client(Memory(), family)
    opened = client.open(old)
    assert Counter(opened.values()).keys() == names(3).keys()
    new = served(assign(before, names(4), SLOTS), of(4))
    assert client.use(new, opened) == opened
    later = client.open(new, range(40000, 41000, 2))
    assert set(later.values()) == set(names(4))
    assert Client(Memory(), family).open(new, later) == later, "a slot depends on nothing but the connection"


def test_one_that_left_the_slots_gets_nothing_new_and_keeps_what_it_has() -> None:
    before = assign((), names(3), SLOTS)
    client = Client(Memory())
    opened = client.open(served(before, of(3)))
    leaving = "shop-app-2"
    draining = served(assign(before, {**names(3), leaving: 0}, SLOTS), [node(1), node(2, "draining"), node(3)])
    assert client.use(draining, opened) == opened
    assert leaving not in client.open(draining, range(50000, 50400, 2)).values()
    gone = served(assign(before, {**names(3), leaving: 0}, SLOTS), [node(1), node(3)])
    mine = [port for port, holder in opened.items() if holder == leaving]
    assert mine and set(client.use(gone, mine).values()) == {None}, (
        "nobody else gets a connection that he does not know"
    )
    again = client.open(gone, mine)
    assert leaving not in again.values() and None not in again.values()


def test_what_no_switch_remembers_goes_by_its_slot() -> None:
    """After a restart of the switch, or behind another one: it stays only where the slot did not move."""
    before = assign((), names(3), SLOTS)
    opened = Client(Memory()).open(served(before, of(3)))
    assert Client(Memory()).use(served(before, of(3)), opened) == opened
    moved = assign(before, names(4), SLOTS)
    used = Client(Memory()).use(served(moved, of(4)), opened)
    lost = [port for port in opened if used[port] != opened[port]]
    assert {used[port] for port in lost} == {"shop-app-4"}
    assert 0 < len(lost) < len(opened) / 2


def test_without_slots_nobody_is_reached() -> None:
    assert set(Client(Memory()).open(served((), of(2)), range(40000, 40010)).values()) == {None}


def test_a_syn_that_comes_again_goes_where_new_connections_go() -> None:
    before = ["shop-app-1"] * SLOTS
    client = Client(Memory())
    assert client.send(served(before, of(2)), 40000, TCP_SYN) == "shop-app-1"
    new = served(["shop-app-2"] * SLOTS, of(2))
    assert client.send(new, 40000, TCP_ACK) == "shop-app-1"
    assert client.send(new, 40000, TCP_SYN) == "shop-app-2"
    assert client.send(new, 40000, TCP_ACK) == "shop-app-2"


@pytest.mark.parametrize("size", [2, 16, 64, 256])
def test_one_more_of_n_moves_at_most_the_share_of_one(size: int) -> None:
    slots = assign((), names(1), size)
    for count in range(2, min(size, 20) + 1):
        more = assign(slots, names(count), size)
        moved = [number for number in range(size) if more[number] != slots[number]]
        assert len(moved) <= ceil(size / count)
        assert {more[number] for number in moved} <= {f"shop-app-{count}"}
        slots = more


def test_even_source_ports_reach_every_slot() -> None:
    """Linux gives connect() even ports only: their lowest bit must not be what a slot is made of."""
    slots = [f"shop-app-{number}" for number in range(1, 9)]
    share = Counter(Client(Memory()).open(served(slots, of(8))).values())
    assert len(share) == 8 and min(share.values()) > len(SOURCE_PORTS) / 8 / 2
