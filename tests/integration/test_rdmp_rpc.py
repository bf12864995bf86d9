# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls in both directions: results, progress, errors, time limits, cancellation, loss."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from rdmp.rpc import PeerAbsent, RpcError, RpcTimeout
from tests.integration.rdmp_support import FAST, Cluster, Pki, until


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def test_many_calls_on_one_connection(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        replies = await asyncio.gather(*(client.call("echo", {"n": n}) for n in range(50)))
        assert [reply["n"] for reply in replies] == list(range(50))


async def test_progress_comes_in_order_before_the_result(cluster: Cluster) -> None:
    seen: list[int] = []
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        result = await client.call("count", {"to": 30}, on_progress=lambda data: seen.append(data["number"]))
        assert (seen, result) == (list(range(30)), {"counted": 30})


async def test_errors_reach_the_caller(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        with pytest.raises(RpcError, match="there is no method 'nothing'") as caught:
            await client.call("nothing")
        assert caught.value.code == "unknown_method"
        with pytest.raises(RpcError, match="ZeroDivisionError: by intent") as caught:
            await client.call("boom")
        assert caught.value.code == "internal"
        with pytest.raises(RpcError) as caught:
            await client.call("echo", {"text": "x" * (FAST.max_message_bytes + 1)})
        assert caught.value.code == "message_too_large"
        assert await client.call("echo", {"still": "here"}) == {"still": "here"}


async def test_a_call_that_takes_too_long_is_cancelled_at_the_callee(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        with pytest.raises(RpcTimeout):
            await client.call("slow", timeout=0.1)
        await asyncio.wait_for(cluster.handler.cancelled.wait(), 10)


async def test_a_caller_that_gives_up_cancels_the_callee(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        task = asyncio.create_task(client.call("slow"))
        await client.call("echo")
        task.cancel()
        await asyncio.wait_for(cluster.handler.cancelled.wait(), 10)


async def test_a_caller_that_leaves_cancels_the_callee(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        client = await cluster.client(port)
        task = asyncio.create_task(client.call("slow"))
        await client.call("echo")
        await client.close()
        with pytest.raises(PeerAbsent):
            await task
        await asyncio.wait_for(cluster.handler.cancelled.wait(), 10)
        with pytest.raises(PeerAbsent):
            await client.call("echo")


async def test_running_calls_of_a_connection_are_limited(cluster: Cluster) -> None:
    few = dataclasses.replace(FAST, calls_per_peer=2)
    async with cluster.hub(limits=few) as (_, port), await cluster.client(port) as client:
        slow = [asyncio.create_task(client.call("slow")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RpcError) as caught:
            await client.call("echo")
        assert caught.value.code == "too_many_calls"
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)


async def test_the_hub_calls_participants(cluster: Cluster) -> None:
    seen: list[object] = []
    async with cluster.hub() as (hub, port):
        with pytest.raises(PeerAbsent, match="h1 is not connected"):
            await hub.call("h1", "echo", {}, 1)
        async with cluster.participants(port, "h1"):
            assert await hub.call("h1", "echo", {"a": [1]}, 5, seen.append) == {"a": [1]}
            assert seen == [{"half": True}]
            assert (await hub.call("h1", "observe", {}, 5))["revision"] == 0
            assert (await hub.call("h1", "status", {"tx": "t.1"}, 5))["journal"]["phase"] == "unknown"
            with pytest.raises(RpcError, match="no method 'other'"):
                await hub.call("h1", "other", {}, 5)
        await until(lambda: not hub.peers())
        with pytest.raises(PeerAbsent):
            await hub.call("h1", "echo", {}, 5)
