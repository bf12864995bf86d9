# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyd with several controllers in memory: who leads, who takes part, and what one that dies holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from odyssey.orchestrator.appointment import EPOCH_BITS
from rdmp.rpc import RpcError
from tests.integration.orchestra import INVENTORY, PLATFORM, Orchestra

FIRST, SECOND = "controller", "controller-2"


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
    """Wait until a condition holds; it may be a coroutine function."""
    try:
        async with asyncio.timeout(seconds):
            while not (await found if asyncio.iscoroutine(found := condition()) else found):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


@pytest.fixture
async def orchestra(tmp_path: Path) -> AsyncIterator[Orchestra]:
    whole = Orchestra(tmp_path, controllers=(FIRST, SECOND))
    whole.rdmp |= {"stage_wait": 10.0}
    await whole.start()
    await whole.join()
    await in_step(whole, FIRST, SECOND)
    await leading(whole, FIRST, SECOND)
    await whole.serve("setInventory", "inventory", {"document": INVENTORY})
    answer = await whole.serve("addPlatform", "shop", {"document": PLATFORM})
    assert answer["state"] == "done", answer
    yield whole
    await whole.leave()
    await whole.stop()


async def leading(orchestra: Orchestra, *names: str) -> dict[str, Any]:
    """Wait until one of these leads and says so; returns the appointment."""

    async def leads() -> bool:
        status = await orchestra.ask("status")
        leader = status["leader"]
        rows = {row["name"]: row for row in status["controllers"]}
        return leader is not None and leader["name"] in names and rows.get(leader["name"], {}).get("leads", False)

    await eventually(leads, f"one of {names} leads")
    return dict((await orchestra.ask("status"))["leader"])


async def in_step(orchestra: Orchestra, *names: str) -> None:
    async def all_in_step() -> bool:
        rows = (await orchestra.ask("status"))["controllers"]
        return {row["name"] for row in rows if row["inStep"]} == set(names)

    await eventually(all_in_step, f"{names} are in step")


def app(count: int) -> dict[str, Any]:
    return {"platform": "shop", "Network": {"name": "app", "Node": {"count": count}}}


async def test_one_leads_and_all_take_part(orchestra: Orchestra) -> None:
    leader = await leading(orchestra, FIRST, SECOND)
    epoch = (await orchestra.ask("status"))["epoch"]
    assert leader["generation"] == epoch << EPOCH_BITS
    first, second = (orchestra.members[name] for name in (FIRST, SECOND))
    assert [first.leads, second.leads].count(True) == 1
    assert first.documents == second.documents and first.documents["binding/shop-app-1"]["phase"] == "admitted"
    show = await orchestra.ask("tx.show", id="shop.1")
    assert {FIRST, SECOND} <= set(show["participants"])


async def test_another_one_leads_when_the_leader_is_gone(orchestra: Orchestra) -> None:
    leader = await leading(orchestra, FIRST, SECOND)
    other = SECOND if leader["name"] == FIRST else FIRST
    await orchestra.leave(leader["name"])
    after = await leading(orchestra, other)
    assert after["generation"] == leader["generation"] + 1
    answer = await orchestra.serve("addNode", "more", app(1))
    assert answer["state"] == "done", answer
    assert leader["name"] not in (await orchestra.ask("tx.show", id="more.1"))["participants"]
    await orchestra.join(leader["name"])
    await in_step(orchestra, FIRST, SECOND)
    assert orchestra.members[FIRST].documents == orchestra.members[SECOND].documents
    assert not orchestra.members[leader["name"]].leads, "who comes back follows"
    assert (await orchestra.ask("status"))["leader"] == after


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_controller_that_dies_after_its_vote_holds_nothing_up(orchestra: Orchestra, role: str) -> None:
    leader = (await leading(orchestra, FIRST, SECOND))["name"]
    follower = SECOND if leader == FIRST else FIRST
    victim, survivor = (leader, follower) if role == "leader" else (follower, leader)
    for member in orchestra.members.values():
        if member.name.startswith("h"):
            member.gates["prepare"] = asyncio.Event()
    call = asyncio.create_task(orchestra.serve("addNode", "more", app(3)))
    try:
        voted = orchestra.members[victim].seen
        await eventually(lambda: ("more.1", "prepare", "") in voted, "the controllers have voted")
        await asyncio.sleep(0.1)
        await orchestra.leave(victim)
    finally:
        for member in orchestra.members.values():
            for gate in member.gates.values():
                gate.set()
            member.gates.clear()
    answer = await asyncio.wait_for(call, 20)
    assert answer["state"] == "done", answer
    await leading(orchestra, survivor)
    await orchestra.join(victim)
    await in_step(orchestra, FIRST, SECOND)
    assert orchestra.members[FIRST].documents == orchestra.members[SECOND].documents
    transactions = (await orchestra.ask("tx.list"))["transactions"]
    assert all(one["finished"] for one in transactions)


async def test_a_controller_that_dies_in_a_stage_is_not_waited_for(orchestra: Orchestra) -> None:
    leader = (await leading(orchestra, FIRST, SECOND))["name"]
    other = SECOND if leader == FIRST else FIRST
    victim = orchestra.members[leader]
    victim.gates["admit"] = asyncio.Event()
    call = asyncio.create_task(orchestra.serve("addNode", "more", app(3)))
    await asyncio.wait_for(victim.reached.wait(), 10)
    await orchestra.leave(leader)
    answer = await asyncio.wait_for(call, 20)
    assert answer["state"] == "done", answer
    await leading(orchestra, other)
    degraded = [one for one in (await orchestra.ask("tx.list"))["transactions"] if one.get("degraded")]
    assert len(degraded) == 1 and leader in degraded[0]["degraded"]
    assert f"away while {other} leads" in degraded[0]["degraded"][leader]
    victim.gates.clear()
    await orchestra.join(leader)
    await in_step(orchestra, FIRST, SECOND)
    assert orchestra.members[FIRST].documents == orchestra.members[SECOND].documents


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_controller_that_dies_before_its_vote_costs_one_more_attempt(orchestra: Orchestra, role: str) -> None:
    leader = (await leading(orchestra, FIRST, SECOND))["name"]
    follower = SECOND if leader == FIRST else FIRST
    victim = orchestra.members[leader if role == "leader" else follower]
    victim.gates["prepare"] = asyncio.Event()
    call = asyncio.create_task(orchestra.serve("addNode", "more", app(1)))
    await asyncio.wait_for(victim.reached.wait(), 10)
    await orchestra.leave(victim.name)
    answer = await asyncio.wait_for(call, 20)
    assert answer["state"] == "done", answer
    states = [one["state"] for one in answer["transactions"]]
    assert states[0] == "aborted" and set(states[1:]) == {"committed"}
    survivor = orchestra.members[follower if role == "leader" else leader]
    assert survivor.leads
    victim.gates.clear()
    await orchestra.join(victim.name)
    await in_step(orchestra, FIRST, SECOND)


async def test_a_lost_journal_is_repaired_before_its_owner_may_lead(orchestra: Orchestra) -> None:
    leader = (await leading(orchestra, FIRST, SECOND))["name"]
    other = SECOND if leader == FIRST else FIRST
    await orchestra.leave(FIRST, SECOND)
    lost = orchestra.members[leader]
    expected, lost.documents, lost.leads, lost.generation = lost.documents, {}, False, 0
    (orchestra.folder / "members" / leader / "journal.db").unlink()
    await orchestra.join(leader)
    assert not lost.leads
    await leading(orchestra, leader)
    assert lost.documents == expected, "it was brought up to date first"
    syncs = [one for one in (await orchestra.ask("tx.list"))["transactions"] if one["id"].startswith("sync-")]
    assert [list(one["participants"]) for one in syncs] == [[leader]]
    await orchestra.join(other)
    await in_step(orchestra, FIRST, SECOND)
    answer = await orchestra.serve("addNode", "more", app(1))
    assert answer["state"] == "done", answer


async def test_documents_that_nobody_decided_are_removed(orchestra: Orchestra) -> None:
    leader = (await leading(orchestra, FIRST, SECOND))["name"]
    stale = orchestra.members[SECOND if leader == FIRST else FIRST]
    stale.documents["binding/ghost"] = {"phase": "admitted"}
    await eventually(lambda: "binding/ghost" not in stale.documents, "the ghost is gone")
    await in_step(orchestra, FIRST, SECOND)


async def test_a_restarted_orchestrator_appoints_the_same_one_under_its_epoch(orchestra: Orchestra) -> None:
    before = await leading(orchestra, FIRST, SECOND)
    await orchestra.stop()
    await orchestra.start()
    after = await leading(orchestra, FIRST, SECOND)
    assert after["name"] == before["name"]
    assert after["generation"] == (await orchestra.ask("status"))["epoch"] << EPOCH_BITS > before["generation"]


async def test_a_leader_that_a_switch_refused_is_appointed_anew(orchestra: Orchestra) -> None:
    before = await leading(orchestra, FIRST, SECOND)
    leader = orchestra.members[before["name"]]
    leader.leads, leader.generation = False, before["generation"] + 70
    await eventually(lambda: leader.leads, "it leads again")
    assert leader.generation == before["generation"] + 71


async def test_without_a_controller_a_call_is_refused_in_words(orchestra: Orchestra) -> None:
    await orchestra.leave(FIRST, SECOND)
    with pytest.raises(RpcError) as caught:
        await orchestra.serve("addNode", "more", app(1))
    assert "the controller to be connected" in str(caught.value.faults)
