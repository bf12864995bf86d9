# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulator can fail: each planted fault is found within 2,000 seeds, and shown with its trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.planted import NAMES, world_with
from tests.simulation.run import Tally, run_seed, trace

SEEDS = 2000


@pytest.mark.parametrize("fault", NAMES)
def test_a_planted_fault_is_found(fault: str, record_property: Callable[[str, object], None]) -> None:
    world, tally = world_with(fault), Tally()
    for seed in range(SEEDS):
        run_seed(seed, tally, world)
        if tally.failures:
            break
    (found,) = tally.failures
    record_property("seed", found.seed)
    assert trace(found.seed, world)[-1].endswith(f"VIOLATION: {found.what}")
