# SPDX-License-Identifier: AGPL-3.0-or-later
"""The results as the RDMP part of docs/benchmarks.md; `text` and `curves` take what was measured and give text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from tests.bench import document
from tests.bench.document import row, write_part
from tests.bench.rdmp import tried
from tests.bench.rdmp.goals import goals
from tests.bench.rdmp.plot import growth
from tests.bench.rdmp.support import ROOT, Json

TARGET = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "images" / "rdmp-growth.svg"
NAME = "rdmp"


def write(result: Json) -> None:
    """Put the text between its markers, and write the plot."""
    write_part(TARGET, NAME, text(result))
    if result["growth"]:
        title = "RDMP as the fleet grows (two cores for everybody)"
        document.write(PLOT, growth(curves(result["growth"]), title, "agents"))


def curves(fleets: list[Json]) -> dict[str, list[tuple[float, float]]]:
    """What the plot shows, over the number of agents."""

    def over(*path: str) -> list[tuple[float, float]]:
        points = []
        for fleet in fleets:
            value: Any = fleet
            for name in path:
                value = value[name]
            if value:
                points.append((float(fleet["participants"]), float(value)))
        return points

    return {
        "all votes are in, s": over("fan_out", "votes_in"),
        "transaction has ended, s": over("fan_out", "finished"),
        "all back after a restart, s": over("storm", "all_back_s"),
        "memory when idle, MiB": over("idle", "rss_mib"),
        "processor when idle, %": over("idle", "cpu_percent"),
    }


def text(result: Json) -> str:
    """The part of the document."""
    lines = [
        "## RDMP", "", *_head(result), "",
        "### Goals", "", *_goals(result), "",
        "### Durable transactions", "", *_transactions(result), "",
        "### Calls", "", *_calls(result["rpc"]), "",
        "### Fan-out, memory, reconnecting", "", *_fleets(result["growth"]), "",
        "### What was tried", "", *_tried(), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _head(result: Json) -> Iterator[str]:
    where = result["machine"]
    small = " (small sizes: --quick)" if result["quick"] else ""
    yield from textwrap.wrap(
        f"Written by `make bench-rdmp` on {result['date']}{small}; {where['cores']} cores, {where['processor']}; Linux "
        f"{where['kernel']}, {where['filesystem']}; load {where['load_before']:.1f} before, {where['load_after']:.1f} "
        "after. Every server and client runs on this one machine and shares its cores; all traffic is on the loopback.",
        118,
    )
    if where["load_before"] > 1.0:
        yield ""
        yield f"**The machine was not idle** (load {where['load_before']:.1f} on {where['cores']} cores when it began):"
        yield "times are too long and rates too low; processor time for each operation says more."


def _goals(result: Json) -> Iterator[str]:
    yield "| | measured | goal | |"
    yield "|---|---|---|---|"
    for goal in goals(result):
        measured = "never" if goal.measured is None else f"{goal.measured:,g} {goal.unit}"
        bound = f"{'at least' if goal.at_least else 'below'} {goal.bound:,g} {goal.unit}"
        yield row(goal.name, measured, bound, "reached" if goal.reached else "**not reached**")
    yield ""
    yield "Idle is after a pause; then the processor, not the disk, makes a transaction slow (below)."


def _transactions(result: Json) -> Iterator[str]:
    own = result["transactions"]
    cold = own["cold"]
    straight, paused = own["fsync"]["in_a_row"], own["fsync"]["paused"]
    yield "Operations in a second with the best of the measured numbers of open operations. Then one at a time:"
    yield "in turn, without a pause, and idle, each after a pause of 20 ms."
    yield ""
    yield from textwrap.wrap(
        f"The disk's own `fdatasync` of 4 KiB: p50 {straight['p50_ms']} ms, p99 {straight['p99_ms']} ms in a row; with "
        f"a pause of 20 ms before each, as when idle, p50 {paused['p50_ms']} ms, p99 {paused['p99_ms']} ms. An RDMP "
        "transaction waits for six of them one after another. The processor is slower after a pause, too: a small work "
        f"in Python took {cold['in_a_row_us']} us in a row and {cold['paused_us']} us then, "
        f"**{cold['paused_us'] / cold['in_a_row_us']:.1f} times** as long.",
        118,
    )
    yield ""
    yield (
        "| operation | per second | open | p50 then, ms | in turn p50 | in turn p99, ms | idle p50 | idle p99, ms "
        "| CPU us each | syncs each |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    best = max(own["saturated"], key=lambda one: float(one["per_second"]))
    cpu = f"{best['cpu_us']} (orchestrator {best['cpu_us_orchestrator']})"
    yield row(
        f"**RDMP transaction, {own['participants']} participants**", best["per_second"], best["open"], best["p50_ms"],
        *_alone(own), cpu, best["fsyncs"],
    )  # fmt: skip
    for peer in result["peers"]:
        if "error" in peer:
            yield row(peer["name"], f"not measured: {peer['error']}", *[""] * 8)
            continue
        best = max(peer["saturated"], key=lambda one: float(one["per_second"]))
        cpu = f"{best['cpu_us_server'] + best['cpu_us_client']} (server {best['cpu_us_server']})"
        yield row(
            peer["name"], best["per_second"], best["open"], best["p50_ms"], *_alone(peer), cpu, best["disk_flushes"],
        )  # fmt: skip
    yield ""
    yield "What each promises when it answers:"
    yield ""
    yield "- RDMP: the same decision on three processes and the orchestrator. Four SQLite files (WAL, synchronous=FULL)"
    yield "  are synced one after another at least six times: record, intent and yes of each participant, decision,"
    yield "  intent and result of each participant. Mutual TLS 1.3. The syncs are counted where they are asked for."
    for peer in result["peers"]:
        yield from textwrap.wrap(f"- {peer['name']}: {peer['guarantee']}.", 118, subsequent_indent="  ")
    yield ""
    yield "The syncs of the peers are the flushes that the disk counted, whoever asked for them. The clients are Python"
    yield "like RDMP's own; etcd is asked through its JSON gateway, which costs it more than gRPC would."
    yield ""
    yield "| RDMP, open | per second | p50, ms | p99, ms | CPU us each | syncs each |"
    yield "|---|---|---|---|---|---|"
    for one in own["saturated"]:
        yield row(one["open"], one["per_second"], one["p50_ms"], one["p99_ms"], one["cpu_us"], one["fsyncs"])


def _alone(measured: Json) -> list[float]:
    return [measured[how][which] for how in ("alone", "idle") for which in ("p50_ms", "p99_ms")]


def _calls(rows: list[Json]) -> Iterator[str]:
    yield "Round trips of a call with 200 bytes each way; each client waits for its answer before it calls again."
    yield ""
    yield "| | clients | per second | p50, ms | p99, ms | CPU us, caller | CPU us, callee |"
    yield "|---|---|---|---|---|---|---|"
    for caller in rows:
        if "error" in caller:
            yield row(caller["name"], f"not measured: {caller['error']}", "", "", "", "", "")
            continue
        for count, one in caller["clients"].items():
            yield row(
                caller["name"], count, one["per_second"], one["p50_ms"], one["p99_ms"], one["cpu_us_client"],
                one["cpu_us_callee"],
            )  # fmt: skip
    yield ""
    yield "jsocket waits for delayed acknowledgements (Nagle's algorithm is on); NATS's server stands between the two."


def _fleets(fleets: list[Json]) -> Iterator[str]:
    if not fleets:
        yield "Not measured."
        return
    yield "Simulated agents: real protocol, TLS, sockets and journals, effects that do nothing. They run in several"
    yield "processes; the agents of one share one journal file and its thread (each write is as durable as in a file of"
    yield "its own). *Votes in*: from the call to the last yes. *Late*: the longest time that the orchestrator's event"
    yield "loop, and so any heartbeat, was late, in milliseconds."
    yield ""
    yield "| agents | connected, s | idle MiB | KiB each | idle CPU % | votes in, s | ended, s | CPU us each | late |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in fleets:
        idle, fan = one["idle"], one["fan_out"]
        cpu = f"{fan['cpu_us_per_participant']} (orchestrator {fan['cpu_us_per_participant_orchestrator']})"
        yield row(
            f"{one['participants']:,}", _seconds(one["connect_s"]), idle["rss_mib"], idle["kib_per_agent"],
            idle["cpu_percent"], fan["votes_in"], fan["finished"], cpu, fan["loop_late_ms"],
        )  # fmt: skip
    yield ""
    yield "The orchestrator is killed and started again; all agents come back:"
    yield ""
    yield "| agents | all back, s | stayed | heartbeat, s | late, ms | CPU s, orchestrator | MiB |"
    yield "|---|---|---|---|---|---|---|"
    for one in fleets:
        storm = one["storm"]
        yield row(
            f"{one['participants']:,}", _seconds(storm["all_back_s"]), storm["still_connected"], one["heartbeat_s"],
            storm["loop_late_ms"], storm["cpu_s_orchestrator"], storm["rss_mib"],
        )  # fmt: skip
    yield ""
    yield "![growth](images/rdmp-growth.svg)"
    yield ""
    yield "The limit is the processor: the orchestrator is one Python thread, each message costs it 50 to 100 us with"
    yield "TLS, each TLS handshake about 2 ms; here the agents need the same cores, three times as much. A fleet of"
    yield "more than 1,000 therefore gets a longer heartbeat than the default of 2 s (`[rdmp] heartbeat`)."


def _tried() -> Iterator[str]:
    yield from textwrap.wrap(tried.BEGAN, 118)
    for title, items in (("Kept", tried.KEPT), ("Not kept", tried.DROPPED), ("Not tried", tried.OPEN)):
        yield from ("", f"{title}:", "")
        for item in items:
            yield from textwrap.wrap(f"- {item}", 118, subsequent_indent="  ")


def _seconds(value: float | None) -> str:
    return "not all" if value is None else f"{value:.1f}"
