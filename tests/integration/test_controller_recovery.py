# SPDX-License-Identifier: AGPL-3.0-or-later
"""The controller on real Open vSwitch: restarts, emptied and altered switches, absent switches, wrong certificates."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import schemas
from controller.channel import ChannelError
from rdmp.participant import Refused
from tests.integration import controller_support as support
from tests.integration.controller_harness import NODES, Controller, closed, intent, reaches
from tests.integration.controller_support import Lab, OpenVSwitch, Pki, server, wait_until
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]


def ages(switch: OpenVSwitch) -> dict[str, float]:
    """Return the age of each entry in seconds, by its text without counters."""
    found = {}
    for line in switch.ofctl("dump-flows").splitlines():
        if age := re.search(r"duration=([\d.]+)s", line):
            found[re.sub(r"(duration|n_packets|n_bytes|idle_age)=[\d.]+s?, ", "", line)] = float(age[1])
    return found


async def state_of(ctl_lab: Lab) -> dict[str, dict[str, float]]:
    return {name: await asyncio.to_thread(ages, switch) for name, switch in ctl_lab.switches.items()}


async def test_a_restarted_controller_touches_nothing(controller: Controller, ctl_lab: Lab, ctl_pki: Pki) -> None:
    await controller.carry_out(intent(app_2="draining"))
    before = await state_of(ctl_lab)
    await controller.stop()
    again = Controller(ctl_lab, ctl_pki, controller.state)
    try:
        await again.start(controller.port)
        await again.until(lambda: len(again.topics("switch.connected")) == 2, "both switches are back")
        await again.until(
            lambda: all(one["lastVerified"] for one in again.participant.switches.report().values()), "verified"
        )
        after = await state_of(ctl_lab)
        for name in before:
            assert before[name].keys() == after[name].keys()
            assert all(after[name][entry] >= age for entry, age in before[name].items()), "an entry was written again"
        assert again.topics("switch.drift") == []
        observed = await again.participant.observe()
        assert schemas.validate("controller-observation", observed) == ()
        assert observed["revision"] == 1 and observed["bindings"]["app-2"] == "draining"
    finally:
        await again.stop()


async def test_an_open_transaction_survives_a_restart(controller: Controller, ctl_lab: Lab, ctl_pki: Pki) -> None:
    documents = intent()
    del documents["binding/app-2"]
    await controller.carry_out(documents)
    binding = samples.binding("app-2", *NODES["app-2"], "dark")
    admitted: dict[str, Any] = {"binding/app-2": {**binding, "phase": "admitted"}}
    tx = controller.transaction(
        {
            "prepare": {"changes": admitted, "dark": {"binding/app-2": binding}},
            "stages": {"admit": {"changes": admitted}},
        }
    )
    await controller.participant.prepare(tx)
    before = await state_of(ctl_lab)
    await controller.stop()
    again = Controller(ctl_lab, ctl_pki, controller.state)
    try:
        await again.start(controller.port, in_doubt=[tx])
        await again.until(lambda: len(again.topics("switch.connected")) == 2, "both switches are back")
        await again.until(
            lambda: all(one["lastVerified"] for one in again.participant.switches.report().values()), "verified"
        )
        after = await state_of(ctl_lab)
        assert all(after[name][entry] >= age for name in before for entry, age in before[name].items())
        with server("app-2", 8080):
            assert await closed("lb-1", "app-2", 8080)
            effect = again.keep(await again.participant.commit(tx, "admit"))
            assert effect.degraded is None
            assert await reaches("lb-1", "app-2", 8080)
        assert await again.participant.status(tx.id) == {"open": False}
    finally:
        await again.stop()


async def watched(ctl_lab: Lab, ctl_pki: Pki, **options: Any) -> Controller:
    """A controller that looks at the switches all the time."""
    made = Controller(ctl_lab, ctl_pki, **({"verify_seconds": 0.2} | options))
    ctl_lab.forget()
    await made.start()
    await made.attach()
    return made


async def test_an_emptied_switch_is_refilled(ctl_lab: Lab, ctl_pki: Pki) -> None:
    controller = await watched(ctl_lab, ctl_pki)
    try:
        await controller.carry_out(intent())
        switch = ctl_lab.switches["sw2"]
        before = switch.flows()
        switch.ofctl("del-flows")
        switch.ofctl("del-groups")
        await controller.until(lambda: switch.flows() == before, "all entries are back")
        await controller.until(lambda: controller.topics("switch.drift"), "the event")
        event = controller.topics("switch.drift")[0]
        assert event["switch"] == "sw2" and event["missing"] == len(before) + len(switch_groups(switch))
    finally:
        await controller.stop()


def switch_groups(switch: OpenVSwitch) -> list[str]:
    return [line for line in switch.ofctl("dump-groups").splitlines() if "group_id=" in line]


async def test_altered_entries_are_repaired_and_foreign_ones_are_told(ctl_lab: Lab, ctl_pki: Pki) -> None:
    controller = await watched(ctl_lab, ctl_pki)
    try:
        await controller.carry_out(intent())
        switch = ctl_lab.switches["sw1"]
        before = switch.flows()
        pin = next(line for line in before if "nw_src=172.16.10.2" in line)
        switch.ofctl("mod-flows", "--strict", pin.split(" actions=")[0] + " actions=drop")
        switch.ofctl("add-flow", "cookie=0x0d00000000000000,table=31,priority=77,ip,actions=drop")
        await controller.until(lambda: switch.flows() == before, "the entries are as before")
        switch.ofctl("add-flow", "cookie=0x99,table=0,priority=7,in_port=77,actions=drop")
        await controller.until(lambda: [one for one in controller.topics("switch.drift") if one["foreign"]], "foreign")
        assert len(switch.flows()) == len(before) + 1, "it is not ours to delete"
        assert (await controller.participant.observe())["switches"]["sw1"]["foreign"] == 1
    finally:
        await controller.stop()


async def test_a_group_of_another_type_is_told_and_repaired_and_blocks_no_commit(ctl_lab: Lab, ctl_pki: Pki) -> None:
    controller = await watched(ctl_lab, ctl_pki)
    try:
        await controller.carry_out(intent())
        switch = ctl_lab.switches["sw1"]
        before = sorted(switch_groups(switch))
        number = before[0].split("group_id=")[1].split(",")[0]
        switch.ofctl("mod-group", f"group_id={number},type=all,bucket=actions=drop")
        assert sorted(switch_groups(switch)) != before
        await controller.until(lambda: sorted(switch_groups(switch)) == before, "the group is as before")
        await controller.until(lambda: controller.topics("switch.drift"), "the event")
        assert controller.topics("switch.drift")[0]["foreign"] == 0
        await controller.carry_out(intent(app_2="draining"))
    finally:
        await controller.stop()


async def test_a_restarted_switch_is_refilled(ctl_lab: Lab, ctl_pki: Pki) -> None:
    controller = await watched(ctl_lab, ctl_pki)
    try:
        await controller.carry_out(intent())
        switch = ctl_lab.switches["sw1"]
        before = switch.flows()
        pid = switch.pid("ovs-vswitchd")
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: ended(pid), "ovs-vswitchd ended")
        await controller.until(lambda: controller.topics("switch.lost"), "lost")
        with pytest.raises(Refused, match="switch sw1 is not connected"):
            await controller.carry_out({"binding/app-2": None})
        switch.start_vswitchd()
        await controller.until(lambda: switch.flows() == before, "refilled", 30)
        with server("app-1", 8080):
            assert await reaches("lb-1", "app-1", 8080)
    finally:
        await controller.stop()


def ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_commit_waits_for_a_lost_switch_or_is_degraded(ctl_lab: Lab, ctl_pki: Pki, allowed: bool) -> None:
    controller = await watched(ctl_lab, ctl_pki, allow_absent=allowed)
    try:
        await controller.carry_out(intent())
        switch = ctl_lab.switches["sw2"]
        gone = {"binding/app-2": None}
        tx = controller.transaction({"prepare": {"changes": gone}, "stages": {"retire": {"changes": gone}}})
        await controller.participant.prepare(tx)
        switch.vsctl("del-controller", "sw2")
        await controller.until(lambda: controller.topics("switch.lost"), "lost")
        if allowed:
            effect = await controller.participant.commit(tx, "retire")
            assert effect.degraded == "switch sw2 is not connected"
        else:
            with pytest.raises(ChannelError, match="sw2 is not connected"):
                await controller.participant.commit(tx, "retire")
        assert not any("172.16.20.3" in line for line in ctl_lab.switches["sw1"].flows())
        await asyncio.to_thread(switch.set_controller, ctl_pki.issue("switch", "sw2"), controller.port)
        filled = len(controller.participant._ledger.compilation.tables["sw2"].entries)
        await controller.until(lambda: len(switch.flows()) == filled, "sw2 was brought to the intent")
        assert not any("172.16.20.3" in line for line in switch.flows())
        if not allowed:
            effect = await controller.participant.commit(tx, "retire")
            assert effect.degraded is None and effect.state["binding/app-2"] is None
    finally:
        await controller.stop()


async def test_wrong_certificates_and_datapath_ids_are_refused(
    controller: Controller, ctl_lab: Lab, ctl_pki: Pki, tmp_path: Path
) -> None:
    await controller.carry_out(intent())
    switch = ctl_lab.switches["sw2"]

    async def refusal(files: Any) -> str:
        switch.vsctl("del-controller", "sw2")
        await asyncio.sleep(0.2)
        controller.events.clear()
        await asyncio.to_thread(switch.set_controller, files, controller.port)
        await controller.until(lambda: controller.topics("switch.refused"), "refused")
        assert not controller.topics("switch.connected")
        return str(controller.topics("switch.refused")[0]["reason"])

    assert "odyssey://lab/agent/h1" in await refusal(ctl_pki.issue("agent", "h1"))
    assert "datapath id is 0000000000000002; the inventory says 0000000000000001" in await refusal(
        ctl_pki.issue("switch", "sw1")
    )
    other = Pki(tmp_path / "other")
    switch.vsctl("del-controller", "sw2")
    await asyncio.sleep(0.2)
    controller.events.clear()
    await asyncio.to_thread(switch.set_controller, other.issue("switch", "sw2"), controller.port)
    await asyncio.sleep(1.0)
    assert not controller.topics("switch.connected"), "a certificate of another CA"
    assert controller.participant.switches.connection("sw1") is not None, "the real one is still there"
    switch.vsctl("del-controller", "sw2")
    await asyncio.to_thread(switch.set_controller, ctl_pki.issue("switch", "sw2"), controller.port)
    await controller.until(lambda: controller.topics("switch.connected"), "the right one is welcome again")


async def test_without_an_inventory_a_switch_is_sent_nothing(controller: Controller, ctl_lab: Lab) -> None:
    ctl_lab.switches["sw1"].ofctl("add-flow", "cookie=0x0d00000000000000,table=0,priority=7,actions=drop")
    await asyncio.sleep(0.5)
    assert len(ctl_lab.switches["sw1"].flows()) == 1
    wrong = samples.inventory()
    wrong["fabric"]["switches"]["sw1"]["datapathId"] = "00000000000000ff"
    with pytest.raises(Refused, match="datapath id is 0000000000000001; the inventory says 00000000000000ff"):
        await controller.carry_out({"inventory": wrong})
    assert len(ctl_lab.switches["sw1"].flows()) == 1
    await controller.carry_out({"inventory": samples.inventory()})
    assert len(ctl_lab.switches["sw1"].flows()) > 10
    assert tuple(controller.participant.switches.report()) == support.SWITCHES
