# SPDX-License-Identifier: AGPL-3.0-or-later
"""Probes over devices in memory that do less than their profile says, and what must never be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from controller.changes import Change, FlowChange, patched
from controller.channel import ChannelError, CountedEntry, FlowReading, Role
from controller.compiler import Compilation
from controller.connection import SwitchConnection
from controller.device import Device, RoleAnswer
from controller.evaluate import matches
from controller.flows import OutputInPort, SetField, TableSet, ToGroup
from controller.ports import PortCounters
from controller.probe import Finding, Probe, inventory_lines
from controller.probe_plan import BELOW, ETH_EXPERIMENT, LAST_VLAN, ProbeRefused, make_plan, touched
from controller.profiles import PROFILES
from tests.unit.controller import samples
from tests.unit.controller.fake_switch import FakeSwitch

SAYS = PROFILES["openvswitch"].capabilities


class TriedSwitch(FakeSwitch):
    """A switch that forwards: ``refuses`` tells which changes it refuses, ``room`` how many entries fit."""

    def __init__(self, tables: TableSet, refuses: Callable[[Change], bool] = lambda change: False) -> None:
        super().__init__(1, tables)
        self.refuses = refuses
        self.room = 10**6
        self.reflects = True
        self.late: list[Change] = []  # what a barrier that is not honoured leaves for later
        self.honours = True
        self.generation = 7
        self.checks_generation = True
        self.sweeps = True
        self.hits: dict[Any, int] = {}
        self.sent = 0
        self.lost_after: int | None = None

    def device(self) -> Device:
        return TriedDevice(self)

    async def read_flows(self, cookie: int = 0, mask: int = 0) -> FlowReading:
        found = (await super().read_flows(cookie, mask)).entries
        counted = (CountedEntry(one.entry, self.hits.get(one.entry, 0), 0, 1.0) for one in found)
        return FlowReading(tuple(counted), 0)

    async def read_port_counters(self) -> tuple[PortCounters, ...]:
        return (PortCounters(1, 0, self.sent, 0, 0, 0, 0, 0, 0, 1.0),)


class TriedDevice(Device):
    def __init__(self, switch: TriedSwitch) -> None:
        self.switch = switch

    async def tables(self) -> int:
        return 254

    async def attempt(self, changes: Sequence[Change]) -> Mapping[int, str]:
        switch, refused = self.switch, {}
        if switch.lost_after is not None:
            switch.lost_after -= 1
            if switch.lost_after < 0:
                raise ChannelError("the switch went away")
        switch.tables, switch.late = patched(switch.tables, switch.late), []
        for number, change in enumerate(changes):
            full = isinstance(change, FlowChange) and change.op == "+" and len(switch.tables.entries) >= switch.room
            if switch.refuses(change) or full:
                refused[number] = "TABLE_FULL" if full else "BAD"
            elif switch.honours:
                switch.tables = patched(switch.tables, [change])
            else:
                switch.late.append(change)
        return refused

    async def sweep(self, cookie: int, mask: int) -> None:
        if not self.switch.sweeps:
            raise ChannelError("no deletion by cookie")
        self.switch.late = []
        gone = [entry for entry in self.switch.tables if entry.cookie & mask == cookie & mask]
        self.switch.tables = patched(self.switch.tables, [FlowChange("-", entry) for entry in gone])

    async def inject(self, port: int, frame: bytes, count: int) -> None:
        packet = {
            "in_port": port,
            "vlan_vid": 0x1000 | int.from_bytes(frame[14:16]),
            "eth_type": int.from_bytes(frame[16:18]),
            "eth_dst": int.from_bytes(frame[:6]),
        }
        hits = [one for one in self.switch.tables if one.table == 0 and matches(one.match, packet)]
        for entry in sorted(hits, key=lambda one: -one.priority)[:1]:
            self.switch.hits[entry] = self.switch.hits.get(entry, 0) + count
            if self.switch.reflects and OutputInPort() in entry.actions:
                self.switch.sent += count

    async def ask_role(self) -> RoleAnswer:
        return RoleAnswer("master", self.switch.generation)

    async def try_master(self, generation: int) -> RoleAnswer:
        if generation < self.switch.generation and self.switch.checks_generation:
            return RoleAnswer("unchanged", None, "STALE")
        self.switch.generation = generation
        return RoleAnswer("master", generation)


@pytest.fixture
def compilation() -> Compilation:
    return samples.compiled(samples.shop())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_SECONDS", "LOOK_SECONDS", "SEE_SECONDS"):
        monkeypatch.setattr(f"controller.probe.{name}", 0.001 if name != "SEE_SECONDS" else 0.003)


async def probed(switch: TriedSwitch, compilation: Compilation, capacity: int = 0) -> dict[str, Finding]:
    held, groups = switch.tables.entries, switch.tables.groups
    await switch.take_role(Role.MASTER, 1)
    connection = SwitchConnection("sw1", switch)

    async def progress(_: Any) -> None:
        return None

    plan = make_plan(compilation.intent, "sw1", [1, 2, 3], None)
    findings = await Probe(connection, plan, SAYS, capacity, progress).run()
    assert (switch.tables.entries, switch.tables.groups) == (held, groups), "nothing is left behind"
    assert switch.tables.meters == compilation.tables["sw1"].meters
    return {one.capability: one for one in findings}


async def test_a_device_that_does_everything_agrees_with_its_profile(compilation: Compilation) -> None:
    found = await probed(TriedSwitch(compilation.tables["sw1"]), compilation, capacity=650)
    assert [one for one in found.values() if one.to_json()["agrees"] is False] == []
    assert (found["reflects"].found, found["barrier"].found) == ("yes", "yes")
    assert inventory_lines(found.values()) == {"reflects": "yes"}
    assert found["capacity"].found == "at least 650", "what it knows of the switch is nothing, before it is read"


async def test_a_device_that_refuses_things_is_told_from_its_profile(compilation: Compilation) -> None:
    def refuses(change: Change) -> bool:
        if not isinstance(change, FlowChange):
            return True  # groups and meters
        terms = change.entry.match
        masked = terms.get("eth_src") is not None or terms.get("tcp_flags") is not None
        sets = any(isinstance(one, SetField) and one.name == "nd_tll" for one in change.entry.actions)
        return masked or sets or any(isinstance(one, ToGroup) for one in change.entry.actions)

    found = await probed(TriedSwitch(compilation.tables["sw1"], refuses), compilation)
    assert found["match: mask on eth_src"].found == "no"
    assert found["match: tcp_flags"].to_json()["agrees"] is False
    assert found["fast-failover group"].to_json()["agrees"] is False
    assert found["meter"].found == "no"
    assert (found["set: nd_tll"].found, "nd_tll" in found["set fields"].detail) == ("no", False)


async def test_a_device_that_does_not_reflect_is_found_out(compilation: Compilation) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    switch.reflects = False
    found = await probed(switch, compilation)
    assert (found["reflects"].found, inventory_lines(found.values())) == ("no", {"reflects": "no"})


async def test_a_barrier_that_is_answered_too_early_is_found_out(compilation: Compilation) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    switch.honours = False
    held = switch.tables.entries
    await switch.take_role(Role.MASTER, 1)
    connection = SwitchConnection("sw1", switch)

    async def progress(_: Any) -> None:
        return None

    plan = make_plan(compilation.intent, "sw1", [1], None)
    probe = Probe(connection, plan, SAYS, 0, progress)
    [finding] = await probe._barrier()
    await probe._sweep()
    assert (finding.found, finding.to_json()["agrees"]) == ("no", False)
    assert switch.tables.entries == held


async def test_the_capacity_ends_where_the_device_refuses(compilation: Compilation) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    switch.room = len(switch.tables.entries) + 450
    found = await probed(switch, compilation, capacity=2000)
    assert found["capacity"].found == "450"
    assert "TABLE_FULL" in found["capacity"].detail


async def test_a_device_that_takes_a_stale_leader_is_found_out_and_set_right(compilation: Compilation) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    switch.checks_generation = False
    found = await probed(switch, compilation)
    assert (found["stale generation refused"].found, switch.generation) == ("no", 7)


async def test_without_deletion_by_cookie_the_entries_go_one_by_one(compilation: Compilation) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    switch.sweeps = False
    await probed(switch, compilation, capacity=400)


async def test_a_device_that_ignores_cookie_masks_loses_nothing_of_others(
    compilation: Compilation, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    inner = switch.read_flows

    async def read(cookie: int = 0, mask: int = 0) -> FlowReading:
        return await inner()

    async def sweep(device: TriedDevice, cookie: int, mask: int) -> None:
        device.switch.tables = TableSet()

    monkeypatch.setattr(switch, "read_flows", read)
    monkeypatch.setattr(TriedDevice, "sweep", sweep)
    await probed(switch, compilation, capacity=400)


async def test_a_device_that_keeps_what_it_should_delete_is_an_error_and_is_looked_at_again(
    compilation: Compilation,
) -> None:
    switch = TriedSwitch(compilation.tables["sw1"], lambda change: change.op == "-")
    switch.sweeps = False
    await switch.take_role(Role.MASTER, 1)
    connection = SwitchConnection("sw1", switch)
    await connection.bring_to(lambda: compilation.tables["sw1"])

    async def progress(_: Any) -> None:
        return None

    probe = Probe(connection, make_plan(compilation.intent, "sw1", [1], None), SAYS, 0, progress)
    with pytest.raises(ChannelError, match="does not delete the entries of the probe"):
        await probe.run()
    assert not connection.lock.locked()
    assert (await connection.verify(lambda: compilation.tables["sw1"])).count == 1, "the next look finds it"


async def test_changes_of_the_switch_wait_for_an_experiment_only(compilation: Compilation) -> None:
    switch = TriedSwitch(compilation.tables["sw1"])
    await switch.take_role(Role.MASTER, 1)
    connection = SwitchConnection("sw1", switch)
    order: list[str] = []

    async def progress(message: Any) -> None:
        order.append(message["text"])
        await asyncio.sleep(0)

    probe = Probe(connection, make_plan(compilation.intent, "sw1", [1], None), SAYS, 0, progress)
    running = asyncio.create_task(probe.run())
    await asyncio.sleep(0)
    await connection.bring_to(lambda: compilation.tables["sw1"])
    order.append("a change")
    await running
    assert order.index("a change") < len(order) - 1


# Plans


def test_the_vlan_of_a_plan_is_owned_and_unused(compilation: Compilation) -> None:
    assert make_plan(compilation.intent, "sw1", [], None).vlan == LAST_VLAN
    documents = samples.shop()
    documents["inventory"]["fabric"]["owned"] = {"vlans": [{"from": 100, "to": 130}, {"from": 4000, "to": 4000}]}
    intent = samples.compiled(documents).intent
    assert make_plan(intent, "sw1", [], None).vlan == 129, "130 and 4000 are used"
    assert make_plan(intent, "sw1", [], 101).vlan == 101
    for wrong, why in ((120, "is that of network shop/app"), (4000, "trunks"), (99, "not in the owned ranges")):
        with pytest.raises(ProbeRefused, match=why):
            make_plan(intent, "sw1", [], wrong)


def test_the_port_of_a_plan_is_ours_and_up(compilation: Compilation) -> None:
    assert make_plan(compilation.intent, "sw1", [55, 101, 2, 3], None).port == 2, "that of a host comes first"
    assert make_plan(compilation.intent, "sw1", [55, 101], None).port == 101
    assert make_plan(compilation.intent, "sw1", [55], None).port is None


def test_every_entry_of_a_plan_is_for_its_vlan_or_its_experimental_frames(compilation: Compilation) -> None:
    plan = make_plan(compilation.intent, "sw1", [1], None)
    for trial in (*plan.matches(), *plan.fields(), *plan.actions()):
        vlan, kind = trial.entry.match.get("vlan_vid"), trial.entry.match.get("eth_type")
        ours = vlan == (plan.tag, 0x1FFF) or kind == (ETH_EXPERIMENT, 0xFFFF)
        assert ours, trial.name
        assert trial.entry.priority > BELOW - 1


def test_the_frame_of_a_plan_meets_its_entry_alone(compilation: Compilation) -> None:
    plan = make_plan(compilation.intent, "sw1", [1], None)
    frame = plan.frame(3)
    assert len(frame) == 60
    packet = {"vlan_vid": plan.tag, "eth_type": ETH_EXPERIMENT, "eth_dst": int.from_bytes(frame[:6])}
    assert matches(plan.numbered(3).match, packet)
    assert not matches(plan.numbered(4).match, packet)
    assert not any(matches(entry.match, packet | {"in_port": 1}) for entry in compilation.tables["sw1"]
                   if entry.table == 0 and entry.actions)  # fmt: skip


def test_what_a_probe_touches_is_told(compilation: Compilation) -> None:
    assert touched(compilation.intent, "sw1") == [
        "2 nodes of host h1", "2 nodes of host h2", "1 node of host h3", "border edge", "1 trunk",
    ]  # fmt: skip
    empty = replace(compilation.intent, bindings={})
    assert touched(empty, "sw2") == []
