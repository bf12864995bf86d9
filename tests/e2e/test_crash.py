# SPDX-License-Identifier: AGPL-3.0-or-later
"""Any daemon is killed at any point of an addNode: nothing is half done, and the repeated call adds one node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from odyssey.demo import crash
from odyssey.demo.crash import Attempt, Moment, Strike
from odyssey.demo.observe import WORKLOAD
from odyssey.demo.world import World, until
from tests.e2e.switches import ofctl

AGENT = "agent"
COLD = "lb"  # a network without standby nodes: its addNode has to start a container before it can be admitted


def accepted(victim: str) -> Moment:
    """odysseyd has the call; nothing has been done yet."""

    async def moment(attempt: Attempt) -> str:
        await attempt.line(r"plan: ")
        return "agent-h1" if victim == AGENT else victim

    return moment


def container_appeared(victim: str) -> Moment:
    """An agent is in the middle of its prepare."""

    async def moment(attempt: Attempt) -> str:
        host = await attempt.new_container()
        return f"agent-{host}" if victim == AGENT else victim

    return moment


def voted(victim: str) -> Moment:
    """The agent with the new node has voted; the controller is held so that there is no decision yet."""

    async def moment(attempt: Attempt) -> str:
        async with crash.frozen(attempt.world, "controller"):
            host = await attempt.new_container()
            await attempt.line(rf"\b{host} yes\b")
            daemon = f"agent-{host}" if victim == AGENT else victim
            await attempt.world.kill(daemon)
        return daemon

    return moment


def decided(victim: str) -> Moment:
    """It is decided, and the controller, which has voted and is held, has not admitted the node yet."""

    async def moment(attempt: Attempt) -> str:
        await attempt.line(r"\bcontroller yes\b")
        async with crash.frozen(attempt.world, "controller"):
            host = await attempt.new_container()
            await attempt.line(r"\bcommitted\b")
            daemon = f"agent-{host}" if victim == AGENT else victim
            await attempt.world.kill(daemon)
        return daemon

    return moment


MOMENTS = {
    "the call is accepted": accepted,
    "the container appeared": container_appeared,
    "the agent has voted": voted,
    "it is decided and not admitted": decided,
}


@pytest.mark.parametrize("victim", ["odysseyd", "controller", AGENT])
@pytest.mark.parametrize("moment", list(MOMENTS))
async def test_a_kill_leaves_nothing_half_done(
    shop: World, moment: str, victim: str, record_property: Callable[[str, object], None]
) -> None:
    result = await crash.strike(shop, COLD, f"when {moment}", MOMENTS[moment](victim))
    record_property("outcome", f"{result}; recovered in {result.recovered_seconds:.1f} s")

    assert result.findings == ()
    assert_decision_kept(moment, result)


def assert_decision_kept(moment: str, result: Strike) -> None:
    """A decision is final, a yes vote binds across a restart, and what was not decided is aborted."""
    wanted = {
        ("the agent has voted", AGENT): "committed",
        ("the agent has voted", "odysseyd"): "aborted",
        ("it is decided and not admitted", AGENT): "committed",
        ("it is decided and not admitted", "controller"): "committed",
        ("it is decided and not admitted", "odysseyd"): "committed",
    }
    victim = AGENT if result.victim.startswith(AGENT) else result.victim
    assert result.decision == wanted.get((moment, victim), result.decision)


async def test_an_agent_that_restarts_adopts_what_runs(shop: World) -> None:
    before = {(item.id, item.started) for item in await shop.node_containers()}
    for agent in shop.agents:
        await shop.kill(agent)
    await shop.start(*shop.agents)
    await shop.settled()
    assert {(item.id, item.started) for item in await shop.node_containers()} == before


async def test_the_controller_that_restarts_leaves_the_entries_as_they_are(shop: World) -> None:
    before = await shop.flows()
    await shop.kill("controller")
    await shop.start("controller")
    await shop.settled()
    after = await shop.flows()
    assert {(flow.switch, flow.cookie, flow.rule) for flow in before} == {
        (flow.switch, flow.cookie, flow.rule) for flow in after
    }


async def test_a_kill_while_a_standby_node_is_admitted(shop: World) -> None:
    result = await crash.strike(shop, "app", "when it is decided", crash.decided)

    assert result.findings == ()
    assert "committed" in result.decision


async def test_odysseyd_that_is_stopped_in_an_orderly_way_comes_back(shop: World) -> None:
    await shop.stop("odysseyd")
    assert (await shop.ctl("--reconnect", "0", "status", check=False)).code != 0
    await shop.start("odysseyd")
    await shop.settled()


async def test_a_repeated_call_id_is_the_same_call(shop: World) -> None:
    first = await shop.ctl("node", "add", f"{shop.platform}/app", "--id", "e2e-same")
    nodes = await shop.nodes("app")
    again = await shop.ctl("node", "add", f"{shop.platform}/app", "--id", "e2e-same")
    assert first.code == again.code == 0
    assert await shop.nodes("app") == nodes
    other = await shop.ctl("network", "scale", f"{shop.platform}/app", "4", "--id", "e2e-same", check=False)
    assert other.code != 0
    assert "e2e-same" in other.err


async def test_a_switch_that_loses_its_entries_gets_them_back(shop: World) -> None:
    """The controller restores its committed intent by itself, without a transaction."""
    before = {(flow.switch, flow.rule) for flow in await shop.flows()}
    for switch in shop.lab.switches:
        await ofctl(shop, switch, "del-flows")

    async def restored() -> bool:
        return {(flow.switch, flow.rule) for flow in await shop.flows()} == before

    await shop.kill("controller")
    await shop.start("controller")
    await until(restored, 30.0, lambda: "the switches do not hold the same entries again")


async def test_a_stopped_workload_is_started_again_by_its_agent_or_engine(shop: World) -> None:
    victim = next(item for item in await shop.node_containers() if item.role == WORKLOAD and "-app-" in item.node)
    os.kill(victim.pid, signal.SIGKILL)

    async def back() -> bool:
        found = [item for item in await shop.node_containers() if (item.node, item.role) == (victim.node, WORKLOAD)]
        return len(found) == 1 and found[0].id == victim.id and found[0].running and found[0].pid not in (0, victim.pid)

    await until(back, 30.0, lambda: f"{victim.node} does not run again")
