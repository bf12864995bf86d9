# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs seeds, adds up what they did, and tells it."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.coverage import counted, every_move
from tests.simulation.kernel import Violation
from tests.simulation.world import World

_CHUNK = 250  # seeds that one worker takes at a time
TRACE_LINES = 150  # of a violation; the last ones
SHOWN = 5  # violations with their trace


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that came to something that must never be."""

    seed: int
    what: str


@dataclass(slots=True)
class Tally:
    """What many seeds add up to."""

    seeds: int = 0
    steps: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what another worker did."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.counts.update(other.counts)
        self.moves.update(other.moves)
        self.failures += other.failures

    def not_covered(self) -> list[str]:
        """Return the moves of the state tables that no seed made."""
        return [move for move in every_move() if not self.moves[move]]

    def report(self) -> dict[str, Any]:
        """Return everything as JSON, with traces of the first violations."""
        moves, missing = every_move(), self.not_covered()
        return {
            "seeds": self.seeds,
            "steps": self.steps,
            "crashes": self.counts["crashes"],
            "cuts": self.counts["cuts"],
            "faults": {name: self.counts[name] for name in sorted(self.counts) if name not in ("crashes", "cuts")},
            "transitions_covered": {
                "covered": len(moves) - len(missing),
                "of": len(moves),
                "not_covered": missing,
                "counts": {move: self.moves[move] for move in moves},
            },
            "violations": [
                {"seed": one.seed, "what": one.what, "trace": trace(one.seed) if number < SHOWN else []}
                for number, one in enumerate(self.failures)
            ],
        }


def run_seed(seed: int, tally: Tally, world_type: type[World] = World) -> None:
    """Run one seed and take it into the tally."""
    world = world_type(seed)
    try:
        world.run()
    except Violation as violation:
        tally.failures.append(Failure(seed, str(violation)))
    tally.seeds += 1
    tally.steps += world.kernel.steps
    tally.counts.update(world.counts)


def run_seeds(seeds: Iterable[int], world_type: type[World] = World) -> Tally:
    """Run seeds in this process."""
    tally = Tally()
    with counted(tally.moves):
        for seed in seeds:
            run_seed(seed, tally, world_type)
    return tally


def run_chunks(first: int, count: int, jobs: int) -> Iterator[Tally]:
    """Run seeds in chunks, in ``jobs`` processes; yields what each chunk did."""
    chunks = [range(start, min(start + _CHUNK, first + count)) for start in range(first, first + count, _CHUNK)]
    if jobs <= 1:
        yield from map(run_seeds, chunks)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_seeds, chunks)


def trace(seed: int, world_type: type[World] = World, lines: int = TRACE_LINES) -> list[str]:
    """Run a seed again and return its plan and the last lines of what happened."""
    world = world_type(seed, tracing=True)
    plan = world.plan
    head = [
        f"network: loss {plan.loss:g}, repeated {plan.repeat:g}, strays {plan.stray:g}, mean delay {plan.delay:g} s; "
        f"disk {plan.disk_seconds:g} s; calls {plan.call_seconds:g} s; "
        f"the store {'knows' if plan.fenced else 'ignores'} who leads",
        *(f"caller {one.id} wants {dict(one.wanted)}, deadline {one.deadline:g} s" for one in plan.callers),
    ]
    try:
        world.run()
    except Violation as violation:
        world.kernel.note(f"VIOLATION: {violation}")
    kept = world.kernel.trace[-lines:]
    left_out = len(world.kernel.trace) - len(kept)
    return head + ([f"... {left_out} lines left out"] if left_out else []) + kept
