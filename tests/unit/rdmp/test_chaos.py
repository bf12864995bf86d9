# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many transactions while messages are lost, repeated and reordered, timers fire early, and anybody is killed."""

from __future__ import annotations

import copy
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from rdmp.records import TxRecord
from tests.unit.rdmp.simulation import COORDINATOR, World, new_record

NAMES = ("a", "b", "c")
STAGES = ("admit", "names", "neighbours")
CHAOS_STEPS = 150


def any_record(rng: random.Random, number: int) -> TxRecord:
    """Return a record with random participants and stages."""
    names = rng.sample(NAMES, rng.randint(1, 3))
    stages = tuple(stage for stage in STAGES if rng.random() < 0.7) or STAGES[:1]
    chosen = {name: tuple(rng.sample(stages, rng.randint(1, len(stages)))) for name in names}
    return new_record(f"t.{number}", chosen, stages)


def disturb(world: World, rng: random.Random) -> None:
    """Do one random thing."""
    match rng.choices(("step", "lose", "repeat", "kill", "flap", "timer"), (80, 4, 6, 3, 3, 4))[0]:
        case "step" if world.actions:
            world.step(rng.choice(world.choices()))
        case "lose":
            delivered = [one for one in world.actions if one.kind == "deliver"]
            if delivered:
                world.actions.remove(rng.choice(delivered))
        case "repeat":
            delivered = [one for one in world.actions if one.kind == "deliver"]
            if delivered:
                world.actions.append(copy.copy(rng.choice(delivered)))
        case "kill" if world.actions:
            kill = rng.choice(("before", "between", "after"))
            world.step(rng.choice(world.choices()), kill, late=rng.random() < 0.5)
        case "flap":
            world.flap(rng.choice(NAMES))
        case _:
            world.fire_timer()


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_is_ever_half_done(seed: int) -> None:
    rng = random.Random(seed)
    world = World([], NAMES, rng)
    for node in world.participants.values():
        node.refuses = rng.random() < 0.1
        node.failures = rng.choice((0, 0, 0, 2))
    begun = 0
    for _ in range(CHAOS_STEPS):
        if begun < 5 and rng.random() < 0.1:
            world.begin(any_record(rng, begun))
            begun += 1
        disturb(world, rng)
    world.settle()
    world.check()


def test_undisturbed_transactions_commit() -> None:
    rng = random.Random(7)
    world = World([], NAMES)
    for number in range(20):
        world.begin(any_record(rng, number))
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
