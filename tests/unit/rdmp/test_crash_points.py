# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kill a process at every write, effect and delivery of a transaction and see that nothing is ever half done."""

from __future__ import annotations

import pytest

from tests.unit.rdmp.simulation import COORDINATOR, World, new_record

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


def test_undisturbed_transactions_commit() -> None:
    world = World([], NAMES)
    for number in range(20):
        taking = {"a": STAGES, "b": STAGES[:1]} if number % 2 else PARTICIPANTS
        world.begin(new_record(f"t.{number}", taking, STAGES))
        world.settle()
    world.check()
    assert {record.state for record in world.coordinator.log.values()} == {"committed"}
    assert set(world.answers) == set(world.coordinator.log)
    # Journals are cleaned up behind the low-water mark: at most what the last transactions left is kept.
    assert all(len(node.disk) <= 10 for node in world.participants.values())


def test_a_coordinator_that_dies_again_and_again_aborts_or_finishes() -> None:
    world = World([new_record("t.1", dict.fromkeys(NAMES, STAGES), STAGES)], NAMES)
    for _ in range(20):
        for _ in range(7):
            if not world.at_rest():
                world.step()
        world.kill(COORDINATOR)
    world.settle()
    world.check()
