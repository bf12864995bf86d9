# SPDX-License-Identifier: AGPL-3.0-or-later
"""Durable transactions with three participants in processes of their own: how many at most, and how long when alone."""

from __future__ import annotations

from pathlib import Path

from tests.bench.rdmp.fleet import Fleet, Pki
from tests.bench.rdmp.support import PAUSE, Json, Sizes, children, cold, disk_flushes, disk_fsync, load, say

PARTICIPANTS = 3
OPEN = (16, 64, 256)  # transactions that are open at a time


def measure(folder: Path, pki: Pki, sizes: Sizes) -> Json:
    """Saturated with each number of open transactions, then one at a time: without a pause, and after one."""
    with children() as started:
        fleet = Fleet(folder / "transactions", pki, started, {})
        hub, _ = fleet.orchestrate()
        fleet.man(PARTICIPANTS, PARTICIPANTS)
        hub.ask("wait_peers", count=PARTICIPANTS, timeout=20.0)
        names = list(fleet.names)
        hub.ask("saturate", participants=names, seconds=1.0, open=16)
        saturated = []
        for number in OPEN:
            before, flushes = fleet.usage(hub), disk_flushes()
            told = hub.ask("saturate", participants=names, seconds=sizes.seconds, open=number)
            after = fleet.usage(hub)
            count = told["count"]
            one = {
                "open": number,
                "per_second": round(count / told["seconds"], 1),
                **{name: told[name] for name in ("p50_ms", "p99_ms")},
                "cpu_us": round((after["cpu"] - before["cpu"]) / count * 1e6),
                "cpu_us_orchestrator": round(told["used"]["cpu"] / count * 1e6),
                "fsyncs": round((after["syncs"] - before["syncs"]) / count, 3),
                "disk_flushes": round((disk_flushes() - flushes) / count, 3),
                "load": load(),
            }
            saturated.append(one)
            say(f"  {number} open: {one['per_second']:.0f}/s, {one['cpu_us']} us CPU, {one['fsyncs']} fsyncs each")
        alone = hub.ask("idle", participants=names, count=sizes.idle, pause=0)
        idle = hub.ask("idle", participants=names, count=sizes.idle, pause=PAUSE)
        fsync = {"in_a_row": disk_fsync(folder), "paused": disk_fsync(folder, sizes.idle, PAUSE)}
        say(f"  in turn: p50 {alone['p50_ms']} ms, p99 {alone['p99_ms']} ms; after a pause: {idle}; {fsync['paused']}")
    told = {"saturated": saturated, "alone": alone, "idle": idle, "fsync": fsync, "cold": cold(sizes.idle)}
    return {"participants": PARTICIPANTS, **told}
