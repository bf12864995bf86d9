# SPDX-License-Identifier: AGPL-3.0-or-later
"""The report of `make bench-rdmp`: quantiles, curves, and a document in which other parts stay as they are."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import __main__ as bench
from tests.bench.rdmp import plot, report
from tests.bench.rdmp.goals import goals
from tests.bench.rdmp.support import quantile, spread


def test_quantiles_take_the_nearest_rank() -> None:
    values = [float(number) for number in range(100)]
    assert quantile(values, 0.5) == 50.0
    assert quantile(values, 0.99) == 99.0
    assert spread([0.001])["p99_ms"] == 1.0


def test_the_plot_is_well_formed_and_leaves_out_what_has_no_logarithm() -> None:
    svg = plot.growth({"a < b": [(10, 0.5), (100, 0), (1000, 20)]}, "title", "agents")
    root = ElementTree.fromstring(svg)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2]


def test_each_program_leaves_the_others_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "benchmarks.md"
    monkeypatch.setattr(report, "TARGET", target)
    monkeypatch.setattr(report, "text", lambda result: "measured\n")
    target.write_text("# Benchmarks\n\nfirst\n", encoding="utf-8")
    report.write({"growth": []})
    report.write({"growth": []})
    part = "<!-- rdmp:begin -->\nmeasured\n<!-- rdmp:end -->\n"
    assert target.read_text(encoding="utf-8") == f"# Benchmarks\n\nfirst\n\n{part}"
    document = bench.put(target.read_text(encoding="utf-8"), "second\n")
    assert bench.put(document, "third\n") == document.replace("second", "third")
    assert document.startswith(f"# Benchmarks\n\n{bench.BEGIN}\nsecond\n{bench.END}\n") and document.endswith(part)


def test_goals_tell_which_side_of_their_bound_a_figure_is_on() -> None:
    result = {
        "transactions": {
            "saturated": [{"per_second": 640.0}, {"per_second": 800.0}],
            "alone": {"p99_ms": 9.9},
            "idle": {"p99_ms": 10.0},
        },
        "growth": [
            {"participants": 100, "fan_out": {}, "idle": {}, "storm": {}},
            {
                "participants": 10_000,
                "fan_out": {"votes_in": 4.1},
                "idle": {"rss_mib": 580.0},
                "storm": {"all_back_s": None},
            },
        ],
    }
    assert [goal.reached for goal in goals(result)] == [True, True, False, False, True, False]
    assert not list(goals({"growth": []}))
    table = list(report._goals(result))
    assert table[2].startswith("| durable transactions with three participants | 800 /s | at least 800 /s | reached")
    assert table[-3].startswith("| all of 10,000 agents back after a restart | never | below 60 s | **not reached**")
