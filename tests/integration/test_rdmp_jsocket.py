# SPDX-License-Identifier: AGPL-3.0-or-later
"""A stock jsocket client calls an orchestrator in development mode, over plain TCP on the loopback."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import jsocket

from tests.integration.rdmp_support import Cluster, Pki


def talk(port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shake hands and call, as any blocking jsocket program would."""
    client = jsocket.JsonClient(address="127.0.0.1", port=port, timeout=10)
    assert client.connect()
    hello = {"type": "hello", "versions": [1, 1], "name": "script", "role": "operator", "boot": "1", "epoch": 0}
    client.send_obj(hello)
    welcome = client.read_obj()
    client.send_obj({"type": "call", "id": "1", "method": "whoami", "params": {}, "deadline": 5})
    while (reply := client.read_obj())["type"] == "ping":
        client.send_obj({"type": "pong", "n": reply["n"]})
    client.close()
    return welcome, reply


async def test_a_stock_jsocket_client_can_call(tmp_path: Path) -> None:
    async with Cluster(tmp_path, Pki(tmp_path / "pki")).hub() as (hub, _):
        port = await hub.serve_plain()
        welcome, reply = await asyncio.to_thread(talk, port)
        assert welcome["type"] == "welcome" and welcome["cluster"] == "test"
        assert reply["result"] == {"identity": "odyssey://test/operator/local:anybody"}


def shaken(client: jsocket.JsonClient) -> jsocket.JsonClient:
    """Shake hands and return the client."""
    client.send_obj({"type": "hello", "versions": [1, 1], "name": "s", "role": "operator", "boot": "1", "epoch": 0})
    assert client.read_obj()["type"] == "welcome"
    return client


def answers(client: jsocket.JsonClient, count: int) -> list[dict[str, Any]]:
    """Return the next replies."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        if (message := client.read_obj())["type"] == "reply":
            found.append(message)
        elif message["type"] == "ping":
            client.send_obj({"type": "pong", "n": message["n"]})
    return found


def echo(number: int) -> dict[str, Any]:
    return {"type": "call", "id": str(number), "method": "echo", "params": {"n": number}, "deadline": 5}


def pipeline_and_reconnect(port: int) -> None:
    """Send many calls before reading, close, connect with the same object, and call again."""
    client = jsocket.JsonClient(address="127.0.0.1", port=port, timeout=10)
    for _ in range(3):
        assert client.connect()
        shaken(client)
        for number in range(50):
            client.send_obj(echo(number))
        found = answers(client, 50)
        assert {reply["id"]: reply["result"]["n"] for reply in found} == {str(n): n for n in range(50)}
        client.close()


async def test_a_stock_client_sends_ahead_and_connects_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path, Pki(tmp_path / "pki")).hub() as (hub, _):
        await asyncio.to_thread(pipeline_and_reconnect, await hub.serve_plain())


def over_unix(path: Path) -> dict[str, Any]:
    """jsocket knows IPv4 only, but takes any stream socket that it is given."""
    client = jsocket.JsonClient(timeout=10)
    client.close()
    client.socket = client.conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.timeout = 10
    client.socket.connect(str(path))
    shaken(client).send_obj(echo(1))
    (reply,) = answers(client, 1)
    client.close()
    return reply


async def test_a_stock_client_speaks_over_the_unix_socket(tmp_path: Path) -> None:
    async with Cluster(tmp_path, Pki(tmp_path / "pki")).hub() as (hub, _):
        await hub.serve_unix(tmp_path / "s")
        assert (await asyncio.to_thread(over_unix, tmp_path / "s"))["result"] == {"n": 1}
