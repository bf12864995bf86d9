# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables of single-table profiles in real Open vSwitch: sent without bundles, tried with tagged frames and traces."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from controller.batches import Delivery
from controller.changes import FlowChange
from controller.channel import ChannelError
from controller.compiler import Compilation, compile_documents
from controller.evaluate import Fabric, Packet
from controller.fabric import Port
from controller.flows import FlowEntry, Kind, make_cookie, match
from controller.openflow import batched
from controller.openflow.channel import OpenFlowChannel
from tests.fabric_check.cases import Shape
from tests.fabric_check.openvswitch import Availability, OpenVSwitch
from tests.fabric_check.run import Effort, run
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import HOSTS, Lab, inside
from tests.integration.tagged_frames import Cables, Seen
from tests.unit.controller import samples, single_tables

pytest_plugins = ["tests.integration.controller_fixtures"]

SINGLE = ("nexus9000", "alliedtelesis")
ENDS = {Port(f"sw{nic + 1}", number): (host, f"eth{nic}") for number, host in enumerate(HOSTS, 1) for nic in (0, 1)}
ENDS |= {Port("sw1", 201): ("edge", "edge0")}


@pytest.fixture
def cables(ctl_lab: Lab) -> Iterator[Cables]:
    assert set(ctl_lab.switches) == {"sw1", "sw2"}
    with Cables.of(ENDS) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of these kinds has none: whoever sends one has not looked."""

    async def refuse(*_: Any) -> None:
        pytest.fail("a bundle was sent to a switch without bundles")

    monkeypatch.setattr(OpenFlowChannel, "_apply_bundle", refuse)


@dataclass(frozen=True)
class Trial:
    """A packet, where it is sent, and where the evaluator says that it arrives."""

    at: Port
    packet: Packet
    expected: tuple[Port, int | None, int, int] | None


def trials(compilation: Compilation, down: frozenset[Port] = frozenset()) -> list[Trial]:
    """Return what everybody may try, and some spoofs, with the evaluator's answer."""
    intent = compilation.intent
    assert intent.inventory is not None
    fabric = Fabric.of(compilation.tables, intent.inventory, down)
    tries = [samples.syn(40000, 8080), samples.syn(40000, 5432), samples.syn(40000, 80), samples.ack(8080, 40000)]
    tries += [samples.ack(5432, 40000), samples.ack(80, 40000), samples.udp(40000, 5353), samples.icmp(3)]
    shots: list[tuple[Port, Packet]] = []
    for source, target in itertools.permutations((*intent.bindings, "edge"), 2):
        for fields, at in itertools.product(tries, samples.entrances(intent, source)):
            packet = single_tables.packet(intent, source, target, **fields)
            shots.append((at, packet))
            if fields == tries[0]:
                shots += [(at, packet | change) for change in ({"vlan_vid": 0x1000 | 4000}, {"vlan_vid": 0x1000 | 130})]
                shots += [(at, packet | {"ipv4_src": 0xAC101E63}), (at, packet | {"vlan_vid": 0})]
    return [Trial(at, packet, answer(fabric, at, packet)) for at, packet in shots]


def answer(fabric: Fabric, at: Port, packet: Packet) -> tuple[Port, int | None, int, int] | None:
    """Return port, VLAN and MACs of what arrives."""
    for one in fabric.trace(packet, at).deliveries:
        vlan = one.packet["vlan_vid"] & 0xFFF if one.packet["vlan_vid"] else None
        return one.port, vlan, one.packet["eth_dst"], one.packet["eth_src"]
    return None


def sent(cables: Cables, tried: list[Trial]) -> dict[int, list[Seen]]:
    """Send every trial and return what arrived, by its number."""
    for token, trial in enumerate(tried):
        cables.send(trial.at, trial.packet, token)
    expected = [token for token, trial in enumerate(tried) if trial.expected is not None]
    found: dict[int, list[Seen]] = {}
    for seen in cables.arrived(expected, seconds=20.0, silence=0.4):
        found.setdefault(seen.token, []).append(seen)
    return found


def check(cables: Cables, compilation: Compilation) -> int:
    """Compare real frames with the evaluator; returns how many arrived."""
    tried = trials(compilation)
    found = sent(cables, tried)
    for token, trial in enumerate(tried):
        seen = [(one.port, one.vlan, one.target, one.source) for one in found.get(token, ())]
        assert seen == ([] if trial.expected is None else [trial.expected]), trial
    return sum(map(len, found.values()))


@pytest.mark.parametrize("profile", SINGLE)
async def test_tagged_frames_go_where_the_evaluator_says(controller: Controller, cables: Cables, profile: str) -> None:
    documents = single_tables.shop(profile) | {
        "service/shop/app": single_tables.service(("172.16.10.0/24", "shop-app-1"))
    }
    await controller.carry_out(documents)
    arrived = await asyncio.to_thread(check, cables, samples.compiled(documents))
    assert arrived > 20


async def test_an_update_without_bundles_leaves_what_the_compiler_says(
    controller: Controller, ctl_lab: Lab, cables: Cables
) -> None:
    documents = single_tables.shop("alliedtelesis")
    await controller.carry_out(documents)
    changed: dict[str, Any] = {
        "binding/shop-app-2": documents["binding/shop-app-2"] | {"phase": "standby"},
        "policy/shop/lb/db": samples.policy("shop/lb", "shop/db", ("tcp", 5432)),
    }
    await controller.carry_out(changed)
    wanted = samples.compiled(documents | changed)
    for name, tables in wanted.tables.items():
        connection = controller.participant.switches.connection(name)
        assert connection is not None and connection.channel.delivery == Delivery(100, verified=True)
        assert len(ctl_lab.switches[name].flows()) == len(tables.entries)
        reading = await connection.channel.read_flows()
        assert {one.entry for one in reading.entries} == set(tables)
    assert await asyncio.to_thread(check, cables, wanted)


async def test_what_somebody_else_deleted_comes_back(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(single_tables.shop("nexus9000"))
    before = ctl_lab.switches["sw1"].flows()
    ctl_lab.switches["sw1"].ofctl("del-flows", "tcp")
    assert ctl_lab.switches["sw1"].flows() != before
    connection = controller.participant.switches.connection("sw1")
    assert connection is not None
    drift = await connection.verify(lambda: samples.compiled(single_tables.shop("nexus9000")).tables["sw1"])
    assert drift.lost and ctl_lab.switches["sw1"].flows() == before


async def test_a_port_that_goes_down_is_gone_around_and_comes_back(
    controller: Controller, ctl_lab: Lab, cables: Cables
) -> None:
    documents = single_tables.shop("nexus9000")
    await controller.carry_out(documents)
    before = {name: switch.flows() for name, switch in ctl_lab.switches.items()}
    down = Port("sw1", 1)
    around = compile_documents(samples.stamped(documents), frozenset({down}))
    assert around.tables["sw1"] != samples.compiled(documents).tables["sw1"]
    inside("h1", "ip", "link", "set", "eth0", "down")
    try:
        switches = controller.participant.switches
        await controller.until(lambda: switches.target.tables == around.tables, "other ways were compiled")
        await controller.until(lambda: holds(controller, around), "the switches hold them")
        tried = [trial for trial in trials(around, frozenset({down})) if trial.at != down]
        found = await asyncio.to_thread(sent, cables, tried)
        for token, trial in enumerate(tried):
            seen = [(one.port, one.vlan, one.target, one.source) for one in found.get(token, ())]
            assert seen == ([] if trial.expected is None else [trial.expected]), trial
        assert any(trial.expected is not None and trial.expected[0] == Port("sw2", 1) for trial in tried)
    finally:
        inside("h1", "ip", "link", "set", "eth0", "up")
    await controller.until(
        lambda: {name: switch.flows() for name, switch in ctl_lab.switches.items()} == before, "the old ways are back"
    )
    assert not controller.topics("switch.drift")


def holds(controller: Controller, compilation: Compilation) -> bool:
    known = [controller.participant.switches.connection(name) for name in compilation.tables]
    return [one.known if one else None for one in known] == list(compilation.tables.values())


def own(priority: int, **fields: int) -> FlowEntry:
    return FlowEntry(0, priority, match(**fields), (), make_cookie(Kind.BASE, 7, 1))


async def test_a_refused_change_is_named_and_those_before_it_stay(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(single_tables.shop("nexus9000"))
    connection = controller.participant.switches.connection("sw1")
    assert connection is not None
    channel = connection.channel
    channel.delivery = Delivery(1, verified=True)
    good, wrong, late = own(30, in_port=77), own(20, tcp_dst=80), own(10, in_port=78)
    with pytest.raises(ChannelError, match=r"1 of 1 changes refused; the first: .*BAD_PREREQ.*tp_dst=80"):
        await channel.apply([FlowChange("+", entry) for entry in (late, wrong, good)])
    assert [
        port for port in (77, 78) if any(f"in_port={port} " in line for line in ctl_lab.switches["sw1"].flows())
    ] == [77]
    await channel.apply([FlowChange("-", good)])


async def test_a_switch_that_does_not_show_what_it_confirmed_is_given_up(
    controller: Controller, ctl_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deletes what we add as soon as it is there, as a full table would."""
    await controller.carry_out(single_tables.shop("nexus9000"))
    connection = controller.participant.switches.connection("sw1")
    assert connection is not None
    monkeypatch.setattr(batched, "SETTLE_SECONDS", 0.3)
    plain = OpenFlowChannel.send

    async def thief(channel: OpenFlowChannel, changes: Any) -> None:
        await plain(channel, changes)
        await asyncio.to_thread(ctl_lab.switches["sw1"].ofctl, "del-flows", "in_port=77")

    monkeypatch.setattr(OpenFlowChannel, "send", thief)
    with pytest.raises(ChannelError, match=r"1 of 2 confirmed changes do not show after 0.3 s.*in_port=77"):
        await connection.channel.apply([FlowChange("+", own(30, in_port=77)), FlowChange("+", own(29, in_port=78))])


# Traces


MISSING = Availability.here().missing


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("shape", [Shape(SINGLE, mixed=0.5), Shape(("openvswitch", *SINGLE), mixed=1.0)])
def test_open_vswitch_agrees_on_random_tables(shape: Shape) -> None:
    with OpenVSwitch() as switches:
        report = run(range(1, 21), Effort(packets=40, traces=40), shape, switches)
    assert not report.mismatches, report
    assert report.traces > 300 and report.delivered > 100, report
