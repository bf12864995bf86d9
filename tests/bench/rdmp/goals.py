# SPDX-License-Identifier: AGPL-3.0-or-later
"""What RDMP is meant to reach on two cores, beside what was measured; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.rdmp.support import Json


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and the bound that it should not cross."""

    name: str
    measured: float | None  # None: it did not come to an end
    bound: float
    unit: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Tell whether the figure is on the right side of its bound."""
        if self.measured is None:
            return False
        return self.measured >= self.bound if self.at_least else self.measured < self.bound


def goals(result: Json) -> Iterator[Goal]:
    """The goals for which something was measured."""
    if own := result.get("transactions"):
        best = max(float(one["per_second"]) for one in own["saturated"])
        yield Goal("durable transactions with three participants", best, 800, "/s", at_least=True)
        yield Goal("one transaction, in turn, p99", own["alone"]["p99_ms"], 10, "ms")
        yield Goal("one transaction, idle, p99", own["idle"]["p99_ms"], 10, "ms")
    bounds = {1000: 0.5, 10_000: 4.0}
    for fleet in result.get("growth") or ():
        count = fleet["participants"]
        if count in bounds:
            yield Goal(f"all votes of {count:,} agents", fleet["fan_out"]["votes_in"], bounds[count], "s")
        if count == max(bounds):
            yield Goal(f"memory of the orchestrator with {count:,} idle agents", fleet["idle"]["rss_mib"], 1024, "MiB")
            yield Goal(f"all of {count:,} agents back after a restart", fleet["storm"]["all_back_s"], 60, "s")
