# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values as text, and faults of documents as lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from odyssey.cli.faults import fault_lines
from odyssey.cli.planview import entry_text, joined
from odyssey.cli.text import cell, clean, columns, plural, seconds, since
from schemas import Fault, validate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), ("", "-"), (True, "yes"), (False, "no"), (0, "0"), (0.5, "0.5"), (2.0, "2"),
        (1795460000.5, "1795460000.5"), (0.1 + 0.2, "0.3"), ([], "-"),
        (["a", "b"], "a, b"), ({"zone": "a", "ssd": True}, "zone=a ssd=yes"), ("a\nb\x1b[1m", "a b[1m"),
    ],
)  # fmt: skip
def test_cells(value: Any, text: str) -> None:
    assert cell(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0174, "17 ms"), (0.9996, "1.0 s"), (9.94, "9.9 s"), (59.9, "59 s"), (60, "1 min"), (185, "3 min 5 s"),
        (7440, "2 h 4 min"),
        (90000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_durations(value: float, text: str) -> None:
    assert seconds(value) == text


def test_times_are_told_as_ages() -> None:
    now = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
    assert since("2026-11-23T11:57:00Z", now) == "3 min"
    assert since(now.timestamp() - 5, now) == "5.0 s"
    assert since("2026-11-23T13:00:00+00:00", now) == "0 ms"
    assert since("soon", now) == "soon"


def test_bidirectional_controls_are_removed() -> None:
    assert clean("a\u202eb\u200bc") == "abc"


def test_counts_and_columns() -> None:
    assert [plural(1, "switch"), plural(2, "switch"), plural(0, "node")] == ["1 switch", "2 switches", "0 nodes"]
    assert columns([("A", "BB"), ("ccc", "")]) == ["A    BB", "ccc"]
    assert columns([("A", "B"), ("ccc", "d")], {0}) == ["  A  B", "ccc  d"]
    assert columns([]) == []


def test_faults_tell_path_found_and_expected() -> None:
    faults = validate("platform", {"platform": "Shop", "networks": {"app": {"vlan": 9999}}})
    lines = [line.text() for line in fault_lines(faults)]
    assert "$.networks.app.vlan: found 9999, expected at most 4094" in lines
    assert len(lines) == len(set(lines)) == len(faults)
    [line] = fault_lines([Fault("$.networks.app", 5, "at most 2", "min is above max")])
    assert line.text() == "$.networks.app: min is above max"
    [line] = fault_lines([{"path": "$.networks", "expected": "an object"}])
    assert line.text() == "$.networks: found nothing, expected an object"
    [line] = fault_lines([{"path": "$", "found": "x" * 200, "expected": "less", "message": ""}])
    assert line.text().endswith("..., expected less")


def test_entries_in_the_manner_of_ovs_ofctl() -> None:
    entry = {"op": "+", "table": 10, "priority": 100, "match": {"reg0": 1, "tcp_dst": 8080}, "actions": ["goto:20"]}
    assert entry_text(entry) == "+ table=10,priority=100,reg0=1,tcp_dst=8080 actions=goto:20"
    assert (
        entry_text({"op": "-", "table": 0, "priority": 1, "owner": "base"})
        == "- table=0,priority=1 actions=drop  (base)"
    )
    assert joined("ip,tcp") == "ip,tcp"
    assert joined([{"a": 1}, "b"]) == '{"a":1},b'
