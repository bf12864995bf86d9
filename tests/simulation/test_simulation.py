# SPDX-License-Identifier: AGPL-3.0-or-later
"""Some thousands of seeds without a violation, with every move of both state tables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.simulation.coverage import every_move
from tests.simulation.plan import FAULTS
from tests.simulation.run import run_seeds, trace

BLOCKS, SEEDS = 6, 1000  # about 20 s on one core


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_is_ever_violated(block: int) -> None:
    tally = run_seeds(range(block * SEEDS, (block + 1) * SEEDS))
    shown = [f"seed {one.seed}: {one.what}\n" + "\n".join(trace(one.seed)) for one in tally.failures[:2]]
    assert not tally.failures, "\n\n".join(shown)
    assert not tally.not_covered(), "a move of a state table was never made"
    never = [kind for kind in FAULTS if not tally.counts[kind]]
    assert not never and tally.counts["crashes"] > SEEDS, "the seeds bring too little trouble"


def test_a_seed_is_a_run() -> None:
    for seed in range(40):
        first, second = trace(seed, lines=10_000), trace(seed, lines=10_000)
        assert first == second


def test_a_seed_is_the_same_run_in_another_process() -> None:
    """Hashes of strings differ from process to process; nothing may depend on them."""
    ran = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--trace", "17"],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(ran) == 1


def test_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "20", "--first", "7", "--jobs", "2", "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert report["seeds"] == 20 and report["steps"] > 1000 and report["violations"] == []
    assert {"crashes", "cuts"} < report.keys()
    covered = report["transitions_covered"]
    assert covered["of"] == len(every_move()) == covered["covered"] + len(covered["not_covered"])
