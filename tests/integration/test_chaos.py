# SPDX-License-Identifier: AGPL-3.0-or-later
"""Some seconds of chaos, and that its judge sees what it is there for."""

from __future__ import annotations

import os

import pytest

from tests.chaos.run import chaos
from tests.chaos.verdict import end_faults, world_faults

_OPERATION: dict[str, object] = {"prepare": {}, "stages": {"admit": {}}}
_RECORD = {"state": "committed", "finished": True, "stages": ["admit"], "participants": {"m1": _OPERATION}}


@pytest.mark.skipif(os.getuid() != 0, reason="network namespaces and file systems need root")
def test_chaos() -> None:
    report = chaos(20, seed=20)
    assert report["violations"] == []
    assert report["committed"] and report["answered"] == report["asked"] and report["faults"]


@pytest.mark.parametrize(
    ("lines", "told", "text"),
    [
        ([("t", "prepared"), ("t", "prepared")], {}, "twice"),
        ([("t", "prepared"), ("t", "removed"), ("t", "admit")], {}, "after its removal"),
        ([("t", "prepared"), ("t", "admit"), ("t", "removed")], {}, "removed after a stage"),
        ([("t", "prepared"), ("t", "removed")], {"t": "committed"}, "acknowledged as committed and removed"),
        ([("t", "prepared"), ("t", "admit")], {"t": "aborted"}, "acknowledged as aborted and carried out"),
    ],
)
def test_the_judge_of_a_moment(lines: list[tuple[str, str]], told: dict[str, str], text: str) -> None:
    assert any(text in fault for fault in world_faults("m1", lines, told))


@pytest.mark.parametrize(
    ("record", "lines", "told", "text"),
    [
        ({"finished": False}, [("t", "prepared"), ("t", "admit")], {"t": "committed"}, "in doubt for ever"),
        ({}, [("t", "prepared")], {"t": "committed"}, "its effects are"),
        ({"state": "aborted"}, [("t", "prepared")], {"t": "aborted"}, "its effects are"),
        ({}, [("t", "prepared"), ("t", "admit")], {}, "never answered"),
        ({"state": "aborted"}, [], {"t": "committed"}, "stored as aborted"),
        ({}, [("t", "prepared"), ("t", "admit"), ("u", "prepared")], {"t": "committed"}, "nobody decided"),
    ],
)
def test_the_judge_of_the_end(
    record: dict[str, object], lines: list[tuple[str, str]], told: dict[str, str], text: str
) -> None:
    faults = end_faults({"t": {**_RECORD, **record}}, {"m1": lines}, told, ["t"])
    assert any(text in fault for fault in faults)
