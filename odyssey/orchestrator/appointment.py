# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which controller leads. Pure: what is known goes in, an appointment comes out.

The leader is the one controller that writes to the switches. Its generation is the `generation_id` with which it asks
them for the role MASTER (OpenFlow 1.3.5, 6.3.6); a switch refuses a lower one, so an earlier leader can write nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

EPOCH_BITS = 32
"""A generation is at least the epoch of the orchestrator that gave it, shifted by this."""

MAX_GENERATION = 2**53 - 1
"""Integers of RDMP are below 2^53."""


@dataclass(frozen=True, slots=True)
class Leader:
    """An appointment."""

    name: str
    generation: int

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Leader:
        """Read the stored document."""
        return cls(value["name"], value["generation"])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A controller that is connected.

    `ready`: it holds what was decided and owes nothing. `leads` and `generation` are what it says of itself, the
    highest generation that it knows; `reach` is to how many switches it is connected.
    """

    name: str
    ready: bool
    leads: bool
    generation: int
    reach: int


def appoint(leader: Leader | None, seen: Collection[Candidate], *, epoch: int, missed: bool) -> Leader | None:
    """The new appointment, None where the present one stands.

    A leader that is ready stays, and is appointed anew where somebody knows of a generation above its own, or its own
    is of an earlier epoch. One that is away, not ready, or reaches no switch while another does, is replaced as soon as
    it was `missed` for long enough, by the ready one that reaches most.
    """
    ready = [one for one in seen if one.ready]
    floor = epoch << EPOCH_BITS
    known = max([floor - 1, *(one.generation for one in seen), *([leader.generation] if leader else [])])
    if leader is not None:
        present = next((one for one in ready if one.name == leader.name), None)
        if present is not None and not (missed and cut_off(present, ready)):
            stands = leader.generation >= floor and leader.generation == known
            return None if stands else _next(leader.name, known)
        if not missed:
            return None
    best = min(ready, key=lambda one: (-one.reach, one.name), default=None)
    return _next(best.name, known) if best is not None else None


def cut_off(candidate: Candidate, ready: Collection[Candidate]) -> bool:
    """Tell whether a controller reaches no switch while another one does."""
    return candidate.reach == 0 and any(one.reach for one in ready)


def _next(name: str, known: int) -> Leader | None:
    return Leader(name, known + 1) if known < MAX_GENERATION else None


def orders(leader: Leader, seen: Collection[Candidate]) -> dict[str, str]:
    """Who has to be told what (`lead` or `follow`), by name; nothing for those who know."""
    told = {}
    for one in seen:
        if one.name == leader.name:
            if one.ready and not (one.leads and one.generation == leader.generation):
                told[one.name] = "lead"
        elif one.leads or one.generation < leader.generation:
            told[one.name] = "follow"
    return told
