# SPDX-License-Identifier: AGPL-3.0-or-later
"""Backups, restores and questions: what operators do with a switch outside of transactions."""

from __future__ import annotations

import stat

import pytest

from controller.netconf.keeper import STEPS
from controller.netconf.session import RUNNING
from rdmp.participant import Json
from rdmp.rpc import RpcError
from tests.integration.netconf_world import World, transaction
from tests.netconf import samples

pytest_plugins = ["tests.integration.netconf_fixtures"]

HAND_MADE = (
    '<System xmlns="http://cisco.com/ns/yang/cisco-nx-os-device"><bd-items><bd-items><BD-list>'
    "<fabEncap>vlan-120</fabEncap><name>by-hand</name></BD-list></bd-items></bd-items></System>"
)


async def test_the_first_backup_stays_and_the_newest(world: World) -> None:
    for number in range(1, 8):
        await world.carry_out(transaction(f"t{number}", world.wish(samples.SHOP if number % 2 else samples.WEB)))
    folder = world.folder / "backups/sw1"
    files = sorted(folder.iterdir())
    assert len(files) == 4
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert "shop-web" not in files[0].read_text() and "shop-web" in files[1].read_text()


async def test_a_backup_is_restored_on_demand_and_stays_until_the_next_transaction(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish(samples.WEB)))
    await world.carry_out(transaction("t2", world.wish()))
    answer = await world.call("backups", {"switch": "sw2"})
    assert len(answer["backups"]) == 2
    first, second = answer["backups"]
    assert first["first"] and not second["first"] and second["bytes"] > 0
    asked = {"switch": "sw2", "backup": second["name"]}
    preview = await world.call("diff", asked)
    steps: list[Json] = []
    answer = await world.call("restore", asked, steps)
    assert answer["changes"] == preview["changes"] and answer["restored"] == second["name"]
    assert any(change["op"] == "-" and "vlan[120]" in change["path"] for change in answer["changes"])
    assert [step["text"] for step in steps] == [*STEPS] and {step["of"] for step in steps} == {len(STEPS)}
    assert await world.holds(samples.WEB, "sw2") and await world.holds(samples.SHOP, "sw1")
    await world.participant.keeper.verify(mend=True)
    assert await world.holds(samples.WEB, "sw2")
    assert (await world.call("diff", {"switch": "sw2"}))["changes"]
    await world.restart()
    await world.participant.keeper.verify(mend=True)
    assert await world.holds(samples.WEB, "sw2"), "it is left so over a restart too"
    await world.carry_out(transaction("t3", world.wish()))
    assert await world.holds(samples.SHOP)
    assert [topic for topic, _ in world.events] == ["netconf.restored", "netconf.drift", "netconf.drift"]
    assert (await world.participant.observe())["switches"]["sw2"]["restored"] is None


async def test_a_restored_switch_is_mended_on_demand_and_kept_so_again(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish(samples.WEB)))
    await world.carry_out(transaction("t2", world.wish()))
    listed = (await world.call("backups", {"switch": "sw1"}))["backups"]
    await world.call("restore", {"switch": "sw1", "backup": listed[1]["name"]}, [])
    assert await world.holds(samples.WEB, "sw1")
    assert (await world.participant.observe())["switches"]["sw1"]["drift"]
    answer = await world.call("mend", {"switch": "sw1"}, [])
    assert answer["saved"] is True and answer["changes"]
    assert await world.holds(samples.SHOP)
    assert world.participant.backups.restored == {}
    newest = (await world.call("backups", {"switch": "sw1"}))["backups"][-2]["name"]
    again = await world.call("restore", {"switch": "sw1", "backup": newest}, [])
    assert again["changes"] == [] and again["restored"] is None, "that one holds what was decided"


async def test_a_restore_that_fails_is_reverted_and_leaves_no_lock_and_no_mark(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish(samples.WEB)))
    await world.carry_out(transaction("t2", world.wish()))
    name = (await world.call("backups", {"switch": "sw1"}))["backups"][1]["name"]
    world.board.to(world.servers["sw1"]).lies = {"edit_config"}
    with pytest.raises(RpcError, match="sw1: the device said ok and did not do it") as told:
        await world.call("restore", {"switch": "sw1", "backup": name}, [])
    assert told.value.code == "failed"
    assert await world.holds(samples.SHOP) and world.participant.backups.restored == {}
    session = world.servers["sw1"].session()
    session.lock(RUNNING)
    session.lock("candidate")
    session.close()


async def test_a_backup_that_cannot_be_written_changes_nothing_and_holds_nothing(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    folder = world.folder / "backups/sw1"
    kept = folder.rename(folder.with_name("elsewhere"))
    folder.write_text("in the way")
    world.servers["sw1"].seed(HAND_MADE)
    await world.participant.keeper.verify(mend=True)
    assert world.events[-1][0] == "netconf.failed" and "cannot be backed up" in world.events[-1][1]["reason"]
    session = world.servers["sw1"].session()
    session.lock("candidate")
    session.close()
    folder.unlink()
    kept.rename(folder)
    await world.participant.keeper.verify(mend=True)
    assert await world.holds(samples.SHOP)


async def test_a_switch_that_a_vote_holds_is_not_restored(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish(samples.WEB)))
    await world.prepare(transaction("t2", world.wish()))
    observed = (await world.participant.observe())["switches"]["sw1"]
    assert observed["transaction"] == "t2" and observed["held"] is True
    name = (await world.call("backups", {"switch": "sw1"}))["backups"][0]["name"]
    with pytest.raises(RpcError, match="held by the open transaction t2") as told:
        await world.call("restore", {"switch": "sw1", "backup": name}, [])
    assert told.value.code == "busy"
    await world.abort(transaction("t2", world.wish()))


async def test_questions_that_cannot_be_answered_say_why(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    for method, params, reason in (
        ("diff", {"switch": "sw9"}, "switches that are: sw1, sw2"),
        ("restore", {"switch": "sw1", "backup": "../../x"}, "there is no backup"),
        ("reboot", {}, "no method 'reboot'"),
    ):
        with pytest.raises(RpcError, match=reason):
            await world.call(method, params)
    sw1 = (await world.call("devices", {}))["switches"]["sw1"]
    assert sw1["connected"] and sw1["reachable"] and sw1["problem"] is None and sw1["verified"]
    assert {"candidate:1.0", "confirmed-commit:1.1", "startup:1.0"} <= set(sw1["capabilities"])
