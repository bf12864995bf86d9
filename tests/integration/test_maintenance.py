# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch goes out of use and back by service calls, also over a restart and where traffic does not end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from odyssey.orchestrator import steps
from odyssey.planning import maintenance
from rdmp.rpc import RpcError
from tests.integration.orchestra import HOSTS, INVENTORY, PLATFORM, Json, Orchestra


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Orchestra]:
    """The shop, with short waits."""
    monkeypatch.setattr(steps, "_RATE_SECONDS", 0.05)
    monkeypatch.setattr(maintenance, "QUIET_TIMEOUT", 0.3)
    whole = Orchestra(tmp_path)
    await whole.start()
    await whole.join()
    await whole.serve("setInventory", "inventory", {"document": INVENTORY})
    assert (await whole.serve("addPlatform", "shop", {"document": PLATFORM}))["state"] == "done"
    yield whole
    await whole.leave()
    await whole.stop()


def switch(on: bool, **more: Any) -> dict[str, Any]:
    return {"Switch": {"name": "sw2", "maintenance": on, **more}}


async def use(orchestra: Orchestra) -> dict[str, str]:
    """How each switch is used."""
    return {item["switch"]: item["use"] for item in (await orchestra.ask("switch.list"))["switches"]}


def stages(orchestra: Orchestra, tx: str) -> dict[str, list[str]]:
    """Which stages of a transaction each member carried out."""
    return {
        name: [stage for seen, step, stage in member.seen if seen == tx and step == "commit"]
        for name, member in orchestra.members.items()
    }


async def test_hosts_leave_a_switch_and_come_back(shop: Orchestra) -> None:
    answer = await shop.serve("setMaintenance", "out", switch(True))
    assert answer["state"] == "done", answer
    assert stages(shop, "out.1") == {**{host: ["prefer"] for host in HOSTS}, "controller": ["admit"]}
    assert stages(shop, "out.2")["controller"] == ["admit"]
    assert await use(shop) == {"sw1": "used", "sw2": "isolated"}
    stored = (await shop.ask("state.get", prefix="maintenance/"))["documents"]
    assert stored["maintenance/sw2"]["avoid"] == {host: ["eth1"] for host in HOSTS}
    again = await shop.serve("setMaintenance", "again", switch(True))
    assert again["state"] == "done" and again["transactions"] == []
    back = await shop.serve("setMaintenance", "back", switch(False))
    assert back["state"] == "done" and await use(shop) == {"sw1": "used", "sw2": "used"}
    assert stages(shop, "back.2") == {**{host: ["prefer"] for host in HOSTS}, "controller": ["admit"]}


async def test_a_switch_with_traffic_is_not_isolated(shop: Orchestra) -> None:
    """The call fails where it stands, is taken up again by its id, and forced by another one."""
    controller = shop.members["controller"]
    controller.rate = 1000
    answer = await shop.serve("setMaintenance", "out", switch(True))
    assert answer["state"] == "failed" and answer["error"]["code"] == "not_quiet"
    assert "port 1: " in answer["error"]["message"] and "packets/s" in answer["error"]["message"]
    assert await use(shop) == {"sw1": "used", "sw2": "unused"}
    forced = await shop.serve("setMaintenance", "force", switch(True, force=True), dryRun=True)
    assert [step["title"] for step in forced["plan"]["steps"]] == [
        "wait until nothing uses sw2", "isolate switch sw2",
    ]  # fmt: skip
    controller.rate = 0
    assert (await shop.serve("setMaintenance", "out", switch(True)))["state"] == "done"
    assert await use(shop) == {"sw1": "used", "sw2": "isolated"}


async def test_an_atomic_call_leads_back_where_traffic_does_not_end(shop: Orchestra) -> None:
    shop.members["controller"].rate = 1000
    answer = await shop.serve("setMaintenance", "out", switch(True), atomic=True)
    assert answer["state"] == "failed" and answer["error"]["undone"] is True
    assert await use(shop) == {"sw1": "used", "sw2": "used"}


async def test_a_restart_in_the_middle_is_taken_up_where_it_was(
    shop: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "QUIET_TIMEOUT", 60.0)
    shop.members["controller"].rate = 1000
    call = asyncio.create_task(_try(shop.serve("setMaintenance", "out", switch(True))))
    async with asyncio.timeout(10):
        while (await use(shop))["sw2"] != "unused":
            await asyncio.sleep(0.02)
    await shop.stop()
    await call
    shop.members["controller"].rate = 0
    await shop.start()
    answer = await shop.serve("setMaintenance", "out", switch(True))
    assert answer["state"] == "done"
    assert [item["id"] for item in answer["transactions"]] == ["out.1", "out.2"], "the first one is not done again"
    assert await use(shop) == {"sw1": "used", "sw2": "isolated"}


async def _try(call: Awaitable[Json]) -> Json | None:
    try:
        return await call
    except (RpcError, OSError):
        return None


async def test_what_cannot_be_spared_is_refused(shop: Orchestra) -> None:
    with pytest.raises(RpcError) as caught:
        await shop.serve("setMaintenance", "no", {"Switch": {"name": "sw1", "maintenance": True}})
    assert "border edge" in str(caught.value.faults)
    shop.members["controller"].absent = frozenset({"sw1"})
    with pytest.raises(RpcError) as caught:
        await shop.serve("setMaintenance", "no", switch(True, force=True))
    assert "sw1 connected" in str(caught.value.faults)


async def test_a_weight_is_stored_and_told(shop: Orchestra) -> None:
    document = {**PLATFORM, "platform": "news", "networks": {"web": {
        **PLATFORM["networks"]["app"], "subnet": "172.16.60.0/24", "vlan": 160, "dependsOn": {},
        "service": {"address": "172.16.60.1", "slots": 8},
    }}}  # fmt: skip
    assert (await shop.serve("addPlatform", "news", {"document": document}))["state"] == "done"
    node = {"platform": "news", "Network": {"name": "web", "Node": {"name": "news-web-1", "weight": 300}}}
    assert (await shop.serve("weighNode", "heavy", node))["state"] == "done"
    (network,) = (await shop.ask("network.list", platform="news"))["networks"]
    assert network["slots"] == {"news-web-1": 6, "news-web-2": 2}
    weights = {item["node"]: item["weight"] for item in (await shop.ask("node.list", platform="news"))["nodes"]}
    assert weights["news-web-1"] == 300 and weights["news-web-2"] == 100
