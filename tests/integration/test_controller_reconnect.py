# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch that comes back empty: it is given what is kept encoded, forwards again, and is verified in full."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from controller.openflow import wire
from controller.openflow.channel import OpenFlowChannel
from tests.integration.controller_harness import Controller, intent, reaches
from tests.integration.controller_support import Lab, Pki, server, wait_until
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]

MORE_NODES = 300
SWITCH = "sw1"


class Counted:
    """Counts what is asked of switches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.changes: list[int] = []
        for name in ("apply", "read_flows", "read_groups", "read_meters"):
            self._wrap(monkeypatch, name)
        self._encoded(monkeypatch)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        plain = getattr(OpenFlowChannel, name)

        async def counted(channel: OpenFlowChannel, *arguments: Any) -> Any:
            self.calls[name] += 1
            if name == "apply":
                self.changes.append(len(arguments[0]))
            return await plain(channel, *arguments)

        monkeypatch.setattr(OpenFlowChannel, name, counted)

    def _encoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = wire._addition

        def counted(entry: Any) -> bytes:
            self.calls["encoded"] += 1
            return plain(entry)

        monkeypatch.setattr(wire, "_addition", counted)


def many() -> dict[str, Any]:
    """Return the three tiers and some hundred nodes more."""
    documents = intent()
    for number in range(MORE_NODES):
        address = f"172.16.20.{number + 10}" if number < 240 else f"172.16.10.{number - 200}"
        network = "shop/app" if number < 240 else "shop/lb"
        documents[f"binding/more-{number}"] = samples.binding(f"more-{number}", network, address, f"h{number % 3 + 1}")
    return documents


async def test_an_empty_switch_takes_one_write_and_two_readings(
    ctl_lab: Lab, ctl_pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller(ctl_lab, ctl_pki, verify_seconds=600.0)
    ctl_lab.forget()
    await controller.start()
    try:
        await controller.attach()
        await controller.carry_out(many())
        switch = ctl_lab.switches[SWITCH]
        before = switch.flows()
        pid = switch.pid("ovs-vswitchd")
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: not Path(f"/proc/{pid}").exists(), "ovs-vswitchd ended")
        await controller.until(lambda: controller.topics("switch.lost"), "lost")
        counted = Counted(monkeypatch)
        controller.events.clear()
        await asyncio.to_thread(switch.start_vswitchd)
        drift = (await controller.until(lambda: controller.topics("switch.drift"), "refilled and verified", 30))[0]
        assert switch.flows() == before
        report = controller.participant.switches.report()[SWITCH]
        assert report["entries"] == len(before) and report["drift"] == 0 and report["lastVerified"] is not None
        # Once before, which finds nothing, and once after.
        assert counted.calls == {"apply": 1, "read_flows": 2, "read_groups": 2, "read_meters": 2}
        assert counted.changes == [drift["missing"]]
        assert counted.calls["encoded"] == 0, "what was encoded for the first time is sent again"
        with server("app-1", 8080):
            assert await reaches("lb-1", "app-1", 8080)
    finally:
        await controller.stop()
