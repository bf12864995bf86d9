# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which moves of the state tables were made while the simulation ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

from rdmp import coordinator, participant_core, participant_table

P = TypeVar("P", bound=Enum)
S = TypeVar("S", bound=Enum)
TABLES: Mapping[str, Mapping[Any, Mapping[Any, Any]]] = {
    "coordinator": coordinator.TRANSITIONS,
    "participant": participant_table.TRANSITIONS,
}


class _Counted(dict[S, P]):
    """The moves from one phase; counts those that are looked up."""

    def __init__(self, moves: Mapping[S, P], hits: Counter[str], label: str) -> None:
        super().__init__(moves)
        self._hits = hits
        self._labels = {step: f"{label}: {step.value}" for step in moves}

    def __getitem__(self, step: S) -> P:
        found = super().__getitem__(step)
        self._hits[self._labels[step]] += 1
        return found


def every_move() -> list[str]:
    """Return a label for each move of both tables."""
    return [
        f"{role} {phase.value}: {step.value}"
        for role, table in TABLES.items()
        for phase, moves in table.items()
        for step in moves
    ]


@contextmanager
def counted(hits: Counter[str]) -> Iterator[None]:
    """Count the moves that both cores make meanwhile."""

    def table(role: str) -> Mapping[Any, Mapping[Any, Any]]:
        return {phase: _Counted(moves, hits, f"{role} {phase.value}") for phase, moves in TABLES[role].items()}

    coordinator.TRANSITIONS = table("coordinator")
    participant_core.TRANSITIONS = table("participant")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        coordinator.TRANSITIONS = TABLES["coordinator"]
        participant_core.TRANSITIONS = TABLES["participant"]  # type: ignore[attr-defined]
