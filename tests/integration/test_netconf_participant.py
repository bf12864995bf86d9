# SPDX-License-Identifier: AGPL-3.0-or-later
"""NETCONF's part in transactions, over two switches: all or none, after every failure and restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from controller.netconf.changes import CommitError
from controller.netconf.session import RUNNING, NetconfError, SessionLostError
from controller.netconf.tree import canonical
from rdmp.participant import Refused
from tests.integration.netconf_world import World, transaction
from tests.netconf import samples

pytest_plugins = ["tests.integration.netconf_fixtures"]


async def test_a_vote_shows_nothing_and_a_commit_shows_all(world: World) -> None:
    tx = transaction("t1", world.wish())
    effect = await world.prepare(tx)
    assert set(effect.detail["switches"]) == {"sw1", "sw2"} and min(effect.detail["switches"].values()) > 0
    assert await world.holds(None)
    assert (await world.participant.status("t1"))["switches"] == {"sw1": True, "sw2": True}
    effect = await world.commit(tx)
    assert await world.holds(samples.SHOP)
    assert effect.degraded is None
    assert set(world.journal) == {"device/sw1", "device/sw2", "revision"}
    assert (await world.participant.observe())["revision"] == 1


async def test_an_abort_leaves_no_trace_and_no_lock(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    await world.abort(tx)
    assert await world.holds(None) and world.journal == {}
    for server in world.servers.values():
        session = server.session()
        session.lock(RUNNING)
        session.close()
    await world.abort(tx)
    await world.carry_out(transaction("t2", world.wish()))
    assert await world.holds(samples.SHOP)


async def test_the_same_again_sends_nothing(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    for server in world.servers.values():
        world.board.to(server).sent.clear()
    await world.carry_out(transaction("t2", world.wish()))
    for server in world.servers.values():
        assert set(world.board.to(server).sent) == {"get_config"}


async def test_a_commit_that_is_repeated_finds_what_it_did(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.carry_out(tx)
    await world.commit(tx)
    assert await world.holds(samples.SHOP)


async def test_one_switch_that_cannot_refuses_for_all(world: World) -> None:
    other = world.servers["sw2"].session()
    other.lock(RUNNING)
    tx = transaction("t1", world.wish())
    with pytest.raises(Refused, match=r"sw2: .* is locked"):
        await world.prepare(tx)
    await world.abort(tx)
    other.unlock(RUNNING)
    assert await world.holds(None)
    other.close()
    free = world.servers["sw1"].session()
    free.lock(RUNNING)
    free.close()


async def test_a_switch_that_is_away_refuses(world: World) -> None:
    world.servers["sw1"].cut()
    tx = transaction("t1", world.wish())
    with pytest.raises(Refused, match="sw1: cannot connect"):
        await world.prepare(tx)
    await world.abort(tx)
    world.servers["sw1"].start()
    await world.carry_out(transaction("t2", world.wish()))
    assert await world.holds(samples.SHOP)


async def test_a_failure_on_one_switch_reverts_the_others(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    tx = transaction("t2", world.wish(samples.WEB))
    await world.prepare(tx)
    wire = world.board.to(world.servers["sw2"])
    wire.lies = {"edit_config"}
    with pytest.raises(CommitError, match="sw2: the device said ok and did not do it"):
        await world.commit(tx)
    assert await world.holds(samples.SHOP)
    wire.lies = set()
    await world.commit(tx)
    assert await world.holds(samples.WEB)


async def test_a_session_lost_in_the_commit_of_one_switch_reverts_the_other(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    world.board.to(world.servers["sw1"]).before["commit"] = world.servers["sw1"].cut
    with pytest.raises(CommitError, match=r"sw1: .* lost"):
        await world.commit(tx)
    assert await world.holds(None, "sw2")
    world.servers["sw1"].start()
    assert await world.holds(None, "sw1")
    await world.commit(tx)
    assert await world.holds(samples.SHOP)


async def test_a_switch_that_is_away_at_commit_holds_up_all_before_anything_is_changed(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    world.servers["sw1"].cut()
    with pytest.raises(CommitError, match="sw1: cannot connect"):
        await world.commit(tx)
    assert await world.holds(None, "sw2")
    world.servers["sw1"].start()
    await world.commit(tx)
    assert await world.holds(samples.SHOP)


async def test_a_session_lost_before_the_confirming_commit_ends_with_all(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    world.board.to(world.servers["sw1"]).before["confirm"] = world.servers["sw1"].cut
    with pytest.raises(CommitError, match="sw1"):
        await world.commit(tx)
    world.servers["sw1"].start()
    await world.commit(tx)
    assert await world.holds(samples.SHOP)


async def test_a_restart_between_vote_and_decision_keeps_the_vote(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    await world.restart(tx)
    await world.commit(tx)
    assert await world.holds(samples.SHOP)


async def test_a_restart_between_vote_and_abort_leaves_nothing(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    await world.restart(tx)
    await world.abort(tx)
    assert await world.holds(None) and world.journal == {}


@pytest.mark.parametrize("moment", ["commit", "get_config", "confirm", "copy_config"])
async def test_a_restart_in_the_middle_of_a_commit_ends_with_all(world: World, moment: str) -> None:
    await world.carry_out(transaction("t1", world.wish(samples.WEB)))
    tx = transaction("t2", world.wish(), "admit")
    await world.prepare(tx)

    def die() -> None:
        raise SessionLostError("the process dies here")

    world.board.to(world.servers["sw1"]).before[moment] = die
    if moment == "copy_config":
        assert (await world.commit(tx)).degraded is not None
        world.journal = {key: value for key, value in world.journal.items() if key != "revision"}
    else:
        with pytest.raises(CommitError):
            await world.commit(tx)
    await world.restart(tx)
    effect = await world.commit(tx)
    assert effect.degraded is None
    assert await world.holds(samples.SHOP)
    for server in world.servers.values():
        server.stop()
        server.start()
    assert await world.holds(samples.SHOP)


async def test_what_two_transactions_want_of_one_switch_is_refused(world: World) -> None:
    await world.prepare(transaction("t1", world.wish()))
    with pytest.raises(Refused, match="sw1 is held by the open transaction t1"):
        await world.prepare(transaction("t2", {"device/sw1": world.wish()["device/sw1"]}))


async def test_a_newer_wish_takes_the_place_of_a_decided_one_that_cannot_be_carried_out(world: World) -> None:
    """Its switches are reserved until it is given up, so whoever begins a newer one has given it up."""
    wish = world.wish()
    assert wish["device/sw2"] is not None
    wish["device/sw2"]["owned"]["ports"].append("Port_9")  # this device says only when it is edited that it has none
    wish["device/sw2"]["ports"]["Port_9"] = {"description": "odyssey host h9 eth0", "trunk": [110]}
    stuck = transaction("t1", wish)
    await world.prepare(stuck)
    newer = {"device/sw2": world.wish()["device/sw2"]}
    with pytest.raises(Refused, match="sw2 is held by the open transaction t1"):
        await world.prepare(transaction("t2", newer))
    with pytest.raises(CommitError, match=r"sw2: .*Port_9"):
        await world.commit(stuck)
    observed = (await world.participant.observe())["switches"]
    assert observed["sw2"]["transaction"] == "t1" and "Port_9" in observed["sw2"]["problem"]
    assert ("netconf.unfinished", "t1") in [(topic, data.get("tx")) for topic, data in world.events]
    with pytest.raises(Refused, match="held by the open transaction t1"):
        await world.prepare(transaction("t0", newer))

    fixed = transaction("t3", newer)
    await world.prepare(fixed)
    with pytest.raises(CommitError, match="the open transaction t3 takes its place"):
        await world.commit(stuck)
    await world.abort(fixed)
    with pytest.raises(CommitError, match=r"sw2: .*Port_9"):
        await world.commit(stuck)
    fixed = transaction("t4", newer)
    await world.carry_out(fixed)
    assert await world.holds(samples.SHOP, "sw2") and await world.holds(None, "sw1")
    restarted = transaction("t1", wish, "admit")
    await world.restart(restarted)
    await world.commit(restarted)
    assert await world.holds(samples.SHOP)
    assert (await world.participant.observe())["open"] == []


async def test_a_switch_that_died_after_the_vote_can_leave(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    world.servers["sw2"].stop()
    with pytest.raises(CommitError, match="sw2: cannot connect"):
        await world.commit(tx)
    await world.carry_out(transaction("t2", {"device/sw2": None}))
    await world.commit(tx)
    assert await world.holds(samples.SHOP, "sw1")
    assert set(world.journal) == {"device/sw1", "revision"}


async def test_what_a_device_cannot_or_may_not_do_is_refused_before_anything_is_asked(world: World) -> None:
    wish = world.wish()
    assert wish["device/sw1"] is not None and wish["device/sw2"] is not None
    wish["device/sw1"]["vlans"]["300"] = "theirs"
    wish["device/sw1"]["ports"]["eth1/9"] = {"description": "theirs", "trunk": [110]}
    wish["device/sw1"]["controllers"] = [{"address": "192.0.2.1", "port": 6653}]
    wish["device/sw2"]["acls"] = {"hosts": []}
    with pytest.raises(Refused) as told:
        await world.prepare(transaction("t1", wish))
    for part in ("VLAN 300 is not among the owned", "eth1/9 is not owned", "OpenFlow agent", "no access lists"):
        assert part in told.value.reason
    with pytest.raises(Refused, match="does not match its schema"):
        await world.prepare(transaction("t1", {"device/sw1": {"profile": "openvswitch"}}))
    assert world.board.dialled == 0


async def test_a_switch_that_leaves_is_left_as_it_is(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    world.servers["sw2"].stop()
    await world.carry_out(transaction("t2", {"device/sw2": None}))
    assert "device/sw2" not in world.journal
    world.servers["sw2"].start()
    assert await world.holds(samples.SHOP)


async def test_a_switch_that_leaves_gets_its_session_back_and_may_come_again(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    wire = world.board.to(world.servers["sw2"])
    await world.carry_out(transaction("t2", {"device/sw2": None}))
    await until(lambda: not wire.connected)
    await world.carry_out(transaction("t3", world.wish(samples.WEB)))
    assert await world.holds(samples.WEB)


async def test_drift_is_told_once_and_mended(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    world.servers["sw2"].seed(
        '<vlans xmlns="http://openconfig.net/yang/vlan"><vlan><vlan-id>120</vlan-id><config><vlan-id>120</vlan-id>'
        "<name>hand-made</name></config></vlan></vlans>"
    )
    keeper = world.participant.keeper
    await keeper.verify(mend=False)
    await keeper.verify(mend=False)
    assert [topic for topic, _ in world.events] == ["netconf.drift"]
    assert any("shop-app" in line for line in world.events[0][1]["changes"])
    await keeper.verify(mend=True)
    assert await world.holds(samples.SHOP)
    assert world.events[-1][0] == "netconf.mended"
    await keeper.verify(mend=True)
    assert len(world.events) == 2


async def test_a_switch_that_is_away_is_told_once(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    world.servers["sw1"].cut()
    await world.participant.keeper.verify(mend=True)
    await world.participant.keeper.verify(mend=True)
    assert [(topic, data["switch"]) for topic, data in world.events] == [("netconf.failed", "sw1")]
    observed = (await world.participant.observe())["switches"]["sw1"]
    assert observed["connected"] is observed["reachable"] is False and "cannot connect" in observed["problem"]


async def test_a_session_that_a_switch_has_ended_is_made_anew_and_no_failure(world: World) -> None:
    await world.carry_out(transaction("t1", world.wish()))
    for _ in range(3):
        world.servers["sw1"].cut()
        world.servers["sw1"].start()
        await world.participant.keeper.verify(mend=True)
    assert world.events == []
    assert (await world.participant.observe())["switches"]["sw1"]["problem"] is None


async def test_what_a_vote_holds_is_held_again_after_a_lost_session(world: World) -> None:
    tx = transaction("t1", world.wish())
    await world.prepare(tx)
    for server in world.servers.values():
        server.cut()
        server.start()
    await until(lambda: not world.participant.device("sw1").held)
    keeping = asyncio.create_task(world.participant.keeper.keep(0.1, 60.0, mend=True))
    await until(lambda: all(world.participant.device(name).held for name in world.servers))
    other = world.servers["sw1"].session()
    with pytest.raises(NetconfError, match="locked"):
        other.lock(RUNNING)
    other.close()
    keeping.cancel()
    await world.commit(tx)
    assert await world.holds(samples.SHOP)


async def test_a_slow_switch_holds_up_neither_the_event_loop_nor_another_switch(world: World) -> None:
    world.board.on_connect = lambda wire: wire.before.update(
        {"lock": lambda: time.sleep(1.0)} if wire.inner.can(":candidate") else {}
    )
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    slow = asyncio.create_task(world.prepare(transaction("t1", {"device/sw1": world.wish()["device/sw1"]})))
    await world.carry_out(transaction("t2", {"device/sw2": world.wish()["device/sw2"]}))
    assert not slow.done()
    await slow
    ticking.cancel()
    assert ticks > 100


async def test_a_prepare_that_is_cancelled_leaves_no_lock(world: World) -> None:
    world.board.on_connect = lambda wire: wire.before.update({"edit_config": lambda: time.sleep(0.5)})
    tx = transaction("t1", world.wish())
    preparing = asyncio.create_task(world.prepare(tx))
    await until(lambda: any("lock" in wire.sent for wire in world.board.wires.values()))
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    await world.abort(tx)
    session = world.servers["sw1"].session()
    session.lock(RUNNING)
    assert "shop" not in canonical(session.get_config("candidate"))
    session.close()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)
