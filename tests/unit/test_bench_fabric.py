# SPDX-License-Identifier: AGPL-3.0-or-later
"""The report of `make bench-fabric`, and the intents that it compiles."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from controller.profiles import PROFILES
from tests.bench.fabric import compiling, intents, report
from tests.bench.fabric.compiling import compile_once
from tests.bench.fabric.plot import Bar, bars
from tests.bench.fabric.support import QUICK

SPREAD = {"p50_ms": 1.5, "p99_ms": 9.0, "max_ms": 11.0, "count": 20}
ROWS = [
    "os-ken's objects: sent",
    "Odyssey, not yet encoded: sent",
    "Odyssey, not yet encoded: sent and verified",
    "ovs-ofctl --bundle add-flows",
]
RESULT: dict[str, Any] = {
    "date": "2026-01-01 00:00 UTC",
    "quick": True,
    "machine": {
        "cores": 2, "processor": "P", "kernel": "6", "switch": "Open vSwitch 3.1.0", "load_before": 0.1,
        "load_after": 1.0,
    },
    "programming": {
        "entries": 1000,
        "rows": [
            {
                "name": name, "per_second": 10_000 * place, "slowest": 1, "fastest": 2, "cpu_us": 3.0,
                "switch_cpu_us": 4.0,
            }
            for place, name in enumerate(ROWS, start=1)
        ],
    },
    "commits": [{"nodes": 10, "entries": {"sw1": 5, "sw2": 7}, "first_packet": SPREAD, "confirmed": SPREAD}],
    "reconnect": {
        "nodes": 100, "entries": 300, "start_to_connected": SPREAD, "start_to_forwarding": SPREAD,
        "connected_to_forwarding": SPREAD, "connected_to_verified": SPREAD,
    },
    "traffic": [
        {
            "name": name, "mbit": mbit, "mbit_least": mbit, "mbit_most": mbit, "switch_cpu_s_per_gb": 1.0,
            "rtt_p50_us": rtt, "rtt_p99_us": rtt,
        }
        for name, mbit, rtt in (("Odyssey: container to container", 900, 50), ("VXLAN overlay", 600, 100))
    ],
    "compiling": [
        {
            "profile": "openvswitch", "switches": 2, "nodes": nodes, "first_s": nodes / 1000, "again_s": 0.1,
            "mib": 1.0, "entries": 10, "most": 6,
        }
        for nodes in (10, 100)
    ]
    + [
        {"profile": "small", "switches": 2, "nodes": 10, "refused": "inventory: no"},
        {
            "profile": "small", "switches": 2, "nodes": 100, "first_s": 0.1, "again_s": 0.1, "mib": 1.0, "entries": 10,
            "most": 6, "refused": "switch sw1: 6 entries are needed, at most 5 fit (maxEntries); used by: nodes 6",
        },
    ],
    "largest": [{"profile": "small", "switches": 2, "room": 5, "nodes": 90}],
}  # fmt: skip


def test_the_report_tells_ratios_and_goals_and_refusals() -> None:
    text = report.text(RESULT)
    flat = " ".join(text.split())
    assert "- Odyssey, not yet encoded: sent: **0.50 times** as many as `ovs-ofctl --bundle add-flows`;" in flat
    assert "the goal of 15,000/s is reached" in flat
    assert "**2.0 times** its own rate" in flat
    assert "- **1.50 times** the throughput of the overlay; - **0.50 times** its round trip" in flat
    assert "| 10 | 7 | 20 | 1.5 | 9.0 | 11.0 | 1.5 | 9.0 |" in text
    assert "10 times the nodes (10 to 100) take **10.0 times** the time" in text
    assert "refused: inventory: no |" in text
    assert "refused: switch sw1: 6 entries are needed, at most 5 fit (maxEntries) |" in text
    assert "small with 2 switches: up to about **90 nodes** fit in 5 entries" in flat
    assert "not idle" not in flat
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))


def test_a_goal_that_is_missed_and_a_busy_machine_are_told() -> None:
    result = copy.deepcopy(RESULT)
    result["programming"]["rows"][2]["per_second"] = 7999
    result["machine"]["load_before"] = 3.0
    text = " ".join(report.text(result).split())
    assert "the goal of 8,000/s is not reached" in text
    assert "**The machine was not idle** (load 3.0 on 2 cores" in text


def test_the_part_and_its_plots_are_written_and_the_other_parts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "benchmarks.md"
    monkeypatch.setattr(report, "TARGET", target)
    monkeypatch.setattr(report, "IMAGES", tmp_path / "images")
    target.write_text("# Benchmarks\n\nothers'\n", encoding="utf-8")
    report.write(RESULT)
    report.write(RESULT)
    text = target.read_text(encoding="utf-8")
    assert text.startswith("# Benchmarks\n\nothers'\n\n<!-- fabric:begin -->\n## The fabric\n")
    assert text.count("<!-- fabric:begin -->") == 1 and text.endswith("<!-- fabric:end -->\n")
    for name in (report.PROGRAMMING, report.COMPILING):
        assert f"(images/{name})" in text
        ElementTree.fromstring((tmp_path / "images" / name).read_text(encoding="utf-8"))


def test_bars_are_as_long_as_their_values_and_ours_stand_out() -> None:
    root = ElementTree.fromstring(bars([Bar("a < b", 50, True), Bar("c", 100, False)], "t"))
    found = root.findall("{http://www.w3.org/2000/svg}rect")[1:]
    assert float(found[1].attrib["width"]) == pytest.approx(2 * float(found[0].attrib["width"]), rel=0.01)
    assert found[0].attrib["fill"] != found[1].attrib["fill"]


@pytest.mark.parametrize("switches", [2, 10])
def test_intents_of_any_size_compile_and_grow_with_the_nodes(switches: int) -> None:
    few, many = (compile_once("openvswitch", switches, nodes) for nodes in (10, 100))
    assert "refused" not in few and "refused" not in many
    assert few["entries"] < many["entries"] < 10 * few["entries"]
    bindings = [key for key in intents.documents(intents.Size(100, switches)) if key.startswith("binding/")]
    assert len(bindings) == 100


def test_what_has_no_room_is_refused_and_the_largest_that_fits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "ROOM", {"openvswitch": 500})
    assert "at most 500 fit" in compile_once("openvswitch", 2, 300)["refused"]
    found = compiling.largest(QUICK)
    assert [one["switches"] for one in found] == list(QUICK.compiled_switches)
    for one in found:
        assert "refused" not in compile_once("openvswitch", one["switches"], one["nodes"])
        assert "refused" in compile_once("openvswitch", one["switches"], int(one["nodes"] * 1.1) + 2)


def test_every_profile_compiles_a_fabric_or_says_why_not() -> None:
    for profile in PROFILES:
        found = compile_once(profile, 2, 10)
        assert found.get("entries") or found["refused"]
