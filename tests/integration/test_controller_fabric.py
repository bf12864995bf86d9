# SPDX-License-Identifier: AGPL-3.0-or-later
"""The controller on real Open vSwitch: what may talk and what may not, in every phase of a node."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from controller import texts
from controller.evaluate import Fabric
from controller.fabric import Port
from controller.flows import match
from rdmp.participant import Refused
from tests.integration import controller_support as support
from tests.integration.controller_harness import NODES, Controller, address, closed, intent, reaches
from tests.integration.controller_support import Lab, connect, echo, inside, server, wait_until
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]


async def test_three_tiers_talk_as_declared_and_not_otherwise(controller: Controller) -> None:
    await controller.carry_out(intent())
    with server("lb-1", 80), server("app-1", 8080), server("app-2", 8080), server("db-1", 5432), server("lb-1", 8080):
        assert await reaches("edge", "lb-1", 80)
        assert await reaches("lb-1", "app-1", 8080), "two nodes of one host meet by hairpin"
        assert await reaches("lb-1", "app-2", 8080)
        assert await reaches("app-1", "db-1", 5432)
        assert await closed("lb-1", "db-1", 5432)
        assert await closed("app-1", "app-2", 8080), "peers were not declared"
        assert await closed("db-1", "app-1", 8080)
        assert await closed("db-1", "app-1", 8080, source_port=5432), "not from the service port either"
        assert await closed("app-1", "lb-1", 8080, source_port=8080)
        assert await closed("edge", "app-1", 8080)
        assert await closed("edge", "lb-1", 8080)


async def test_a_spoofed_address_is_counted_and_dropped(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    inside("app-1", "ip", "addr", "add", "172.16.10.99/32", "dev", "lo")
    try:
        with socket_bound("app-1", "172.16.10.99") as spoofer:
            for _ in range(5):
                spoofer.sendto(b"x", (address("db-1"), 5432))
        port_one = "table=0, n_packets=5"
        await controller.until(lambda: counter(ctl_lab, "sw1", "priority=1,in_port=1 ") >= 5, port_one)
    finally:
        inside("app-1", "ip", "addr", "del", "172.16.10.99/32", "dev", "lo")


def socket_bound(netns: str, source: str, port: int = 0) -> socket.socket:
    made = support.socket_in(netns, socket.SOCK_DGRAM)
    made.bind((source, port))
    return made


def counter(ctl_lab: Lab, switch: str, entry: str) -> int:
    """Packets of the entry of table 0 whose line contains the text."""
    lines = ctl_lab.switches[switch].ofctl("dump-flows", "table=0").splitlines()
    line = next(line for line in lines if entry in line)
    return int(line.split("n_packets=")[1].split(",")[0])


async def test_udp_goes_one_way_only_where_declared(controller: Controller) -> None:
    await controller.carry_out(intent(app_2="standby"))
    with socket_bound("db-1", "0.0.0.0", 5353) as receiver:
        receiver.settimeout(0.5)

        async def arrives(source: str) -> bool:
            with socket_bound(source, "0.0.0.0") as sender:
                sender.sendto(b"x", (address("db-1"), 5353))
            with suppress(TimeoutError):
                return bool(await asyncio.to_thread(receiver.recv, 10))
            return False

        assert await arrives("app-1")
        assert not await arrives("app-2"), "a standby node is outside the fabric"
        assert not await arrives("lb-1")
        tx = controller.transaction({"prepare": {"dark": dark("app-2")}, "stages": {}})
        await controller.participant.prepare(tx)
        assert not await arrives("app-2"), "a dark node sends no UDP"
        await controller.participant.abort(tx)


def dark(node: str) -> dict[str, Any]:
    return {f"binding/{node}": samples.binding(node, *NODES[node], "dark")}


async def test_a_dark_node_reaches_and_is_not_reached(controller: Controller, ctl_lab: Lab) -> None:
    documents = intent()
    del documents["binding/app-2"]
    await controller.carry_out(documents)
    before = {name: switch.flows() for name, switch in ctl_lab.switches.items()}
    with server("app-2", 8080), server("db-1", 5432):
        assert await closed("app-2", "db-1", 5432)
        tx = controller.transaction(
            {
                "prepare": {"changes": {}, "dark": dark("app-2")},
                "stages": {"admit": {"changes": {"binding/app-2": documents_of("app-2", "admitted")}}},
            }
        )
        await controller.participant.prepare(tx)
        assert await reaches("app-2", "db-1", 5432)
        assert await closed("lb-1", "app-2", 8080)
        observed = await controller.participant.observe()
        assert observed["bindings"]["app-2"] == "dark" and observed["open"] == {tx.id: ["app-2"]}
        await controller.participant.abort(tx)
        assert {name: switch.flows() for name, switch in ctl_lab.switches.items()} == before, "no trace is left"
        assert await closed("app-2", "db-1", 5432)
        await controller.participant.prepare(tx)
        controller.keep(await controller.participant.commit(tx, "admit"))
        assert await reaches("lb-1", "app-2", 8080)
        assert (await controller.participant.observe())["open"] == {}


def documents_of(node: str, phase: str) -> dict[str, Any]:
    return samples.binding(node, *NODES[node], phase)


async def test_a_draining_node_keeps_its_connections_and_gets_no_new_ones(controller: Controller) -> None:
    await controller.carry_out(intent())
    with server("app-2", 8080), await asyncio.to_thread(connect, "lb-1", address("app-2"), 8080) as kept:
        await controller.phase("app-2", "draining")
        assert await closed("lb-1", "app-2", 8080)
        assert await asyncio.to_thread(echo, kept, b"still") == b"still"
        await controller.phase("app-2", None)
        kept.settimeout(0.5)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(echo, kept, b"gone")


async def test_a_pulled_cable_is_survived_without_the_controller(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    await controller.stop()
    with server("app-2", 8080), server("db-1", 5432):
        for netns, interface in (("h1", "eth0"), ("h2", "eth0"), ("sw1", "p-h3"), ("sw1", "trunk")):
            inside(netns, "ip", "link", "set", interface, "down")
            try:
                await controller.until(lambda: True, "")
                assert await reaches("lb-1", "app-2", 8080), f"{netns} {interface} is down"
                assert await reaches("app-1", "db-1", 5432), f"{netns} {interface} is down"
            finally:
                inside(netns, "ip", "link", "set", interface, "up")
                await asyncio.to_thread(wait_until, lambda: live(ctl_lab), "all ports are up")


def live(ctl_lab: Lab) -> bool:
    return all("LINK_DOWN" not in port_states(switch.ofctl("show")) for switch in ctl_lab.switches.values())


def port_states(text: str) -> str:
    """Leave out the local port of the bridge, which is always down."""
    return text.split(" LOCAL(")[0]


async def test_the_evaluator_agrees_with_the_switch(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent(app_2="draining"))
    tx = controller.transaction(
        {
            "prepare": {"dark": {"binding/app-9": samples.binding("app-9", "shop/app", "172.16.20.9", "h3", "dark")}},
            "stages": {},
        }
    )
    await controller.participant.prepare(tx)
    compilation = controller.participant._ledger.compilation
    inventory = compilation.intent.inventory
    assert inventory is not None
    fabric = Fabric.of(compilation.tables, inventory)
    cases = [samples.syn(40000, 8080), samples.ack(8080, 40000), samples.syn(8080, 40000), samples.syn(40000, 5432)]
    cases += [samples.ack(5432, 40000), samples.udp(40000, 5353), samples.udp(5353, 40000), samples.icmp(3)]
    cases += [samples.icmp(8)]
    checked = 0
    nodes = ("lb-1", "app-1", "app-2", "app-9", "db-1")
    for source in nodes:
        for target in nodes:
            for fields in cases if source != target else []:
                for at in samples.entrances(compilation.intent, source):
                    packet = samples.packet(compilation.intent, source, target, **fields)
                    expected = {str(one.port) for one in fabric.trace(packet, at).deliveries}
                    traced = await asyncio.to_thread(trace, ctl_lab, at, packet)
                    assert traced == expected, (source, target, fields, str(at))
                    checked += 1
    assert checked == 20 * 9 * 2
    await controller.participant.abort(tx)


def trace(ctl_lab: Lab, at: Port, packet: Mapping[str, int]) -> set[str]:
    """Return the ports through which a packet leaves the switch, by ofproto/trace."""
    exact = {name: value for name, value in packet.items() if name not in ("vlan_vid", "ip_frag", "tcp_flags")}
    words = [texts.match_text(match(in_port=at.number, **exact))]
    if "udp_src" in packet:  # unlike add-flow, trace knows tp_src for TCP only
        words[0] = words[0].replace("tp_", "udp_")
    if "tcp_flags" in packet:
        words.append(f"tcp_flags={packet['tcp_flags']:#x}")
    text = ctl_lab.switches[at.switch].trace(",".join(words))
    actions = text.split("Datapath actions: ")[1].splitlines()[0]
    if actions == "drop":
        return set()
    port = actions.split(",")[-1]
    return {f"{at.switch}:{openflow_port(ctl_lab, at.switch, int(port))}"}


def openflow_port(ctl_lab: Lab, switch: str, datapath_port: int) -> int:
    """Translate the datapath's port number."""
    text = support.run("ovs-appctl", "-t", f"{ctl_lab.switches[switch].directory}/ovs-vswitchd.ctl", "dpif/show")
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and "/" in words[1] and words[1].split("/")[1].rstrip(":") == str(datapath_port):
            return int(words[1].split("/")[0])
    raise AssertionError(f"no datapath port {datapath_port}: {text}")


async def test_prepare_refuses_what_does_not_fit_and_changes_nothing(controller: Controller, ctl_lab: Lab) -> None:
    small = intent() | {"inventory": samples.inventory(max_entries=100)}
    await controller.carry_out(small)
    before = {name: switch.flows() for name, switch in ctl_lab.switches.items()}
    added = {
        f"binding/app-{number}": samples.binding(f"app-{number}", "shop/app", f"172.16.20.{number}", "h2", "dark")
        for number in range(10, 20)
    }
    tx = controller.transaction({"prepare": {"changes": {}, "dark": added}, "stages": {}})
    with pytest.raises(Refused, match=r"switch sw1: \d+ entries are needed, at most 100 fit .*nodes of shop/app"):
        await controller.participant.prepare(tx)
    assert {name: switch.flows() for name, switch in ctl_lab.switches.items()} == before


async def test_flows_and_compile_tell_owners_and_counters(controller: Controller) -> None:
    await controller.carry_out(intent())
    with server("app-1", 8080):
        assert await reaches("lb-1", "app-1", 8080)

    async def packets() -> int:
        answer = await controller.participant.call("flows", {"switch": "sw1", "owner": "binding/lb-1"}, nothing)
        assert {entry["owner"] for entry in answer["entries"]} == {"binding/lb-1"}
        return sum(int(entry["packets"]) for entry in answer["entries"])

    for _ in range(100):
        if await packets() > 0:
            break
        await asyncio.sleep(0.05)
    assert await packets() > 0
    answer = await controller.participant.call("compile", {"changes": {"binding/app-1": None}}, nothing)
    assert answer["refusals"] == []
    assert (answer["switches"]["sw1"]["add"], answer["switches"]["sw1"]["remove"]) == (0, 3)
    assert {entry["op"] for entry in answer["switches"]["sw1"]["entries"]} == {"-"}


async def nothing(_progress: Mapping[str, Any]) -> None:
    """Progress that nobody wants."""
