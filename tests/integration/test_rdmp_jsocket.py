# SPDX-License-Identifier: AGPL-3.0-or-later
"""A stock jsocket client calls an orchestrator in development mode, over plain TCP on the loopback."""

from __future__ import annotations

import asyncio
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
