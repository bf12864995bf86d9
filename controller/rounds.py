# SPDX-License-Identifier: AGPL-3.0-or-later
"""The order of an update over all switches: rounds, each finished everywhere before the next begins.  Pure.

A packet is let in by the tables of its ingress switch and delivered by its address.  So nothing gets through that
neither the old nor the new intent allows, and nothing is lost that both allow, if

0. what lets in to an address that is delivered somewhere else afterwards goes first;
1. what only delivers (egress) comes before
2. what lets in (ingress) comes and goes, and what replaces something;
3. what only delivered goes last.

What lets in to whole prefixes lets in to addresses there that nobody has, and somebody may get or lose in the same
update.  So what ends there goes in round 0, and what begins there comes in round 4 (a profile says which entries that
are).

Within a round a switch makes its changes in one atomic bundle, where it can: what lets in is that of the old or that of
the new intent, never a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from controller.changes import Change, FlowChange, GroupChange, MeterChange, difference, unshared
from controller.flows import EntryKey, FlowEntry, SetField, TableSet

Round = Mapping[str, tuple[Change, ...]]
#: Tells of an entry of a switch whether it only delivers what another switch has let in.
IsEgress = Callable[[str, FlowEntry], bool]
#: Tells which entries of the first tables of a switch let in what nothing of the second ones does.
OnlyIn = Callable[[str, TableSet, TableSet], frozenset[EntryKey]]

REVOKE, EGRESS, INGRESS, GARBAGE, OPEN = range(5)
_DESTINATION_FIELDS = frozenset({"reg5", "eth_dst", "vlan_vid"})


def _nothing(_switch: str, _tables: TableSet, _others: TableSet) -> frozenset[EntryKey]:
    return frozenset()


def rounds(
    old: Mapping[str, TableSet],
    new: Mapping[str, TableSet],
    is_egress: IsEgress,
    only_in: OnlyIn = _nothing,
) -> tuple[Round, ...]:
    """Return the rounds that lead from ``old`` to ``new``; switches that are not in ``old`` are left out."""
    moved = _moved_owners(old, new, is_egress)
    found: tuple[dict[str, list[Change]], ...] = ({}, {}, {}, {}, {})
    for switch, before in old.items():
        after = new.get(switch, TableSet())
        ends = only_in(switch, before, after), only_in(switch, after, before)
        sorter = _Sorter(before, after, moved, partial(is_egress, switch), *ends)
        for number, changes in enumerate(sorter.sorted()):
            if changes:
                found[number][switch] = changes
    return tuple({switch: tuple(changes) for switch, changes in one.items()} for one in found if one)


def _moved_owners(old: Mapping[str, TableSet], new: Mapping[str, TableSet], is_egress: IsEgress) -> frozenset[int]:
    """Return the owners whose address is delivered somewhere else than before."""
    moved = set()
    for switch, before in old.items():
        after = new.get(switch, TableSet())
        for entry in unshared(before, after):
            other = after.entries.get(entry.key, entry)
            if other is not entry and is_egress(switch, entry) and _destination(entry) != _destination(other):
                moved.add(entry.owner)
    return frozenset(moved)


def _destination(entry: FlowEntry) -> tuple[tuple[str, int], ...]:
    return tuple(
        (action.name, action.value)
        for action in entry.actions
        if isinstance(action, SetField) and action.name in _DESTINATION_FIELDS
    )


@dataclass
class _Sorter:
    """The changes of one switch, put into rounds."""

    before: TableSet
    after: TableSet
    moved: frozenset[int]
    is_egress: Callable[[FlowEntry], bool]
    ends: frozenset[EntryKey]
    begins: frozenset[EntryKey]

    def sorted(self) -> tuple[list[Change], ...]:
        found: tuple[list[Change], ...] = ([], [], [], [], [])
        for change in difference(self.before, self.after):
            found[self._round(change)].append(change)
        for entry in self._kept_of_moved():
            found[REVOKE].append(FlowChange("-", entry))
            if self.after.entries[entry.key] == entry:
                found[INGRESS].append(FlowChange("+", entry))
        return found

    def _round(self, change: Change) -> int:
        if isinstance(change, GroupChange | MeterChange):
            return {"+": EGRESS, "~": INGRESS, "-": GARBAGE}[change.op]
        egress = self.is_egress(change.entry)
        if change.op == "+" and change.entry.key in self.begins:
            return OPEN
        if change.op == "+":
            return EGRESS if egress and change.entry.key not in self.before.entries else INGRESS
        if egress:
            return GARBAGE
        return REVOKE if change.entry.owner in self.moved or change.entry.key in self.ends else INGRESS

    def _kept_of_moved(self) -> Iterator[FlowEntry]:
        """Yield what lets in to an address that moves: it goes first and comes back once the new place is ready."""
        if self.moved:
            for key, entry in self.before.entries.items():
                if entry.owner in self.moved and key in self.after.entries and not self.is_egress(entry):
                    yield entry
