# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events: publishing, patterns, resuming, slow subscribers, participants that publish while away."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from rdmp.client import Subscription
from rdmp.endpoints import Endpoint
from rdmp.events import Event, MemoryEventLog, NewEvent
from rdmp.rpc import PeerAbsent, RpcError
from rdmp.runner import ParticipantRunner
from tests.integration.rdmp_support import FAST, Cluster, Pki, Recorder, record, until


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def take(subscription: Subscription, count: int) -> list[Event]:
    """Return the next events."""
    async with asyncio.timeout(10):
        return [await anext(subscription) for _ in range(count)]


async def test_subscribers_get_what_matches_from_now_on(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        await hub.publish("node.admitted", {"node": "old"})
        async with await cluster.client(port) as client:
            subscription = await client.subscribe(["node.*", "switch.>"])
            for topic in ("node.admitted", "other.thing", "node.a.b", "switch.sw1.port.up"):
                await hub.publish(topic, {"topic": topic})
            events = await take(subscription, 2)
            assert [event.topic for event in events] == ["node.admitted", "switch.sw1.port.up"]
            assert events[0].index == subscription.index + 1 and events[0].time.endswith("Z")
            subscription.close()
            assert await client.publish("node.died", {"node": "shop-app-1"}) == events[1].index + 1


async def test_a_subscription_resumes_from_an_index(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        indexes = [await hub.publish("node.admitted", {"n": n}) for n in range(700)]
        first = indexes[0]
        async with await cluster.client(port) as client:
            subscription = await client.subscribe(["node.admitted"], first + 100)
            events = await take(subscription, 600)
            assert [event.data["n"] for event in events] == list(range(100, 700))
            assert subscription.next_index == first + 700


async def test_a_lost_connection_ends_the_iteration(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        client = await cluster.client(port)
        subscription = await client.subscribe([">"])
        index = await hub.publish("node.admitted", {})
        await take(subscription, 1)
    with pytest.raises(PeerAbsent):
        await take(subscription, 1)
    assert subscription.next_index == index + 1


async def test_a_slow_subscriber_is_told_and_cut(cluster: Cluster) -> None:
    limits = dataclasses.replace(FAST, event_window=5, ack_timeout=0.2)
    async with cluster.hub(limits=limits) as (hub, port), await cluster.client(port) as client:
        slow = await client.subscribe(["node.admitted"])
        for number in range(10):
            await hub.publish("node.admitted", {"n": number})
        await asyncio.sleep(0.5)
        assert [event.data["n"] for event in await take(slow, 5)] == [0, 1, 2, 3, 4]
        with pytest.raises(RpcError) as caught:
            await take(slow, 1)
        assert caught.value.code == "slow_subscriber"
        again = await client.subscribe(["node.admitted"], slow.next_index)
        assert [event.data["n"] for event in await take(again, 5)] == [5, 6, 7, 8, 9]


async def test_events_that_are_no_longer_kept_are_told(cluster: Cluster) -> None:
    cluster.events = MemoryEventLog(kept=10)
    async with cluster.hub() as (hub, port):
        for number in range(30):
            await hub.publish("node.admitted", {"n": number})
        async with await cluster.client(port) as client:
            subscription = await client.subscribe([">"], 1)
            assert [event.data["n"] for event in await take(subscription, 1)] == [20]
            assert subscription.lost is not None and "no longer kept" in subscription.lost


async def test_who_may_publish_and_subscribe(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port), await cluster.client(port, "publisher", "p1") as publisher:
        assert await publisher.publish("meter.load", {"percent": 90}) > 0
        for topic in ("tx.decided", "peer.lost", "hub.fenced"):
            with pytest.raises(RpcError, match="may not publish"):
                await publisher.publish(topic, {})
        with pytest.raises(RpcError, match="may not subscribe"):
            await publisher.subscribe([">"])
        with pytest.raises(RpcError, match=r"\$.topics\[0\]"):
            await publisher.subscribe(["a..b"])


async def test_a_transaction_is_told_step_by_step(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port), cluster.participants(port, "h1"), await cluster.client(port) as client:
        subscription = await client.subscribe(["tx.*"])
        await hub.execute(record("t.1", ["h1"], stages=["admit"]))
        events = await take(subscription, 4)
        assert [event.topic for event in events] == ["tx.prepared", "tx.decided", "tx.stage", "tx.finished"]
        assert {event.data["tx"] for event in events} == {"t.1"}


async def test_a_participant_publishes_when_it_is_connected_again(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        pass
    files = cluster.pki.issue("agent", "h1")
    limits = dataclasses.replace(FAST, publish_queue=3)
    endpoints = [Endpoint("tls", "127.0.0.1", port)]
    runner = ParticipantRunner(Recorder(), cluster.folder / "j", files.identity(), endpoints, files, limits)
    task = asyncio.create_task(runner.run())
    for number in range(5):
        await runner.publish("node.died", {"n": number})
    async with cluster.hub(port=port):
        await until(lambda: len([event for event in cluster.events.all() if event.topic == "node.died"]) == 3)
    told = [event for event in cluster.events.all() if not event.topic.startswith("peer")]
    assert [event.data.get("n") for event in told if event.topic == "node.died"] == [2, 3, 4]
    (dropped,) = [event for event in told if event.topic == "participant.events_dropped"]
    assert dropped.data == {"name": "h1", "count": 2}
    await runner.stop()
    await task


async def test_a_gap_is_told_in_its_place_and_the_subscription_goes_on(cluster: Cluster) -> None:
    cluster.events = MemoryEventLog(kept=10)
    async with cluster.hub() as (hub, port):
        for number in range(30):
            await hub.publish("node.admitted", {"n": number})
        async with await cluster.client(port) as client:
            told: list[str] = []
            subscription = await client.subscribe(["node.*"], 1)
            subscription.on_lost = told.append
            assert [event.data["n"] for event in await take(subscription, 10)] == list(range(20, 30))
            (text,) = told
            assert text.startswith("events 1 to ") and text.endswith(" are no longer kept")
            await hub.publish("node.admitted", {"n": 30})
            assert [event.data["n"] for event in await take(subscription, 1)] == [30]


async def test_a_log_that_forgot_everything_says_so_at_once(cluster: Cluster) -> None:
    for number in range(5):
        await cluster.events.append([NewEvent("node.died", {"n": number}, "2026-11-23T10:00:00Z")])
    cluster.events._events.clear()
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        last = await cluster.events.last_index()
        subscription = await client.subscribe([">"], 2)
        subscription.until = subscription.index
        with pytest.raises(StopAsyncIteration):
            await take(subscription, 1)
        assert subscription.lost is not None and subscription.lost.startswith("events 2 to ")
        assert subscription.next_index > last


async def test_index_0_is_before_the_first_event_and_loses_none(cluster: Cluster) -> None:
    await cluster.events.append([NewEvent("node.died", {}, "2026-11-23T10:00:00Z")])
    async with cluster.hub() as (_, port), await cluster.client(port) as client:
        subscription = await client.subscribe([">"], 0)
        assert [event.index for event in await take(subscription, 1)] == [1]
        assert subscription.lost is None


async def test_an_event_that_is_too_large_for_its_subscriber_is_told_as_lost(cluster: Cluster) -> None:
    small = dataclasses.replace(FAST, max_message_bytes=2000)
    async with cluster.hub() as (hub, port), await cluster.client(port, limits=small) as client:
        subscription = await client.subscribe(["node.died"])
        large = await hub.publish("node.died", {"text": "x" * 3000})
        await hub.publish("node.died", {"text": "small"})
        assert [event.data["text"] for event in await take(subscription, 1)] == ["small"]
        assert subscription.lost is not None and f"event {large} (node.died) cannot be sent" in subscription.lost


async def test_events_in_memory_are_kept_by_age() -> None:
    log = MemoryEventLog(kept=10, max_age=60.0)
    for second in (0, 30, 59, 100):
        await log.append([NewEvent("t.x", {}, f"2026-11-23T10:{second // 60:02}:{second % 60:02}.000Z")])
    assert [event.index for event in log.all()] == [3, 4]
