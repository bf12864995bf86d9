# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated clock, and processes that can be killed, paused and restarted.

Everything that happens is an entry in one queue, ordered by simulated time; every random choice comes from one
generator.  So a seed is a run, and a run can be had again with a trace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from typing import Any


class Violation(Exception):
    """Something that must never be."""


def require(holds: bool, what: str) -> None:
    """Raise Violation unless it holds."""
    if not holds:
        raise Violation(what)


class Kernel:
    """Time in seconds, chance, and what happens next."""

    def __init__(self, seed: int, tracing: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.tracing = tracing
        self.trace: list[str] = []
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def after(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Let ``what`` happen in ``seconds``."""
        self._number += 1
        heappush(self._queue, (self.now + seconds, self._number, what, args))

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        if not self._queue:
            return False
        self.now, _, what, args = heappop(self._queue)
        self.steps += 1
        what(*args)
        return True

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.rng.random() < probability

    def around(self, mean: float) -> float:
        """Return a time whose mean is ``mean``: mostly shorter, sometimes much longer."""
        return self.rng.expovariate(1.0) * mean

    def note(self, text: str) -> None:
        """Write a line of the trace; callers ask ``tracing`` first where the text costs something."""
        if self.tracing:
            self.trace.append(f"{self.now:9.3f} {text}")


class Process:
    """A process: ``life`` rises with each death, so that what belonged to an earlier life does not happen."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.up = False
        self.life = 0
        self.rate = 1.0  # how much slower than the world its clock is
        self.paused_until = 0.0
        self.deaf_before = 0.0  # what was sent before does not arrive any more
        self.doom = ""  # in the midst of what it is to die: "write" or "call"
        self.doom_in = 0  # how many of them before
        self._timers: dict[Hashable, int] = {}
        self._timer_number = 0

    def clock(self) -> float:
        """Return what the clock of this process shows, in seconds."""
        return self.kernel.now / self.rate

    def later(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Let this process do something in ``seconds`` of the world, if it still lives then."""
        self.kernel.after(seconds, self._happen, self.life, what, args)

    def set_timer(self, key: Hashable, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Let this process do something in ``seconds`` of its own clock; replaces the timer of the same key."""
        self._timer_number += 1
        self._timers[key] = self._timer_number
        self.later(seconds * self.rate, self._ring, key, self._timer_number, what, args)

    def stop_timer(self, key: Hashable) -> None:
        """Forget a timer."""
        self._timers.pop(key, None)

    def kill(self, restart: bool = True) -> None:
        """Kill the process; subclasses say what becomes of what it was doing."""
        self.die()

    def doomed(self, what: str, seconds: float) -> None:
        """Die in the midst of something that takes so many seconds, if that was foreseen."""
        if self.doom != what:
            return
        self.doom_in -= 1
        if self.doom_in < 0:
            self.doom = ""
            self.later(seconds * self.kernel.rng.random() * 1.2, self.kill)

    def die(self) -> None:
        """Forget everything that is not on a disk."""
        self.up = False
        self.life += 1
        self.paused_until = 0.0
        self._timers.clear()

    def _ring(self, key: Hashable, number: int, what: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self._timers.get(key) == number:
            del self._timers[key]
            what(*args)

    def _happen(self, life: int, what: Callable[..., None], args: tuple[Any, ...]) -> None:
        if life != self.life:
            return
        if self.kernel.now < self.paused_until:
            self.kernel.after(self.paused_until - self.kernel.now, self._happen, life, what, args)
        else:
            what(*args)
