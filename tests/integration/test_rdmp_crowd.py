# SPDX-License-Identifier: AGPL-3.0-or-later
"""More connections at a time than may shake hands: they wait in order, and nobody is left out."""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from dataclasses import replace
from pathlib import Path

from rdmp.tuning import TLS_BUFFER_BYTES
from tests.integration.rdmp_support import FAST, Cluster, Pki, until

ONE_AT_A_TIME = replace(FAST, handshakes=1, handshake_timeout=20.0)


async def test_a_crowd_is_let_in_one_by_one(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, Pki(tmp_path / "pki"))
    async with cluster.hub(limits=ONE_AT_A_TIME) as (hub, port):
        calls = (cluster.client(port, name=f"op{number}", limits=ONE_AT_A_TIME) for number in range(12))
        clients = await asyncio.gather(*calls)
        assert {peer.name for peer in hub.peers()} == {f"op{number}" for number in range(12)}
        for client in clients:
            await client.close()


async def test_who_says_nothing_does_not_keep_others_out_for_long(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, Pki(tmp_path / "pki"))
    async with cluster.hub(limits=ONE_AT_A_TIME) as (hub, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        client = await cluster.client(port, limits=ONE_AT_A_TIME)
        assert [peer.name for peer in hub.peers()] == ["alice"]
        await client.close()
        for _, writer in silent:
            writer.close()


async def test_who_left_while_waiting_costs_no_handshake(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, Pki(tmp_path / "pki"))
    async with cluster.hub(limits=ONE_AT_A_TIME) as (hub, port):
        first = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        client = await cluster.client(port, limits=ONE_AT_A_TIME)
        await until(lambda: [peer.name for peer in hub.peers()] == ["alice"])
        await client.close()
        first[1].close()


async def test_tls_connections_have_small_buffers(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, Pki(tmp_path / "pki"))
    async with cluster.hub() as (_, port):
        client = await cluster.client(port)
        assert sslproto.SSLProtocol.max_size == TLS_BUFFER_BYTES
        text = "x" * 300_000  # many records, each larger than nothing that is kept for one
        assert await client.call("echo", {"text": text}) == {"text": text}
        await client.close()
