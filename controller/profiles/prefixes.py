# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fewest prefixes that tell apart addresses with different labels.  Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.families import Prefix

LabelT = TypeVar("LabelT")
LabelT_co = TypeVar("LabelT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Block(Generic[LabelT_co]):
    """An aligned block of addresses: the first one as an integer, the length of the prefix, and what it stands for."""

    value: int
    length: int
    label: LabelT_co

    def term(self, bits: int) -> tuple[int, int]:
        """Return value and mask by which a field of so many bits is compared with it."""
        return self.value, (1 << bits) - (1 << bits - self.length)


def covers(blocks: Iterable[Block[LabelT | None]], within: Prefix) -> tuple[Block[LabelT], ...]:
    """Cover disjoint blocks of a prefix with the fewest blocks of which none holds two labels, in order.

    What is labelled None is not covered.  Addresses that are in no block do not count: they fall where it suits.
    """
    items = sorted(blocks, key=_value)
    ends = _ends_of_runs(items)
    found: list[Block[LabelT]] = []
    waiting = [(int(within.network_address), within.prefixlen, 0, len(items))]
    while waiting:
        value, length, low, high = waiting.pop()
        if low == high:
            continue
        label = items[low].label
        if ends[low] >= high:
            if label is not None:
                found.append(Block(value, length, label))
            continue
        upper = value + (1 << within.max_prefixlen - length - 1)
        middle = bisect_left(items, upper, low, high, key=_value)
        waiting += [(upper, length + 1, middle, high), (value, length + 1, low, middle)]
    return tuple(found)


def _value(block: Block[LabelT]) -> int:
    return block.value


def _ends_of_runs(items: Sequence[Block[LabelT]]) -> Sequence[int]:
    """Return for each item where the run of items with its label ends."""
    ends = [len(items)] * len(items)
    for place in range(len(items) - 2, -1, -1):
        ends[place] = ends[place + 1] if items[place].label == items[place + 1].label else place + 1
    return ends
