# SPDX-License-Identifier: AGPL-3.0-or-later
"""The results as the fabric's part of docs/benchmarks.md; everything but ``write`` takes values and returns text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tests.bench import document
from tests.bench.document import WIDTH, row, write_part
from tests.bench.fabric.plot import Bar, bars
from tests.bench.fabric.support import Json
from tests.bench.rdmp.plot import growth
from tests.bench.rdmp.support import ROOT

TARGET = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"
NAME = "fabric"
PROGRAMMING, COMPILING = "fabric-programming.svg", "fabric-compiling.svg"
#: The row of other programs that ours are compared with.
PEER = "ovs-ofctl --bundle add-flows"
GOALS = {
    "Odyssey, not yet encoded: sent": 15_000,
    "Odyssey, not yet encoded: sent and verified": 8_000,
}
IDLE_LOAD = 0.5


def write(result: Json) -> None:
    """Put the text between its markers, and write the plots."""
    write_part(TARGET, NAME, text(result))
    for name, svg in plots(result).items():
        document.write(IMAGES / name, svg)


def plots(result: Json) -> dict[str, str]:
    """The plots by file name."""
    found = [Bar(one["name"], one["per_second"], one["name"].startswith("Odyssey")) for one in _rates(result)]
    curves: dict[str, list[tuple[float, float]]] = {}
    counts = sorted({one["switches"] for one in result["compiling"]})
    for one in result["compiling"]:
        if "first_s" in one and one["switches"] in (counts[0], counts[-1]):
            name = f"{one['profile']}, {one['switches']} switches"
            curves.setdefault(name, []).append((float(one["nodes"]), float(one["first_s"])))
    return {
        PROGRAMMING: bars(found, "Flow entries given to one Open vSwitch in a second"),
        COMPILING: growth(curves, "Seconds to compile a whole intent", "nodes"),
    }


def _rates(result: Json) -> list[Json]:
    return list(result["programming"]["rows"])


def text(result: Json) -> str:
    """The part of the document."""
    lines = [
        "## The fabric", "", *_head(result), "",
        "### Programming a switch", "", *_programming(result["programming"]), "",
        "### From commit to the first packet", "", *_commits(result["commits"]), "",
        "### A switch that comes back empty", "", *_reconnect(result["reconnect"]), "",
        "### Traffic from container to container", "", *_traffic(result["traffic"]), "",
        "### Compiling", "", *_compiling(result["compiling"], result["largest"]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _wrapped(words: str) -> list[str]:
    return textwrap.wrap(words, WIDTH)


def _item(words: str) -> list[str]:
    return textwrap.wrap(f"- {words}", WIDTH, subsequent_indent="  ")


def _head(result: Json) -> Iterator[str]:
    where = result["machine"]
    small = " (small sizes: QUICK=1)" if result["quick"] else ""
    yield from _wrapped(
        f"Written by `make bench-fabric` on {result['date']}{small}; {where['cores']} cores, {where['processor']}; "
        f"Linux {where['kernel']}; {where['switch']}, its userspace datapath; load {where['load_before']:.1f} before, "
        f"{where['load_after']:.1f} after. Switches, hosts, containers and the controller share this one machine; the "
        "controller speaks with the switches over mutual TLS. Look at what stands side by side: it was measured in "
        "turn, in one run."
    )
    if where["load_before"] > IDLE_LOAD:
        yield ""
        yield f"**The machine was not idle** (load {where['load_before']:.1f} on {where['cores']} cores when it began)."


def _programming(found: Json) -> Iterator[str]:
    yield from _wrapped(
        f"{found['entries']:,} entries of a compiled intent into one empty switch, until the last barrier is answered "
        "or the program ends. *Verified*: what is there was read before, all of it was read back after and compared. "
        "*Not yet encoded*: as after a start of the controller, which remembers nothing. Medians, the slowest and the "
        "fastest; processor time of the controller with its end of TLS, and of the switch."
    )
    yield ""
    yield "| | entries/s | slowest | fastest | CPU us each | switch CPU us each |"
    yield "|---|---|---|---|---|---|"
    for one in found["rows"]:
        ours = one["name"].startswith("Odyssey")
        cpu = one["cpu_us"] if ours or one["name"].startswith("os-ken") else ""
        name = f"**{one['name']}**" if ours else one["name"]
        rates = [f"{one[key]:,}" for key in ("per_second", "slowest", "fastest")]
        yield row(name, *rates, cpu, one["switch_cpu_us"])
    yield ""
    rates_by_name = {one["name"]: one["per_second"] for one in found["rows"]}
    for name, goal in GOALS.items():
        ratio = rates_by_name[name] / rates_by_name[PEER]
        reached = "reached" if rates_by_name[name] >= goal else "not reached"
        yield from _item(f"{name}: **{ratio:.2f} times** as many as `{PEER}`; the goal of {goal:,}/s is {reached}.")
    ratio = rates_by_name["Odyssey, not yet encoded: sent"] / rates_by_name["os-ken's objects: sent"]
    yield from _item(f"Messages packed by us, through the same os-ken connection: **{ratio:.1f} times** its own rate.")
    yield ""
    yield f"![programming](images/{PROGRAMMING})"


def _commits(found: list[Json]) -> Iterator[str]:
    yield from _wrapped(
        "A node is prepared (dark), then admitted: from the call of commit on the controller to the first datagram "
        "that arrives, one being sent every 0.2 ms; and until everything is read back and the commit is answered. Two "
        "switches. Milliseconds. Goal: p99 below 10."
    )
    yield ""
    yield "| nodes | entries on a switch | commits | first packet p50 | p99 | largest | answered p50 | p99 |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in found:
        first, end = one["first_packet"], one["confirmed"]
        entries = f"{max(one['entries'].values()):,}"
        times = [f"{value:.1f}" for value in (first["p50_ms"], first["p99_ms"], first["max_ms"])]
        yield row(f"{one['nodes']:,}", entries, first["count"], *times, f"{end['p50_ms']:.1f}", f"{end['p99_ms']:.1f}")
    yield ""
    yield from _wrapped(
        "Some of that is Open vSwitch's own: its datapath goes on dropping by what it remembers until it has looked "
        "through that again."
    )


def _reconnect(found: Json) -> Iterator[str]:
    yield from _wrapped(
        f"`ovs-vswitchd` is killed and started again, {found['start_to_connected']['count']} times, with "
        f"{found['nodes']:,} nodes and {found['entries']:,} entries on it, while datagrams are sent through it. "
        "Milliseconds. Goals: forwards within 1,000 of its connection, verified in full within 5,000."
    )
    yield ""
    yield "| from | to | p50 | largest |"
    yield "|---|---|---|---|"
    for key, begin, end in (
        ("start_to_connected", "the start of the switch", "the switch has connected"),
        ("start_to_forwarding", "the start of the switch", "**it forwards again**"),
        ("connected_to_forwarding", "the switch has connected", "**it forwards again**"),
        ("connected_to_verified", "the switch has connected", "**it is verified in full**"),
    ):
        yield row(begin, end, f"{found[key]['p50_ms']:.0f}", f"{found[key]['max_ms']:.0f}")


def _traffic(found: list[Json]) -> Iterator[str]:
    yield from _wrapped(
        "Two containers on two hosts. Odyssey: two VEPA macvlans each, forwarded by the switch's tables. Overlay: a "
        "veth in a bridge on each host, joined by the kernel's vxlan devices over the same NICs and the same switch, "
        "which forwards by MAC address. iperf3, one TCP connection; a ping-pong of 64-byte datagrams. MTU 1500, in the "
        "overlay 1450. Checksums and segmentation are computed in software on every path: Open vSwitch's userspace "
        "takes none."
    )
    yield ""
    yield "| | Mbit/s | least | most | switch CPU s per GB | round trip p50, us | p99, us |"
    yield "|---|---|---|---|---|---|---|"
    for one in found:
        ours = one["name"].startswith("Odyssey")
        yield row(
            f"**{one['name']}**" if ours else one["name"], one["mbit"], one["mbit_least"], one["mbit_most"],
            one["switch_cpu_s_per_gb"], one["rtt_p50_us"], one["rtt_p99_us"],
        )  # fmt: skip
    yield ""
    own, overlay = found[0], found[1]
    yield f"- **{own['mbit'] / overlay['mbit']:.2f} times** the throughput of the overlay;"
    yield f"- **{own['rtt_p50_us'] / overlay['rtt_p50_us']:.2f} times** its round trip (median)."


def _compiling(found: list[Json], largest: list[Json]) -> Iterator[str]:
    yield from _wrapped(
        "A platform of three tiers on hosts with two switches each, leaves joined by two spines; no switch takes part. "
        "*First*: in a fresh process; *again*: after one node changed, in the same. Memory is what the result adds."
    )
    yield ""
    yield "| profile | switches | nodes | first, s | again, s | MiB | entries | most on a switch | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in found:
        size = (one["profile"], one["switches"], f"{one['nodes']:,}")
        if "first_s" not in one:
            yield row(*size, "", "", "", "", "", f"refused: {one['refused']}")
            continue
        counts = (f"{one['entries']:,}", f"{one['most']:,}")
        refused = f"refused: {_shortly(one['refused'])}" if "refused" in one else ""
        yield row(*size, one["first_s"], one["again_s"], one["mib"], *counts, refused)
    yield ""
    yield from _growth(found)
    for one in largest:
        yield from _item(
            f"{one['profile']} with {one['switches']} switches: up to about **{one['nodes']:,} nodes** fit in "
            f"{one['room']:,} entries."
        )
    yield ""
    yield f"![compiling](images/{COMPILING})"


def _shortly(reason: str) -> str:
    """Leave out who uses the entries."""
    return reason.partition(";")[0]


def _growth(found: list[Json]) -> Iterator[str]:
    """Tell for each profile how time grows with the nodes on the largest number of switches; 1 is linear."""
    for profile in dict.fromkeys(one["profile"] for one in found):
        compiled = [one for one in found if one["profile"] == profile and "first_s" in one]
        if not compiled:
            continue
        switches = max(one["switches"] for one in compiled)
        sizes = sorted((one["nodes"], one["first_s"]) for one in compiled if one["switches"] == switches)
        if len(sizes) < 2:
            continue
        (few, little), (many, much) = sizes[-2:]
        yield from _item(
            f"{profile}, {switches} switches: {many / few:.0f} times the nodes ({few:,} to {many:,}) take "
            f"**{much / little:.1f} times** the time."
        )
