# SPDX-License-Identifier: AGPL-3.0-or-later
"""Peers of another version: the range in hello, one version back in both directions, fields from the future."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsocket
import pytest

import rdmp.dialler
import rdmp.hub
from rdmp.blocking import BlockingClient
from rdmp.endpoints import Endpoint
from rdmp.messages import Welcome
from rdmp.rpc import PeerAbsent, RpcError
from tests.integration.rdmp_support import FAST, Cluster, Pki, record, until


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def all_that_there_is(cluster: Cluster, port: int) -> None:
    """A transaction, a call and an event between a hub that serves and new peers."""
    async with await cluster.client(port) as client:
        subscription = await client.subscribe(["tx.finished"])
        async with cluster.participants(port, "h1") as members:
            assert await client.call("echo", {"n": 1}) == {"n": 1}
            hub = HUBS[-1]
            done = await hub.execute(record("t.1", ["h1"]))
            assert (done.state, done.finished) == ("committed", True)
            assert members["h1"][0].of("t.1") == ["prepare", "commit admit", "commit neighbours"]
        assert (await asyncio.wait_for(anext(subscription), 10)).data["tx"] == "t.1"


HUBS: list[rdmp.hub.Hub] = []


async def test_peers_one_version_back_work_with_a_newer_hub(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdmp.hub, "PROTOCOL_VERSION", 2)
    async with cluster.hub() as (hub, port):
        HUBS.append(hub)
        await all_that_there_is(cluster, port)


async def test_newer_peers_work_with_a_hub_one_version_back(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdmp.dialler, "PROTOCOL_VERSION", 2)
    async with cluster.hub() as (hub, port):
        HUBS.append(hub)
        await all_that_there_is(cluster, port)


async def test_ranges_that_do_not_meet_are_refused_on_both_sides(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster.hub() as (_, port):
        with monkeypatch.context() as newer:
            newer.setattr(rdmp.dialler, "PROTOCOL_OLDEST", 3)
            newer.setattr(rdmp.dialler, "PROTOCOL_VERSION", 4)
            with pytest.raises(RpcError, match="versions 3 to 4 are offered, 1 to 1 are spoken here") as caught:
                await cluster.client(port)
            assert caught.value.code == "version"
        monkeypatch.setattr(rdmp.dialler, "PROTOCOL_OLDEST", 2)  # a hub that chose what nobody offered
        with monkeypatch.context() as lying:
            lying.setattr(rdmp.hub.Hub, "_refusal", lambda *_: None)
            with pytest.raises(RpcError, match="version 1 was chosen; 2 to 1 are spoken here"):
                await cluster.client(port)


async def test_unknown_fields_are_ignored_in_every_message(cluster: Cluster) -> None:
    future = {"x": {"deep": [1, {"y": None}]}, "flags": 7}

    def talk(port: int) -> list[Mapping[str, Any]]:
        client = jsocket.JsonClient(address="127.0.0.1", port=port, timeout=10)
        assert client.connect()

        def ask(message: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
            client.send_obj({**message, **future})
            while (answer := client.read_obj())["type"] != wanted:
                if answer["type"] == "ping":
                    client.send_obj({"type": "pong", "n": answer["n"], **future})
            return dict(answer)

        hello = {"type": "hello", "versions": [1, 9], "name": "script", "role": "operator", "boot": "1"}
        answers = [
            ask(hello, "welcome"),
            ask({"type": "call", "id": "1", "method": "echo", "params": {"n": 1}}, "reply"),
            ask({"type": "subscribe", "id": "2", "topics": ["scaling.*"]}, "reply"),
            ask({"type": "publish", "id": "3", "topic": "scaling.load", "data": {}}, "event"),
        ]
        client.send_obj({"type": "ack", "sub": "2", "index": answers[-1]["index"], **future})
        client.send_obj({"type": "unsubscribe", "sub": "2", **future})
        client.send_obj({"type": "cancel", "id": "9", **future})
        answers.append(ask({"type": "ping", "n": 5}, "pong"))
        client.close()
        return answers

    async with cluster.hub() as (hub, _):
        answers = await asyncio.to_thread(talk, await hub.serve_plain())
    assert [answer["type"] for answer in answers] == ["welcome", "reply", "reply", "event", "pong"]
    assert answers[0]["version"] == 1 and answers[1]["result"] == {"n": 1}


SMALL = dataclasses.replace(FAST, max_message_bytes=100_000, offences_per_connection=1)


async def test_whoever_dials_obeys_the_limit_of_the_server(cluster: Cluster) -> None:
    async with cluster.hub(limits=SMALL) as (hub, port):
        async with await cluster.client(port) as client:
            with pytest.raises(RpcError, match="the limit is 100000") as caught:
                await client.call("echo", {"text": "x" * 200_000})
            assert caught.value.code == "message_too_large"
            assert await client.call("echo", {"n": 1}) == {"n": 1}
        with BlockingClient(Endpoint("tls", "127.0.0.1", port), cluster.pki.issue("operator", "script")) as script:
            with pytest.raises(RpcError, match="the limit is 100000"):
                await asyncio.to_thread(lambda: script.call("echo", {"text": "x" * 200_000}))
            assert await asyncio.to_thread(lambda: script.call("echo", {"n": 1})) == {"n": 1}
        async with cluster.participants(port, "h1") as members:
            await members["h1"][1].publish("node.died", {"text": "x" * 200_000})
            await members["h1"][1].publish("node.second", {})
            await until(lambda: "participant.events_dropped" in [event.topic for event in cluster.events.all()])
            assert not {"peer.lost", "node.died"} & {event.topic for event in cluster.events.all()}
        topics = [event.topic for event in cluster.events.all()]
        assert topics.count("node.second") == topics.count("participant.events_dropped") == 1
        assert hub.counters()["refused"] == {}


async def test_a_server_that_does_not_tell_its_limit_is_sent_what_we_send(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old(Welcome):
        def to_json(self) -> dict[str, Any]:
            return {key: value for key, value in super().to_json().items() if key != "limits"}

    monkeypatch.setattr(rdmp.hub, "Welcome", Old)
    async with cluster.hub() as (hub, port):
        HUBS.append(hub)
        await all_that_there_is(cluster, port)


async def test_why_the_server_cut_is_told_to_whoever_was_cut(cluster: Cluster) -> None:
    async with cluster.hub(limits=SMALL) as (hub, port):
        client = await cluster.client(port, "agent", "h1")
        waiting = asyncio.create_task(client.call("slow"))
        await asyncio.sleep(0.05)
        with pytest.raises(RpcError):
            await client.subscribe(["a.b"])
        with pytest.raises(PeerAbsent, match="too_many_offences: 1 wrong or forbidden messages"):
            await waiting
        await client.close()
        files = cluster.pki.issue("operator", "script")
        with BlockingClient(Endpoint("tls", "127.0.0.1", port), files) as script:
            calling = asyncio.create_task(asyncio.to_thread(lambda: script.call("slow")))
            await until(lambda: any(peer.name == "script" for peer in hub.peers()))
            (session,) = (one for one, peer in hub._sessions.items() if peer.name == "script")
            session.refuse("rate_exceeded", "too much")
            with pytest.raises(PeerAbsent, match="rate_exceeded: too much"):
                await calling


async def test_what_a_peer_says_when_it_leaves_is_not_the_hubs_word(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        session = await cluster.dial_raw(port, cluster.pki.issue("agent", "h1"))
        session.refuse("gone", "a line\nof another log")
        await session.wait_closed()
        await until(lambda: not hub.peers())
    (reason,) = (event.data["reason"] for event in cluster.events.all() if event.topic == "peer.lost")
    assert reason == "closed by the peer"
