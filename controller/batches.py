# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes for a switch that takes no atomic bundle: in an order in which no step between does harm, in batches.  Pure.

Additions come by falling priority, then deletions by rising priority.  Whatever part of that is done, every packet is
treated as by the old or by the new entries: a new entry comes after all new ones that stand above it, an old one goes
before all old ones that stand above it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from controller.changes import Change, FlowChange


@dataclass(frozen=True, slots=True)
class Delivery:
    """How changes get to a switch without bundles: at most ``most`` at once (None: no limit), each lot with a barrier.

    ``verified``: its barriers are not relied on, so it is read until it holds what it was sent.  ``groups``: it has
    groups and meters, and can be asked for them.
    """

    most: int | None
    verified: bool
    groups: bool = False


def phases(changes: Sequence[Change]) -> tuple[tuple[Change, ...], ...]:
    """Return additions and deletions, each in their order; groups and meters come first and go last."""
    others = [change for change in changes if not isinstance(change, FlowChange)]
    entries = [change for change in changes if isinstance(change, FlowChange)]
    come = sorted((change for change in entries if change.op == "+"), key=lambda change: -change.entry.priority)
    gone = sorted((change for change in entries if change.op == "-"), key=lambda change: change.entry.priority)
    first: list[Change] = [change for change in others if change.op != "-"]
    last: list[Change] = [change for change in others if change.op == "-"]
    return tuple(tuple(phase) for phase in ([*first, *come], [*gone, *last]) if phase)


def batches(phase: Sequence[Change], most: int | None) -> Iterator[tuple[Change, ...]]:
    """Cut a phase into lots of at most ``most`` changes."""
    if most is None:
        yield tuple(phase)
        return
    rest = iter(phase)
    while lot := tuple(itertools.islice(rest, most)):
        yield lot
