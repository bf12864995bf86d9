# SPDX-License-Identifier: AGPL-3.0-or-later
"""The blocking client: TLS and Unix sockets, time limits that hold, threads, lost connections."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rdmp.blocking import BlockingClient
from rdmp.endpoints import Endpoint
from rdmp.frames import encode
from rdmp.rpc import PeerAbsent, RpcError, RpcTimeout
from tests.integration.rdmp_support import FAST, Cluster, Pki, until

T = TypeVar("T")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def inside(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


async def test_calls_progress_errors_and_events_over_tls(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        files = cluster.pki.issue("operator", "script")
        with BlockingClient(Endpoint("tls", "127.0.0.1", port), files) as client:
            assert (await inside(client.connect)).cluster == "test"
            seen: list[Any] = []
            assert await inside(lambda: client.call("count", {"to": 3}, on_progress=seen.append)) == {"counted": 3}
            assert [item["number"] for item in seen] == [0, 1, 2]
            with pytest.raises(RpcError, match="there is no method 'nothing'"):
                await inside(lambda: client.call("nothing"))
            connection = client.conn
            index = await inside(lambda: client.publish("scaling.load", {"percent": 3}))
            assert cluster.events.all()[-1].index == index
            with pytest.raises(RpcError, match="may not publish"):
                await inside(lambda: client.publish("tx.decided", {}))
            assert client.conn is connection  # an error as answer is no reason to connect again


async def test_over_a_unix_socket(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.hub() as (hub, _):
        await hub.serve_unix(tmp_path / "s")
        with BlockingClient(Endpoint.parse(f"unix:{tmp_path / 's'}")) as client:
            identity = (await inside(lambda: client.call("whoami")))["identity"]
            assert identity.startswith("odyssey://test/operator/local:")


async def test_a_time_limit_closes_so_that_no_late_answer_is_taken_for_another(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        with BlockingClient(Endpoint("tls", "127.0.0.1", port), cluster.pki.issue("operator", "script")) as client:
            with pytest.raises(RpcTimeout):
                await inside(lambda: client.call("slow", timeout=0.3))
            assert client.conn.fileno() == -1
            await asyncio.wait_for(cluster.handler.cancelled.wait(), 10)
            assert await inside(lambda: client.call("echo", {"n": 1})) == {"n": 1}


async def test_a_client_that_was_silent_connects_again_and_one_that_was_cut_off_says_so(cluster: Cluster) -> None:
    limits = dataclasses.replace(FAST, heartbeat=0.05, heartbeat_misses=2)
    files = cluster.pki.issue("operator", "script")
    async with cluster.hub(limits=limits) as (hub, port):
        client = BlockingClient(Endpoint("tls", "127.0.0.1", port), files)
        assert await inside(lambda: client.call("echo", {"n": 1})) == {"n": 1}
        await until(lambda: not hub.peers())
        assert await inside(lambda: client.call("echo", {"n": 2})) == {"n": 2}
        waiting = asyncio.create_task(inside(lambda: client.call("slow", timeout=20)))
        await asyncio.sleep(0.5)  # longer than the server waits for a sign of life: pings are answered meanwhile
        assert not waiting.done()
    with pytest.raises(PeerAbsent):
        await waiting
    with pytest.raises(PeerAbsent):
        await inside(lambda: client.call("echo"))
    async with cluster.hub(port=port):
        assert await inside(lambda: client.call("echo", {"n": 3})) == {"n": 3}
    client.close()


async def test_threads_share_a_client(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        with BlockingClient(Endpoint("tls", "127.0.0.1", port), cluster.pki.issue("operator", "script")) as client:
            found = await asyncio.gather(*(inside(lambda n=n: client.call("echo", {"n": n})) for n in range(30)))  # type: ignore[misc]
            assert [item["n"] for item in found] == list(range(30))


async def test_only_an_orchestrator_of_the_cluster_is_spoken_to(cluster: Cluster, tmp_path: Path) -> None:
    wrong = cluster.pki.issue("agent", "h1")
    async with cluster.hub() as (hub, _):
        port = await hub.serve_tls("127.0.0.1", 0, wrong.server_context())
        client = BlockingClient(Endpoint("tls", "127.0.0.1", port), cluster.pki.issue("operator", "script"))
        with pytest.raises(RpcError) as caught:
            await inside(lambda: client.call("echo"))
        assert caught.value.code == "wrong_server" and client.conn.fileno() == -1
    with pytest.raises(ValueError, match="needs a certificate"):
        BlockingClient(Endpoint("tls", "127.0.0.1", port)).call("echo")


@pytest.fixture
def trickle() -> Iterator[int]:
    """A server that welcomes and then sends one byte at a time, for ever."""
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        welcome = {
            "type": "welcome", "version": 1, "name": "o", "cluster": "c", "epoch": 1, "incarnation": "i",
            "heartbeat": 1.0,
        }  # fmt: skip
        connection.sendall(encode(welcome, 10_000))
        frame = encode({"type": "ping", "n": 1, "text": "x" * 5000}, 10_000)
        for place in range(len(frame)):
            if stop.wait(0.02):
                break
            try:
                connection.send(frame[place : place + 1])
            except OSError:
                break
        connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    stop.set()
    server.close()
    thread.join(5)


def test_a_server_that_trickles_does_not_stretch_the_time_limit(trickle: int) -> None:
    client = BlockingClient(Endpoint("tcp", "127.0.0.1", trickle))
    result: list[BaseException] = []

    def work() -> None:
        try:
            client.call("echo", timeout=0.5)
        except RpcTimeout as error:
            result.append(error)

    caller = threading.Thread(target=work, daemon=True)
    caller.start()
    caller.join(20)  # the frame takes 100 s
    assert len(result) == 1


async def test_files_that_cannot_be_used_are_no_absent_server(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.hub() as (_, port):
        files = cluster.pki.issue("operator", "script")
        endpoint = Endpoint("tls", "127.0.0.1", port)
        for missing in ("key", "ca"):
            with BlockingClient(endpoint, dataclasses.replace(files, **{missing: tmp_path / "no"})) as client:
                for use in (client.connect, lambda one=client: one.call("whoami")):
                    with pytest.raises(FileNotFoundError):
                        await inside(use)
        with BlockingClient(endpoint, files) as client:
            await inside(client.connect)
            client._tls = dataclasses.replace(files, key=tmp_path / "no.key")
            # A connection that stands needs no files.
            assert await inside(lambda: client.call("echo", {"n": 1})) == {"n": 1}
