# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plans by example: what a reader of the contract would check by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from odyssey.model import Snapshot
from odyssey.model.naming import CONTROLLER
from odyssey.planning import (
    ApplyGoal,
    DrainStep,
    EnsureAbsent,
    EnsureNodes,
    Goal,
    InventoryGoal,
    PlanOptions,
    PlanRefused,
    RemovePlatformGoal,
    ScaleGoal,
    Settle,
    Step,
    TransactionStep,
    plan,
    resolve,
    undo,
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
    Wish,
)
from tests.unit.planning.worlds import Json, World, check, inventory, network, opening, platform, shop, snapshot


def running(document: Json | None = None, **more: Any) -> World:
    """A world in which a platform runs, the shop if none is given."""
    world = World(snapshot(**more))
    world.wish(ApplyPlatform(document or shop()))
    return world


def titles(steps: tuple[Step, ...]) -> list[str]:
    """What the steps do."""
    return [step.title for step in steps]


def refusal(world: World, wish: Wish) -> dict[str, str]:
    """Path and message of each fault of a wish that is refused."""
    with pytest.raises(PlanRefused) as caught:
        plan(world.state, resolve(wish, world.state))
    return {fault.path: fault.message for fault in caught.value.faults}


def test_the_inventory_is_one_transaction_with_the_controller_alone() -> None:
    world = World(snapshot({}))
    made = world.wish(SetInventory(inventory()))
    (step,) = made.steps
    assert isinstance(step, TransactionStep)
    assert set(step.participants) == {"controller"} and step.stages == ("admit",)
    assert set(step.changes) == {"inventory"}
    assert set(world.intent["inventory"]["hosts"]["h1"]) == {"attachments"}
    assert plan(world.state, InventoryGoal(inventory())).steps == ()


def test_the_shop_comes_up_in_the_order_of_its_dependencies() -> None:
    world = World()
    made = world.wish(ApplyPlatform(shop()))
    assert titles(made.steps) == [
        "add platform shop",
        "start shop-db-1",
        "start shop-app-1, shop-app-2",
        "start shop-lb-1",
        "start standby shop-app-3",
    ]
    assert made.locks == {"platforms", "platform/shop", "network/shop/lb", "network/shop/app", "network/shop/db"}
    assert {node.phase for node in world.state.standby("shop/app")} == {"standby"}
    assert world.intent["policy/shop/lb/app"] == {
        "from": "shop/lb", "to": "shop/app", "ports": [{"protocol": "tcp", "port": 8080}],
    }  # fmt: skip
    assert world.intent["expose/shop/lb/edge"]["ports"] == [{"protocol": "tcp", "port": 80}]
    nodes = world.files["shop-lb-1"]["dependencies"]["app"]["nodes"]
    assert [item["node"] for item in nodes] == ["shop-app-1", "shop-app-2"], "a standby node is no neighbour"
    check(world)


def test_a_starting_node_is_dark_until_it_is_admitted() -> None:
    world = World()
    step = plan(world.state, resolve(ApplyPlatform(shop()), world.state)).steps[1]
    assert isinstance(step, TransactionStep)
    controller = step.participants["controller"]
    assert controller["prepare"]["dark"]["binding/shop-db-1"]["phase"] == "dark"
    assert controller["stages"]["admit"]["changes"]["binding/shop-db-1"]["phase"] == "admitted"
    (host,) = set(step.participants) - {"controller"}
    (spec,) = step.participants[host]["prepare"]["start"]
    assert spec["volume"] == {"name": "shop-db-1-data", "path": "/var/lib/postgresql/data"}
    assert spec["nics"] == ["eth0", "eth1"] and spec["gateway"] == "169.254.1.1"
    assert {"node/shop-db-1", f"address/{spec['address']}"} <= set(step.objects)
    assert step.deadline == 60 + 60


def test_scaling_up_admits_the_standby_node_first_and_refills_it_last() -> None:
    world = running()
    made = world.wish(ScaleNetwork("shop", "app", 6))
    assert titles(made.steps) == [
        "admit standby shop-app-3",
        "start shop-app-4, shop-app-5, shop-app-6",
        "start standby shop-app-7",
    ]
    promotion = made.steps[0]
    assert isinstance(promotion, TransactionStep)
    agents = {name: item for name, item in promotion.participants.items() if name != "controller"}
    assert all(item["prepare"] is None and set(item["stages"]) == {"neighbours"} for item in agents.values())
    assert promotion.participants["controller"]["prepare"]["dark"] == {}
    assert promotion.stages == ("admit", "neighbours")
    assert made.locks == {"network/shop/app", "network/shop/lb"}
    assert world.state.networks["shop/app"].count == 6
    nodes = world.files["shop-lb-1"]["dependencies"]["app"]["nodes"]
    assert len(nodes) == 6
    check(world)


def test_scaling_down_withdraws_drains_and_retires_the_highest_ordinals() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 6))
    made = world.wish(ScaleNetwork("shop", "app", 2))
    names = "shop-app-3, shop-app-4, shop-app-5, shop-app-6"
    assert titles(made.steps) == [f"withdraw {names}", f"drain {names}", f"retire {names}"]
    withdraw, drain, retire = made.steps
    assert isinstance(withdraw, TransactionStep) and withdraw.stages == ("neighbours", "withdraw")
    assert isinstance(drain, DrainStep) and drain.timeout == 20
    assert isinstance(retire, TransactionStep) and retire.stages == ("retire", "stop")
    assert "network/shop/lb" in withdraw.objects, "its files must be written before others write them"
    assert [node.name for node in world.state.standby("shop/app")] == ["shop-app-7"]


def test_a_large_step_is_cut_into_batches() -> None:
    world = running(platform({"app": network(1, count=0, most=20)}))
    made = world.reach(ScaleGoal("shop", "app", 20), PlanOptions(batch=8))
    assert [len(step.nodes) for step in made.steps if isinstance(step, TransactionStep)] == [8, 8, 4]
    gone = world.reach(ScaleGoal("shop", "app", 0), PlanOptions(batch=8))
    assert [type(step).__name__ for step in gone.steps] == ["TransactionStep"] * 3 + ["DrainStep"] + [
        "TransactionStep"
    ] * 3


def test_dependents_shrink_before_what_they_depend_on() -> None:
    document = platform({"app": network(1, count=2, dependsOn={"db": opening(1)}), "db": network(2, count=2)})
    world = running(document)
    for item in document["networks"].values():
        item["scale"]["count"] = 1
    made = world.wish(ApplyPlatform(document))
    withdrawals = [title for title in titles(made.steps) if "withdraw" in title]
    assert withdrawals == ["withdraw shop-app-2", "withdraw shop-db-2"]


def test_a_leftover_draining_node_is_settled_first() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 4))
    world.carry_out(plan(world.state, ScaleGoal("shop", "app", 3)).steps[0])
    made = plan(world.state, ScaleGoal("shop", "app", 4))
    assert titles(made.steps)[:2] == ["drain shop-app-4", "retire shop-app-4"]
    assert titles(plan(world.state, Settle()).steps) == ["drain shop-app-4", "retire shop-app-4"]
    assert plan(world.state, Settle()).locks == {"network/shop/app"}
    assert plan(world.state, Settle(("shop/lb",))).steps == ()


def test_a_draining_node_on_a_host_that_is_away_holds_nothing_up() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 3))
    world.carry_out(plan(world.state, ScaleGoal("shop", "app", 2)).steps[0])
    (left,) = world.state.draining("shop/app")
    present, lb = world.state.present, world.state.nodes["shop-lb-1"].host
    assert left.host != lb
    world.state = replace(world.state, present=present - {left.host})
    assert plan(world.state, Settle()).steps == ()
    assert titles(plan(world.state, ScaleGoal("shop", "app", 3)).steps)[0].startswith(("admit", "start"))
    world.state = replace(world.state, present=present)
    assert titles(plan(world.state, Settle()).steps) == ["drain shop-app-3", "retire shop-app-3"]


def test_a_running_plan_tells_what_it_will_place() -> None:
    made = plan(snapshot(), resolve(ApplyPlatform(shop()), snapshot()))
    assert sorted(made.placements()) == [f"node/shop-{name}" for name in ("app-1", "app-2", "app-3", "db-1", "lb-1")]
    beside = snapshot(pending=made.placements())
    assert len(beside.pending) == 5 and not beside.nodes


def test_a_thousand_nodes_are_planned() -> None:
    documents = {"inventory": inventory(20, cpus=64, memory=65536, nodes=60)}
    tiers = {
        "lb": network(1, count=100, most=100, dependsOn={"app": opening(80)}),
        "app": network(2, count=800, most=800, subnet="10.2.0.0/16", dependsOn={"db": opening(80)}),
        "db": network(3, count=100, most=100),
    }
    state = snapshot(documents, hosts=20)
    made = plan(state, resolve(ApplyPlatform(platform(tiers)), state))
    assert len(made.placements()) == 1000
    assert len({document["address"] for document in made.placements().values()}) == 1000


def test_an_apply_of_the_same_document_changes_nothing() -> None:
    world = running()
    made = plan(world.state, resolve(ApplyPlatform(shop()), world.state))
    assert made.steps == () and made.changes == () and made.document_changes(CONTROLLER) == {}


def test_an_apply_returns_to_the_count_of_the_document() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 4))
    made = world.wish(ApplyPlatform(shop()))
    assert len(world.state.admitted("shop/app")) == 2
    first = made.changes[0]
    assert (first.op, first.kind, first.name, first.detail) == ("~", "network", "shop/app", "nodes 4 -> 2")


def test_a_count_that_was_never_reached_is_corrected_by_itself() -> None:
    world = running()
    world.carry_out(plan(world.state, ScaleGoal("shop", "app", 8), PlanOptions(batch=1)).steps[0])
    assert world.state.networks["shop/app"].count == 8 and len(world.state.admitted("shop/app")) == 3
    step = world.reach(ScaleGoal("shop", "app", 3)).steps[0]
    assert isinstance(step, TransactionStep) and set(step.participants) == {"controller"}
    assert world.state.networks["shop/app"].count == 3


def test_an_apply_corrects_a_count_that_alone_is_wrong() -> None:
    world = running()
    state = world.state.networks["shop/app"]
    world.state = world.state.folded({"network/shop/app": {"id": state.id, "count": 7}})
    (step,) = world.wish(ApplyPlatform(shop())).steps
    assert isinstance(step, TransactionStep) and set(step.participants) == {"controller"}
    assert world.state.networks["shop/app"].count == 2


def test_the_first_transaction_of_an_apply_says_how_many_are_wanted() -> None:
    world = running()
    document = shop()
    document["networks"]["app"]["scale"]["count"] = 5
    step = plan(world.state, resolve(ApplyPlatform(document), world.state)).steps[0]
    assert isinstance(step, TransactionStep)
    assert (step.changes["network/shop/app"] or {})["count"] == 5


def test_without_a_count_an_apply_keeps_the_nodes_within_the_bounds() -> None:
    document = platform({"app": network(1, count=None, most=6)})
    document["networks"]["app"]["scale"]["min"] = 1
    world = running(document)
    assert len(world.state.admitted("shop/app")) == 1
    world.wish(ScaleNetwork("shop", "app", 5))
    document["networks"]["app"]["scale"]["max"] = 3
    world.wish(ApplyPlatform(document))
    assert len(world.state.admitted("shop/app")) == 3


def test_a_changed_dependency_is_opened_and_told() -> None:
    world = running()
    document = shop()
    document["networks"]["app"]["dependsOn"]["db"] = opening(5432, 5433)
    (step,) = world.wish(ApplyPlatform(document)).steps
    assert isinstance(step, TransactionStep)
    assert step.stages == ("admit", "neighbours")
    assert set(step.participants["controller"]["stages"]["admit"]["changes"]) == {"policy/shop/app/db"}
    assert len(world.files["shop-app-1"]["dependencies"]["db"]["ports"]) == 2
    (back,) = world.wish(ApplyPlatform(shop())).steps
    assert isinstance(back, TransactionStep)
    assert back.stages == ("neighbours", "retire"), "nobody is told of a port that is closed"


def test_a_replaced_network_is_open_until_the_new_one_serves() -> None:
    before = platform({"app": network(1, dependsOn={"db": opening(1)}), "db": network(2)})
    after = platform({"app": network(1, dependsOn={"new": opening(1)}), "new": network(3)})
    world = running(before)
    made = plan(world.state, resolve(ApplyPlatform(after), world.state))
    assert titles(made.steps) == [
        "change platform shop",
        "start shop-new-1",
        "withdraw shop-db-1",
        "drain shop-db-1",
        "retire shop-db-1",
        "change platform shop",
    ]
    for step in made.steps:
        world.carry_out(step)
        check(world)
    assert world.files["shop-app-1"]["dependencies"].keys() == {"new"}
    assert world.state.platforms["shop"].document == after


def test_a_reversed_dependency_has_no_cycle_in_between() -> None:
    before = platform({"a": network(1, dependsOn={"b": opening(1)}), "b": network(2)})
    after = platform({"a": network(1, count=2), "b": network(2, dependsOn={"a": opening(1)})})
    world = running(before)
    for step in plan(world.state, resolve(ApplyPlatform(after), world.state)).steps:
        world.carry_out(step)
        check(world)
    assert world.state.platforms["shop"].document == after


def test_changes_that_need_no_transaction_of_agents_still_have_a_participant() -> None:
    world = running()
    document = shop()
    document["networks"]["db"]["drain"] = {"timeout": 1}
    made = world.wish(ApplyPlatform(document))
    (step,) = made.steps
    assert isinstance(step, TransactionStep) and set(step.participants) == {"controller"}
    assert [item.detail for item in made.changes if item.kind == "network"] == ["drain 20.0 -> 1.0"]


def test_health_of_running_nodes_is_said_to_wait() -> None:
    world = running()
    document = shop()
    document["networks"]["db"]["health"]["port"] = 5433
    detail = next(item.detail for item in world.wish(ApplyPlatform(document)).changes if item.kind == "network")
    assert detail.endswith("(health: for nodes that start from now on)")


def test_a_network_is_added_and_removed_alone() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 4))
    made = world.wish(AddNetwork("shop", "cache", network(9, count=2)))
    assert titles(made.steps) == ["change platform shop", "start shop-cache-1, shop-cache-2"]
    assert len(world.state.admitted("shop/app")) == 4, "other networks keep their nodes"
    gone = world.wish(RemoveNetwork("shop", "cache"))
    assert [item.op for item in gone.changes if item.kind == "node"] == ["-", "-"]
    assert "shop/cache" not in world.state.networks
    check(world)


def test_a_network_that_is_used_is_not_removed() -> None:
    world = running()
    assert "lb depends on it" in refusal(world, RemoveNetwork("shop", "app"))["$.data[0].System.Network.name"]
    lonely = running(platform({"a": network(1)}))
    assert "not the last network" in refusal(lonely, RemoveNetwork("shop", "a"))["$.data[0].System.Network.name"]


def test_an_added_network_must_have_a_new_name() -> None:
    found = refusal(running(), AddNetwork("shop", "db", network(9)))
    assert "does not have" in found["$.data[0].System.Network.name"]


def test_network_ids_are_unique_and_low() -> None:
    world = running()
    world.wish(ApplyPlatform(platform({"web": network(1)}, "blog")))
    assert sorted(item.id for item in world.state.networks.values()) == [1, 2, 3, 4]
    world.wish(RemovePlatform("shop"))
    world.wish(ApplyPlatform(platform({"web": network(2)}, "news")))
    assert world.state.networks["news/web"].id != world.state.networks["blog/web"].id


def test_adding_nodes_names_them_once_and_for_all() -> None:
    world = running()
    goal = resolve(AddNodes("shop", "app", 2), world.state)
    assert goal == EnsureNodes("shop", "app", ("shop-app-3", "shop-app-4"))
    world.reach(goal)
    assert plan(world.state, goal).steps == ()
    assert world.state.networks["shop/app"].count == 4
    assert resolve(AddNodes("shop", "app", name="shop-app-8"), world.state) == EnsureNodes(
        "shop", "app", ("shop-app-8",)
    )


def test_removing_nodes_names_them_too() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 4))
    assert resolve(RemoveNodes("shop", "app", 2), world.state) == EnsureAbsent(
        "shop", "app", ("shop-app-3", "shop-app-4")
    )
    world.wish(RemoveNodes("shop", "app", names=("shop-app-1",)))
    assert [node.ordinal for node in world.state.admitted("shop/app")] == [2, 3, 4]
    world.wish(AddNodes("shop", "app", name="shop-app-1"))
    assert [node.ordinal for node in world.state.admitted("shop/app")] == [1, 2, 3, 4]


REFUSED: list[tuple[Wish, str, str]] = [
    (ScaleNetwork("shop", "app", 9), "$.data[0].System.Network.count", "1 to 8 nodes in shop/app"),
    (ScaleNetwork("shop", "app", 0), "$.data[0].System.Network.count", "1 to 8"),
    (ScaleNetwork("shop", "ap", 1), "$.data[0].System.Network.name", "app, db, lb"),
    (ScaleNetwork("shp", "app", 1), "$.data[0].System.platform", "shop"),
    (AddNodes("shop", "app", 7), "$.data[0].System.Network.Node.count", "not 9"),
    (AddNodes("shop", "app", name="shop-lb-1"), "$.data[0].System.Network.Node.name", "shop-app-<number>"),
    (RemoveNodes("shop", "app", 2), "$.data[0].System.Network.Node.count", "not 0"),
    (RemoveNodes("shop", "db", names=("shop-db-1",)), "$.data[0].System.Network.Node.name", "1 to 1"),
    (RemoveNodes("shop", "app", names=("shop-app-3",)), "$.data[0].System.Network.Node.name", "scale.standby"),
    (RemoveNodes("shop", "app", names=("shop-app-7",)), "$.data[0].System.Network.Node.name", "shop-app-1, shop-app-2"),
    (RemovePlatform("blog"), "$.data[0].System.platform", "shop"),
]


@pytest.mark.parametrize(("wish", "path", "expected"), REFUSED, ids=[str(row[0]) for row in REFUSED])
def test_an_impossible_wish_is_refused_with_the_numbers(wish: Wish, path: str, expected: str) -> None:
    assert expected in refusal(running(), wish)[path]


def test_a_platform_is_removed_from_the_top() -> None:
    world = running()
    made = world.wish(RemovePlatform("shop"))
    assert [title for title in titles(made.steps) if "withdraw" in title or "remove" in title] == [
        "withdraw shop-lb-1",
        "withdraw shop-app-1, shop-app-2",
        "withdraw shop-db-1",
        "remove platform shop",
    ]
    assert set(world.state.documents()) == {"inventory"} and not world.intent
    assert plan(world.state, RemovePlatformGoal("shop")).steps == ()


def test_a_plan_for_a_participant_that_is_away_is_refused() -> None:
    world = running()
    host = world.state.nodes["shop-lb-1"].host
    world.state = replace(world.state, present=world.state.present - {host, "controller"})
    found = refusal(world, AddNodes("shop", "app", name="shop-app-9"))
    assert set(found) == {"$", f"$.hosts.{host}"}
    assert "the controller to be connected" in found["$"]
    assert plan(world.state, ScaleGoal("shop", "app", 3), PlanOptions(absent_allowed=True)).steps


def test_a_standby_node_on_a_host_that_is_away_is_not_admitted() -> None:
    world = running()
    (standby,) = world.state.standby("shop/app")
    state = replace(world.state, present=world.state.present - {standby.host})
    made = plan(state, ScaleGoal("shop", "app", 3), PlanOptions(absent_allowed=True))
    assert titles(made.steps)[0] == "start shop-app-4"
    with pytest.raises(PlanRefused, match="the host of standby node shop-app-3 to be connected"):
        plan(state, EnsureNodes("shop", "app", ("shop-app-3",)))


def test_a_name_that_an_open_transaction_holds_is_refused() -> None:
    world = running()
    state = replace(world.state, reserved=frozenset({"node/shop-app-5"}))
    with pytest.raises(PlanRefused, match="shop-app-5"):
        plan(state, EnsureNodes("shop", "app", ("shop-app-5",)))


@pytest.mark.parametrize("wish", [ScaleNetwork("shop", "app", 4), ApplyPlatform(platform({"a": network(1)}, "b"))])
def test_goals_survive_a_restart(wish: Wish) -> None:
    goal = resolve(wish, running().state)
    assert Goal.from_json(json.loads(json.dumps(goal.to_json()))) == goal


def test_an_unknown_goal_is_named() -> None:
    with pytest.raises(ValueError, match="no goal of kind 'x'; there are: inventory, apply"):
        Goal.from_json({"kind": "x"})


def test_the_transaction_id_is_put_into_the_nodes() -> None:
    step = plan(snapshot(), resolve(ApplyPlatform(shop()), snapshot())).steps[1].with_tx("call.2")  # type: ignore[union-attr]
    document = step.changes["node/shop-db-1"]
    assert document is not None and document["tx"] == "call.2"


def test_document_changes_are_those_of_the_whole_plan() -> None:
    world = running()
    world.wish(ScaleNetwork("shop", "app", 6))
    changes = plan(world.state, ScaleGoal("shop", "app", 5)).document_changes(CONTROLLER)
    assert changes == {"binding/shop-app-6": None}
    grown = plan(world.state, ScaleGoal("shop", "app", 8)).document_changes(CONTROLLER)
    assert {key: item and item["phase"] for key, item in grown.items()} == {
        "binding/shop-app-7": "admitted", "binding/shop-app-8": "admitted", "binding/shop-app-9": "standby",
    }  # fmt: skip


def test_the_lines_for_people() -> None:
    made = plan(snapshot(), resolve(ApplyPlatform(shop()), snapshot()))
    lines = [f"{item.op} {item.kind} {item.name}: {item.detail}" for item in made.changes]
    assert lines == [
        "+ platform shop: 3 networks",
        "+ network shop/app: 172.16.20.0/24, VLAN 120, image shop-app:1, 2 nodes",
        "+ network shop/db: 172.16.30.0/24, VLAN 130, image shop-db:1, 1 node",
        "+ network shop/lb: 172.16.10.0/24, VLAN 110, image shop-lb:1, 1 node",
        "+ policy shop/app -> shop/db: tcp 5432",
        "+ policy shop/lb -> shop/app: tcp 8080",
        "+ exposure edge -> shop/lb: tcp 80",
        "+ node shop-app-1: admitted on h2, 172.16.20.2",
        "+ node shop-app-2: admitted on h3, 172.16.20.32",
        "+ node shop-app-3: standby on h1, 172.16.20.64",
        "+ node shop-db-1: admitted on h1, 172.16.30.2",
        "+ node shop-lb-1: admitted on h2, 172.16.10.2",
    ]


@pytest.mark.parametrize(
    "wish",
    [
        ApplyPlatform(platform({"web": network(1)}, "blog")),
        ApplyPlatform(platform({"app": network(9)})),
        RemovePlatform("shop"),
        ScaleNetwork("shop", "app", 5),
        AddNodes("shop", "app", 3),
        RemoveNodes("shop", "app", 1),
    ],
    ids=str,
)
def test_undo_leads_back(wish: Wish) -> None:
    world = running(shop() if not isinstance(wish, ApplyPlatform) else platform({"app": network(9, count=2)}))
    before = world.state
    goal = resolve(wish, before)
    world.reach(goal)
    back = undo(goal, before)
    assert back is not None
    world.reach(back)
    check(world)
    assert _admitted(world.state) == _admitted(before)
    assert {name: item.document for name, item in world.state.platforms.items()} == {
        name: item.document for name, item in before.platforms.items()
    }


def _admitted(state: Snapshot) -> set[str]:
    return {node.name for node in state.nodes.values() if node.phase == "admitted"}


def test_what_cannot_be_undone_says_so() -> None:
    assert undo(InventoryGoal(inventory()), snapshot({})) is None
    assert undo(Settle(), snapshot()) is None
    assert undo(InventoryGoal(inventory(4)), snapshot()) == InventoryGoal(inventory())


def test_an_apply_goal_knows_its_platform() -> None:
    goal = resolve(ApplyPlatform(shop()), snapshot())
    assert isinstance(goal, ApplyGoal) and goal.platform == "shop"
    assert goal.counts == {"lb": 1, "app": 2, "db": 1}
