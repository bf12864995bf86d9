# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch is taken out of use and brought back: in which order, what is refused, and after a failure at any step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from odyssey.model import Snapshot
from odyssey.planning import (
    InventoryGoal,
    MaintenanceGoal,
    PlanRefused,
    QuietStep,
    ScaleGoal,
    TransactionStep,
    plan,
    resolve,
    undo,
)
from odyssey.services.wish import ApplyPlatform, SetInventory, SetMaintenance
from tests.unit.planning.worlds import Json, World, check, inventory, network, platform, shop, snapshot

ON, OFF = MaintenanceGoal("sw2", on=True), MaintenanceGoal("sw2", on=False)


def running(document: Json | None = None, **more: Any) -> World:
    """The shop on a fabric; the border hangs on sw1, every host on sw1 and sw2."""
    world = World(snapshot({"inventory": document or inventory()}, **more))
    world.wish(ApplyPlatform(shop()))
    return world


def test_a_kind_of_switch_that_keeps_nodes_dark_does_not_come_over_standby_nodes_with_their_links_down() -> None:
    before = inventory(3, profile="alliedtelesis")
    world = World(snapshot({"inventory": before}))
    world.wish(ApplyPlatform(platform({"app": network(1, standby=1)})))
    (waiting,) = world.state.standby("shop/app")
    after = deepcopy(before)
    for name in ("sw1", "sw2"):
        world.state = replace(world.state, switches=frozenset({"sw1", "sw2"}))
        world.wish(SetMaintenance(name, on=True, force=True))
        after["fabric"]["switches"][name] |= {"profile": "openvswitch", "datapathId": f"00000000000000a{name[-1]}"}
        if name == "sw1":
            world.wish(SetInventory(deepcopy(after)))
            world.wish(SetMaintenance(name, on=False))
    with pytest.raises(PlanRefused, match=f"{waiting.name}.*lower scale.standby"):
        plan(world.state, InventoryGoal(after))
    world.wish(ApplyPlatform(platform({"app": network(1)})))
    assert plan(world.state, InventoryGoal(after)).steps


def reasons(state: Snapshot, goal: MaintenanceGoal) -> str:
    """Why a plan is refused."""
    with pytest.raises(PlanRefused) as caught:
        plan(state, goal)
    assert {fault.path for fault in caught.value.faults} == {"$.data[0].System.Switch.name"}
    return "\n".join(fault.message for fault in caught.value.faults)


def switch(world: World) -> dict[str, Any]:
    """What the controller knows of sw2 beyond its document."""
    known = world.intent["inventory"]["fabric"]["switches"]["sw2"]
    return {key: known[key] for key in ("maintenance", "isolated") if key in known}


def test_hosts_leave_a_switch_before_it_is_unused_and_it_is_silent_before_it_is_isolated() -> None:
    world = running()
    leave, quiet, isolate = plan(world.state, ON).steps
    assert isinstance(leave, TransactionStep) and leave.stages == ("prefer", "admit")
    assert set(leave.participants) == {"controller", "h1", "h2", "h3"}
    assert leave.participants["h1"]["stages"] == {"prefer": {"avoid": ["eth1"]}}
    world.carry_out(leave)
    assert switch(world) == {"maintenance": True}
    check(world)
    assert isinstance(quiet, QuietStep) and (quiet.switch, quiet.ports, quiet.required) == ("sw2", (1, 2, 3), True)
    world.carry_out(quiet)
    assert isinstance(isolate, TransactionStep) and set(isolate.participants) == {"controller"}
    world.carry_out(isolate)
    assert switch(world) == {"maintenance": True, "isolated": True}
    check(world)
    assert plan(world.state, ON).steps == ()


def test_the_way_back_is_the_mirror() -> None:
    world = running()
    world.reach(ON)
    opened, used = plan(world.state, OFF).steps
    assert isinstance(opened, TransactionStep) and set(opened.participants) == {"controller"}
    world.carry_out(opened)
    assert switch(world) == {"maintenance": True}, "it is open, and still nobody uses it"
    assert isinstance(used, TransactionStep) and used.stages == ("admit", "prefer")
    assert used.participants["h2"]["stages"] == {"prefer": {"avoid": []}}
    world.carry_out(used)
    assert switch(world) == {} and not world.state.maintenance
    check(world)
    assert plan(world.state, OFF).steps == ()


@pytest.mark.parametrize("goal", [ON, OFF])
@pytest.mark.parametrize("done", range(4))
def test_each_step_can_be_the_last_before_a_crash(goal: MaintenanceGoal, done: int) -> None:
    """What is left is planned from the state; a change of mind half-way leads back from there."""
    world = running()
    if goal is OFF:
        world.reach(ON)
    for step in plan(world.state, goal).steps[:done]:
        world.carry_out(step)
    other = world.copy()
    world.reach(goal)
    check(world)
    assert ("sw2" in world.state.unused()) is goal.on
    other.reach(OFF if goal is ON else ON)
    check(other)
    assert ("sw2" in other.state.unused()) is not goal.on


def test_nodes_come_and_go_while_a_switch_is_out_of_use() -> None:
    world = running()
    world.reach(ON)
    world.reach(ScaleGoal("shop", "app", 6))
    check(world)
    world.reach(ScaleGoal("shop", "app", 1))
    check(world)


def test_an_atomic_call_leads_back() -> None:
    world = running()
    assert undo(ON, world.state) == OFF
    assert undo(OFF, world.state) is None, "nothing was changed"
    world.reach(ON)
    assert undo(OFF, world.state) == ON
    assert undo(ON, world.state) is None


def test_a_wish_becomes_its_goal() -> None:
    world = running()
    assert resolve(SetMaintenance("sw2", on=True, force=True), world.state) == MaintenanceGoal("sw2", True, True)
    assert SetMaintenance("sw2", on=True).asks_switches()


def only_on(host: str, name: str) -> Callable[[Json], None]:
    """A host hangs on one switch alone."""

    def change(document: Json) -> None:
        attachments = document["hosts"][host]["attachments"]
        document["hosts"][host]["attachments"] = [item for item in attachments if item["switch"] == name]

    return change


def test_what_hangs_on_a_switch_alone_keeps_it_in_use() -> None:
    document = inventory()
    only_on("h3", "sw2")(document)
    world = running(document)
    assert "host h3" in reasons(world.state, ON)
    assert "border edge" in reasons(world.state, MaintenanceGoal("sw1", on=True))
    forced = plan(world.state, replace(ON, force=True)).steps
    assert isinstance(forced[1], QuietStep) and not forced[1].required
    leave = forced[0]
    assert isinstance(leave, TransactionStep) and "h3" not in leave.participants, "it has no other NIC"


def test_only_one_switch_is_out_of_use_at_a_time() -> None:
    document = inventory()
    document["fabric"]["borders"] = {}
    world = World(snapshot({"inventory": document}))
    world.reach(ON)
    told = reasons(world.state, MaintenanceGoal("sw1", on=True, force=True))
    assert "no other switch out of use: sw2 is" in told


def test_the_switch_that_takes_over_must_be_connected() -> None:
    world = running(switches=frozenset({"sw2"}))
    assert "sw1 connected to the controller" in reasons(world.state, replace(ON, force=True))


def test_a_switch_that_nobody_sees_is_isolated_by_force_only() -> None:
    world = running(switches=frozenset({"sw1"}))
    assert "nobody sees what still uses it" in reasons(world.state, ON)
    world.reach(replace(ON, force=True))
    assert "filled and checked" in reasons(world.state, OFF)
    world.state = replace(world.state, switches=frozenset({"sw1", "sw2"}))
    world.reach(OFF)
    check(world)


def test_a_host_that_is_away_is_left_out_by_force_only() -> None:
    world = running()
    world.state = replace(world.state, present=world.state.present - {"h1"})
    assert "the agents of h1" in reasons(world.state, ON)
    world.reach(replace(ON, force=True))
    assert "h1" not in world.avoid
    world.state = replace(world.state, present=world.state.present | {"h1"})
    world.reach(OFF)
    check(world)


def test_a_host_that_was_away_when_the_switch_came_back_is_told_later() -> None:
    world = running()
    world.reach(ON)
    all_present = world.state.present
    world.state = replace(world.state, present=all_present - {"h1", "h3"})
    made = world.reach(OFF)
    assert made.steps[-1].title == "use switch sw2 again (not yet: h1, h3)"
    assert switch(world) == {} and world.avoid["h1"] == ["eth1"] and world.avoid["h2"] == []
    assert not world.state.unused()
    check(world)
    assert plan(world.state, OFF).steps == ()
    world.state = replace(world.state, present=all_present - {"h3"})
    world.reach(OFF)
    assert world.avoid["h1"] == [] and world.avoid["h3"] == ["eth1"]
    world.state = replace(world.state, present=all_present)
    world.reach(ON)
    world.reach(OFF)
    assert world.avoid["h3"] == [] and not world.state.maintenance
    check(world)


def chain() -> Json:
    """Three switches in a row, hosts on the outer ones."""
    document = inventory(2)
    names = ("sw1", "sw2", "sw3")
    document["fabric"]["switches"] = {
        name: {"datapathId": f"{n:016x}", "profile": "openvswitch", "maxEntries": 9} for n, name in enumerate(names, 1)
    }
    document["fabric"]["links"].append({"a": {"switch": "sw2", "port": 102}, "b": {"switch": "sw3", "port": 102}})
    for host, name in (("h1", "sw1"), ("h2", "sw3")):
        document["hosts"][host]["attachments"] = [{"nic": "eth0", "switch": name, "port": 1}]
    return document


def test_a_switch_that_joins_others_is_kept() -> None:
    world = World(snapshot({"inventory": chain()}, hosts=2))
    assert "another way between border edge and host h2" in reasons(world.state, ON)
    document = chain()
    document["fabric"]["links"].append({"a": {"switch": "sw1", "port": 103}, "b": {"switch": "sw3", "port": 103}})
    world = World(snapshot({"inventory": document}, hosts=2))
    made = world.reach(ON)
    assert not any(isinstance(step, QuietStep) for step in made.steps), "no host hangs on it"
    assert switch(world) == {"maintenance": True, "isolated": True}


def test_what_is_apart_anyway_keeps_no_switch_in_use() -> None:
    document = chain()
    document["fabric"]["links"] = document["fabric"]["links"][:1]
    world = World(snapshot({"inventory": document}, hosts=2))
    world.reach(ON)
    assert switch(world) == {"maintenance": True, "isolated": True}


def test_an_unknown_switch_is_refused() -> None:
    assert "sw1, sw2" in reasons(running().state, MaintenanceGoal("sw9", on=True))


def test_a_switch_is_replaced_while_it_is_isolated() -> None:
    world = running()
    other = deepcopy(inventory())
    other["fabric"]["switches"]["sw2"]["datapathId"] = "00000000000000aa"
    with pytest.raises(PlanRefused, match="replaced while it is out of use"):
        plan(world.state, InventoryGoal(other))
    world.carry_out(plan(world.state, ON).steps[0])
    with pytest.raises(PlanRefused, match="replaced while it is out of use"):
        plan(world.state, InventoryGoal(other))
    world.reach(ON)
    world.reach(InventoryGoal(other))
    assert switch(world) == {"maintenance": True, "isolated": True}, "the new one is not used before it is told to be"
    check(world)
    world.reach(OFF)
    assert switch(world) == {} and not world.avoid["h1"]
    check(world)


def test_a_new_host_avoids_the_switch_that_is_out_of_use() -> None:
    world = World(snapshot({"inventory": inventory(2)}))
    world.reach(ON)
    world.reach(InventoryGoal(inventory(3)))
    assert world.avoid["h3"] == ["eth1"]
    check(world)
    world.reach(InventoryGoal(inventory(2)))
    assert "h3" not in world.state.maintenance["sw2"].avoid and world.avoid["h3"] == []
    check(world)


def test_a_switch_may_leave_the_inventory_while_it_is_out_of_use() -> None:
    world = World(snapshot())
    world.reach(ON)
    document = inventory()
    del document["fabric"]["switches"]["sw2"]
    document["fabric"]["links"] = []
    for host in document["hosts"].values():
        host["attachments"] = host["attachments"][:1]
    world.reach(InventoryGoal(document))
    assert not world.state.maintenance and world.avoid == {"h1": [], "h2": [], "h3": []}
    check(world)


def test_a_plan_tells_how_a_switch_stands() -> None:
    world = running()
    changes = [change for change in plan(world.state, ON).changes if change.kind == "switch"]
    assert [(change.op, change.name, change.detail) for change in changes] == [("~", "sw2", "out of use, isolated")]
    world.reach(ON)
    changes = [change for change in plan(world.state, OFF).changes if change.kind == "switch"]
    assert [change.detail for change in changes] == ["in use again"]


def test_calls_on_the_inventory_exclude_each_other() -> None:
    assert "inventory" in plan(running().state, ON).locks


def test_a_platform_with_one_node_needs_no_other_host() -> None:
    world = World(snapshot())
    world.wish(ApplyPlatform(platform({"a": network(1)})))
    world.state = replace(world.state, present=world.state.present - {"h3"})
    world.reach(ON)  # h3 holds no node, so nobody misses its agent
    assert set(world.avoid) == {"h1", "h2"}
