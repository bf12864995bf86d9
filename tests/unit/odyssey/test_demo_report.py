# SPDX-License-Identifier: AGPL-3.0-or-later
"""`ok` is true only if every single thing held."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from odyssey.demo.report import Crash, Headless, Policy, Report, Requests, Seconds, Transactions

GOOD = Report(
    nodes_expected=4,
    nodes_serving=4,
    requests=Requests(900, 900, 0),
    policy=Policy(5, 0, 0, 800, True),
    crash=Crash(0, 1.5, ("killed when decided: committed",)),
    headless=Headless(180, 0, 5, 0, True),
    transactions=Transactions(9, 1, 0),
    seconds=Seconds(total=60.0),
)


def test_a_good_report_is_ok_and_has_the_promised_fields() -> None:
    assert GOOD.ok
    document = GOOD.to_json()
    assert document["ok"] is True
    assert document["nodes_serving"] == 4
    assert document["requests"] == {"sent": 900, "ok": 900, "failed": 0}
    assert {"allowed_ok", "allowed_failed", "denied_leaked"} <= document["policy"].keys()
    assert {"half_done", "recovered_seconds"} <= document["crash"].keys()
    assert {"sent", "failed"} <= document["headless"].keys()
    assert document["transactions"] == {"committed": 9, "aborted": 1, "in_doubt": 0}
    assert document["seconds"].keys() == {"setup", "images", "apply", "scale_up", "scale_down", "total"}


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, nodes_serving=3),
        replace(GOOD, nodes_serving=0, nodes_expected=0),
        replace(GOOD, requests=Requests(900, 899, 1)),
        replace(GOOD, requests=Requests(900, 899, 0)),
        replace(GOOD, requests=Requests(0, 0, 0)),
        replace(GOOD, policy=Policy(5, 1, 0, 800, True)),
        replace(GOOD, policy=Policy(0, 0, 0, 800, True)),
        replace(GOOD, policy=Policy(5, 0, 1, 800, True)),
        replace(GOOD, policy=Policy(5, 0, 0, 800, False)),
        replace(GOOD, policy=Policy(5, 0, 0, 0, True)),
        replace(GOOD, crash=Crash(1, 1.5, ("killed",))),
        replace(GOOD, crash=Crash(0, 1.5, ())),
        replace(GOOD, headless=Headless(180, 1, 5, 0, True)),
        replace(GOOD, headless=Headless(0, 0, 5, 0, True)),
        replace(GOOD, headless=Headless(180, 0, 5, 1, True)),
        replace(GOOD, headless=Headless(180, 0, 0, 0, True)),
        replace(GOOD, headless=Headless(180, 0, 5, 0, False)),
        replace(GOOD, transactions=Transactions(9, 1, 1)),
        replace(GOOD, transactions=Transactions(0, 0, 0)),
        replace(GOOD, findings=("a process is left",)),
        replace(GOOD, failure="a step could not be carried out"),
    ],
)
def test_anything_wrong_makes_it_not_ok(bad: Report) -> None:
    assert not bad.ok
    assert bad.to_json()["ok"] is False


@pytest.mark.parametrize("part", ["requests", "policy", "crash", "headless", "transactions"])
def test_a_part_that_was_not_reached_is_not_true(part: str) -> None:
    missing: dict[str, Any] = {part: None}
    report = replace(GOOD, **missing)
    assert not report.ok
    assert any(truth.evidence == "not reached" for truth in report.truths())
    assert part in report.to_json()
