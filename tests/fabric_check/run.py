# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs many cases and counts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from controller.fabric import IntentRefused
from tests.fabric_check.case import Case, Mismatch
from tests.fabric_check.cases import Shape
from tests.fabric_check.failures import Failures
from tests.fabric_check.openvswitch import OpenVSwitch

MOST_ACCOUNTS = 20
SETS_TO_TRACE = 6


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to try in each case; ``traces`` is the number of packets that Open vSwitch is asked about."""

    packets: int = 300
    traces: int = 0
    failures: bool = False


@dataclass(slots=True)
class Report:
    """What was tried and what was wrong; ``delivered`` are the packets that had to arrive somewhere."""

    cases: int = 0
    packets: int = 0
    delivered: int = 0
    traces: int = 0
    failures: int = 0
    refused: int = 0
    by_profile: dict[str, int] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "cases": self.cases,
            "packets": self.packets,
            "mismatches": len(self.mismatches),
            "delivered": self.delivered,
            "traces": self.traces,
            "failures": self.failures,
            "refused": self.refused,
            "byProfile": dict(sorted(self.by_profile.items())),
            "accounts": [{"seed": one.seed, "account": str(one)} for one in self.mismatches[:MOST_ACCOUNTS]],
        }

    def __str__(self) -> str:
        head = f"{self.cases} cases, {self.packets} packets ({self.delivered} to be delivered), {self.traces} traces, "
        head += f"{self.failures} sets of ports down, {self.refused} cases refused: {len(self.mismatches)} mismatches"
        return "\n".join((head, *(str(one) for one in self.mismatches[:MOST_ACCOUNTS])))


def run(
    seeds: Iterable[int], effort: Effort, shape: Shape, switches: OpenVSwitch | None = None, most: int | None = None
) -> Report:
    """Try cases, and count; at most ``most`` of those that are not refused."""
    report = Report()
    for seed in seeds:
        if report.cases == most:
            break
        case = Case.of(seed, shape)
        try:
            kinds = case.profiles
        except IntentRefused:
            report.refused += 1
            continue
        report.cases += 1
        report.by_profile[kinds] = report.by_profile.get(kinds, 0) + 1
        report.mismatches += _of(case, effort, switches, report)
    return report


def _of(case: Case, effort: Effort, switches: OpenVSwitch | None, report: Report) -> Iterator[Mismatch]:
    shots = case.shots(effort.packets)
    report.packets += len(shots)
    report.delivered += sum(bool(case.oracle.judge(shot.packet, shot.at).receivers) for shot in shots)
    yield from case.overlaps()
    yield from case.mismatches(shots)
    if effort.failures:
        failures = Failures(case)
        report.failures += sum(1 for _ in failures.combinations())
        yield from failures.mismatches()
    if switches is not None and effort.traces:
        some = random.Random(case.seed).sample(shots, min(len(shots), effort.traces))
        report.traces += len(some)
        switches.load(case.fabric.tables)
        yield from case.traced(some, switches)
        if effort.failures:
            yield from Failures(case).traced(switches, SETS_TO_TRACE, effort.traces)
