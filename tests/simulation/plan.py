# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a seed brings: how bad network and disks are, what happens when, and to whom.

Each seed enables only some kinds of fault, so that runs differ in kind and not only in order (swarm testing: Groce et
al., ISSTA 2012).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.simulation.callers import HOSTS, Caller

FAULTS = {
    "kill participant": 5,
    "kill orchestrator": 3,
    "take over": 4,
    "pause": 3,
    "cut": 6,
    "break session": 3,
    "store loses power": 3,
    "store full": 2,
    "disk full": 2,
    "participant leaves": 2,
    "caller dies": 1,
    "cancel": 1,
    "calls fail": 2,
    "lose journal": 1,
    "restore backup": 1,
}
RARE = ("lose journal", "restore backup")  # they excuse much: only in some seeds
TROUBLE = 20.0  # seconds in which things go wrong
_NODES = ("n1", "n2", "n3")


@dataclass(slots=True)
class Plan:
    """Drawn from the seed before anything happens."""

    loss: float
    repeat: float
    stray: float  # how often a message takes very long
    delay: float  # mean seconds
    disk_seconds: float
    call_seconds: float
    fenced: bool  # the store knows its leader
    faults: list[tuple[float, str]] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)  # (participant, transaction)
    joins: dict[str, float] = field(default_factory=dict)  # who starts later


def draw(rng: random.Random) -> Plan:
    """Return the plan of a seed."""
    plan = Plan(
        loss=rng.choice((0.0, 0.0, 0.02, 0.15)),
        repeat=rng.choice((0.0, 0.05, 0.25)),
        stray=rng.choice((0.0, 0.02, 0.1)),
        delay=rng.choice((0.002, 0.02, 0.2)),
        disk_seconds=rng.choice((0.002, 0.02, 0.2)),
        call_seconds=rng.choice((0.01, 0.1, 1.0)),
        fenced=rng.random() < 0.7,
    )
    kinds = [kind for kind in FAULTS if rng.random() < (0.08 if kind in RARE else 0.4)]
    if kinds:
        weights = [FAULTS[kind] for kind in kinds]
        count = rng.choice((0, 2, 3, 5, 8, 16))
        times = sorted(rng.random() * TROUBLE for _ in range(count))
        plan.faults = list(zip(times, rng.choices(kinds, weights, k=count), strict=True))
    for number in range(rng.choice((1, 1, 2, 2, 3, 4))):
        wanted = {node: rng.choice(HOSTS) for node in rng.sample(_NODES, rng.choice((1, 1, 2)))}
        begins = rng.random() * TROUBLE * 0.7
        plan.callers.append(Caller(f"t{number}", wanted, begins, rng.choice((3.0, 10.0, 30.0))))
        if rng.random() < 0.1:
            plan.refusals.append((rng.choice((*HOSTS, "controller")), f"t{number}"))
    if rng.random() < 0.1:
        plan.joins[rng.choice(HOSTS)] = rng.random() * TROUBLE
    return plan
