# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an operator sees: exit codes, refusals with their path, plans, and a platform that goes without a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from odyssey.demo import audit
from odyssey.demo.world import World, until
from tests.e2e.conftest import PLATFORM, as_applied

NO_CHANGE, CHANGES, PLAN_ERROR = 0, 1, 255


def changed(tmp_path: Path, **networks: dict[str, Any]) -> Path:
    """The shop's document with some keys of some networks replaced."""
    document = json.loads(PLATFORM.read_text(encoding="utf-8"))
    for name, keys in networks.items():
        document["networks"].setdefault(name, {}).update(keys)
    path = tmp_path / "platform.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


async def test_plan_tells_by_its_exit_code_whether_something_would_change(shop: World, tmp_path: Path) -> None:
    assert (await shop.ctl("platform", "plan", str(PLATFORM), check=False)).code == NO_CHANGE
    scaled = changed(tmp_path, app={"scale": {"min": 1, "max": 6, "count": 4, "standby": 1}})
    before = await shop.records()
    plan = await shop.ctl("platform", "plan", str(scaled), check=False)
    assert plan.code == CHANGES
    assert "shop-app-" in plan.out
    assert (await shop.records()).documents == before.documents
    missing = await shop.ctl("platform", "plan", str(tmp_path / "nothing.json"), check=False)
    assert missing.code == PLAN_ERROR


@pytest.mark.parametrize(
    ("networks", "path"),
    [
        ({"app": {"scale": {"min": 3, "max": 2, "count": 2, "standby": 0}}}, "$.networks.app.scale"),
        ({"app": {"vlan": 130}}, "$.networks."),
        ({"app": {"subnet": "172.16.30.0/25"}}, "$.networks."),
        (
            {"app": {"dependsOn": {"cache": {"ports": [{"protocol": "tcp", "port": 1}]}}}},
            "$.networks.app.dependsOn.cache",
        ),
        ({"app": {"image": "shop-app:2"}}, "$.networks.app.image"),
        ({"app": {"colour": "blue"}}, "$.networks.app"),
        ({"db": {"dependsOn": {"lb": {"ports": [{"protocol": "tcp", "port": 80}]}}}}, "$.networks."),
    ],
    ids=[
        "min above max",
        "duplicate vlan",
        "overlapping subnets",
        "unknown reference",
        "image",
        "unknown key",
        "cycle",
    ],
)
async def test_an_invalid_document_is_refused_with_the_path(
    shop: World, tmp_path: Path, networks: dict[str, Any], path: str
) -> None:
    before = await shop.records()
    refused = await shop.ctl("platform", "apply", str(changed(tmp_path, **networks)), check=False)
    assert refused.code not in (0, 1)
    assert path in refused.err
    after = await shop.records()
    assert after.documents == before.documents
    assert len(after.transactions) == len(before.transactions)


async def test_tables_for_people_and_json_for_programs(shop: World) -> None:
    nodes = await shop.nodes()
    table = await shop.ctl("node", "ls")
    assert all(node["node"] in table.out for node in nodes)
    listed = (await shop.ctl("node", "ls", "-o", "json")).json()
    assert {node["node"] for node in nodes} <= set(_names(listed))
    for arguments in (
        ("host", "ls"),
        ("network", "ls"),
        ("switch", "ls"),
        ("tx", "ls"),
        ("platform", "ls"),
        ("status",),
    ):
        (await shop.ctl(*arguments, "-o", "json")).json()


def _names(value: Any) -> list[str]:
    entries = value["nodes"] if isinstance(value, dict) else value
    return [entry["node"] for entry in entries]


async def test_a_platform_that_is_removed_leaves_nothing(shop: World) -> None:
    await shop.ctl("platform", "rm", shop.platform, "--yes")
    await shop.settled()
    try:
        assert await shop.half_done() == ()
        assert await shop.node_containers() == ()
        assert [flow for flow in await shop.flows() if flow.node_address is not None] == []
        assert await shop.nodes() == []
        records: audit.Records = await shop.records()
        assert [key for key in records.documents if key != "inventory"] == []
    finally:
        await as_applied(shop)

    async def serves() -> bool:
        return len(await shop.nodes(None, "admitted")) == 4

    await until(serves, 10.0, lambda: "the platform is not as applied")
