# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may connect, and what happens to peers that are silent, slow, wrong or too many."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.frames import HEADER, Decoder, encode
from rdmp.hub import Hub
from rdmp.messages import Vote
from rdmp.rpc import PeerAbsent, RpcError
from rdmp.tls import IdentityError, TlsFiles, client_context
from tests.integration.rdmp_support import FAST, Cluster, Pki, until

LIMIT = 1 << 20


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


class Raw:
    """A connection that sends what it is told, right or wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder = Decoder(LIMIT)
        self._seen: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, port: int, files: TlsFiles | None = None) -> Raw:
        context = files.client_context() if files else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    def send(self, **message: Any) -> None:
        self.writer.write(encode(message, LIMIT))

    def hello(self, **more: Any) -> None:
        hello = {"type": "hello", "versions": [1, 1], "name": "x", "role": "operator", "boot": "b", "epoch": 0}
        self.send(**{**hello, **more})

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next message (of a kind); raises EOFError when the connection ends."""
        async with asyncio.timeout(10):
            while True:
                while self._seen:
                    message = self._seen.pop(0)
                    if kind in (None, message["type"]):
                        return message
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self._seen += self._decoder.feed(data)

    async def ended(self) -> None:
        """Wait for the end of the connection."""
        with pytest.raises((EOFError, ConnectionError, ssl.SSLError)):
            while True:
                await self.next()


@pytest.fixture
async def plain(cluster: Cluster) -> AsyncIterator[tuple[Hub, int]]:
    async with cluster.hub(limits=dataclasses.replace(FAST, handshake_timeout=0.3)) as (hub, _):
        yield hub, await hub.serve_plain()


async def test_the_certificate_says_who_a_peer_is(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        client = await cluster.client(port, "operator", "alice")
        assert await client.call("whoami") == {"identity": "odyssey://test/operator/alice"}
        (peer,) = hub.peers()
        assert (peer.name, peer.role) == ("alice", "operator") and peer.address.startswith("127.0.0.1:")
        await client.close()


@pytest.mark.parametrize(
    ("role", "name", "hello", "text"),
    [
        ("agent", "h1", {"name": "h2", "role": "agent"}, "hello says agent h2"),
        ("operator", "eve", {"name": "h1", "role": "agent"}, "hello says agent h1"),
        ("agent", "controller", {"name": "controller", "role": "agent"}, "belongs to the role controller"),
        ("agent", "controller-9", {"name": "controller-9", "role": "agent"}, "belongs to the role controller"),
        ("controller", "sdn1", {"name": "sdn1", "role": "controller"}, "a controller is named controller,"),
        ("agent", "netconf", {"name": "netconf", "role": "agent"}, "belongs to the role netconf"),
        ("agent", "h1", {"name": "h1", "role": "agent", "versions": [7, 9]}, "versions 7 to 9"),
        ("agent", "h1", {"name": "h1", "role": "agent", "epoch": 3}, "leads no more"),
    ],
)
async def test_hello_is_checked(cluster: Cluster, role: str, name: str, hello: dict[str, Any], text: str) -> None:
    async with cluster.hub() as (hub, port):
        raw = await Raw.open(port, cluster.pki.issue(role, name))
        raw.hello(**hello)
        assert text in (await raw.next("error"))["message"]
        await raw.ended()
        assert not hub.peers()


async def test_certificates_of_strangers_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    other = Pki(tmp_path / "other")
    async with cluster.hub() as (hub, port):
        endpoint = Endpoint("tls", "127.0.0.1", port)
        with pytest.raises(PeerAbsent, match="certificate verify failed"):
            await Client(FAST).connect(endpoint, other.issue("operator", "eve"))
        mixed = dataclasses.replace(other.issue("operator", "eve"), ca=cluster.pki.ca)
        with pytest.raises(PeerAbsent):
            await Client(FAST).connect(endpoint, mixed)
        foreign = cluster.pki.issue("operator", "eve", uri="odyssey://elsewhere/operator/eve")
        with pytest.raises(RpcError, match="no orchestrator of the cluster elsewhere"):
            await Client(FAST).connect(endpoint, foreign)
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nobody.load_verify_locations(cluster.pki.ca)
        nobody.check_hostname = False
        raw = Raw(*await asyncio.open_connection("127.0.0.1", port, ssl=nobody))
        raw.hello()
        await raw.ended()
        assert not hub.peers()


async def test_a_client_speaks_to_orchestrators_only(cluster: Cluster) -> None:
    files = cluster.pki.issue("agent", "h1")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=files.server_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(RpcError, match="odyssey://test/agent/h1 is no orchestrator"):
            await cluster.client(port)


async def test_operators_cannot_vote(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        raw = await Raw.open(port, cluster.pki.issue("operator", "alice"))
        raw.hello(name="alice")
        raw.send(**Vote("t.1", "yes").to_json())
        assert (await raw.next("error"))["code"] == "forbidden"


async def test_a_key_that_others_may_read_is_refused(cluster: Cluster) -> None:
    files = cluster.pki.issue("operator", "alice")
    files.key.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 0600"):
        files.client_context()


async def test_certificate_files_must_fit(cluster: Cluster) -> None:
    one, two = cluster.pki.issue("operator", "one"), cluster.pki.issue("operator", "two")
    with pytest.raises(IdentityError):
        client_context(one.cert, two.key, one.ca)
    with pytest.raises(IdentityError, match="is no identity"):
        cluster.pki.issue("operator", "three", uri="https://example.org/").identity()


async def test_the_unix_socket_is_for_its_owner(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    async with cluster.hub() as (hub, _):
        await hub.serve_unix(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = Client(FAST)
        await client.connect(Endpoint.parse(f"unix:{path}"))
        assert (await client.call("whoami"))["identity"] == "odyssey://test/operator/local:root"
        with pytest.raises(FileExistsError, match="in use"):
            await hub.serve_unix(path)
        await client.close()
    assert not path.exists()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with cluster.hub() as (hub, _):
        await hub.serve_unix(path)  # what a killed process left is replaced


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
async def test_the_unix_socket_refuses_other_users(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "hub.sock"
    async with cluster.hub() as (hub, _):
        await hub.serve_unix(path)
        for folder in (path, *path.parents):
            if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
                folder.chmod(0o777)
        script = (
            f"import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.settimeout(5); "
            f"s.connect({str(path)!r}); sys.exit(0 if s.recv(1) == b'' else 1)"
        )
        process = await asyncio.create_subprocess_exec("python3", "-c", script)
        assert await process.wait() == 0


async def test_plain_connections_are_for_the_loopback_only(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, _):
        with pytest.raises(ValueError, match="not a loopback"):
            await hub.serve_plain("0.0.0.0")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "bad_frame"),
        (HEADER.pack(b"JSN1", 1 << 31, 0), "message_too_large"),
        (HEADER.pack(b"JSN1", 2, 1) + b"{}", "bad_frame"),
        (encode({"type": "ping"}, LIMIT), "bad_message"),
        (encode({"type": "call", "id": "1", "method": "echo"}, LIMIT), "bad_message"),
    ],
)
async def test_wrong_bytes_end_the_connection_with_a_reason(plain: tuple[Hub, int], data: bytes, code: str) -> None:
    raw = await Raw.open(plain[1])
    raw.writer.write(data)
    assert (await raw.next("error"))["code"] == code
    await raw.ended()


async def test_a_wrong_message_after_the_handshake_is_answered(plain: tuple[Hub, int]) -> None:
    raw = await Raw.open(plain[1])
    raw.hello(role="operator")
    await raw.next("welcome")
    raw.send(type="vote", tx="t.1", vote="maybe")
    error = await raw.next("error")
    assert (error["code"], error["path"], error["ref"]) == ("bad_message", "$.vote", "t.1")
    raw.send(type="call", id="1", method="!")
    reply = await raw.next("reply")
    assert reply["error"]["faults"][0]["path"] == "$.method"
    raw.send(type="call", id="2", method="echo", params={"a": 1}, unknown="ignored")
    assert (await raw.next("reply"))["result"] == {"a": 1}


async def test_who_says_no_hello_is_cut(plain: tuple[Hub, int]) -> None:
    raw = await Raw.open(plain[1])
    await raw.ended()


async def test_a_slow_tls_handshake_is_cut(cluster: Cluster) -> None:
    async with cluster.hub(limits=dataclasses.replace(FAST, handshake_timeout=0.3)) as (_, port):
        raw = await Raw.open(port)  # never begins its handshake
        await raw.ended()


async def test_a_silent_peer_is_cut_and_a_living_one_kept(plain: tuple[Hub, int]) -> None:
    hub, port = plain
    silent, living = await Raw.open(port), await Raw.open(port)
    for raw in (silent, living):
        raw.hello(role="operator")
        await raw.next("welcome")
    for _ in range(5):
        ping = await living.next("ping")
        living.send(type="pong", n=ping["n"])
    assert len(hub.peers()) == 1
    await silent.ended()


async def test_connections_are_limited(cluster: Cluster) -> None:
    async with cluster.hub(limits=dataclasses.replace(FAST, max_connections=2)) as (hub, port):
        first = await cluster.client(port, name="one")
        second = await cluster.client(port, name="two")
        with pytest.raises(PeerAbsent):
            await cluster.client(port, name="three")
        await first.close()
        await until(lambda: len(hub.peers()) == 1)
        third = await cluster.client(port, name="three")
        for client in (second, third):
            await client.close()


async def test_a_hundred_clients_at_once_are_served(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, _):
        port = await hub.serve_plain()
        clients = [Client(FAST) for _ in range(100)]
        await asyncio.gather(*(client.connect(Endpoint("tcp", "127.0.0.1", port)) for client in clients))
        replies = await asyncio.gather(*(client.call("echo", {"n": n}) for n, client in enumerate(clients)))
        assert [reply["n"] for reply in replies] == list(range(100))
        for client in clients:
            await client.close()


async def test_nagle_is_off(cluster: Cluster) -> None:
    async with cluster.hub() as (_, port):
        session = await cluster.dial_raw(port, cluster.pki.issue("agent", "h1"))
        assert session.info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        session.close("test")


async def test_a_peer_that_does_not_read_is_cut_and_heartbeats_pass_its_queue(cluster: Cluster) -> None:
    limits = dataclasses.replace(FAST, send_queue_messages=20)
    async with cluster.hub(limits=limits) as (hub, _):
        port = await hub.serve_plain()
        raw = await Raw.open(port)
        raw.hello(role="operator")
        await raw.next("welcome")
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(200):
            raw.send(type="call", id=str(number), method="echo", params={"text": "x" * 500_000})
            await asyncio.sleep(0)
            if not hub.peers():
                break
        await until(lambda: not hub.peers())
        raw.writer.transport.abort()


async def test_a_caller_cannot_say_that_there_is_a_newer_leader(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        for role, name in (("operator", "alice"), ("agent", "h1")):
            with pytest.raises(RpcError, match="leads no more"):
                await cluster.dial_raw(port, cluster.pki.issue(role, name), epoch=hub.epoch + 1)
    assert [event.data["peer"] for event in cluster.events.all() if event.topic == "hub.fenced"] == ["h1"]
