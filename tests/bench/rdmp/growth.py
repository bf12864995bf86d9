# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fleets of simulated agents: connecting, memory when idle, fan-out, and all of them coming back after a restart."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench.rdmp.fleet import Fleet, Pki
from tests.bench.rdmp.support import Child, Json, Sizes, children, load, memory, processor_seconds, say

HEARTBEAT = 2.0  # s, up to a thousand agents
HEARTBEAT_LARGE = 10.0  # s, above: each beat of each agent costs the orchestrator four messages
IDLE_SECONDS = 5.0
CONNECT_TIMEOUT = 120.0


def limits(count: int) -> dict[str, Any]:
    """The limits of both sides that a fleet of this size needs; the others stand at their defaults."""
    large = count > 1000
    return {
        "max_connections": count + 1000,
        "heartbeat": HEARTBEAT_LARGE if large else HEARTBEAT,
        "handshake_timeout": 30.0 if large else 5.0,
        "repeat_interval": 15.0 if large else 2.0,
        "peer_wait": 10.0,
        "publish_queue": 4 * count + 1024,
        "reconnect_max": 10.0 if large else 3.0,
    }


def measure(folder: Path, pki: Pki, sizes: Sizes) -> list[Json]:
    """One entry for each size of fleet."""
    return [one(folder, pki, sizes, count) for count in sizes.fleets]


def one(folder: Path, pki: Pki, sizes: Sizes, count: int) -> Json:
    """Everything that is measured of one fleet."""
    with children() as started:
        fleet = Fleet(folder / f"fleet-{count}", pki, started, limits(count))
        hub, ready = fleet.orchestrate()
        fleet.man(count, sizes.agent_processes)
        connected = hub.ask("wait_peers", CONNECT_TIMEOUT + 10, count=count, timeout=CONNECT_TIMEOUT)
        answer: Json = {"participants": count, "heartbeat_s": fleet.limits["heartbeat"]}
        answer["connect_s"] = connected["seconds"] and round(connected["seconds"], 2)
        time.sleep(2.0)
        answer["idle"] = _idle(hub, ready["rss"], count)
        answer["fan_out"] = _fan_out(fleet, hub, sizes.repeats)
        answer["storm"] = _storm(fleet, hub, count)
        answer["load"] = load()
    _tell(answer)
    return answer


def _idle(hub: Child, empty: int, count: int) -> Json:
    """Memory and processor of an orchestrator that has nothing to do but heartbeats."""
    hub.ask("usage")
    before, begun = processor_seconds([hub.pid]), time.monotonic()
    time.sleep(IDLE_SECONDS)
    cpu = (processor_seconds([hub.pid]) - before) / (time.monotonic() - begun)
    rss = memory(hub.pid)
    late = hub.ask("usage")["loop_late"]
    return {
        "rss_mib": round(rss / 2**20, 1),
        "kib_per_agent": round((rss - empty) / count / 1024, 1),
        "cpu_percent": round(cpu * 100, 1),
        "loop_late_ms": round(late * 1000, 1),
    }


def _fan_out(fleet: Fleet, hub: Child, repeats: int) -> Json:
    runs = []
    before = fleet.usage(hub)
    for _ in range(repeats):
        runs.append(hub.ask("fan_out"))
    after = fleet.usage(hub)
    count = runs[0]["participants"]
    times = ("votes_in", "decided", "finished")
    return {
        "participants": count,
        **{name: round(statistics.median(run[name] for run in runs), 4) for name in times},
        "votes_in_worst": round(max(run["votes_in"] for run in runs), 4),
        "loop_late_ms": round(max(run["loop_late"] for run in runs) * 1000, 1),
        "cpu_us_per_participant": round((after["cpu"] - before["cpu"]) / repeats / count * 1e6),
        "cpu_us_per_participant_orchestrator": round(statistics.median(run["cpu"] for run in runs) / count * 1e6),
        "fsyncs": round((after["syncs"] - before["syncs"]) / repeats, 1),
    }


def _storm(fleet: Fleet, hub: Child, count: int) -> Json:
    """Kill the orchestrator, start it again on the same port, and wait until every agent is back."""
    hub.kill()
    begun = time.monotonic()
    again, ready = fleet.orchestrate()
    started = time.monotonic() - begun
    told = again.ask("wait_peers", CONNECT_TIMEOUT + 10, count=count, timeout=CONNECT_TIMEOUT)
    agents_cpu = processor_seconds([child.pid for child in fleet.agents])
    usage = again.ask("usage")
    time.sleep(2 * fleet.limits["heartbeat"])
    stayed = again.ask("usage")
    return {
        "restart_s": round(started, 2),
        "all_back_s": told["seconds"] and round(told["seconds"] + started, 2),
        "connected": told["connected"],
        "still_connected": stayed["peers"],
        "timeline": told["timeline"][:: max(1, len(told["timeline"]) // 60)],
        "cpu_s_orchestrator": round(usage["cpu"], 2),
        "cpu_s_agents_since_start": round(agents_cpu, 1),
        "loop_late_ms": round(usage["loop_late"] * 1000, 1),
        "rss_mib": round(usage["rss"] / 2**20, 1),
        "port": ready["port"],
    }


def _tell(answer: Json) -> None:
    idle, fan, storm = answer["idle"], answer["fan_out"], answer["storm"]
    say(
        f"  {answer['participants']} agents: connected in {answer['connect_s']} s; idle {idle['rss_mib']} MiB, "
        f"{idle['cpu_percent']} % CPU; votes in after {fan['votes_in']} s, ended {fan['finished']} s, "
        f"{fan['cpu_us_per_participant_orchestrator']}+ us each; all back after {storm['all_back_s']} s"
    )
