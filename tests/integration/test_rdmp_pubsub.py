# SPDX-License-Identifier: AGPL-3.0-or-later
"""Publisher and Subscriber over restarts of the hub."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from rdmp.endpoints import Endpoint
from rdmp.pubsub import Publisher, Subscriber
from rdmp.rpc import RpcError, RpcTimeout
from tests.integration.rdmp_support import FAST, Cluster, Pki, until


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def test_events_go_on_over_restarts_of_the_hub_none_missing(cluster: Cluster) -> None:
    publisher_files, operator_files = cluster.pki.issue("publisher", "meter"), cluster.pki.issue("operator", "alice")
    got: list[int] = []
    wanted = 90

    async def read(subscriber: Subscriber) -> None:
        async for event in subscriber:
            got.append(event.data["n"])
            if event.data["n"] == wanted - 1:
                return

    async with cluster.hub() as (_, port):
        endpoint = Endpoint("tls", "127.0.0.1", port)
        publisher = Publisher(endpoint, publisher_files, limits=FAST)
        subscriber = Subscriber(endpoint, ["scaling.*"], operator_files, limits=FAST)
        await subscriber.start()
        reading = asyncio.create_task(read(subscriber))
        for number in range(30):
            await publisher.publish("scaling.load", {"n": number})
    for start in (30, 60):
        publishing = asyncio.create_task(publisher.publish("scaling.load", {"n": start}))
        await asyncio.sleep(0.1)
        assert not publishing.done()
        async with cluster.hub(port=port):
            await publishing
            for number in range(start + 1, start + 30):
                await publisher.publish("scaling.load", {"n": number})
            if start == 60:
                await asyncio.wait_for(reading, 20)
    assert sorted(set(got)) == list(range(wanted)) and got == sorted(got)
    indexes = [event.index for event in cluster.events.all() if event.topic == "scaling.load"]
    assert subscriber.next_index == indexes[-1] + 1
    await publisher.close()
    await subscriber.close()


async def test_a_slow_subscriber_gets_what_it_has_not_taken_again(cluster: Cluster) -> None:
    limits = dataclasses.replace(FAST, event_window=5, ack_timeout=0.2)
    async with cluster.hub(limits=limits) as (hub, port):
        files = cluster.pki.issue("operator", "alice")
        async with Subscriber(Endpoint("tls", "127.0.0.1", port), ["node.*"], files, limits=FAST) as subscriber:
            await subscriber.start()
            for number in range(20):
                await hub.publish("node.died", {"n": number})
            await asyncio.sleep(0.6)
            assert [(await anext(subscriber)).data["n"] for _ in range(20)] == list(range(20))


async def test_a_refusal_is_raised_and_patience_ends(cluster: Cluster) -> None:
    files = cluster.pki.issue("publisher", "meter")
    async with cluster.hub() as (_, port):
        endpoint = Endpoint("tls", "127.0.0.1", port)
        async with Publisher(endpoint, files, limits=FAST) as publisher:
            with pytest.raises(RpcError, match="may not publish"):
                await publisher.publish("tx.decided", {})
        async with Subscriber(endpoint, [">"], files, limits=FAST) as subscriber:
            with pytest.raises(RpcError, match="may not subscribe"):
                await anext(subscriber)
    async with Publisher(endpoint, files, patience=0.3, limits=FAST) as publisher:
        with pytest.raises(RpcTimeout, match="was not stored within"):
            await publisher.publish("scaling.load", {})


async def test_many_who_publish_at_once_share_one_connection_and_none_is_left(cluster: Cluster) -> None:
    files = cluster.pki.issue("publisher", "meter")
    async with cluster.hub() as (hub, port):
        publisher = Publisher(Endpoint("tls", "127.0.0.1", port), files, limits=FAST)
        await asyncio.gather(*(publisher.publish("scaling.load", {"n": number}) for number in range(10)))
        assert len(hub.peers()) == 1
        await publisher.close()
        await until(lambda: hub.statistics()["connections"] == 0)
        with pytest.raises(RpcError, match="was closed here"):
            await publisher.publish("scaling.load", {})
        assert hub.statistics()["connections"] == 0


@pytest.mark.parametrize("serving", [True, False])
async def test_closing_a_subscriber_ends_its_reader(cluster: Cluster, serving: bool) -> None:
    files = cluster.pki.issue("operator", "alice")
    async with cluster.hub() as (_, port):
        subscriber = Subscriber(Endpoint("tls", "127.0.0.1", port), ["node.*"], files, limits=FAST)
        await subscriber.start()
        reading = asyncio.create_task(anext(subscriber, None))
        await asyncio.sleep(0.05)
        if serving:
            await subscriber.close()
    if not serving:
        await asyncio.sleep(0.05)  # the reader tries to connect again
        await subscriber.close()
    assert await asyncio.wait_for(reading, 5) is None
    assert await anext(subscriber, None) is None
