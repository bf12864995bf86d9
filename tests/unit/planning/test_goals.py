# SPDX-License-Identifier: AGPL-3.0-or-later
"""Goals: kept over a restart, known by their kind, undone."""

from __future__ import annotations

import json

import pytest

from odyssey.model import Snapshot
from odyssey.planning import (
    ApplyGoal,
    Goal,
    InventoryGoal,
    Settle,
    resolve,
    undo,
)
from odyssey.services.wish import (
    AddNodes,
    ApplyPlatform,
    RemoveNodes,
    RemovePlatform,
    ScaleNetwork,
    Wish,
)
from tests.unit.planning.worlds import (
    check,
    inventory,
    network,
    platform,
    running,
    shop,
    snapshot,
)


@pytest.mark.parametrize("wish", [ScaleNetwork("shop", "app", 4), ApplyPlatform(platform({"a": network(1)}, "b"))])
def test_goals_survive_a_restart(wish: Wish) -> None:
    goal = resolve(wish, running().state)
    assert Goal.from_json(json.loads(json.dumps(goal.to_json()))) == goal


def test_an_unknown_goal_is_named() -> None:
    with pytest.raises(ValueError, match="no goal of kind 'x'; there are: inventory, apply"):
        Goal.from_json({"kind": "x"})


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
