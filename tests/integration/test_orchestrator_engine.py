# SPDX-License-Identifier: AGPL-3.0-or-later
"""The engine on a real store, with transactions that abort or stay open as a test says, and hosts that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from odyssey.config import OrchestratorLimits
from odyssey.model.naming import CONTROLLER
from odyssey.orchestrator.calls import PREFIX, CallBook
from odyssey.orchestrator.engine import Engine
from odyssey.orchestrator.settle import Settler
from odyssey.planning import TransactionStep
from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.sqlite import SqliteStore
from odyssey.state.view import StateView
from rdmp.records import TxRecord
from rdmp.rpc import RpcError
from tests.unit.planning.worlds import inventory, network, platform

Json = dict[str, Any]
LIMITS = OrchestratorLimits(lock_wait=0.3, settle_interval=0.1, calls=2)
STATEFUL = {"volume": "/data"}


class Participants:
    """Whoever is there answers; nobody does anything."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.hosts = set(hosts)

    def present(self) -> frozenset[str]:
        return frozenset(self.hosts | {CONTROLLER})

    async def wait_for(self, *_: Any) -> None:
        return None

    async def images(self, references: Iterable[str]) -> dict[str, dict[str, str]]:
        wanted = list(references)
        return {host: dict.fromkeys(wanted, "sha256:" + "0" * 64) for host in self.hosts}

    async def switches(self) -> frozenset[str]:
        return frozenset({"sw1", "sw2"})


class Runner:
    """Decides each transaction by its title: done, aborted, or committed and still open."""

    def __init__(self, log: StoreDecisionLog) -> None:
        self._log = log
        self.fate: Callable[[str], str] = lambda title: "done"
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def transact(self, tx: str, _number: int, step: TransactionStep, _told: Any) -> TxRecord:
        await self.may_go_on.wait()
        record = await self._log.create(
            TxRecord(
                id=tx, seq=0, epoch=1, revision=0, state="preparing", participants=step.participants,
                stages=step.stages, changes=step.changes, events=step.events, objects=step.objects, done={},
                degraded={}, reason=None, finished=False, deadline=step.deadline,
            )
        )  # fmt: skip
        fate = self.fate(step.title)
        if fate == "aborted":
            record = await self._log.decide(tx, record.revision, "aborted", "as the test says")
        else:
            record = await self._log.decide(tx, record.revision, "committed", None)
        return record if fate == "open" else await self._log.advance(tx, record.revision, {}, {}, True)

    async def may_succeed(self, _record: TxRecord) -> bool:
        return False

    async def drain(self, *_: Any) -> None:
        return None


class World:
    """An engine with what it stands on."""

    def __init__(self, store: SqliteStore, kept: int = 1000) -> None:
        self.store = store
        self.view = StateView()
        self.log = StoreDecisionLog(store, self.view)
        self.calls = CallBook(store, kept=kept)
        self.participants = Participants(["h1", "h2", "h3"])
        self.runner = Runner(self.log)

    async def start(self) -> None:
        await self.log.load()
        self.engine = Engine(self.view, self.calls, self.participants, self.runner, LIMITS)  # type: ignore[arg-type]
        self.settler = Settler(self.engine, 1.0)

    async def call(self, service: str, call_id: str, system: Json, **options: Any) -> Mapping[str, Any]:
        request = {"SYSServiceID": service, "id": call_id, "data": [{"System": system}], "options": options}
        return await self.engine.submit(request, "operator/test", _unheard)

    async def apply(self, document: Json, call_id: str = "apply", hosts: int = 3, **capacity: Any) -> None:
        if "inventory" not in self.view.documents:
            await self.call("setInventory", "inventory", {"document": inventory(hosts, **capacity)})
        assert (await self.call("addPlatform", call_id, {"document": document}))["state"] in ("done", "pending")

    def hosts(self) -> dict[str, str]:
        return {node["node"]: node["host"] for node in self.view.values("node/")}

    async def kept(self) -> list[str]:
        return [item.value["id"] for item in await self.store.list(PREFIX)]


async def _unheard(_message: Mapping[str, Any]) -> None:
    return None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteStore(tmp_path)
    await store.open()
    made = World(store, kept=20)
    await made.start()
    yield made
    await store.close()


def add(count: int = 1) -> Json:
    return {"platform": "shop", "Network": {"name": "app", "Node": {"count": count}}}


@pytest.mark.parametrize("nodes", [2, 50])
async def test_what_an_undo_brings_back_has_its_names_hosts_and_volumes(world: World, nodes: int) -> None:
    await world.apply(platform({"db": network(1, count=4, stateful=STATEFUL)}), nodes=nodes)
    before = world.hosts()
    world.runner.fate = lambda title: "aborted" if title.startswith("remove platform") else "done"
    answer = await world.call("removePlatform", "rm", {"platform": "shop"}, atomic=True)
    assert answer["state"] == "failed" and answer["error"]["undone"] is True
    assert world.hosts() == before


async def test_a_node_that_an_open_transaction_holds_is_waited_for(world: World) -> None:
    world.runner.fate = lambda title: "open" if title.startswith("start standby") else "done"
    await world.apply(platform({"app": network(1, count=1, standby=4)}))
    world.runner.fate = lambda title: "done"
    world.participants.hosts.discard("h2")
    with pytest.raises(RpcError, match=r"node/shop-app-.* \(held by a transaction that is not finished") as refused:
        await world.call("addNode", "add", add())
    assert refused.value.code == "busy"
    assert await world.calls.find("add") is None, "nothing was begun, so the id is free"


async def test_a_call_that_breaks_inside_is_stored_as_failed_and_taken_up_again(world: World) -> None:
    await world.apply(platform({"app": network(1)}))

    def broken(_title: str) -> str:
        raise KeyError("a fault of ours")

    world.runner.fate = broken
    with pytest.raises(KeyError):
        await world.call("addNode", "add", add())
    call = await world.calls.find("add")
    assert call is not None and call.state == "failed" and call.answer is not None
    assert call.answer["error"]["code"] == "internal" and "a fault of ours" in call.answer["error"]["message"]


async def test_draining_nodes_of_an_absent_host_cost_nothing_and_are_settled_when_it_is_back(world: World) -> None:
    await world.apply(platform({"app": network(1, count=3), "db": network(2, count=3)}))
    world.runner.fate = lambda title: "aborted" if title.startswith("retire") else "done"
    for name in ("app", "db"):
        victim = next(node for node, host in world.hosts().items() if host == "h3" and f"-{name}-" in node)
        system = {"platform": "shop", "Network": {"name": name, "Node": {"name": victim}}}
        assert (await world.call("removeNode", f"rm-{name}", system))["state"] == "failed"
    world.participants.hosts.discard("h3")
    world.runner.fate = lambda title: "done"
    syncs, kept = world.store.syncs, await world.kept()
    for _ in range(60):
        await world.settler.once()
    assert world.store.syncs == syncs and await world.kept() == kept
    world.participants.hosts.add("h3")
    assert world.engine.locks.take({"network/shop/db"}, "somebody")
    await world.settler.once()
    draining = [node["node"] for node in world.view.values("node/") if node["phase"] == "draining"]
    assert len(draining) == 1 and "-db-" in draining[0], "a network that somebody works on holds up no other one"
    await world.engine.locks.release("somebody")
    await world.settler.once()
    assert not [node for node in world.view.values("node/") if node["phase"] == "draining"]
    assert await world.kept() == kept


async def test_calls_beyond_the_limit_leave_nothing(world: World) -> None:
    await world.apply(platform({"app": network(1)}))
    world.runner.may_go_on.clear()
    running = [
        asyncio.create_task(
            world.call("addPlatform", f"p{number}", {"document": platform({"a": network(number)}, f"p{number}")})
        )
        for number in (5, 6)
    ]
    async with asyncio.timeout(10):
        while not {"p5", "p6"} <= set(kept := await world.kept()):
            await asyncio.sleep(0.01)
    for number in range(3):
        with pytest.raises(RpcError) as refused:
            await world.call("addNode", f"more-{number}", add())
        assert refused.value.code == "too_many_calls"
    assert await world.kept() == kept
    world.runner.may_go_on.set()
    await asyncio.gather(*running, return_exceptions=True)


async def test_an_id_whose_answer_is_no_longer_kept_is_not_used_for_something_else(world: World) -> None:
    await world.apply(platform({"app": network(1)}), "first")
    call = await world.calls.find("first")
    assert call is not None
    await world.calls.forget(call)
    with pytest.raises(RpcError, match=r"odysseyctl tx show first\.1") as refused:
        await world.call("addNode", "first", add())
    assert refused.value.code == "call_id_reused"
