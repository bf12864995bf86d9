# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Open vSwitch says that it does with random fabrics (``ofproto/trace`` on a dummy datapath; no root needed)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain

import pytest

from tests.fabric_check.case import Case
from tests.fabric_check.cases import Shape
from tests.fabric_check.failures import Failures
from tests.fabric_check.mutations import MUTATIONS
from tests.fabric_check.openvswitch import Availability, OpenVSwitch
from tests.fabric_check.run import Effort, run

MISSING = Availability.here().missing
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
SHAPE = Shape(("openvswitch",), mixed=0.0)


@pytest.fixture(scope="module")
def switches() -> Iterator[OpenVSwitch]:
    with OpenVSwitch() as running:
        yield running


def test_open_vswitch_does_what_the_policy_says(switches: OpenVSwitch) -> None:
    report = run(range(1000, 1024), Effort(packets=40, traces=40), SHAPE, switches)
    assert not report.mismatches, report
    assert report.traces > 400 and report.delivered > 100


def test_fast_failover_does_what_the_evaluator_says(switches: OpenVSwitch) -> None:
    for seed in range(1, 9):
        case = Case.of(seed, SHAPE)
        switches.load(case.fabric.tables)
        found = list(Failures(case).traced(switches, sets=4, packets=12))
        assert not found, str(found[0])


@pytest.mark.parametrize("name", ["a pin without the port", "no hairpin", "answers with another MAC", "swapped MACs"])
def test_a_planted_fault_is_found_by_a_trace(switches: OpenVSwitch, name: str) -> None:
    for seed in range(1, 20):
        sound = Case.of(seed, SHAPE)
        case = Case(seed, sound.documents, MUTATIONS[name](sound.compilation.tables))
        suspects = [shot for shot in case.shots(200) if next(case.mismatches([shot]), None)]
        if suspects:
            switches.load(case.fabric.tables)
            assert next(chain(case.traced(suspects, switches)), None) is not None
            return
    pytest.fail(f"no case shows it: {name}")


def test_the_command_counts_as_json() -> None:
    command = [sys.executable, "-m", "tests.fabric_check", "--cases", "3", "--traces", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["cases"] == 3 and report["mismatches"] == 0 and report["packets"] > 100 and report["traces"] > 5
