# SPDX-License-Identifier: AGPL-3.0-or-later
"""The host's NICs: nodes that wait for their admission, NICs to be avoided, LLDP, VLAN interfaces."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import schemas
from agents import vlan
from agents.spec import NodeSpec
from rdmp.participant import Refused
from tests.integration.agent_support import (
    FABRIC_MAC,
    HOST,
    WIRE,
    Agent,
    DockerHost,
    docker_host,
    eventually,
    inside,
    node_spec,
    operation,
    run,
    running_agent,
)
from tests.integration.agent_wire import ETHERTYPE_ALL, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Wire, node_socket, packed, udp
from tests.unit.agents.lldp_frames import frame, switch_port, tlv

REMOTE, REMOTE6, PORT = "172.16.30.2", "2001:db8::30:2", 5353
NODE = "shop-app-3"
NODE_MAC = packed("02:00:ac:10:14:03")
ALIAS = "odyssey:test:h1"


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
async def watching(agent: Agent) -> AsyncIterator[Agent]:
    """An agent that listens on the host's NICs."""
    working = asyncio.create_task(agent.driver.background())
    await eventually(lambda: len(agent.driver._nics._ears) == 2)
    yield agent
    working.cancel()
    await asyncio.wait([working])


def spec6(**changes: Any) -> dict[str, Any]:
    return node_spec(3, address6="fd00:20::3", **changes)


def routes(host: DockerHost) -> set[tuple[str, int]]:
    """The default routes of both families: device and metric."""
    found = [json.loads(host.in_node(NODE, "ip", option, "-j", "route", "show", "default")) for option in ("-4", "-6")]
    return {(item["dev"], item["metric"]) for family in found for item in family}


NORMAL = {("fab0", 10), ("fab0", 110), ("fab1", 11), ("fab1", 111)}
AVOIDING = {("fab0", 1010), ("fab0", 1110), ("fab1", 11), ("fab1", 111)}


def links_up(host: DockerHost) -> set[str]:
    links = json.loads(host.in_node(NODE, "ip", "-j", "link"))
    return {item["ifname"] for item in links if "UP" in item["flags"]}


# link: admitted


async def test_nics_that_wait_for_admission_are_down_until_then(host: DockerHost, agent: Agent) -> None:
    everything = (Wire(0, ETHERTYPE_ALL), Wire(1, ETHERTYPE_ALL))
    tx = agent.transaction("t1", operation([spec6(link="admitted")], admit={"nodes": [NODE]}))
    await agent.participant.prepare(tx)
    assert links_up(host) == {"lo"} and host.link_names(NODE) == ["fab0", "fab1", "lo"]
    with await udp(host, NODE) as sender:
        with pytest.raises(OSError, match="unreachable"):
            sender.sendto(b"too early", (REMOTE, PORT))
        (effect,) = await agent.commit(tx)
        assert effect.degraded is None
        sender.sendto(b"admitted", (REMOTE, PORT))
        await everything[0].frame(b"admitted")
    assert links_up(host) == {"lo", "fab0", "fab1"} and routes(host) == NORMAL
    for wire in everything:
        wire.close()


async def test_a_standby_node_waits_through_restarts_and_is_promoted(
    host: DockerHost, agent: Agent, tmp_path: Path
) -> None:
    spec = spec6(link="admitted")
    tx = agent.transaction("t1", operation([spec], admit={"standby": [NODE]}))
    await agent.participant.prepare(tx)
    assert [effect.degraded for effect in await agent.commit(tx)] == [None]
    await agent.participant.restorer.restore()
    assert links_up(host) == {"lo"}
    async with running_agent(host, tmp_path, agent.state) as again:
        await again.participant.restorer.restore()
        assert links_up(host) == {"lo"}
        # Somebody sets a NIC up by hand: a switch could not keep the node dark.
        host.in_node(NODE, "ip", "link", "set", "fab1", "up")
        await again.participant.restorer.restore()
        assert links_up(host) == {"lo"}
        assert [data["actions"] for _, data in again.events] == [["fab1 was up, although its node is not admitted"]]
        promotion = again.transaction("t2", operation(admit={"nodes": [NODE]}))
        await again.participant.prepare(promotion)
        assert [effect.degraded for effect in await again.commit(promotion)] == [None]
        assert links_up(host) == {"lo", "fab0", "fab1"} and routes(host) == NORMAL
        await again.participant.restorer.restore()
        assert links_up(host) == {"lo", "fab0", "fab1"}


# prefer


async def prefer(agent: Agent, identity: str, *avoid: str) -> None:
    tx = agent.transaction(identity, operation(prefer={"avoid": list(avoid)}))
    await agent.participant.prepare(tx)
    assert [effect.degraded for effect in await agent.commit(tx)] == [None]


async def test_a_nic_to_be_avoided_is_left_alone_by_all_nodes_and_after_restarts(
    host: DockerHost, agent: Agent, tmp_path: Path
) -> None:
    await agent.add("t1", spec6())
    dark = agent.transaction("t2", operation([node_spec(4)], admit={"nodes": ["shop-app-4"]}))
    await agent.participant.prepare(dark)
    assert routes(host) == NORMAL
    await prefer(agent, "t3", "eth0")
    assert routes(host) == AVOIDING
    assert (await agent.participant.observe())["avoid"] == ["eth0"]
    # One that was prepared before, and one that comes after.
    assert [effect.degraded for effect in await agent.commit(dark)] == [None]
    await agent.add("t4", node_spec(5))
    for node in ("shop-app-4", "shop-app-5"):
        found = json.loads(host.in_node(node, "ip", "-j", "route", "show", "default"))
        assert {(item["dev"], item["metric"]) for item in found} == {("fab0", 1010), ("fab1", 11)}
    await prefer(agent, "t5", "eth0")  # a repeat
    async with running_agent(host, tmp_path, agent.state) as again:
        await again.participant.restorer.restore()
        assert routes(host) == AVOIDING and again.events == []
        await prefer(again, "t6")
        assert routes(host) == NORMAL
        assert (await again.participant.observe())["avoid"] == []


async def test_an_avoided_nic_is_used_while_the_other_has_no_carrier(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", spec6())
    await prefer(agent, "t2", "eth0")
    wires = (Wire(0, ETHERTYPE_IPV6), Wire(1, ETHERTYPE_IPV6))
    with await node_socket(host, NODE, socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"by the second", (REMOTE6, PORT))
        await wires[1].frame(b"by the second")
        host.set_wire(1, "down")
        try:
            await eventually(lambda: "NO-CARRIER" in host.in_node(NODE, "ip", "link", "show", "fab1"))
            sender.sendto(b"by the first", (REMOTE6, PORT))
            await wires[0].frame(b"by the first")
        finally:
            host.set_wire(1, "up")
    for wire in wires:
        wire.close()


@pytest.mark.parametrize(
    ("family", "ethertype", "remote"),
    [(socket.AF_INET, ETHERTYPE_IPV4, REMOTE), (socket.AF_INET6, ETHERTYPE_IPV6, REMOTE6)],
    ids=["IPv4", "IPv6"],
)
async def test_sockets_that_are_connected_leave_an_avoided_nic_and_come_back(
    host: DockerHost, agent: Agent, family: int, ethertype: int, remote: str
) -> None:
    await agent.add("t1", spec6())
    wires = (Wire(0, ethertype), Wire(1, ethertype))
    with await node_socket(host, NODE, family, socket.SOCK_DGRAM) as sender:
        sender.connect((remote, PORT))

        async def talk() -> None:
            while True:  # a socket that is silent meanwhile looks anew in any case
                sender.send(b"meanwhile")
                await asyncio.sleep(0.001)

        rounds: list[tuple[tuple[str, ...], int]] = [(("eth0",), 1), ((), 0), (("eth1",), 0), (("eth0",), 1)]
        for number, (avoid, expected) in enumerate(rounds):
            talking = asyncio.create_task(talk())
            await asyncio.sleep(0.05)
            await prefer(agent, f"p{number}", *avoid)
            await asyncio.sleep(0.05)
            talking.cancel()
            await asyncio.wait([talking])
            sender.send(b"round %d" % number)
            await wires[expected].frame(b"round %d" % number)
    for wire in wires:
        wire.close()


async def test_no_packet_is_lost_while_preferences_change(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", spec6())
    wires = (Wire(0, ETHERTYPE_ALL), Wire(1, ETHERTYPE_ALL))
    seen: list[bytes] = []
    sent: list[bytes] = []
    with (
        await node_socket(host, NODE, socket.AF_INET, socket.SOCK_DGRAM) as four,
        await node_socket(host, NODE, socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        four.connect((REMOTE, PORT))
        six.connect((REMOTE6, PORT))

        async def stream() -> None:
            while True:
                for sender, family in ((four, b"four"), (six, b"six")):
                    sent.append(b"<%s %d>" % (family, len(sent)))
                    sender.send(sent[-1])
                seen.extend(one for wire in wires for one in wire.seen())
                await asyncio.sleep(0.001)

        streaming = asyncio.create_task(stream())
        for round_ in range(3):
            await prefer(agent, f"avoid-{round_}", "eth0")
            await prefer(agent, f"end-{round_}")
        streaming.cancel()
        await asyncio.wait([streaming])

    def missing() -> set[bytes]:
        seen.extend(one for wire in wires for one in wire.seen())
        return set(sent) - {one[one.rfind(b"<") : one.rfind(b">") + 1] for one in seen}

    await eventually(lambda: not missing())
    for wire in wires:
        wire.close()
    assert len(sent) > 100


async def test_a_nic_that_the_host_has_not_is_avoided_when_it_is_there(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", spec6())
    await prefer(agent, "t2", "eth7")
    assert routes(host) == NORMAL and (await agent.participant.observe())["avoid"] == ["eth7"]


# What the agent tells of NICs


async def heard(agent: Agent, nic: str = "eth0") -> dict[str, Any]:
    observed = json.loads(json.dumps(await agent.participant.observe()))
    assert schemas.validate("agent-observation", observed) == ()
    found: dict[str, Any] = observed["nics"][nic]
    return found


async def test_mtu_and_carrier_of_each_nic_are_told(host: DockerHost, watching: Agent) -> None:
    run("ip", "-n", HOST, "link", "set", "eth1", "mtu", "9000")
    host.set_wire(1, "down")
    try:
        await eventually(lambda: "NO-CARRIER" in run("ip", "-n", HOST, "link", "show", "eth1"))
        told = await heard(watching, "eth1")
        assert (told["mtu"], told["up"], told["carrier"]) == (9000, True, False)
        assert (await heard(watching))["carrier"] is True
    finally:
        host.set_wire(1, "up")
        run("ip", "-n", HOST, "link", "set", "eth1", "mtu", "1500")


async def test_the_switch_port_at_the_other_end_is_told(host: DockerHost, watching: Agent) -> None:
    wire = Wire(0)
    signature = bytes(range(40))
    small = switch_port(0x1234, 7, ttl=60, signature=signature)
    wire.send(small)
    await _until(watching, lambda nic: nic["lldp"] is not None)
    told = (await heard(watching))["lldp"]
    assert 0 <= told.pop("heard") < 60
    signed = base64.b64encode(signature).decode()
    assert told == {"datapathId": "0000000000001234", "port": 7, "bytes": len(small), "signature": signed}
    assert (await heard(watching, "eth1"))["lldp"] is None
    # A malformed frame and one of another device change nothing.
    wire.send(switch_port(0x1234, 7, ttl=60, signature=b"short"))
    wire.send(frame(tlv(1, b"\x04" + bytes(6)), tlv(2, b"\x05Gi0/1"), tlv(3, b"\x00\x78"), tlv(0, b"")))
    await _until(watching, lambda nic: (nic["lldpMalformed"], nic["lldpForeign"]) == (1, 1))
    assert (await heard(watching))["lldp"]["port"] == 7
    wire.send(switch_port(0x1234, 7, ttl=0, signature=signature))
    await _until(watching, lambda nic: nic["lldp"] is None)
    wire.close()


async def test_the_largest_frame_is_told_until_another_port_speaks(host: DockerHost, watching: Agent) -> None:
    wire = Wire(0)
    wire.send(switch_port(1, 1, ttl=60).ljust(1514, b"\0"))
    wire.send(switch_port(1, 1, ttl=60))
    await _until(watching, lambda nic: nic["lldp"] is not None)
    await asyncio.sleep(0.2)
    assert (await heard(watching))["lldp"]["bytes"] == 1514
    wire.send(switch_port(1, 2, ttl=60))
    await _until(watching, lambda nic: nic["lldp"]["port"] == 2)
    assert (await heard(watching))["lldp"]["bytes"] == 60
    wire.close()


async def test_what_was_heard_ends_with_the_carrier_and_comes_again(host: DockerHost, watching: Agent) -> None:
    wire = Wire(0)
    wire.send(switch_port(1, 1, ttl=60))
    await _until(watching, lambda nic: nic["lldp"] is not None)
    host.set_wire(0, "down")
    await _until(watching, lambda nic: not nic["carrier"])
    assert (await heard(watching))["lldp"] is None
    host.set_wire(0, "up")
    await _until(watching, lambda nic: nic["carrier"])
    # Another cable was plugged in: what the old one said does not count.
    assert (await heard(watching))["lldp"] is None
    wire.seen()  # the socket tells once that its NIC was down
    wire.send(switch_port(2, 9, ttl=60))
    await _until(watching, lambda nic: nic["lldp"] is not None and nic["lldp"]["port"] == 9)
    wire.close()


async def test_a_nic_that_was_replaced_is_listened_on_again(host: DockerHost, watching: Agent) -> None:
    host.uncable()
    await eventually(lambda: not watching.driver._nics._ears)
    host.cable()
    await eventually(lambda: len(watching.driver._nics._ears) == 2)
    wire = Wire(0)
    wire.send(switch_port(3, 3, ttl=60))
    await _until(watching, lambda nic: nic["lldp"] is not None)
    wire.close()


async def test_a_flood_is_read_no_faster_than_allowed(
    host: DockerHost, watching: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.nics.FRAME_PAUSE", 3600.0)
    wire = Wire(0)
    for _ in range(2000):
        wire.send(switch_port(1, 1, ttl=60, signature=b"short"))
    await _until(watching, lambda nic: nic["lldpMalformed"] > 0)
    await asyncio.sleep(0.2)
    assert (await heard(watching))["lldpMalformed"] == 1
    wire.close()


async def _until(agent: Agent, holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds(await heard(agent)):
            await asyncio.sleep(0.02)


# VLAN interfaces


def kernel_makes_vlans() -> bool:
    done = subprocess.run(
        ["unshare", "--net", "ip", "-batch", "-"], input=vlan.PROBE, text=True, capture_output=True, check=False
    )
    return done.returncode == 0


needs_8021q = pytest.mark.skipif(not kernel_makes_vlans(), reason="this kernel cannot make VLAN interfaces (8021q)")


@pytest.mark.skipif(kernel_makes_vlans(), reason="this kernel can make VLAN interfaces (8021q)")
async def test_a_tagged_node_is_refused_where_the_kernel_cannot(host: DockerHost, agent: Agent) -> None:
    tx = agent.transaction("t1", operation([node_spec(3, vlan=120, taggedNics=["eth0", "eth1"])]))
    with pytest.raises(Refused, match=r"kernel of this host cannot make VLAN interfaces .*modprobe 8021q"):
        await agent.participant.prepare(tx)
    assert host.names() == []


@needs_8021q
async def test_frames_of_a_tagged_node_carry_the_vlan(host: DockerHost, agent: Agent) -> None:
    run("ip", "-n", WIRE, "link", "add", "link", "wire0", "name", "wire0.120", "type", "vlan", "id", "120")
    run("ip", "-n", WIRE, "link", "set", "wire0.120", "up")
    with inside(WIRE):
        tagged = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ALL))
        tagged.bind(("wire0.120", ETHERTYPE_ALL))
        tagged.settimeout(10)
    try:
        spec = node_spec(3, vlan=120, taggedNics=["eth0"])
        effects = await agent.add("t1", spec, node_spec(4))
        assert effects[-1].degraded is None
        with await udp(host, NODE) as sender:
            sender.sendto(b"in its VLAN", (REMOTE, PORT))
            while b"in its VLAN" not in (seen := tagged.recv(2048)):
                pass
        assert seen[0:12] == packed(FABRIC_MAC) + NODE_MAC
        assert await agent.driver.keep(NodeSpec.parse(spec), "t1", "admitted") == []
    finally:
        tagged.close()
        run("ip", "-n", WIRE, "link", "del", "wire0.120")


@needs_8021q
async def test_vlan_interfaces_go_with_their_last_node_and_others_stay(host: DockerHost, agent: Agent) -> None:
    run("ip", "-n", HOST, "link", "add", "link", "eth1", "name", "eth1.120", "type", "vlan", "id", "120")
    run("ip", "-n", HOST, "link", "set", "eth1.120", "up")
    try:
        await agent.add("t1", node_spec(3, vlan=120, taggedNics=["eth0", "eth1"]))
        await agent.add("t2", node_spec(4, vlan=120, taggedNics=["eth0"]))
        assert ALIAS in run("ip", "-n", HOST, "link", "show", "eth0.120")
        await agent.commit(agent.transaction("t3", operation(stop={"nodes": ["shop-app-3"]})))
        assert "eth0.120" in run("ip", "-n", HOST, "-br", "link")
        run("ip", "-n", HOST, "link", "del", "eth0.120")
        await agent.participant.restorer.restore()
        assert host.link_names("shop-app-4") == ["fab0", "fab1", "lo"]
        await agent.commit(agent.transaction("t4", operation(stop={"nodes": ["shop-app-4"]})))
        left = run("ip", "-n", HOST, "-br", "link")
        assert "eth0.120" not in left and "eth1.120" in left
    finally:
        run("ip", "-n", HOST, "link", "del", "eth1.120")
