# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a role that is confined to one platform, or to one network of it, may ask of odysseyd."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.rpc import RpcError
from rdmp.tls import TlsFiles
from tests.integration.orchestra import INVENTORY, PLATFORM, Orchestra

ROLES = {
    "shop-all": {"subjects": ["publisher/shop"], "allow": [{"services": ["*"], "platforms": ["shop"]}]},
    "shop-app": {
        "subjects": ["publisher/app"],
        "allow": [{"services": ["@reading"], "platforms": ["shop"], "networks": ["app"]}],
    },
}


def bank() -> dict[str, Any]:
    """Another platform, of one network."""
    document: dict[str, Any] = copy.deepcopy(PLATFORM)
    network = document["networks"]["db"] | {"subnet": "172.20.0.0/24", "vlan": 140}
    return document | {"platform": "bank", "networks": {"db": network}}


@pytest.fixture
async def orchestra(tmp_path: Path) -> AsyncIterator[Orchestra]:
    whole = Orchestra(tmp_path)
    whole.roles = ROLES
    await whole.start()
    await whole.join()
    await whole.serve("setInventory", "inventory", {"document": INVENTORY})
    for document in (PLATFORM, bank()):
        answer = await whole.serve("addPlatform", document["platform"], {"document": document})
        assert answer["state"] == "done", answer
    yield whole
    await whole.leave()
    await whole.stop()


@asynccontextmanager
async def somebody(orchestra: Orchestra, name: str) -> AsyncIterator[Client]:
    files = orchestra.authority.issue("publisher", name, orchestra.folder / name)
    async with Client() as client:
        endpoint = Endpoint.parse(f"tls:127.0.0.1:{orchestra.port}")
        await client.connect(endpoint, TlsFiles(files.cert, files.key, files.ca))
        yield client


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("token.create", {"role": "operator", "name": "root"}),
        ("node.logs", {"node": "bank-db-1"}),
        ("node.show", {"node": "bank-db-1"}),
        ("node.show", {"node": "nobody"}),
        ("node.list", {"platform": "bank"}),
        ("node.list", {"platform": ""}),
        ("platform.show", {"platform": "bank"}),
        ("platform.list", {}),
        ("state.get", {"prefix": "platform/bank"}),
        ("tx.list", {}),
        ("tx.resolve", {"id": "bank.1", "heuristic": True}),
        ("netconf.restore", {"switch": "sw1", "backup": "x"}),
        ("inventory.show", {}),
    ],
)
async def test_what_is_not_confined_to_the_platform_is_refused_whatever_is_said_of_it(
    orchestra: Orchestra, method: str, params: dict[str, Any]
) -> None:
    async with somebody(orchestra, "shop") as client:
        said = {"network": "app"} | ({} if "platform" in params else {"platform": "shop"})
        for more in ({}, said):
            with pytest.raises(RpcError) as refused:
                await client.call(method, params | more)
            assert refused.value.code == "forbidden"


async def test_what_is_of_the_platform_is_answered(orchestra: Orchestra) -> None:
    async with somebody(orchestra, "shop") as client:
        nodes = (await client.call("node.list", {"platform": "shop"}))["nodes"]
        assert {node["platform"] for node in nodes} == {"shop"}
        assert (await client.call("platform.show", {"platform": "shop"}))["platform"] == "shop"
        assert (await client.call("node.show", {"node": "shop-db-1"}))["network"] == "db"
        assert len((await client.call("network.list", {"platform": "shop"}))["networks"]) == 3


async def test_a_role_of_one_network_sees_that_network_only(orchestra: Orchestra) -> None:
    async with somebody(orchestra, "app") as client:
        found = (await client.call("node.list", {"platform": "shop", "network": "app"}))["nodes"]
        assert {node["network"] for node in found} == {"app"}
        assert (await client.call("node.show", {"node": "shop-app-1"}))["node"] == "shop-app-1"
        for method, params in (
            ("node.list", {"platform": "shop"}),
            ("node.show", {"node": "shop-db-1"}),
            ("platform.show", {"platform": "shop", "network": "app"}),
            ("network.list", {"platform": "shop", "network": "app"}),
        ):
            with pytest.raises(RpcError) as refused:
                await client.call(method, params)
            assert refused.value.code == "forbidden", method
