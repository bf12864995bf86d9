# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyctl as a process against a whole odysseyd: an operator's first day, with every exit code checked."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from odyssey.security.ca import CertificateAuthority
from tests.integration.orchestra import HOSTS, INVENTORY, PLATFORM, ROOT, Orchestra

SHOP = str(ROOT / "examples/shop/platform.json")
LAB = str(ROOT / "examples/lab/inventory.json")


class Desk:
    """An operator at a shell."""

    def __init__(self, orchestra: Orchestra) -> None:
        self.orchestra = orchestra

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        socket = str(self.orchestra.folder / "odysseyd.sock")
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from odyssey.cli import main; main()", "--socket", socket, *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Both outputs; the exit code must be `code`."""
        process = await self.start(*arguments)
        out, err = await process.communicate()
        assert process.returncode == code, (arguments, out.decode(), err.decode())
        return out.decode(), err.decode()

    async def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads((await self.run(*arguments, "-o", "json", code=code))[0])


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    orchestra = Orchestra(tmp_path)
    await orchestra.start()
    await orchestra.join()
    desk = Desk(orchestra)
    await desk.run("inventory", "apply", LAB)
    yield desk
    await orchestra.leave()
    await orchestra.stop()


@pytest.fixture
async def shop(desk: Desk) -> Desk:
    await desk.run("platform", "apply", SHOP)
    return desk


async def test_plan_apply_plan(desk: Desk) -> None:
    out, _ = await desk.run("platform", "plan", SHOP, code=1)
    assert "+ network   shop/app" in out
    planned = await desk.json("platform", "plan", SHOP, code=1)
    index = str(planned["plan"]["index"])
    out, err = await desk.run("platform", "apply", SHOP, "--index", index, "--id", "first")
    assert "shop-db-1" in out
    assert "finished" in err
    assert (await desk.run("platform", "plan", SHOP))[0].startswith("No change.")
    _, err = await desk.run("platform", "apply", SHOP, "--index", index, code=3)
    assert "index" in err
    assert (await desk.json("platform", "show", "shop"))["document"] == PLATFORM


async def test_scale_add_and_remove(shop: Desk) -> None:
    def admitted(answer: Any) -> list[str]:
        return [node["node"] for node in answer["nodes"] if node["phase"] == "admitted"]

    await shop.run("node", "add", "app")
    assert len(admitted(await shop.json("node", "ls", "app"))) == 3
    await shop.run("network", "scale", "shop/app", "5")
    nodes = admitted(await shop.json("node", "ls", "shop/app"))
    assert len(nodes) == 5
    await shop.run("network", "scale", "app", "3", "--dry-run", code=1)
    await shop.run("node", "rm", nodes[0], nodes[1])
    await shop.run("node", "rm", "app", "--count", "1")
    assert len(admitted(await shop.json("node", "ls", "app"))) == 2
    assert (await shop.json("network", "show", "app"))["count"] == 2
    _, err = await shop.run("network", "scale", "app", "99", code=3)
    assert "99" in err


async def test_what_is_refused(shop: Desk, tmp_path: Path) -> None:
    document = json.loads(json.dumps(PLATFORM))
    document["networks"]["app"]["scale"]["min"] = 50
    document["networks"]["lb"]["vlan"] = document["networks"]["app"]["vlan"]
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(document))
    for command, code in (("apply", 3), ("plan", 255)):
        _, err = await shop.run("platform", command, str(bad), code=code)
        paths = [line.split(":")[0].strip() for line in err.splitlines() if line.startswith("  $")]
        assert set(paths) == {"$.networks.app.scale.min", "$.networks.lb.vlan"}
    await shop.run("node", "show", "nope", code=3)
    await shop.run("tx", "show", "nope", code=3)
    await shop.run("call", "show", "nope", code=3)
    await shop.run("platform", "rm", "nope", code=3)


async def test_an_id_stands_for_one_thing(shop: Desk) -> None:
    first = await shop.json("node", "add", "app", "--id", "mine")
    again = await shop.json("node", "add", "app", "--id", "mine")
    assert again["transactions"] == first["transactions"]
    _, err = await shop.run("node", "add", "app", "--count", "2", "--id", "mine", code=3)
    assert "odysseyctl call show mine" in err
    assert (await shop.json("call", "show", "mine"))["state"] == "done"


async def test_a_refused_prepare_fails_the_call_and_a_repeat_goes_on(shop: Desk) -> None:
    for host in HOSTS:
        shop.orchestra.members[host].refusal = "no room on the disk"
    _, err = await shop.run("network", "scale", "app", "5", "--id", "mine", code=4)
    assert "no room on the disk" in err
    assert "--id mine" in err
    await shop.run("call", "show", "mine", code=4)
    for host in HOSTS:
        shop.orchestra.members[host].refusal = None
    await shop.run("network", "scale", "app", "5", "--id", "mine")
    assert (await shop.json("network", "show", "app"))["admitted"] == 5


async def test_a_restart_of_odysseyd_in_the_middle_of_a_call(shop: Desk) -> None:
    controller = shop.orchestra.members["controller"]
    controller.gates["prepare"] = asyncio.Event()
    process = await shop.start("node", "add", "app", "--id", "mine")
    await asyncio.wait_for(controller.reached.wait(), 30)
    await shop.orchestra.stop()
    controller.gates.pop("prepare").set()
    await shop.orchestra.start()
    out, err = await process.communicate()
    assert process.returncode == 0, (out.decode(), err.decode())
    assert "connection to odysseyd lost" in err.decode()
    assert (await shop.json("network", "show", "app"))["admitted"] == 3


async def test_looking_around(shop: Desk) -> None:
    hosts = (await shop.json("host", "ls"))["hosts"]
    assert [(host["host"], host["connected"]) for host in hosts] == [(name, True) for name in HOSTS]
    assert (await shop.json("host", "show", "h1"))["observed"]["host"] == "h1"
    transactions = (await shop.json("tx", "ls"))["transactions"]
    assert {item["state"] for item in transactions} == {"committed"}
    assert (await shop.json("tx", "show", transactions[0]["id"]))["id"] == transactions[0]["id"]
    status = await shop.json("status")
    assert status["transactions"]["committed"] == len(transactions)
    topics = [json.loads(line)["topic"] for line in (await shop.run("events", "-o", "json"))[0].splitlines()]
    assert "node.admitted" in topics
    assert (await shop.json("inventory", "show")) == INVENTORY
    for command in (
        "platform ls",
        "network ls",
        "node ls",
        "host ls",
        "switch ls",
        "tx ls",
        "status",
        "inventory show",
    ):
        out, _ = await shop.run(*command.split())
        assert out


async def test_a_join_token_is_of_this_cluster(desk: Desk) -> None:
    answer = await desk.json("host", "join", "h9", "--enrol", "192.0.2.1:7421")
    fingerprint = CertificateAuthority.load(desk.orchestra.folder / "ca").fingerprint
    assert answer["token"].startswith(f"ODY1-{fingerprint}-")
    assert answer["command"] == f"ODYSSEY_TOKEN={answer['token']} odyssey-agent join --server 192.0.2.1:7421 --name h9"
    await desk.run("host", "join", "../h9", code=3)


async def test_removing_the_platform(shop: Desk) -> None:
    await shop.run("platform", "rm", "shop")
    assert (await shop.json("node", "ls"))["nodes"] == []
    assert (await shop.json("platform", "ls"))["platforms"] == []
