# SPDX-License-Identifier: AGPL-3.0-or-later
"""IPv6 and service addresses on real Open vSwitch, under real connections of the kernel."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv6Address
from typing import Any

import pytest

from controller.fabric import parse_mac
from odyssey.planning.slots import assign
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import (
    Lab,
    Pki,
    can_connect,
    inside,
    server,
    socket_in,
    wait_until,
    within,
)
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]

NODES = {
    "lb-1": ("shop/lb", "172.16.10.2", "2001:db8:0:1::2", "h1"),
    "app-1": ("shop/app", "172.16.20.2", "2001:db8:0:2::2", "h1"),
    "app-2": ("shop/app", "172.16.20.3", "2001:db8:0:2::3", "h2"),
    "app-3": ("shop/app", "172.16.20.4", "2001:db8:0:2::4", "h3"),
    "app-4": ("shop/app", "172.16.20.5", "2001:db8:0:2::5", "h2"),
    "db-1": ("shop/db", "172.16.30.2", "2001:db8:0:3::2", "h3"),
}
MEMBERS = ("app-1", "app-2", "app-3", "app-4")
SERVICE, SERVICE6 = "172.16.20.1", "2001:db8:0:2::1"
EDGE6, GATEWAY6 = "2001:db8:ff::2", "2001:db8:ff::1"
SLOTS = 64


def binding(node: str, phase: str = "admitted") -> dict[str, Any]:
    network, address, address6, host = NODES[node]
    return {**samples.binding(node, network, address, host, phase), "address6": address6}


def service(slots: Sequence[str]) -> dict[str, Any]:
    return {"network": "shop/app", "address": SERVICE, "address6": SERVICE6, "slots": list(slots)}


def intent(slots: Sequence[str], nodes: Iterable[str] = NODES) -> dict[str, Any]:
    documents = {key: value for key, value in samples.shop().items() if not key.startswith("binding/")}
    for name in ("lb", "app", "db"):
        network = documents[f"network/shop/{name}"]
        network["subnet6"] = f"2001:db8:0:{network['id']}::/64"
    edge = documents["inventory"]["fabric"]["borders"]["edge"]
    edge |= {"prefix6": "2001:db8:ff::/64", "gateway6": GATEWAY6}
    edge["peer"]["address6"] = EDGE6
    documents["expose/shop/app/edge"] = {
        "network": "shop/app",
        "border": "edge",
        "ports": [{"protocol": "tcp", "port": 8080}],
    }
    documents["service/shop/app"] = service(slots)
    return documents | {f"binding/{node}": binding(node) for node in nodes}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.up()
        for node, (_, address, address6, host) in NODES.items():
            made.add_node(node, host, address)
            made.add_address6(node, address6)
        for node in MEMBERS:
            made.add_service_address(node, SERVICE)
            made.add_service_address(node, SERVICE6)
        inside("edge", "sysctl", "-qw", "net.ipv6.conf.edge0.disable_ipv6=0", "net.ipv6.conf.edge0.accept_ra=0")
        inside("edge", "ip", "addr", "add", f"{EDGE6}/64", "dev", "edge0", "nodad")
        inside("edge", "ip", "-6", "route", "add", "default", "via", GATEWAY6)
        yield made
    finally:
        made.down()
        shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture
async def controller(lab: Lab, ctl_pki: Pki) -> AsyncIterator[Controller]:
    made = Controller(lab, ctl_pki, verify_seconds=0.5)
    lab.forget()
    await made.start()
    try:
        await made.attach()
        yield made
    finally:
        await made.stop()


async def reaches(source: str, address: str, port: int, **options: Any) -> bool:
    """Tell whether a connection can be opened, at last after some seconds."""
    deadline = asyncio.get_running_loop().time() + 10.0
    while not await asyncio.to_thread(can_connect, source, address, port, **options):
        if asyncio.get_running_loop().time() > deadline:
            return False
    return True


async def closed(source: str, address: str, port: int, **options: Any) -> bool:
    return not await asyncio.to_thread(can_connect, source, address, port, **options)


# IPv6


async def test_ipv6_does_what_the_policy_says(controller: Controller, lab: Lab) -> None:
    await controller.carry_out(intent([]))
    six = socket.AF_INET6
    with server("app-1", 8080, six), server("app-2", 8080, six), server("db-1", 5432, six), server("lb-1", 8080, six):
        assert await reaches("lb-1", NODES["app-1"][2], 8080), "two nodes of one host meet by hairpin"
        assert await reaches("lb-1", NODES["app-2"][2], 8080)
        assert await reaches("app-1", NODES["db-1"][2], 5432)
        assert await closed("lb-1", NODES["db-1"][2], 5432)
        assert await closed("app-1", NODES["lb-1"][2], 8080, source_port=8080), "not from the service port either"
        inside("sw1", "ip", "link", "set", "p-h2", "down")
        try:
            assert await reaches("lb-1", NODES["app-2"][2], 8080), "over the trunk and the other switch"
        finally:
            inside("sw1", "ip", "link", "set", "p-h2", "up")
            await asyncio.to_thread(wait_until, lambda: "LINK_DOWN" not in ports(lab), "the port is up")


def ports(lab: Lab) -> str:
    return lab.switches["sw1"].ofctl("show").split(" LOCAL(")[0]


async def test_an_icmpv6_error_comes_back(controller: Controller) -> None:
    await controller.carry_out(intent([]))

    def refused() -> bool:
        with socket_in("app-1", socket.SOCK_DGRAM, socket.AF_INET6) as asking:
            asking.settimeout(0.5)
            asking.connect((NODES["db-1"][2], 5353))  # declared, and nobody listens
            try:
                asking.send(b"x")
                asking.recv(10)
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                return False
        return False

    deadline = asyncio.get_running_loop().time() + 10.0
    while not await asyncio.to_thread(refused):
        assert asyncio.get_running_loop().time() < deadline, "no ICMPv6 port unreachable"


async def test_a_large_datagram_is_dropped_and_counted_as_fragments(controller: Controller, lab: Lab) -> None:
    await controller.carry_out(intent([]))
    for address, family, word in (
        (NODES["db-1"][1], socket.AF_INET, "priority=400,ip,nw_frag=yes"),
        (NODES["db-1"][2], socket.AF_INET6, "priority=400,ipv6,nw_frag=yes"),
    ):
        with socket_in("app-1", socket.SOCK_DGRAM, family) as sender:
            for _ in range(3):
                sender.sendto(b"x" * 3000, (address, 5353))
        await controller.until(partial(is_counted, lab, word, 9), word)


def is_counted(lab: Lab, word: str, least: int) -> bool:
    lines = [line for switch in lab.switches.values() for line in switch.ofctl("dump-flows", "table=10").splitlines()]
    return sum(int(line.split("n_packets=")[1].split(",")[0]) for line in lines if word in line) >= least


async def test_the_border_gateway_answers_neighbour_discovery_and_arp(controller: Controller) -> None:
    """The kernel of the edge believes the answers: their checksums are right."""
    await controller.carry_out(intent([]))
    inside("edge", "ip", "-6", "neigh", "flush", "dev", "edge0")
    inside("edge", "ip", "neigh", "flush", "dev", "edge0")
    with server("app-1", 8080, socket.AF_INET6), server("app-2", 8080):
        assert await reaches("edge", NODES["app-1"][2], 8080)
        assert await reaches("edge", NODES["app-2"][1], 8080)
        assert await closed("edge", NODES["db-1"][2], 5432)
    for gateway in (GATEWAY6, "203.0.113.1"):
        known = inside("edge", "ip", "neigh", "show", gateway, "dev", "edge0")
        assert samples.FABRIC_MAC in known, known


async def test_a_solicitation_is_answered_exactly(controller: Controller) -> None:
    await controller.carry_out(intent([]))
    for destination in ("33:33:ff:00:00:01", samples.FABRIC_MAC):
        answer = await asyncio.to_thread(ask_neighbour, GATEWAY6, destination)
        assert answer is not None, f"nobody answered {destination}"
        assert answer[:6] == mac(samples.EDGE_MAC) and answer[6:12] == mac(samples.FABRIC_MAC)
        source, target, message = answer[22:38], answer[38:54], answer[54:86]
        assert (source, target) == (IPv6Address(GATEWAY6).packed, IPv6Address(EDGE6).packed)
        assert answer[21] == 255, "RFC 4861, 7.1.2: the hop limit of an advertisement is 255"
        assert message[:2] == bytes((136, 0)) and message[4:8] == bytes((0xE0, 0, 0, 0))
        assert message[8:24] == IPv6Address(GATEWAY6).packed
        assert message[24:32] == bytes((2, 1)) + mac(samples.FABRIC_MAC)
        assert checksum(source, target, message) == 0, "RFC 4443, 2.3"
    assert await asyncio.to_thread(ask_neighbour, "2001:db8:ff::7", "33:33:ff:00:00:07") is None


def mac(text: str) -> bytes:
    return parse_mac(text).to_bytes(6, "big")


def checksum(source: bytes, target: bytes, message: bytes) -> int:
    """The Internet checksum over pseudo-header and message (RFC 8200, 8.1): 0 where the message carries it."""
    data = source + target + struct.pack("!IxxxB", len(message), 58) + message
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ask_neighbour(address: str, destination: str) -> bytes | None:
    """Send a neighbour solicitation from the edge as raw bytes; returns the advertisement that comes."""
    source = IPv6Address(EDGE6).packed
    group = IPv6Address(0xFF0200000000000000000001FF000000 | int(IPv6Address(address)) & 0xFFFFFF).packed
    target = IPv6Address(GATEWAY6).packed if destination == samples.FABRIC_MAC else group
    body = bytes((135, 0, 0, 0, 0, 0, 0, 0)) + IPv6Address(address).packed + bytes((1, 1)) + mac(samples.EDGE_MAC)
    message = body[:2] + checksum(source, target, body).to_bytes(2, "big") + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + source + target
    frame = mac(destination) + mac(samples.EDGE_MAC) + b"\x86\xdd" + header + message

    def exchange() -> bytes | None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)) as raw:
            raw.bind(("edge0", 0x86DD))
            raw.settimeout(1.0)
            raw.send(frame)
            try:
                while True:
                    answer = raw.recv(2048)
                    if answer[54:55] == bytes((136,)) and answer[:6] == mac(samples.EDGE_MAC):
                        return answer
            except TimeoutError:
                return None

    return within("edge", exchange)


# Services


class _Answer(BaseHTTPRequestHandler):
    """Tells who answers, and keeps the connection."""

    protocol_version = "HTTP/1.1"
    node = ""

    def do_GET(self) -> None:
        body = self.node.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, node: str, family: socket.AddressFamily) -> None:
        self.address_family = family
        handler = type("Answer", (_Answer,), {"node": node})
        super().__init__(("::" if family == socket.AF_INET6 else "0.0.0.0", 8080), handler)


@contextmanager
def members(family: socket.AddressFamily = socket.AF_INET) -> Iterator[None]:
    """An HTTP server on every member of the service."""
    running = [within(node, partial(_Server, node, family)) for node in MEMBERS]
    for one in running:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        for one in running:
            one.shutdown()
            one.server_close()


def open_many(netns: str, address: str, count: int) -> Counter[str]:
    """Open connections one after another, as any program does; returns how many each node got."""

    def run() -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(count):
            with Kept.to(address) as one:
                found[one.ask()] += 1
        return found

    return within(netns, run)


@dataclass
class Kept:
    """A connection that is kept; ``node`` is who answered first."""

    connection: http.client.HTTPConnection
    answers: list[str] = field(default_factory=list)

    @classmethod
    def to(cls, address: str) -> Kept:
        made = cls(http.client.HTTPConnection(address, 8080, timeout=5.0))
        made.connection.connect()
        return made

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self) -> str:
        """Send a request on it; returns who answered."""
        assert self.connection.sock is not None, "a new connection would have been opened"
        self.connection.request("GET", "/")
        self.answers.append(self.connection.getresponse().read().decode())
        return self.answers[-1]


def keep_many(netns: str, address: str, count: int) -> list[Kept]:
    return within(netns, lambda: [Kept.to(address) for _ in range(count)])


def ask_all(kept: Iterable[Kept]) -> list[str]:
    return [one.ask() for one in kept]


def slots_of(weights: Mapping[str, int], previous: Sequence[str] = ()) -> tuple[str, ...]:
    return assign(previous, weights, SLOTS)


async def until_served(address: str, nodes: set[str]) -> None:
    """Wait until only these nodes get new connections: a switch's caches follow its tables late."""
    deadline = asyncio.get_running_loop().time() + 10.0
    while not (found := set(await asyncio.to_thread(open_many, "lb-1", address, 60))) <= nodes:
        assert asyncio.get_running_loop().time() < deadline, f"{found} serve, not {nodes}"


@pytest.mark.parametrize(
    ("address", "family", "count"),
    [(SERVICE, socket.AF_INET, 3000), (SERVICE6, socket.AF_INET6, 500)],
    ids=["IPv4", "IPv6"],
)
async def test_connections_spread_over_the_members(
    controller: Controller, lab: Lab, address: str, family: socket.AddressFamily, count: int
) -> None:
    await controller.carry_out(intent(slots_of(dict.fromkeys(MEMBERS, 1))))
    with members(family):
        await until_served(address, set(MEMBERS))
        share = await asyncio.to_thread(open_many, "lb-1", address, count)
        assert share.total() == count and set(share) == set(MEMBERS)
        assert min(share.values()) > count / len(MEMBERS) / 2, share
        assert set(await asyncio.to_thread(open_many, "edge", address, 100)) == set(MEMBERS), "from outside too"
    learned = lab.switches["sw1"].ofctl("dump-flows", "table=21").count("cookie=0xd07")
    assert learned >= min(100, count)
    await no_drift(controller)


async def no_drift(controller: Controller) -> None:
    """Wait for some more read-backs of everything; what a switch learned is no drift."""
    read = len(controller.topics("switch.drift"))
    await asyncio.sleep(1.5)
    unexpected = [one for one in controller.topics("switch.drift")[read:] if one["when"] != "connect"]
    assert unexpected == []


async def test_kept_connections_stay_through_slot_moves_and_a_drain(controller: Controller) -> None:
    """Three members, a fourth comes, the second drains and goes: nobody who is connected notices."""
    three = dict.fromkeys(MEMBERS[:3], 1)
    slots = slots_of(three)
    await controller.carry_out(intent(slots, ("lb-1", *MEMBERS[:3])))
    with members():
        await until_served(SERVICE, set(three))
        kept = await asyncio.to_thread(keep_many, "lb-1", SERVICE, 60)
        first = await asyncio.to_thread(ask_all, kept)
        assert set(first) == set(three)

        async def change(weights: Mapping[str, int], stage: str, **more: Any) -> None:
            nonlocal slots
            slots = slots_of(weights, slots)
            await controller.carry_out({**more, "service/shop/app": service(slots)}, stage)
            await until_served(SERVICE, {node for node, weight in weights.items() if weight})
            assert await asyncio.to_thread(ask_all, kept) == first

        await change(dict.fromkeys(MEMBERS, 1), "admit", **{"binding/app-4": binding("app-4")})
        assert (await asyncio.to_thread(open_many, "lb-1", SERVICE, 200))["app-4"] > 20
        without = {**dict.fromkeys(MEMBERS, 1), "app-2": 0}
        await change(without, "withdraw")
        await change(without, "withdraw", **{"binding/app-2": binding("app-2", "draining")})
        await change({**without, "app-1": 8}, "withdraw")
        gone = [one for one, node in zip(kept, first, strict=True) if node == "app-2"]
        assert gone and {one.answers[-1] for one in gone} == {"app-2"}
        for one in kept:
            one.connection.close()
        await controller.carry_out({"binding/app-2": None}, "retire")
        assert "app-2" not in await asyncio.to_thread(open_many, "lb-1", SERVICE, 100)


async def test_a_member_opens_no_connection_from_the_service_address(controller: Controller) -> None:
    await controller.carry_out(intent(slots_of({"app-1": 1})))
    with server("db-1", 5432):
        assert await reaches("app-1", NODES["db-1"][1], 5432)

        def from_service() -> bool:
            with socket_in("app-1") as made:
                made.settimeout(0.6)
                made.bind((SERVICE, 0))
                try:
                    made.connect((NODES["db-1"][1], 5432))
                except OSError:
                    return False
                return True

        assert not await asyncio.to_thread(from_service)


async def test_a_member_on_the_other_switch_serves_over_the_trunk(controller: Controller, lab: Lab) -> None:
    await controller.carry_out(intent(slots_of({"app-2": 1})))
    inside("sw1", "ip", "link", "set", "p-h2", "down")
    try:
        with members():
            await until_served(SERVICE, {"app-2"})
            assert await asyncio.to_thread(open_many, "lb-1", SERVICE, 50) == {"app-2": 50}
    finally:
        inside("sw1", "ip", "link", "set", "p-h2", "up")
        await asyncio.to_thread(wait_until, lambda: "LINK_DOWN" not in ports(lab), "the port is up")
