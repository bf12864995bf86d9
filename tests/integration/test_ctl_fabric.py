# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyctl as a process, odysseyd, the controller and real switches: what an operator sees of the fabric."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from controller.openflow.terminator import Terminator
from controller.participant import ControllerParticipant
from controller.tenure import Tenure
from rdmp.tls import TlsFiles
from tests.integration import controller_support as support
from tests.integration.controller_support import Lab, inside
from tests.integration.orchestra import ROOT, Orchestra
from tests.integration.test_ctl_odysseyd import SHOP, Desk
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]


def inventory(folder: Path) -> str:
    """Write the inventory of the switches of this process."""
    document = samples.inventory()
    known = json.loads((ROOT / "examples/lab/inventory.json").read_text(encoding="utf-8"))
    for name, host in document["hosts"].items():
        host["capacity"] = known["hosts"][name]["capacity"]
    path = folder / "inventory.json"
    path.write_text(json.dumps({"cluster": "lab", **document}), encoding="utf-8")
    return str(path)


class Cluster(Desk):
    """An operator's shell, with a controller in this process that has the switches of ``lab``."""

    def __init__(self, orchestra: Orchestra, lab: Lab) -> None:
        super().__init__(orchestra)
        self.lab = lab
        tenure = Tenure(orchestra.folder / "tenure.json")
        timing = {"verify_seconds": 60, "wait_seconds": 10, "lldp_seconds": 0.5}
        self.controller = ControllerParticipant(lambda topic, data: None, tenure, allow_absent=False, **timing)
        orchestra.members["controller"] = self.controller  # type: ignore[assignment]  # in place of one that records

    def files(self, role: str, name: str) -> TlsFiles:
        folder = self.orchestra.folder / "certificates" / name
        self.orchestra.authority.issue(role, name, folder)
        return TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")

    @contextlib.asynccontextmanager
    async def switches(self) -> AsyncIterator[None]:
        """Let the switches connect."""
        self.lab.forget()
        own, context = self.controller.switches, self.files("controller", "controller").server_context()
        terminator = Terminator("lab", context, own.connected, own.refused)
        await self.controller.restored.wait()
        port = await terminator.start("0.0.0.0", 0)
        try:
            for name in support.SWITCHES:
                switch = self.lab.switches[name]
                await asyncio.to_thread(switch.set_controller, self.files("switch", name), port)
            yield
        finally:
            await terminator.stop()


@pytest.fixture
async def desk(ctl_lab: Lab, tmp_path: Path) -> AsyncIterator[Cluster]:
    orchestra = Orchestra(tmp_path)
    made = Cluster(orchestra, ctl_lab)
    await orchestra.start()
    await orchestra.join()
    try:
        async with made.switches():
            await made.run("inventory", "apply", inventory(tmp_path))
            await made.run("platform", "apply", SHOP)
            yield made
    finally:
        await orchestra.leave()
        await orchestra.stop()


async def test_an_operator_sees_the_whole_fabric(desk: Cluster, tmp_path: Path) -> None:
    out, _ = await desk.run("path", "shop-lb-1", "app")
    assert "lets lb open connections to app [policy/shop/lb/app]" in out
    out, _ = await desk.run("path", "shop-lb-1", "shop-db-1", "--port", "5432", code=1)
    assert 'declare in platform shop: "lb": {"dependsOn": {"db"' in out
    assert (await desk.json("path", "203.0.113.9", "shop-lb-1"))["open"] is True
    _, err = await desk.run("path", "nobody", "shop-lb-1", code=255)
    assert "there is no node, network, border or address nobody" in err

    shown = await desk.json("fabric", "show", "--interval", "0.1")
    assert {name: switch["connected"] for name, switch in shown["switches"].items()} == {"sw1": True, "sw2": True}
    assert {port["up"] for port in shown["switches"]["sw1"]["ports"]} == {True}
    assert all(host["connected"] for host in shown["hosts"].values())

    capacity = await desk.json("fabric", "capacity")
    assert capacity["switches"]["sw1"]["byUser"]["nodes of shop/app"] > 0
    counters = await desk.json("fabric", "counters")
    assert counters["nodes"]["shop-lb-1"]["sentPackets"] == 0, "nobody has sent anything"

    await desk.run("fabric", "draw", "-o", str(tmp_path / "fabric.svg"), "--interval", "0")
    drawn = ElementTree.parse(tmp_path / "fabric.svg").getroot()
    assert {"sw1", "sw2", "h1", "h2", "h3", "edge"} <= {element.text for element in drawn.iter()}


async def test_what_differs_is_an_exit_code_and_a_line(desk: Cluster) -> None:
    await desk.run("fabric", "verify")
    await desk.run("fabric", "diff", "sw2")
    address = (await desk.json("node", "show", "shop-db-1"))["address"]
    desk.lab.switches["sw1"].ofctl("del-flows", f"table=30,ip,nw_dst={address}")
    out, _ = await desk.run("fabric", "verify", code=1)
    assert "sw1: 1 difference" in out
    assert "sw2: equal" in out
    out, _ = await desk.run("fabric", "diff", code=1)
    assert "+ sw1  missing: table 30 deliver" in out
    assert "delivers to shop-db-1 [binding/shop-db-1]" in out
    _, err = await desk.run("fabric", "verify", "sw9", code=255)
    assert "switch sw9 is not in the inventory" in err


async def test_a_pulled_cable_is_a_fault_and_the_path_goes_round_it(desk: Cluster) -> None:
    before = await desk.json("path", "shop-app-1", "db")
    host = before["to"]["host"]
    inside(host, "ip", "link", "set", "eth0", "down")
    try:
        for _ in range(100):
            shown = await desk.json("fabric", "show", "--interval", "0")
            if shown["switches"]["sw1"]["down"] == 1:
                break
        assert shown["switches"]["sw1"]["down"] == 1
        after = await desk.json("path", "shop-app-1", "db")
        assert after["open"] is True
        assert any(hop.get("port") == 101 for hop in after["there"]["hops"]), "over the trunk"
    finally:
        inside(host, "ip", "link", "set", "eth0", "up")


async def test_a_probe_runs_from_the_shell_and_is_refused_on_a_switch_in_use(desk: Cluster) -> None:
    held = desk.lab.switches["sw2"].flows()
    _, err = await desk.run("switch", "probe", "sw2", code=3)
    assert "sw2 carries traffic of" in err
    out, err = await desk.run("switch", "probe", "sw2", "--yes", "--capacity", "400")
    assert "[9/9] capacity" in err
    assert '"reflects": "yes"' in out
    assert desk.lab.switches["sw2"].flows() == held
    found: dict[str, Any] = await desk.json("switch", "probe", "sw2", "--yes", "--capacity", "0")
    assert not [one for one in found["findings"] if one["agrees"] is False]
