# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plans by example: what a reader of the contract would check by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from odyssey.model.naming import CONTROLLER
from odyssey.planning import (
    DrainStep,
    EnsureAbsent,
    EnsureNodes,
    InventoryGoal,
    PlanOptions,
    PlanRefused,
    RemovePlatformGoal,
    ScaleGoal,
    Settle,
    TransactionStep,
    plan,
    resolve,
)
from odyssey.services.wish import (
    AddNodes,
    ApplyPlatform,
    RemoveNetwork,
    RemoveNodes,
    RemovePlatform,
    ScaleNetwork,
    SetInventory,
    Wish,
)
from tests.unit.planning.worlds import (
    World,
    check,
    inventory,
    network,
    opening,
    platform,
    refusal,
    running,
    shop,
    snapshot,
    titles,
)


def broad(locks: frozenset[str]) -> set[str]:
    """Locks of networks, platforms and more; without those of single nodes, addresses and ids."""
    return {name for name in locks if not name.startswith(("node/", "address/", "network-id/"))}


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
    wanted = {"platforms", "platform/shop", "network/shop/lb", "network/shop/app", "network/shop/db"}
    assert broad(made.locks) == wanted
    # All that its transactions will reserve is locked from the start.
    assert {name for step in made.steps if isinstance(step, TransactionStep) for name in step.objects} <= made.locks
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
    assert broad(made.locks) == {"network/shop/app", "network/shop/lb"}
    assert "node/shop-app-3" in made.locks
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
    assert broad(plan(world.state, Settle()).locks) == {"network/shop/app"}
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


@pytest.mark.parametrize("wish", [RemovePlatform("shop"), RemoveNetwork("shop", "lb")], ids=str)
def test_a_network_does_not_leave_under_a_node_that_cannot_be_retired(wish: Wish) -> None:
    world = running(platform({"lb": network(1, count=3), "app": network(2)}))
    gone = next(node for node in world.state.admitted("shop/lb") if node.host == "h3")
    draining = replace(gone, phase="draining")
    away = replace(
        world.state, present=world.state.present - {"h3"}, nodes={**world.state.nodes, gone.name: draining}
    )  # fmt: skip
    with pytest.raises(PlanRefused, match=f"the agent of h3 to be connected: {gone.name} is still there"):
        plan(away, resolve(wish, away))
    back = replace(away, present=world.state.present)
    assert plan(back, resolve(wish, back)).steps


def test_a_volume_goes_with_the_host_that_leaves_the_inventory_and_the_plan_says_so() -> None:
    document = platform({"db": network(3, count=3, stateful={"volume": "/data"})})
    world = running(document)
    homes = world.state.networks["shop/db"].homes
    name = next(name for name, host in homes.items() if host == "h3")
    world.wish(RemoveNodes("shop", "db", names=(name,)))
    smaller = inventory(2)
    made = plan(world.state, resolve(SetInventory(smaller), world.state))
    assert [(item.op, item.name) for item in made.changes if item.kind == "volume"] == [("-", name)]
    world.wish(SetInventory(smaller))
    assert name not in world.state.networks["shop/db"].homes
    world.wish(AddNodes("shop", "db"))
    assert world.state.nodes[name].host in ("h1", "h2")


def test_a_running_plan_tells_what_it_will_place() -> None:
    made = plan(snapshot(), resolve(ApplyPlatform(shop()), snapshot()))
    names = ("app-1", "app-2", "app-3", "db-1", "lb-1")
    assert sorted(made.placements()) == [*(f"node/shop-{name}" for name in names), "platform/shop"]
    beside = snapshot(pending=made.placements())
    assert len(beside.pending) == 5 and not beside.nodes


def test_nodes_of_a_platform_that_is_being_added_take_their_room() -> None:
    wide = {"cpus": 4, "memoryMiB": 256}
    documents = {"inventory": inventory(1, cpus=8, memory=65536, nodes=60)}
    state = snapshot(documents, hosts=1)
    first = plan(state, resolve(ApplyPlatform(platform({"app": network(1, count=2, resources=wide)})), state))
    beside = snapshot(documents, hosts=1, pending=first.placements())
    with pytest.raises(PlanRefused, match="h1: 0 of 8 cpus free"):
        plan(beside, resolve(ApplyPlatform(platform({"web": network(2, resources=wide)}, "blog")), beside))


def test_a_thousand_nodes_are_planned() -> None:
    documents = {"inventory": inventory(20, cpus=64, memory=65536, nodes=60)}
    tiers = {
        "lb": network(1, count=100, most=100, dependsOn={"app": opening(80)}),
        "app": network(2, count=800, most=800, subnet="10.2.0.0/16", dependsOn={"db": opening(80)}),
        "db": network(3, count=100, most=100),
    }
    state = snapshot(documents, hosts=20)
    made = plan(state, resolve(ApplyPlatform(platform(tiers)), state))
    nodes = [document for key, document in made.placements().items() if key.startswith("node/")]
    assert len(nodes) == len({document["address"] for document in nodes}) == 1000


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
