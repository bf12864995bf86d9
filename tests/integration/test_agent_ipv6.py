# SPDX-License-Identifier: AGPL-3.0-or-later
"""IPv6 and service addresses of nodes: what stands, what leaves the host, changeover, mending."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.attachment import FIRST_INDEX
from agents.spec import NodeSpec
from tests.integration.agent_support import (
    FABRIC_MAC,
    HOST,
    Agent,
    DockerHost,
    docker_host,
    eventually,
    inside,
    node_spec,
    running_agent,
)
from tests.integration.agent_wire import ETHERTYPE_ALL, ETHERTYPE_IPV6, WAIT, Wire, node_socket, packed

REMOTE = "2001:db8::30:2"
PORT = 5353
GATEWAY6 = "fe80::1"
NODE_MAC = packed("02:00:ac:10:14:03")
SERVICE, SERVICE6 = "172.16.20.100", "fd00:20::100"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with docker_host(tmp_path_factory.mktemp("agt")) as made:
        yield made


@pytest.fixture
async def agent(host: DockerHost, tmp_path: Path) -> AsyncIterator[Agent]:
    with inside(HOST):
        try:
            async with running_agent(host, tmp_path) as made:
                yield made
        finally:
            host.clear()


@pytest.fixture
def wires(host: DockerHost) -> Iterator[tuple[Wire, Wire]]:
    made = (Wire(0, ETHERTYPE_IPV6), Wire(1, ETHERTYPE_IPV6))
    yield made
    for wire in made:
        wire.close()


def spec6(number: int = 3, **changes: Any) -> dict[str, Any]:
    return node_spec(number, address6=f"fd00:20::{number}", gateway6=GATEWAY6, **changes)


async def socket6(host: DockerHost, kind: int = socket.SOCK_DGRAM, node: str = "shop-app-3") -> socket.socket:
    return await node_socket(host, node, socket.AF_INET6, kind)


def routes6(host: DockerHost, node: str = "shop-app-3") -> list[tuple[str, int, bool]]:
    """The IPv6 default routes: device, metric, and whether the route goes with the carrier."""
    found = json.loads(host.in_node(node, "ip", "-6", "-j", "route", "show", "default"))
    assert all((item["gateway"], item["prefsrc"]) == (GATEWAY6, "fd00:20::3") for item in found)
    return [(item["dev"], item["metric"], "nhid" in item) for item in found]


def no_carrier(host: DockerHost, device: str) -> bool:
    return "NO-CARRIER" in host.in_node("shop-app-3", "ip", "link", "show", device)


ALL_ROUTES = [("fab0", 10, True), ("fab1", 11, True), ("fab0", 110, False), ("fab1", 111, False)]


async def test_the_attachment_is_that_of_the_design(host: DockerHost, agent: Agent) -> None:
    effects = await agent.add("t1", spec6())
    assert effects[-1].degraded is None
    links = {item["ifname"]: item for item in json.loads(host.in_node("shop-app-3", "ip", "-j", "-d", "addr"))}
    assert {f"{info['local']}/{info['prefixlen']}" for info in links["lo"]["addr_info"]} == {
        "127.0.0.1/8", "172.16.20.3/32", "::1/128", "fd00:20::3/128",
    }  # fmt: skip
    for number, name in enumerate(("fab0", "fab1")):
        assert links[name]["addr_info"] == []
        assert links[name]["ifindex"] == FIRST_INDEX + number
    assert routes6(host) == ALL_ROUTES
    known = json.loads(host.in_node("shop-app-3", "ip", "-6", "-j", "neigh"))
    assert {(item["dev"], item["dst"], item["lladdr"], *item["state"]) for item in known} == {
        (name, GATEWAY6, FABRIC_MAC, "PERMANENT") for name in ("fab0", "fab1")
    }
    found = await agent.driver._engine.execute("shop-app-3", ["sh", "-c", "cat /etc/hosts; echo $ODYSSEY_ADDRESS6"], 5)
    assert "fd00:20::3 shop-app-3 node\n" in found.output and found.output.endswith("fd00:20::3\n")


async def test_a_node_without_an_ipv6_address_has_ipv6_off_and_kept_off(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(3))
    switch = "net.ipv6.conf.all.disable_ipv6"
    assert host.in_node("shop-app-3", "sysctl", "-n", switch).strip() == "1"
    assert host.in_node("shop-app-3", "ip", "-6", "addr") == ""
    host.in_node("shop-app-3", "sysctl", "-qw", f"{switch}=0")
    await agent.participant.restorer.restore()
    assert host.in_node("shop-app-3", "sysctl", "-n", switch).strip() == "1"
    assert [data["actions"] for _, data in agent.events] == [["IPv6 was not set as it has to be"]]


async def test_sandboxes_made_ahead_serve_both_kinds(host: DockerHost, tmp_path: Path) -> None:
    with inside(HOST):
        try:
            async with running_agent(host, tmp_path, pool=2) as agent:
                filling = asyncio.create_task(agent.driver.background())
                await eventually(lambda: len(agent.driver._pool) == 2)
                made = {host.inspect(name)["Id"] for name in host.names(pool=True)}
                await agent.add("t1", spec6(3), node_spec(4))
                filling.cancel()
                await asyncio.wait([filling])
                assert {host.inspect(f"shop-app-{number}.sandbox")["Id"] for number in (3, 4)} == made
                assert routes6(host) == ALL_ROUTES
                assert host.in_node("shop-app-4", "ip", "-6", "addr") == ""
        finally:
            host.clear()


async def test_nothing_leaves_that_the_node_did_not_send(host: DockerHost, agent: Agent) -> None:
    everything = (Wire(0, ETHERTYPE_ALL), Wire(1, ETHERTYPE_ALL))
    await agent.add("t1", spec6(serviceAddresses=[SERVICE, SERVICE6]))
    with await socket6(host) as sender:
        sender.sendto(b"the first word", (REMOTE, PORT))
        frame = await everything[0].frame(b"the first word")
    # Routers are asked for within a second, groups are reported within ten, of the link being set up.
    await asyncio.sleep(3)
    sent = [one for wire in everything for one in wire.seen() if one[6:12] == NODE_MAC]
    for wire in everything:
        wire.close()
    assert sent == []
    assert frame[0:12] == packed(FABRIC_MAC) + NODE_MAC
    assert frame[22:38] == socket.inet_pton(socket.AF_INET6, "fd00:20::3")


async def test_nobody_is_told_where_a_node_or_a_service_is(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", spec6(serviceAddresses=[SERVICE, SERVICE6]))
    everything = Wire(0, ETHERTYPE_ALL)
    for address in ("172.16.20.3", SERVICE):
        everything.send(_arp_request(address))
    for address in ("fd00:20::3", SERVICE6):
        everything.send(_solicitation(address))
    with await socket6(host) as sender:
        sender.sendto(b"afterwards", (REMOTE, PORT))
    frames = [frame for frame in (await _until(everything, b"afterwards")) if frame[6:12] == NODE_MAC]
    everything.close()
    assert len(frames) == 1


async def _until(wire: Wire, payload: bytes) -> list[bytes]:
    frames: list[bytes] = []
    async with asyncio.timeout(WAIT):
        while not any(payload in frame for frame in frames):
            await asyncio.sleep(0.05)
            frames += wire.seen()
    return frames


def _arp_request(address: str) -> bytes:
    """RFC 826, sent to the node itself, so that its NIC takes it in."""
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, packed(FABRIC_MAC), socket.inet_aton("172.16.20.9"),
                       bytes(6), socket.inet_aton(address))  # fmt: skip
    return NODE_MAC + packed(FABRIC_MAC) + b"\x08\x06" + body


def _solicitation(address: str) -> bytes:
    """A neighbour solicitation (RFC 4861, section 4.3), sent to the node itself."""
    source, target = (socket.inet_pton(socket.AF_INET6, text) for text in (GATEWAY6, address))
    option = bytes([1, 1]) + packed(FABRIC_MAC)
    message = struct.pack("!BBHI16s", 135, 0, 0, 0, target) + option
    pseudo = source + target + struct.pack("!I3xB", len(message), 58)
    total = sum(struct.unpack(f"!{len(pseudo + message) // 2}H", pseudo + message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    head = struct.pack("!IHBB16s16s", 6 << 28, len(message), 58, 255, source, target)
    return NODE_MAC + packed(FABRIC_MAC) + b"\x86\xdd" + head + message


async def test_a_connected_socket_changes_over_without_an_agent(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    """No background work of the agent runs here: it is the kernel alone."""
    await agent.add("t1", spec6())
    with await socket6(host) as sender:
        sender.connect((REMOTE, PORT))
        sender.send(b"by the first")
        await wires[0].frame(b"by the first")
        await _pulled(host, 0, sender, wires[1])
        # The other one fails next, with nobody who puts back what went with the first carrier.
        await _pulled(host, 1, sender, wires[0])


async def _pulled(host: DockerHost, number: int, sender: socket.socket, other: Wire) -> None:
    host.set_wire(number, "down")
    try:
        await eventually(lambda: no_carrier(host, f"fab{number}"))

        def passes() -> bool:
            sender.send(f"without {number}".encode())
            return any(f"without {number}".encode() in frame for frame in other.seen())

        await eventually(passes)
    finally:
        host.set_wire(number, "up")
        await eventually(lambda: not no_carrier(host, f"fab{number}"))


async def test_the_agent_puts_back_what_went_with_the_carrier(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    await agent.add("t1", spec6())
    working = asyncio.create_task(agent.driver.background())
    try:
        await eventually(lambda: agent.driver._nics._ears)
        with await socket6(host) as sender:
            sender.connect((REMOTE, PORT))
            await _pulled(host, 0, sender, wires[1])
            await eventually(lambda: routes6(host) == ALL_ROUTES)
            sender.send(b"back again")
            await wires[0].frame(b"back again")
    finally:
        working.cancel()
        await asyncio.wait([working])
    assert await agent.driver.keep(NodeSpec.parse(spec6()), "t1", "admitted") == []


async def test_a_nic_without_a_carrier_gets_its_routes_when_it_has_one(host: DockerHost, agent: Agent) -> None:
    host.set_wire(0, "down")
    try:
        effects = await agent.add("t1", spec6())
        assert effects[-1].degraded is None
        assert routes6(host) == ALL_ROUTES[1:]
    finally:
        host.set_wire(0, "up")
    await eventually(lambda: not no_carrier(host, "fab0"))
    await agent.participant.restorer.restore()
    assert routes6(host) == ALL_ROUTES
    assert agent.events == []


@pytest.mark.parametrize(
    "breach",
    [
        ("ip", "addr", "del", "fd00:20::3/128", "dev", "lo"),
        ("ip", "addr", "del", f"{SERVICE}/32", "dev", "lo"),
        ("ip", "addr", "del", f"{SERVICE6}/128", "dev", "lo"),
        ("ip", "-6", "route", "del", "::/0", "metric", "10"),
        ("ip", "-6", "route", "del", "::/0", "metric", "111"),
        ("ip", "nexthop", "flush"),
        ("ip", "-6", "neigh", "del", GATEWAY6, "dev", "fab1"),
        ("ip", "-6", "route", "add", "::/0", "dev", "fab1", "metric", "1"),
        ("sysctl", "-qw", "net.ipv6.conf.fab0.ignore_routes_with_linkdown=0"),
        ("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"),
        ("ip", "link", "set", "fab0", "down"),
        ("ip", "link", "del", "fab0"),
    ],
    ids=" ".join,
)
async def test_what_is_broken_is_mended(host: DockerHost, agent: Agent, breach: tuple[str, ...]) -> None:
    spec = spec6(serviceAddresses=[SERVICE, SERVICE6])
    await agent.add("t1", spec)
    before = _all(host)
    host.in_node("shop-app-3", *breach)
    assert _all(host) != before
    await agent.participant.restorer.restore()
    assert _all(host) == before
    assert await agent.driver.keep(NodeSpec.parse(spec), "t1", "admitted") == []


def _all(host: DockerHost) -> tuple[str, ...]:
    """Everything about addresses, routes, neighbours and settings in the node."""
    shown = (
        ("ip", "-br", "link"), ("ip", "-br", "addr"), ("ip", "route"), ("ip", "-6", "route", "show", "default"),
        ("ip", "neigh"), ("sysctl", "net.ipv6.conf.fab0", "net.ipv6.conf.all.disable_ipv6"),
    )  # fmt: skip
    printed = (host.in_node("shop-app-3", *one, check=False).splitlines() for one in shown)
    return tuple("\n".join(sorted(" ".join(sorted(line.split())) for line in lines)) for lines in printed)


async def test_a_service_address_may_be_answered_from_and_is_no_source_otherwise(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    await agent.add("t1", spec6(serviceAddresses=[SERVICE, SERVICE6]))
    with await socket6(host) as own, await socket6(host) as service:
        own.sendto(b"as myself", (REMOTE, PORT))
        service.bind((SERVICE6, PORT))
        service.sendto(b"as the service", (REMOTE, PORT))
        assert (await wires[0].frame(b"as myself"))[22:38] == socket.inet_pton(socket.AF_INET6, "fd00:20::3")
        assert (await wires[0].frame(b"as the service"))[22:38] == socket.inet_pton(socket.AF_INET6, SERVICE6)
    with await node_socket(host, "shop-app-3", socket.AF_INET, socket.SOCK_DGRAM) as own4:
        own4.connect(("192.0.2.9", PORT))
        assert own4.getsockname()[0] == "172.16.20.3"


async def test_a_restarted_sandbox_has_ipv6_again(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", spec6())
    host.client.kill("shop-app-3.sandbox")
    await eventually(lambda: not host.inspect("shop-app-3.sandbox")["State"]["Running"])
    host.client.start("shop-app-3.sandbox")
    await agent.participant.restorer.restore()
    assert routes6(host) == ALL_ROUTES
