# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random platforms and random changes: what must hold for every plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odyssey.model import Snapshot
from odyssey.planning import (
    DrainStep,
    Goal,
    PlanOptions,
    PlanRefused,
    QuietStep,
    TransactionStep,
    image_references,
    plan,
    resolve,
)
from odyssey.services.wish import (
    AddNetwork,
    AddNodes,
    ApplyPlatform,
    RemoveNetwork,
    RemoveNodes,
    RemovePlatform,
    ScaleNetwork,
    SetInventory,
    SetMaintenance,
    WeighNode,
    Wish,
)
from tests.unit.planning.worlds import Json, World, check, inventory, network, opening, platform, service, snapshot

NAMES = ("lb", "app", "db", "cache", "queue")
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def networks(draw: st.DrawFn, name: str, after: tuple[str, ...]) -> Json:
    """A network that may depend on those in `after`."""
    most = draw(st.integers(1, 6))
    more: dict[str, Any] = {}
    if depends := draw(st.lists(st.sampled_from(after), unique=True)) if after else []:
        more["dependsOn"] = {other: opening(*draw(st.sets(st.integers(80, 83), min_size=1))) for other in depends}
    if draw(st.booleans()):
        more["exposedTo"] = {"edge": opening(80)}
    if draw(st.integers(0, 3)) == 0:
        more["peers"] = opening(7000)
    if draw(st.integers(0, 3)) == 0:
        more["stateful"] = {"volume": "/data"}
    if draw(st.booleans()):
        more |= service(NAMES.index(name) + 1, draw(st.sampled_from([8, 16])))
    count = draw(st.none() | st.integers(min(1, most), most))
    standby = draw(st.integers(0, 2))
    return network(NAMES.index(name) + 1, count=count, most=most, standby=standby, **more)


@st.composite
def platforms(draw: st.DrawFn) -> Json:
    """A platform without faults of its own."""
    order = draw(st.permutations(NAMES).map(tuple))
    size = draw(st.integers(1, len(order)))
    chosen = order[:size]
    return platform({name: draw(networks(name, chosen[position + 1 :])) for position, name in enumerate(chosen)})


@st.composite
def inventories(draw: st.DrawFn, document: Mapping[str, Any]) -> Json:
    """An inventory that differs a little, perhaps so that it is refused while nodes run."""
    changed = deepcopy(dict(document))
    hosts = changed["hosts"]
    match draw(st.sampled_from(["entries", "host gone", "host new", "port", "prefix", "reflects"])):
        case "entries":
            changed["fabric"]["switches"]["sw1"]["maxEntries"] += 1
        case "host gone" if len(hosts) > 1:
            hosts.pop(max(hosts))
        case "host new" if "h4" not in hosts:
            hosts["h4"] = inventory(4)["hosts"]["h4"]
        case "port":
            hosts[min(hosts)]["attachments"][0]["switch"] = "sw2"
            hosts[min(hosts)]["attachments"][0]["port"] = 60
        case "prefix":
            edge = changed["fabric"]["borders"]["edge"]
            changed["fabric"]["borders"]["edge"] = {**edge, "prefix": "203.0.112.0/23"}
        case "reflects":
            changed["fabric"]["switches"]["sw2"]["reflects"] = draw(st.sampled_from(["yes", "no"]))
    return changed


@st.composite
def wishes(draw: st.DrawFn, state: Snapshot | None = None) -> Wish:
    """Any wish about the platform, mostly about what exists in `state`, possibly an impossible one."""
    known = sorted(state.platforms["shop"].networks) if state is not None and "shop" in state.platforms else []
    name = draw(st.sampled_from(known or NAMES) if draw(st.integers(0, 9)) else st.sampled_from(NAMES))
    nodes = sorted(state.nodes) if state is not None else []
    node = draw(st.sampled_from([item for item in nodes if f"-{name}-" in item] or [f"shop-{name}-1"]))
    wish: Wish = draw(
        st.one_of(
            platforms().map(ApplyPlatform),
            st.integers(0, 6).map(lambda count: ScaleNetwork("shop", name, count)),
            st.integers(1, 4).map(lambda count: AddNodes("shop", name, count)),
            st.integers(1, 8).map(lambda ordinal: AddNodes("shop", name, name=f"shop-{name}-{ordinal}")),
            st.integers(1, 4).map(lambda count: RemoveNodes("shop", name, count)),
            st.just(RemoveNodes("shop", name, names=(node,))),
            st.sampled_from([0, 50, 100, 1000]).map(lambda weight: WeighNode("shop", name, node, weight)),
            st.tuples(st.sampled_from(["sw1", "sw2"]), st.booleans()).map(lambda two: SetMaintenance(*two, force=True)),
            *([inventories(state.inventory.document).map(SetInventory)] if state and state.inventory else []),
            networks(name, ()).map(lambda document: AddNetwork("shop", name, document)),
            st.just(RemoveNetwork("shop", name)),
            st.just(RemovePlatform("shop")),
        )
    )
    return wish


def begin(hosts: int, nodes: int, **switches: Any) -> World:
    """A world with an inventory and nothing else; `switches` stands in each switch."""
    return World(snapshot({"inventory": inventory(hosts, nodes=nodes, **switches)}, hosts=hosts))


ONE_TABLE = {"profile": "alliedtelesis"}
FABRICS: tuple[dict[str, str], ...] = ({}, {**ONE_TABLE, "reflects": "yes"}, ONE_TABLE)
"""Switches that remember connections; that balance by clients; that do not send frames back besides."""


def attempt(world: World, wish: Wish) -> Goal | None:
    """The goal of a wish, or None if it is refused; a refusal names paths."""
    try:
        goal = resolve(wish, world.state)
        plan(world.state, goal)
    except PlanRefused as refused:
        assert refused.faults and all(fault.path.startswith("$") for fault in refused.faults)
        return None
    return goal


def remember(world: World, data: st.DataObject) -> None:
    """Give the world a past: a platform, and perhaps changes of it."""
    for wish in (ApplyPlatform(data.draw(platforms())), *(data.draw(st.lists(wishes(), max_size=1)))):
        if (goal := attempt(world, wish)) is not None:
            world.reach(goal)


@MANY
@given(st.data())
def test_every_step_keeps_what_must_be_true(data: st.DataObject) -> None:
    """Addresses, capacity, containers, switches and neighbour files after every step of any history."""
    fabric = data.draw(st.sampled_from(FABRICS))
    world = begin(data.draw(st.integers(1, 4)), data.draw(st.integers(2, 12)), **fabric)
    options = PlanOptions(batch=data.draw(st.integers(1, 8)))
    for _ in range(data.draw(st.integers(1, 5))):
        goal = attempt(world, data.draw(wishes(world.state)))
        if goal is None:
            continue
        for step in plan(world.state, goal, options).steps:
            world.carry_out(step)
            check(world)
        assert plan(world.state, goal, options).steps == (), "the goal is not reached by its plan"
        for key, network_state in world.state.networks.items():
            definition = world.state.network(key)
            assert definition is not None
            assert len(world.state.admitted(key)) == network_state.count
            assert len(world.state.standby(key)) == definition.scale.standby
            assert not world.state.draining(key)


@MANY
@given(st.data())
def test_a_plan_can_be_taken_up_again_after_any_step(data: st.DataObject) -> None:
    """From every prefix the goal is still reached, and with the same documents and as many nodes."""
    world = begin(data.draw(st.integers(1, 4)), 20, **data.draw(st.sampled_from(FABRICS)))
    remember(world, data)
    goal = attempt(world, data.draw(wishes(world.state)))
    if goal is None:
        return
    goal = Goal.from_json(json.loads(json.dumps(goal.to_json())))
    steps = plan(world.state, goal).steps
    whole = world.copy()
    for step in steps:
        whole.carry_out(step)
    for length in range(len(steps)):
        part = world.copy()
        for step in steps[:length]:
            part.carry_out(step)
        part.reach(goal, PlanOptions(batch=3))
        check(part)
        assert plan(part.state, goal).steps == ()
        assert _shape(part.state) == _shape(whole.state)


def _shape(state: Snapshot) -> tuple[Any, ...]:
    """The state without hosts and addresses, which depend on when a plan was made."""
    homeless = {key: (item.id, item.count) for key, item in state.networks.items()}
    nodes = {name: (node.phase, node.weight) for name, node in state.nodes.items()}
    switches = {name: item.phase for name, item in state.maintenance.items()}
    return {name: item.document for name, item in state.platforms.items()}, homeless, nodes, switches


@MANY
@given(st.data())
def test_the_same_snapshot_and_goal_give_the_same_plan(data: st.DataObject) -> None:
    """Nothing in a plan depends on the order in which the documents are stored."""
    world = begin(3, 20)
    remember(world, data)
    goal = attempt(world, data.draw(wishes(world.state)))
    if goal is None:
        return
    documents = world.state.documents()
    mixed = {key: documents[key] for key in data.draw(st.permutations(sorted(documents)))}
    other = snapshot(mixed, index=world.state.index)
    first, second = plan(world.state, goal), plan(other, goal)
    assert first == second
    assert json.dumps(first.to_json(full=True)) == json.dumps(second.to_json(full=True))


@MANY
@given(platforms())
def test_a_new_platform_starts_with_what_is_depended_on(document: Json) -> None:
    """A node starts only when every network that its own depends on has all of its nodes."""
    world = begin(4, 50)
    goal = resolve(ApplyPlatform(document), world.state)
    for step in plan(world.state, goal).steps:
        if isinstance(step, TransactionStep):
            for name in step.nodes:
                _, network_name, _ = name.split("-")
                for other in document["networks"][network_name].get("dependsOn", {}):
                    key = f"shop/{other}"
                    assert len(world.state.admitted(key)) == world.state.networks[key].count
        world.carry_out(step)


@MANY
@given(platforms())
def test_a_platform_goes_in_the_reverse_order(document: Json) -> None:
    """A node is withdrawn only when nothing that depends on it is left, and stops only when it was drained."""
    world = begin(4, 50)
    world.wish(ApplyPlatform(document))
    drained: set[str] = set()
    for step in plan(world.state, resolve(RemovePlatform("shop"), world.state)).steps:
        assert not isinstance(step, QuietStep)
        if isinstance(step, DrainStep):
            drained.update(node for node, _ in step.nodes)
        elif "withdraw" in step.stages:
            for name in step.nodes:
                for user in world.state.dependents(world.state.nodes[name].key):
                    assert not world.state.nodes_of(user)
        else:
            for name in step.nodes:
                assert name in drained or world.state.nodes[name].phase == "standby"
        world.carry_out(step)
    assert world.state.documents() == {"inventory": world.state.documents()["inventory"]}
    assert not world.intent and not any(world.containers.values())


@MANY
@given(platforms(), platforms())
def test_a_change_opens_first_and_closes_last(before: Json, after: Json) -> None:
    """While nodes of a network that stays move, it may do what the old or what the new document allows."""
    world = begin(4, 50)
    world.wish(ApplyPlatform(before))
    goal = attempt(world, ApplyPlatform(after))
    if goal is None:
        return
    for step in plan(world.state, goal).steps:
        world.carry_out(step)
        definition = world.state.platforms["shop"]
        if isinstance(step, TransactionStep) and step.nodes:
            for name, item in after["networks"].items():
                assert set(item.get("dependsOn", {})) <= set(definition.networks[name].depends_on)


@MANY
@given(platforms(), st.sets(st.integers(1, 6)), st.integers(0, 40))
def test_what_is_reserved_is_left_alone(document: Json, ordinals: set[int], first: int) -> None:
    """Names and addresses that an open transaction holds are not given again."""
    names = {f"node/shop-{name}-{ordinal}" for name in document["networks"] for ordinal in ordinals}
    held = {f"address/10.{number}.0.{low}" for number in range(1, 6) for low in range(first, first + 8)}
    state = snapshot({"inventory": inventory(3)}, reserved=frozenset({*names, *held, "network-id/1"}))
    made = plan(state, resolve(ApplyPlatform(document), state))
    objects = {name for step in made.steps if isinstance(step, TransactionStep) for name in step.objects}
    assert not objects & state.reserved


@MANY
@given(platforms())
def test_a_plan_needs_no_image_that_it_did_not_announce(document: Json) -> None:
    """The references that are looked up before planning are enough."""
    world = begin(3, 50)
    goal = resolve(ApplyPlatform(document), world.state)
    assert {item["image"] for item in document["networks"].values()} <= image_references(goal, world.state)
