# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch is taken out of use, restarted empty, refilled and used again, and no packet is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.changes.draw import ALWAYS, NODES, start
from tests.changes.run import prepare_nodes, release_nodes
from tests.changes.streams import Traffic
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import Lab, inside, wait_until

SAME, OTHER = f"{2:016x}", f"{0x22:016x}"
pytest_plugins = ["tests.integration.controller_fixtures"]


@pytest.fixture
def nodes(ctl_lab: Lab) -> Iterator[None]:
    prepare_nodes(ctl_lab)
    yield
    release_nodes(ctl_lab)


def inventory(**switch: Any) -> dict[str, Any]:
    """The inventory with sw2 in a state of maintenance."""
    document = start()["inventory"]
    document["fabric"]["switches"]["sw2"] |= switch
    return {"inventory": document}


def prefer_first_nic(lab: Lab, on: bool) -> None:
    """What agents do (stage ``prefer``): make before break, so the new route stands before the old one goes."""
    for node in lab.nodes & NODES.keys():
        address = NODES[node][1]
        common = ("default", "via", "169.254.1.1", "onlink", "src", address)
        if on:
            inside(node, "ip", "route", "add", *common, "dev", "fab0", "metric", "1")
        else:
            inside(node, "ip", "route", "del", *common, "dev", "fab0", "metric", "1")


def carrier(lab: Lab, host: str) -> bool:
    return "LOWER_UP" in inside(host, "ip", "link", "show", "eth1")


@pytest.mark.parametrize("datapath_id", [SAME, OTHER], ids=["upgraded", "replaced by another switch"])
async def test_maintenance_of_a_switch_loses_no_packet(
    controller: Controller, ctl_lab: Lab, nodes: None, datapath_id: str
) -> None:
    await controller.carry_out(start())
    step = 0
    traffic = Traffic(ALWAYS, lambda: step)
    traffic.start()
    try:
        await asyncio.sleep(0.3)
        step = 1
        await asyncio.to_thread(prefer_first_nic, ctl_lab, True)
        step = 2
        await controller.carry_out(inventory(maintenance=True))
        await asyncio.sleep(0.3)
        step = 3
        await controller.carry_out(inventory(maintenance=True, isolated=True))
        await asyncio.to_thread(wait_until, lambda: not carrier(ctl_lab, "h1"), "h1 has lost the carrier")
        step = 4
        if datapath_id != SAME:
            await controller.carry_out(inventory(maintenance=True, isolated=True, datapathId=datapath_id))
        await asyncio.to_thread(restart, ctl_lab, datapath_id)
        await controller.until(lambda: connected(controller, datapath_id), "sw2 is back")
        wanted = len(controller.participant._ledger.compilation.tables["sw2"].entries)
        await controller.until(lambda: len(ctl_lab.switches["sw2"].flows()) == wanted, "sw2 is refilled")
        await controller.until(lambda: not carrier(ctl_lab, "h1"), "a switch that starts again stays isolated")
        step = 5
        await controller.carry_out(inventory(maintenance=True, datapathId=datapath_id))
        await asyncio.to_thread(wait_until, lambda: carrier(ctl_lab, "h1"), "the ports are open")
        step = 6
        await controller.carry_out(inventory(datapathId=datapath_id))
        await asyncio.to_thread(prefer_first_nic, ctl_lab, False)
        step = 7
        await asyncio.sleep(0.5)
    finally:
        await asyncio.to_thread(traffic.stop)
        await asyncio.to_thread(restart, ctl_lab, SAME)
    assert all(stream.sent > 200 for stream in traffic.streams)
    assert {str(stream.route): stream.lost for stream in traffic.streams if stream.lost} == {}


def connected(controller: Controller, datapath_id: str) -> bool:
    """Tell whether sw2 has connected again, with this datapath id."""
    told = [data for topic, data in controller.events if topic in ("switch.connected", "switch.lost")]
    of_sw2 = [data.get("datapathId") for data in told if data["switch"] == "sw2"]
    return None in of_sw2 and of_sw2[-1] == datapath_id


def restart(lab: Lab, datapath_id: str) -> None:
    """Upgrade the switch, or put another one in its place: it comes back empty."""
    switch = lab.switches["sw2"]
    switch.vsctl("--no-wait", "set", "bridge", "sw2", f"other-config:datapath-id={datapath_id}")
    old = switch.pid("ovs-vswitchd")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{old}/fd"), "the old process is gone")
    (switch.directory / "ovs-vswitchd.pid").unlink(missing_ok=True)
    switch.start_vswitchd()


async def test_a_port_that_an_operator_shut_is_left_alone(controller: Controller, ctl_lab: Lab) -> None:
    switch = ctl_lab.switches["sw2"]
    switch.ofctl("mod-port", "p-h3", "down")
    try:
        await controller.carry_out(start())
        assert not carrier(ctl_lab, "h3")
    finally:
        switch.ofctl("mod-port", "p-h3", "up")
