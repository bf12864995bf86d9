# SPDX-License-Identifier: AGPL-3.0-or-later
"""Frames of a node on the cable: VEPA, its MAC, failover between NICs, and what comes back."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agents.namespace import Namespace
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
    run,
    running_agent,
)
from tests.integration.agent_wire import ETHERTYPE_IPV4, WAIT, Wire, node_socket, packed, udp

REMOTE = "172.16.30.2"
PORT = 5353


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with docker_host(tmp_path_factory.mktemp("agt")) as made:
        yield made


@pytest.fixture
async def agent(host: DockerHost, tmp_path: Path) -> AsyncIterator[Agent]:
    with inside(HOST):
        async with running_agent(host, tmp_path) as made:
            yield made
        host.clear()


@pytest.fixture
def wires(host: DockerHost) -> Iterator[tuple[Wire, Wire]]:
    made = (Wire(0), Wire(1))
    yield made
    for wire in made:
        wire.close()


async def test_a_frame_leaves_by_the_first_nic_with_the_nodes_mac(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    await agent.add("t1", node_spec(3))
    with await udp(host, "shop-app-3") as sender:
        sender.sendto(b"hello fabric", (REMOTE, PORT))
        frame = await wires[0].frame(b"hello fabric")
    assert frame[0:6] == packed(FABRIC_MAC)
    assert frame[6:12] == packed("02:00:ac:10:14:03")
    assert frame[26:30] == socket.inet_aton("172.16.20.3") and frame[30:34] == socket.inet_aton(REMOTE)
    assert wires[1].quiet(b"hello fabric")


async def test_two_nodes_of_one_host_meet_on_the_cable_only(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    await agent.add("t1", node_spec(1), node_spec(2))
    with await udp(host, "shop-app-1") as sender, await udp(host, "shop-app-2") as receiver:
        receiver.bind(("172.16.20.2", PORT))
        sender.sendto(b"neighbour", ("172.16.20.2", PORT))
        frame = await wires[0].frame(b"neighbour")
        with pytest.raises(BlockingIOError):
            receiver.recv(100)
        # What a switch does: rewrite the MACs by the destination and send it back where it came from.
        wires[0].send(packed("02:00:ac:10:14:02") + packed(FABRIC_MAC) + frame[12:])
        async with asyncio.timeout(WAIT):
            data, address = await asyncio.get_running_loop().sock_recvfrom(receiver, 100)
    assert data == b"neighbour" and address[0] == "172.16.20.1"


async def test_a_frame_with_the_mac_of_a_neighbour_does_not_stay_on_the_host(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    await agent.add("t1", node_spec(3), node_spec(4))
    frame = _datagram(b"past the switch", "172.16.20.4", "172.16.20.3")
    with (
        Namespace(os.open(f"/proc/{host.pid('shop-app-4')}/ns/net", os.O_RDONLY)) as namespace,
        await namespace.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw,
        await udp(host, "shop-app-3") as receiver,
    ):
        receiver.bind(("172.16.20.3", PORT))
        raw.bind(("fab0", ETHERTYPE_IPV4))
        raw.send(frame)
        assert await wires[0].frame(b"past the switch") == frame
        with pytest.raises(BlockingIOError):
            receiver.recv(100)


async def test_traffic_changes_to_the_second_nic_and_back(
    host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]
) -> None:
    await agent.add("t1", node_spec(3))
    with await udp(host, "shop-app-3") as sender:
        host.set_wire(0, "down")
        try:
            await eventually(lambda: "NO-CARRIER" in host.in_node("shop-app-3", "ip", "link", "show", "fab0"))
            sender.sendto(b"other way", (REMOTE, PORT))
            frame = await wires[1].frame(b"other way")
            assert frame[0:12] == packed(FABRIC_MAC) + packed("02:00:ac:10:14:03")
        finally:
            host.set_wire(0, "up")
        await eventually(lambda: "NO-CARRIER" not in host.in_node("shop-app-3", "ip", "link", "show", "fab0"))
        sender.sendto(b"and back", (REMOTE, PORT))
        await wires[0].frame(b"and back")
        # A switch may deliver on either NIC, whichever the node sends on.
        with await udp(host, "shop-app-3") as receiver:
            receiver.bind(("172.16.20.3", PORT))
            wires[1].send(_datagram(b"by the second", REMOTE, "172.16.20.3"))
            async with asyncio.timeout(WAIT):
                assert await asyncio.get_running_loop().sock_recv(receiver, 100) == b"by the second"


def _datagram(payload: bytes, source: str, target: str) -> bytes:
    """An Ethernet frame with a UDP datagram (RFC 768, RFC 791) for the node 02:00:ac:10:14:03."""
    udp_part = struct.pack("!HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(udp_part),
        1,
        0,
        64,
        17,
        0,
        socket.inet_aton(source),
        socket.inet_aton(target),
    )
    total = sum(struct.unpack("!10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    return packed("02:00:ac:10:14:03") + packed(FABRIC_MAC) + b"\x08\x00" + head + udp_part


async def test_a_nic_that_is_down_does_not_hinder_and_is_added_later(host: DockerHost, agent: Agent) -> None:
    run("ip", "-n", HOST, "link", "set", "eth0", "down")
    try:
        effects = await agent.add("t1", node_spec(1))
        assert effects[-1].degraded is None
        assert host.link_names("shop-app-1") == ["fab1", "lo"]
    finally:
        run("ip", "-n", HOST, "link", "set", "eth0", "up")
    await agent.participant.restorer.restore()
    assert host.link_names("shop-app-1") == ["fab0", "fab1", "lo"]
    assert ("node.restored", "fab0 was missing") in [(topic, data["actions"][0]) for topic, data in agent.events]


async def test_no_nic_with_a_carrier_is_refused(host: DockerHost, agent: Agent) -> None:
    for number in (0, 1):
        host.set_wire(number, "down")
    try:
        reasons = await agent.driver.check([_parsed(1)])
    finally:
        for number in (0, 1):
            host.set_wire(number, "up")
    assert reasons == ("none of the NICs eth0, eth1 has a carrier; check the cables and the switch",)


def _parsed(number: int) -> NodeSpec:
    return NodeSpec.parse(node_spec(number))


async def test_only_what_is_wrong_is_mended(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    before = host.in_node("shop-app-1", "ip", "-o", "link", "show", "fab0")
    host.in_node("shop-app-1", "ip", "link", "del", "fab1")
    host.in_node("shop-app-1", "ip", "addr", "del", "172.16.20.1/32", "dev", "lo")
    await agent.participant.restorer.restore()
    assert host.in_node("shop-app-1", "ip", "-o", "link", "show", "fab0").split(":")[0] == before.split(":")[0]
    assert "172.16.20.1/32" in host.in_node("shop-app-1", "ip", "addr", "show", "lo")
    routes = host.in_node("shop-app-1", "ip", "route")
    assert "dev fab0" in routes and "dev fab1" in routes
    assert await agent.driver.keep(_parsed(1), "t1", "admitted") == []


async def test_connections_are_counted_by_direction(host: DockerHost, agent: Agent, wires: tuple[Wire, Wire]) -> None:
    server = ["sh", "-c", "nc -ll -p 7000 -e cat & httpd -f -p 8080"]
    await agent.add("t1", node_spec(1, command=server), node_spec(2))
    loop = asyncio.get_running_loop()
    with wires[0].reflecting(1, 2), await tcp(host, "shop-app-2") as client, await tcp(host, "shop-app-1") as local:
        await loop.sock_connect(client, ("172.16.20.1", 7000))
        await loop.sock_sendall(client, b"over the cable")
        assert await loop.sock_recv(client, 100) == b"over the cable"
        await loop.sock_connect(local, ("172.16.20.1", 7000))  # within the node: not counted
        answer = await agent.participant.call("connections", {"nodes": ["shop-app-1", "shop-app-2", "x-9"]}, _ignore)
        assert answer == {
            "shop-app-1": {"inbound": 1, "outbound": 0},
            "shop-app-2": {"inbound": 0, "outbound": 1},
            "x-9": {"inbound": 0, "outbound": 0},
        }
        client.close()
        await eventually(lambda: "7000" not in host.in_node("shop-app-2", "ss", "-Htn", "state", "established"))
        answer = await agent.participant.call("connections", {"nodes": ["shop-app-1", "shop-app-2"]}, _ignore)
    assert {count for counts in answer.values() for count in counts.values()} == {0}


async def tcp(host: DockerHost, node: str) -> socket.socket:
    """Return a TCP socket of the node."""
    return await node_socket(host, node, socket.AF_INET, socket.SOCK_STREAM)


async def _ignore(data: object) -> None: ...
