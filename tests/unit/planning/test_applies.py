# SPDX-License-Identifier: AGPL-3.0-or-later
"""Plans of a changed platform document by example."""

from __future__ import annotations

from odyssey.model.naming import CONTROLLER
from odyssey.planning import (
    PlanOptions,
    ScaleGoal,
    TransactionStep,
    plan,
    resolve,
)
from odyssey.services.wish import (
    AddNetwork,
    ApplyPlatform,
    RemoveNetwork,
    RemovePlatform,
    ScaleNetwork,
)
from tests.unit.planning.worlds import (
    check,
    network,
    opening,
    platform,
    refusal,
    running,
    shop,
    titles,
)


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
