# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyd from a service call to its answer, with members that can refuse, lag and leave."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.rpc import RpcError
from rdmp.tls import TlsFiles
from tests.integration.orchestra import INVENTORY, PLATFORM, Json, Orchestra


@pytest.fixture
async def orchestra(tmp_path: Path) -> AsyncIterator[Orchestra]:
    whole = Orchestra(tmp_path)
    await whole.start()
    await whole.join()
    await whole.serve("setInventory", "inventory", {"document": INVENTORY})
    yield whole
    await whole.leave()
    await whole.stop()


@pytest.fixture
async def shop(orchestra: Orchestra) -> Orchestra:
    answer = await orchestra.serve("addPlatform", "shop", {"document": PLATFORM})
    assert answer["state"] == "done", answer
    return orchestra


def app(count: int) -> dict[str, Any]:
    return {"platform": "shop", "Network": {"name": "app", "Node": {"count": count}}}


async def phases(orchestra: Orchestra, network: str) -> dict[str, int]:
    nodes = (await orchestra.ask("node.list", platform="shop", network=network))["nodes"]
    return {phase: sum(node["phase"] == phase for node in nodes) for phase in ("admitted", "standby", "draining")}


async def eventually(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_a_platform_comes_up_tier_by_tier_dependencies_first(shop: Orchestra) -> None:
    order = [
        tx for tx, step, stage in shop.members["controller"].seen
        if tx.startswith("shop.") and (step, stage) == ("commit", "admit")
    ]  # fmt: skip
    assert order == sorted(order, key=lambda tx: int(tx.rsplit(".", 1)[1]))
    titles = [item["title"] for item in (await shop.ask("call.show", id="shop"))["plan"]["steps"]]
    positions = [next(n for n, title in enumerate(titles) if name in title) for name in ("db", "app", "lb")]
    assert positions == sorted(positions)
    assert await phases(shop, "app") == {"admitted": 2, "standby": 1, "draining": 0}


async def test_a_repeated_call_is_answered_and_not_done_again(shop: Orchestra) -> None:
    first = await shop.serve("addNode", "more", app(2))
    before = len(shop.members["controller"].seen)
    second = await shop.serve("addNode", "more", app(2))
    assert second["transactions"][0]["id"] == first["transactions"][0]["id"]
    assert len(shop.members["controller"].seen) == before
    assert (await phases(shop, "app"))["admitted"] == 4
    with pytest.raises(RpcError, match="was used before for something else"):
        await shop.serve("addNode", "more", app(1))


async def test_two_calls_for_one_network_do_not_take_the_same_names(shop: Orchestra) -> None:
    answers = await asyncio.gather(shop.serve("addNode", "one", app(2)), shop.serve("addNode", "two", app(2)))
    assert [answer["state"] for answer in answers] == ["done", "done"]
    nodes = (await shop.ask("node.list", platform="shop", network="app"))["nodes"]
    addresses = [node["address"] for node in nodes]
    assert len(set(addresses)) == len(addresses)
    assert (await phases(shop, "app"))["admitted"] == 6


async def test_two_calls_at_once_do_not_overfill_a_host(orchestra: Orchestra) -> None:
    inventory = copy.deepcopy(INVENTORY)
    for host in inventory["hosts"].values():
        host["capacity"]["nodes"] = 2
    await orchestra.serve("setInventory", "small", {"document": inventory})
    await orchestra.serve("addPlatform", "shop", {"document": PLATFORM})
    answers = await asyncio.gather(
        orchestra.serve("addNode", "one", {"platform": "shop", "Network": {"name": "lb", "Node": {"count": 1}}}),
        orchestra.serve("addNode", "two", app(1)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, RpcError) for answer in answers) == 1, answers
    nodes = (await orchestra.ask("node.list"))["nodes"]
    assert max(sum(node["host"] == host for node in nodes) for host in INVENTORY["hosts"]) <= 2


async def test_a_refusal_aborts_everywhere_and_frees_the_names(shop: Orchestra) -> None:
    before = await shop.ask("state.get", prefix="")
    # The promotion of the standby asks the controller alone; the host's refusal meets the nodes that are new.
    for name in ("h1", "h2", "h3"):
        shop.members[name].refusal = "shop-app: the image is broken"
    answer = await shop.serve("addNode", "more", app(3))
    assert answer["state"] == "failed"
    assert "the image is broken" in answer["error"]["message"]
    assert any(step == "abort" for _, step, _ in shop.members["controller"].seen)
    assert (await shop.ask("status"))["transactions"]["open"] == 0
    for name in ("h1", "h2", "h3"):
        shop.members[name].refusal = None
    again = await shop.serve("addNode", "more", app(3))
    assert again["state"] == "done"
    after = (await shop.ask("state.get", prefix="node/"))["documents"]
    assert len(after) == len([key for key in before["documents"] if key.startswith("node/")]) + 3


async def test_atomic_undoes_what_was_committed(shop: Orchestra) -> None:
    for name in ("h1", "h2", "h3"):
        shop.members[name].refusal = "no"
    answer = await shop.serve("addNode", "more", app(3), atomic=True)
    assert answer["state"] == "failed"
    assert (await phases(shop, "app"))["admitted"] == 2


async def test_scaling_down_withdraws_drains_and_retires(shop: Orchestra) -> None:
    await shop.serve("scaleNetwork", "up", {"platform": "shop", "Network": {"name": "app", "count": 5}})
    for member in shop.members.values():
        member.seen.clear()
        member.connections = 3
    down = asyncio.create_task(
        shop.serve("scaleNetwork", "down", {"platform": "shop", "Network": {"name": "app", "count": 2}})
    )

    async def draining() -> bool:
        return (await phases(shop, "app"))["draining"] == 3

    await eventually(draining)
    await asyncio.sleep(0.2)
    assert not any(stage == "stop" for member in shop.members.values() for _, _, stage in member.seen)
    for member in shop.members.values():
        member.connections = 0
    assert (await down)["state"] == "done"
    assert await phases(shop, "app") == {"admitted": 2, "standby": 1, "draining": 0}
    stages = [stage for _, step, stage in shop.members["controller"].seen if step == "commit"]
    assert stages.index("withdraw") < stages.index("retire")


async def test_a_restart_in_prepare_leaves_nothing_and_the_same_id_takes_it_up(shop: Orchestra) -> None:
    before = (await shop.ask("state.get", prefix="node/"))["documents"]
    gate = shop.members["h1"].gates["prepare"] = asyncio.Event()
    others = [shop.members[name] for name in ("h2", "h3")]
    for member in others:
        member.gates["prepare"] = gate
    call = asyncio.create_task(shop.serve("addNode", "more", app(4)))
    done, _ = await asyncio.wait(
        [asyncio.create_task(member.reached.wait()) for member in (shop.members["h1"], *others)],
        return_when=asyncio.FIRST_COMPLETED, timeout=5,
    )  # fmt: skip
    assert done
    await shop.stop()
    with pytest.raises(RpcError):
        await call
    gate.set()
    await shop.start()

    async def settled() -> bool:
        counts = (await shop.ask("status"))["transactions"]
        return bool(counts["open"] == counts["inDoubt"] == 0)

    await eventually(settled)
    after = (await shop.ask("state.get", prefix="node/"))["documents"]
    assert {key for key, node in after.items() if node["phase"] == "admitted"} >= {
        key for key, node in before.items() if node["phase"] == "admitted"
    }
    assert (await shop.ask("call.show", id="more"))["state"] == "interrupted"
    again = await shop.serve("addNode", "more", app(4))
    assert again["state"] == "done"
    assert (await phases(shop, "app"))["admitted"] == 6


async def test_a_member_that_leaves_after_its_vote_gets_the_decision_later(shop: Orchestra) -> None:
    host = (await shop.ask("node.list", platform="shop", network="lb"))["nodes"][0]["host"]
    member = shop.members[host]
    gate = member.gates["neighbours"] = asyncio.Event()
    call = asyncio.create_task(shop.serve("addNode", "more", app(1)))
    await asyncio.wait_for(member.reached.wait(), 5)
    await shop.leave(host)
    answer = await call
    assert answer["state"] == "pending"
    assert host in answer["error"]["message"]
    gate.set()
    await shop.join(host)

    async def finished() -> bool:
        return bool((await shop.ask("status"))["transactions"]["inDoubt"] == 0)

    await eventually(finished)
    assert any(stage == "neighbours" for _, _, stage in member.seen)


async def test_draining_nodes_that_nobody_works_on_are_retired_by_themselves(shop: Orchestra) -> None:
    await shop.serve("scaleNetwork", "up", {"platform": "shop", "Network": {"name": "app", "count": 3}})
    for member in shop.members.values():
        member.connections = 1
    call = asyncio.create_task(
        shop.serve("scaleNetwork", "down", {"platform": "shop", "Network": {"name": "app", "count": 2}})
    )

    async def draining() -> bool:
        return (await phases(shop, "app"))["draining"] == 1

    await eventually(draining)
    await shop.stop()
    with pytest.raises(RpcError):
        await call
    for member in shop.members.values():
        member.connections = 0
    await shop.start()

    async def retired() -> bool:
        return (await phases(shop, "app"))["draining"] == 0

    await eventually(retired)


async def test_a_plan_changes_nothing(shop: Orchestra) -> None:
    before = await shop.ask("state.get", prefix="")
    document = copy.deepcopy(PLATFORM)
    document["networks"]["app"]["scale"]["count"] = 3
    answer = await shop.serve("addPlatform", "try", {"document": document}, dryRun=True)
    assert answer["state"] == "planned"
    assert await shop.ask("state.get", prefix="") == before
    with pytest.raises(RpcError, match="the state moved"):
        await shop.serve("addPlatform", "try2", {"document": document}, index=answer["index"] - 1)


def broken() -> Json:
    document = copy.deepcopy(PLATFORM)
    document["platform"] = "other"
    document["networks"]["db"]["dependsOn"] = {"lb": {"ports": [{"protocol": "tcp", "port": 1}]}}
    document["networks"]["app"]["scale"] = {"min": 9, "max": 3}
    return document


async def test_every_fault_of_a_document_comes_at_once(orchestra: Orchestra) -> None:
    with pytest.raises(RpcError) as caught:
        await orchestra.serve("addPlatform", "bad", {"document": broken()})
    paths = {fault.path for fault in caught.value.faults}
    assert any("scale" in path for path in paths), paths
    assert any("dependsOn" in path for path in paths), paths
    assert (await orchestra.ask("platform.list"))["platforms"] == []


async def test_events_tell_the_story_in_order(shop: Orchestra) -> None:
    async with shop.operator() as client:
        events = await client.subscribe(["node.*", "tx.>"], from_index=1)
        topics = []
        async with asyncio.timeout(5):
            async for event in events:
                topics.append((event.topic, event.data.get("node")))
                if sum(topic == "node.admitted" for topic, _ in topics) == 4:
                    break
    nodes = [node for topic, node in topics if topic == "node.admitted"]
    assert nodes[0] == "shop-db-1"
    assert nodes[-1] == "shop-lb-1"


async def test_an_agent_may_not_call_services(orchestra: Orchestra) -> None:
    folder = orchestra.folder / "members" / "h1"
    files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    await orchestra.leave("h1")
    async with Client() as client:
        await client.connect(Endpoint.parse(f"tls:127.0.0.1:{orchestra.port}"), files)
        with pytest.raises(RpcError, match="no permission"):
            await client.call("node.list", {})
    await orchestra.join("h1")
