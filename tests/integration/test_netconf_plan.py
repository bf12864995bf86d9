# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a plan tells of the settings of switches, beside what real NETCONF servers are then sent."""

from __future__ import annotations

from typing import Any

import pytest

from rdmp.rpc import RpcError
from tests.integration.netconf_world import Documents, World, transaction
from tests.netconf import samples

pytest_plugins = ["tests.integration.netconf_fixtures"]


async def test_what_is_foreseen_is_what_is_changed_and_asks_no_switch(world: World) -> None:
    async def foreseen(wish: Documents) -> dict[str, Any]:
        answer = await world.call("compile", {"changes": wish})
        assert answer["refusals"] == []
        return dict(answer["switches"])

    first = await foreseen(world.wish())
    assert world.board.dialled == 0
    assert all(told["add"] > 0 and told["change"] == told["remove"] == 0 for told in first.values())
    await world.carry_out(transaction("t1", world.wish()))
    other = world.wish({**samples.SHOP, 120: "shop-web", 140: "shop-cache"})
    second = await foreseen(other)
    lines = {name: [change["path"] for change in told["changes"]] for name, told in second.items()}
    for name, told in second.items():
        assert told["add"] > 0 and told["change"] > 0 and told["notes"] == []
        assert any("120" in path for path in lines[name]) and any("140" in path for path in lines[name])
    effect = await world.prepare(transaction("t2", other))
    assert effect.detail is not None
    assert effect.detail["switches"] == {name: len(told["changes"]) for name, told in second.items()}
    assert (await foreseen(other))["sw1"]["notes"] == ["the open transaction t2 holds it"]
    await world.commit(transaction("t2", other))
    world.servers["sw2"].cut()
    await world.participant.keeper.verify(mend=True)
    gone = await foreseen({"device/sw1": None, "device/sw2": other["device/sw2"]})
    assert gone["sw1"]["notes"] == ["is no longer configured, and left as it is"] and gone["sw1"]["changes"] == []
    assert gone["sw2"]["changes"] == [] and "not reachable" in gone["sw2"]["notes"][0]


async def test_a_plan_names_what_cannot_be_configured(world: World) -> None:
    wish = world.wish({300: "theirs"})
    answer = await world.call("compile", {"changes": wish})
    assert answer["switches"] == {}
    assert any(one["switch"] == "sw1" and "VLAN 300" in one["reason"] for one in answer["refusals"])
    with pytest.raises(RpcError, match="schema"):
        await world.call("compile", {"changes": {"device/sw1": {"vlans": 7}}})
