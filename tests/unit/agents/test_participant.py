# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agents.driver import NodeError, NodeEvent, NodeFacts
from agents.participant import AgentLimits, AgentParticipant
from rdmp.participant import Effect, Refused, Transaction
from rdmp.rpc import RpcError
from tests.unit.agents.documents import document, neighbours, operation, spec
from tests.unit.agents.fake_driver import FakeDriver

HEALTH = {"type": "tcp", "port": 80, "interval": 0.01, "deadline": 0.05}


class Stage:
    """A participant on a host in memory."""

    def __init__(self, driver: FakeDriver, state: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.driver = driver
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.told = asyncio.Event()
        self.participant = AgentParticipant(driver, "h1", self._publish, AgentLimits(parallel_starts=2))
        self.state: dict[str, Mapping[str, Any] | None] = dict(state or {})
        self.seq = 0

    async def _publish(self, topic: str, data: Mapping[str, Any]) -> None:
        self.events.append((topic, data))
        self.told.set()

    def tx(self, name: str, body: Mapping[str, Any]) -> Transaction:
        self.seq += 1
        return Transaction(name, self.seq, 1, body, 10.0)

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        effect = await self.participant.commit(tx, stage)
        self.state.update(effect.state)
        return effect

    async def add(self, name: str, node: str = "shop-app-3", **changes: Any) -> Effect:
        tx = self.tx(name, operation([document(node, **changes)], admit={"nodes": [node]}))
        await self.participant.prepare(tx)
        return await self.commit(tx, "admit")


@pytest.fixture
def stage() -> Stage:
    return Stage(FakeDriver())


async def test_a_transaction_without_nodes_is_prepared_at_once(stage: Stage) -> None:
    assert await stage.participant.prepare(stage.tx("t1", operation(stop={"nodes": ["a-b-1"]}))) == Effect()


async def test_an_operation_that_is_not_valid_is_refused_with_every_fault(stage: Stage) -> None:
    body = operation([document(mtu=1, nics=[])])
    with pytest.raises(Refused) as caught:
        await stage.participant.prepare(stage.tx("t1", body))
    assert caught.value.detail is not None and len(caught.value.detail["faults"]) == 2
    assert await stage.participant.abort(stage.tx("t1", body)) == Effect()


async def test_reasons_of_the_host_are_refused_together(stage: Stage) -> None:
    stage.driver.reasons = ["no image", "no NIC"]
    with pytest.raises(Refused, match="host h1: no image; no NIC"):
        await stage.participant.prepare(stage.tx("t1", operation([document()])))


async def test_starts_are_bounded(stage: Stage) -> None:
    body = operation([document(f"shop-app-{number}") for number in range(6)])
    await stage.participant.prepare(stage.tx("t1", body))
    assert stage.driver.most_at_once == 2 and len(stage.driver.standing) == 6


async def test_one_failure_ends_the_other_starts(stage: Stage) -> None:
    stage.driver.fails["shop-app-1"] = "no space left"
    body = operation([document("shop-app-1"), document("shop-app-2", health={**HEALTH, "deadline": 60})])
    stage.driver.unhealthy.add("shop-app-2")
    with pytest.raises(Refused, match="node shop-app-1 on host h1: no space left"):
        await stage.participant.prepare(stage.tx("t1", body))


async def test_a_node_that_is_not_healthy_is_refused_with_its_log(stage: Stage) -> None:
    stage.driver.unhealthy.add("shop-app-3")
    with pytest.raises(Refused, match=r"within 0.05 s; the last check: checked; its last log lines:\na line"):
        await stage.participant.prepare(stage.tx("t1", operation([document(health=HEALTH)])))


async def test_a_cancelled_prepare_ends_its_starts(stage: Stage) -> None:
    stage.driver.gate = asyncio.Event()
    task = asyncio.create_task(stage.participant.prepare(stage.tx("t1", operation([document()]))))
    await asyncio.sleep(0)
    while not stage.driver.running_at_once:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.driver.running_at_once == 0


async def test_a_held_name_is_waited_for_and_then_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.participant.NAME_POLL", 0.001)
    monkeypatch.setattr("agents.participant.NAME_WAIT", 0.02)
    stage.driver.standing["shop-app-3"] = NodeFacts("running", "c", "s", None, "t0")
    with pytest.raises(Refused, match="belongs to transaction t0"):
        await stage.participant.prepare(stage.tx("t1", operation([document()])))
    monkeypatch.setattr("agents.participant.NAME_WAIT", 60.0)
    waiting = asyncio.create_task(stage.participant.prepare(stage.tx("t2", operation([document()]))))
    await asyncio.sleep(0.01)
    await stage.participant.abort(stage.tx("t0", operation([document()])))
    await waiting
    assert stage.driver.standing["shop-app-3"].tx == "t2"


async def test_admission_makes_the_state_document(stage: Stage) -> None:
    effect = await stage.add("t1")
    assert effect.degraded is None
    assert stage.state["node/shop-app-3"] == {"spec": document(), "phase": "admitted", "tx": "t1"}
    assert stage.state["agent/revision"] == {"seq": 1}
    with pytest.raises(Refused, match="node shop-app-3 runs on host h1 already, from transaction t1"):
        await stage.participant.prepare(stage.tx("t2", operation([document()])))


async def test_a_node_that_died_after_the_vote_is_committed_and_told(stage: Stage) -> None:
    stage.driver.mends["shop-app-3"] = ["started the workload, which was exited (1)"]
    effect = await stage.add("t1")
    assert effect.degraded == (
        "node shop-app-3 did not stand as it was prepared: started the workload, which was exited (1)"
    )
    stage.driver.fails["shop-app-4"] = "no sandbox"
    tx = stage.tx("t2", operation([document("shop-app-4")], admit={"nodes": ["shop-app-4", "shop-app-5"]}))
    effect = await stage.commit(tx, "admit")
    assert effect.degraded == "node shop-app-4: no sandbox; node shop-app-5 is not on host h1"
    assert "node/shop-app-4" in effect.state and "node/shop-app-5" not in effect.state


async def test_neighbours_change_the_state_document(stage: Stage) -> None:
    await stage.add("t1", neighbours=neighbours("shop-app-3", 3))
    files = {"shop-app-3": neighbours("shop-app-3", 5), "shop-app-9": neighbours("shop-app-9", 1)}
    effect = await stage.commit(stage.tx("t2", operation(neighbours={"files": files})), "neighbours")
    assert effect.degraded == "node shop-app-9 is not on host h1"
    assert stage.driver.neighbours_told == [("shop-app-3", 5)]
    document_now = stage.state["node/shop-app-3"]
    assert document_now is not None and document_now["spec"]["neighbours"]["revision"] == 5
    late = {"shop-app-3": neighbours("shop-app-3", 4)}
    effect = await stage.commit(stage.tx("t3", operation(neighbours={"files": late})), "neighbours")
    assert effect.degraded is None and len(stage.driver.neighbours_told) == 1


async def test_a_stop_that_fails_is_raised_and_nobody_brings_the_node_back(stage: Stage) -> None:
    await stage.add("t1")
    stage.driver.fails["shop-app-3"] = "the engine does not answer"
    tx = stage.tx("t2", operation(stop={"nodes": ["shop-app-3"]}))
    with pytest.raises(NodeError):
        await stage.commit(tx, "stop")
    stage.driver.fails.clear()
    stage.driver.kept.clear()
    await stage.participant.restorer.restore()
    assert stage.driver.kept == set()
    effect = await stage.commit(tx, "stop")
    assert effect.state["node/shop-app-3"] is None and stage.driver.standing == {}


async def test_nics_to_be_avoided_are_committed_state(stage: Stage) -> None:
    body = operation(prefer={"avoid": ["eth1"]})
    tx = stage.tx("t1", body)
    assert await stage.participant.prepare(tx) == Effect()
    effect = await stage.commit(tx, "prefer")
    assert effect.degraded is None and stage.driver.avoided == [("eth1",)]
    assert (await stage.participant.observe())["avoid"] == ["eth1"]
    other = Stage(FakeDriver())
    await other.participant.restore({key: value for key, value in stage.state.items() if value is not None}, [])
    assert other.driver.avoided == [("eth1",)]
    await other.commit(other.tx("t2", operation(prefer={"avoid": []})), "prefer")
    assert other.driver.avoided[-1] == () and other.state["agent/prefer"] == {"avoid": []}


async def test_a_node_that_did_not_follow_degrades_the_stage(stage: Stage) -> None:
    stage.driver.not_rerouted = {"shop-app-3": "ip failed"}
    effect = await stage.commit(stage.tx("t1", operation(prefer={"avoid": ["eth1"]})), "prefer")
    assert effect.degraded == "node shop-app-3: ip failed"
    assert effect.state["agent/prefer"] == {"avoid": ["eth1"]}


async def test_a_promotion_is_the_drivers_affair_only_where_the_nics_wait_for_it(stage: Stage) -> None:
    for number, link in ((3, "admitted"), (4, "up")):
        name = f"shop-app-{number}"
        tx = stage.tx(f"t{number}", operation([document(name, link=link)], admit={"standby": [name]}))
        await stage.participant.prepare(tx)
        await stage.commit(tx, "admit")
    assert stage.driver.phases == {"shop-app-3": "standby", "shop-app-4": "standby"}
    stage.driver.mends["shop-app-3"] = ["fab0 was down"]
    effect = await stage.commit(
        stage.tx("t9", operation(admit={"nodes": ["shop-app-3", "shop-app-4"]})), "admit"
    )  # fmt: skip
    assert effect.degraded is None
    assert stage.driver.phases == {"shop-app-3": "admitted", "shop-app-4": "standby"}
    await stage.participant.restorer.restore()
    assert stage.driver.phases == {"shop-app-3": "admitted", "shop-app-4": "admitted"}


async def test_an_unknown_stage_is_an_error(stage: Stage) -> None:
    with pytest.raises(ValueError, match="no stage 'retire'"):
        await stage.commit(stage.tx("t1", operation()), "retire")


async def test_an_abort_leaves_committed_nodes_alone(stage: Stage) -> None:
    await stage.add("t1")
    await stage.participant.abort(stage.tx("t1", operation([document()])))
    assert "shop-app-3" in stage.driver.standing


async def test_what_comes_after_an_abort_is_removed(stage: Stage) -> None:
    await stage.participant.abort(stage.tx("t1", operation([document()])))
    stage.driver.standing["shop-app-3"] = NodeFacts("running", "c", "s", None, "t1")
    stage.driver.standing["shop-app-4"] = NodeFacts("running", "c", "s", None, "t9")
    await stage.participant.restorer.restore()
    assert set(stage.driver.standing) == {"shop-app-4"}


async def test_what_comes_after_an_abort_is_removed_by_the_next_agent_too(stage: Stage) -> None:
    """The agent was killed in a start, aborted it in its next life, and is killed again before the engine was done."""
    aborted = await stage.participant.abort(stage.tx("t1", operation([document()])))
    other = Stage(FakeDriver())
    await other.participant.restore({key: value for key, value in aborted.state.items() if value is not None}, [])
    other.driver.standing["shop-app-3"] = NodeFacts("running", "c", "s", None, "t1")
    await other.participant.restorer.restore()
    assert not other.driver.standing


async def test_a_restart_restores_what_was_committed(stage: Stage) -> None:
    await stage.add("t1")
    state = {key: value for key, value in stage.state.items() if value is not None}
    other = Stage(FakeDriver())
    await other.participant.restore(state, [other.tx("t2", operation([document("shop-app-4")]))])
    await other.participant.restorer.restore()
    assert other.driver.kept == {"shop-app-3"}
    observed = await other.participant.observe()
    assert observed["revision"] == 1
    assert observed["nodes"]["shop-app-3"]["phase"] == "admitted"


async def test_a_node_whose_stop_has_begun_is_not_brought_back_by_the_next_agent(stage: Stage) -> None:
    await stage.add("t1")
    await stage.add("t2", "shop-app-4")
    state = {key: value for key, value in stage.state.items() if value is not None}
    other = Stage(FakeDriver())
    stop = other.tx("t3", operation(stop={"nodes": ["shop-app-3"]}))
    await other.participant.restore(state, [replace(stop, stage="stop")])
    await other.participant.restorer.restore()
    assert other.driver.kept == {"shop-app-4"}
    await other.commit(stop, "stop")
    assert other.state["node/shop-app-3"] is None


async def test_the_restoring_loop_tells_failures_once_and_recoveries(stage: Stage) -> None:
    await stage.add("t1")
    restorer = stage.participant.restorer
    stage.driver.fails["shop-app-3"] = "no image"
    await restorer.restore()
    await restorer.restore()
    assert stage.events == [("node.failed", {"node": "shop-app-3", "host": "h1", "reason": "no image"})]
    assert (await stage.participant.observe())["nodes"]["shop-app-3"]["faults"] == ["no image"]
    stage.driver.fails.clear()
    stage.driver.mends["shop-app-3"] = ["made the workload"]
    await restorer.restore()
    assert stage.events[1] == (
        "node.restored", {"node": "shop-app-3", "host": "h1", "actions": ["made the workload"]},
    )  # fmt: skip
    stage.driver.unhealthy.add("shop-app-3")
    await restorer.restore()
    assert (await stage.participant.observe())["nodes"]["shop-app-3"]["healthy"] is False


async def test_an_engine_that_cannot_be_asked_is_no_failure_of_its_nodes(stage: Stage) -> None:
    await stage.add("t1")
    stage.driver.unreachable = True
    await stage.participant.restorer.restore()
    stage.driver.unreachable = False
    assert stage.events == []
    assert (await stage.participant.observe())["nodes"]["shop-app-3"]["healthy"] is None


async def test_the_loop_looks_at_all_at_the_start_and_then_at_what_died(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.restore.SETTLE_SECONDS", 0.0)
    await stage.add("t1", "shop-app-1")
    await stage.add("t2", "shop-app-2")
    stage.driver.kept.clear()
    running = asyncio.create_task(stage.participant.restorer.run())

    async def kept(*names: str) -> None:
        async with asyncio.timeout(5):
            while stage.driver.kept != set(names):
                await asyncio.sleep(0.001)
        stage.driver.kept.clear()

    await kept("shop-app-1", "shop-app-2")
    stage.participant.restorer.wake("shop-app-2")
    await kept("shop-app-2")
    stage.participant.restorer.wake()
    await kept("shop-app-1", "shop-app-2")
    running.cancel()


async def test_deaths_of_committed_nodes_are_told(stage: Stage) -> None:
    await stage.add("t1")
    following = asyncio.create_task(stage.participant.restorer.follow())
    for event in (
        NodeEvent("died", "shop-app-4", False, 1),  # not committed
        NodeEvent("started", "shop-app-3"),  # a start that follows no death
        NodeEvent("died", "shop-app-3", True, 137),  # the sandbox: the loop's affair
        NodeEvent("died", "shop-app-3", False, 137),
        NodeEvent("started", "shop-app-3"),
    ):
        stage.driver.queue.put_nowait(event)
    while len(stage.events) < 2:
        stage.told.clear()
        await asyncio.wait_for(stage.told.wait(), 5)
    following.cancel()
    assert stage.events == [
        ("node.died", {"node": "shop-app-3", "host": "h1", "exitCode": 137}),
        ("node.restarted", {"node": "shop-app-3", "host": "h1"}),
    ]


async def test_calls(stage: Stage) -> None:
    async def ignore(data: Mapping[str, Any]) -> None: ...

    call = stage.participant.call
    assert await call("connections", {"nodes": ["a-b-1"]}, ignore) == {"a-b-1": {"inbound": 2, "outbound": 1}}
    assert await call("logs", {"node": "a-b-1"}, ignore) == {"text": "a line\n"}
    assert await call("images", {"references": ["x:1"]}, ignore) == {"x:1": None}
    for method, params, path in (
        ("connections", {}, "$.nodes"),
        ("images", {"references": [1]}, "$.references"),
        ("logs", {"node": ""}, "$.node"),
        ("logs", {"node": "a", "tail": 100_000}, "$.tail"),
    ):
        with pytest.raises(RpcError) as caught:
            await call(method, params, ignore)
        assert caught.value.faults[0].path == path
    with pytest.raises(RpcError, match="an agent has no method 'exec'"):
        await call("exec", {}, ignore)


def test_specs_compare_by_what_they_ask_for() -> None:
    assert spec() == spec() and spec() != spec(mtu=1400)
