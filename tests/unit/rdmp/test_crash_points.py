# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kill a process at every write, effect and delivery of a transaction and see that nothing is ever half done."""

from __future__ import annotations

import pytest

from tests.unit.rdmp.simulation import World, new_record

NAMES = ("a", "b", "c")
STAGES = ("admit", "neighbours")
PARTICIPANTS = {"a": STAGES, "b": ("admit",), "c": STAGES}
KILLS = ("before", "between", "after")


def make(scenario: str) -> World:
    """Return a world in which one transaction has just begun."""
    world = World([new_record("t.1", PARTICIPANTS, STAGES)], NAMES)
    world.participants["c"].refuses = scenario == "refused"
    world.participants["b"].failures = 2 if scenario == "stage fails" else 0
    return world


def length(scenario: str) -> int:
    """Return how many steps a transaction takes when nothing is killed."""
    world = make(scenario)
    world.settle()
    world.check()
    assert world.coordinator.log["t.1"].state == ("aborted" if scenario == "refused" else "committed")
    return world.steps


@pytest.mark.parametrize("scenario", ["committed", "refused", "stage fails"])
@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("late", [False, True])
def test_one_crash_anywhere(scenario: str, kill: str, late: bool) -> None:
    for point in range(length(scenario)):
        world = make(scenario)
        for _ in range(point):
            world.step()
        world.step(kill=kill, late=late)
        world.settle()
        world.check()


@pytest.mark.parametrize("scenario", ["committed", "refused"])
@pytest.mark.parametrize("kill", KILLS)
def test_two_crashes_anywhere(scenario: str, kill: str) -> None:
    """The second crash hits every point of the recovery from the first."""
    for first in range(length(scenario)):
        second = 0
        while True:
            world = make(scenario)
            for _ in range(first):
                world.step()
            world.step(kill=kill)
            for _ in range(second):
                if not world.at_rest():
                    world.step()
            if world.at_rest():
                break
            world.step(kill="between")
            world.settle()
            world.check()
            second += 1
