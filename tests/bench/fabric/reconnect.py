# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long a switch that comes back empty takes to forward again, and to be verified in full."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import datetime
from pathlib import Path

from tests.bench.fabric.support import Fabric, Json, Probe, Sizes, fabric, folder, probing, until
from tests.bench.rdmp.support import spread

PAUSE = 0.0005
SWITCH = "sw1"  # through which the probe's packets go


def measure(sizes: Sizes) -> Json:
    """Times of several restarts of one of two switches."""
    return asyncio.run(_with(sizes.reconnect_nodes, sizes.reconnects))


async def _with(nodes: int, repeats: int) -> Json:
    found: dict[str, list[float]] = {}
    with folder() as where:
        async with fabric(where, nodes) as made, probing(made, PAUSE) as probe:
            for _ in range(repeats):
                for name, seconds in (await _once(made, probe)).items():
                    found.setdefault(name, []).append(seconds)
            entries = made.controller.participant.switches.report()[SWITCH]["entries"]
    return {"nodes": nodes, "entries": entries, **{name: spread(values) for name, values in found.items()}}


async def _once(made: Fabric, probe: Probe) -> dict[str, float]:
    """Kill ovs-vswitchd and start it again."""
    switch, controller = made.lab.switches[SWITCH], made.controller
    controller.events.clear()
    pid = switch.pid("ovs-vswitchd")
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.01)
    await until(lambda: [one for one in controller.topics("switch.lost") if one["switch"] == SWITCH], "switch.lost")
    # Some packets are still on their way.
    await asyncio.sleep(0.05)
    await probe.forget()
    begun = time.monotonic_ns()
    started = asyncio.create_task(asyncio.to_thread(switch.start_vswitchd))
    await until(lambda: controller.topics("switch.connected"), "switch.connected")
    connected = time.monotonic_ns()
    before = _verified(made)
    await until(lambda: _verified(made) not in (None, before), "verified")
    verified = time.monotonic_ns()
    await started
    first = await probe.first_arrival(begun)
    return {
        "start_to_connected": (connected - begun) / 1e9,
        "start_to_forwarding": (first - begun) / 1e9,
        "connected_to_forwarding": (first - connected) / 1e9,
        "connected_to_verified": (verified - connected) / 1e9,
    }


def _verified(made: Fabric) -> datetime | None:
    connection = made.controller.participant.switches.connection(SWITCH)
    return None if connection is None else connection.last_verified
