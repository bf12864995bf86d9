# SPDX-License-Identifier: AGPL-3.0-or-later
"""The changes between two table sets, in the order in which a switch must make them.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from controller.flows import FlowEntry, GroupEntry, MeterEntry, TableSet


@dataclass(frozen=True, slots=True)
class FlowChange:
    """Add (``+``, which replaces an entry of the same table, priority and match) or delete (``-``) one entry."""

    op: Literal["+", "-"]
    entry: FlowEntry


@dataclass(frozen=True, slots=True)
class GroupChange:
    """Add (``+``), modify (``~``) or delete (``-``) one group."""

    op: Literal["+", "~", "-"]
    group: GroupEntry


@dataclass(frozen=True, slots=True)
class MeterChange:
    """Add (``+``), modify (``~``) or delete (``-``) one meter."""

    op: Literal["+", "~", "-"]
    meter: MeterEntry


Change = FlowChange | GroupChange | MeterChange


def difference(old: TableSet, new: TableSet) -> tuple[Change, ...]:
    """Return what turns ``old`` into ``new``, in the order in which a switch must do it.

    Meters and groups first, then revocations, then additions with egress tables before ingress tables, then groups and
    meters that are gone.
    """
    changes: list[Change] = []
    changes += [MeterChange(op, meter) for op, meter in _kept(old.meters, new.meters)]
    changes += [GroupChange(op, group) for op, group in _kept(old.groups, new.groups)]
    gone = [entry for entry in unshared(old, new) if entry.key not in new.entries]
    come = [entry for entry in unshared(new, old) if old.entries.get(entry.key) != entry]
    changes += [FlowChange("-", entry) for entry in sorted(gone, key=_table)]
    changes += [FlowChange("+", entry) for entry in sorted(come, key=_table, reverse=True)]
    changes += [GroupChange("-", group) for number, group in sorted(old.groups.items()) if number not in new.groups]
    changes += [MeterChange("-", meter) for number, meter in sorted(old.meters.items()) if number not in new.meters]
    return tuple(changes)


def unshared(one: TableSet, other: TableSet) -> Iterator[FlowEntry]:
    """Yield the entries of one set that are not also in the other as the same objects.

    Two compilations share most entries; to look each of them up by its match takes many times as long.
    """
    shared = set(map(id, other.entries.values()))
    return (entry for entry in one.entries.values() if id(entry) not in shared)


def _table(entry: FlowEntry) -> int:
    return entry.table


_One = TypeVar("_One")


def _kept(old: Mapping[int, _One], new: Mapping[int, _One]) -> Iterator[tuple[Literal["+", "~"], _One]]:
    """Yield what is new or other than it was."""
    for number, one in sorted(new.items()):
        if number not in old:
            yield "+", one
        elif old[number] != one:
            yield "~", one


def patched(tables: TableSet, changes: Iterable[Change]) -> TableSet:
    """Return the tables after changes, as a switch would hold them."""
    entries, groups, meters = dict(tables.entries), dict(tables.groups), dict(tables.meters)
    for change in changes:
        match change:
            case FlowChange("-", entry):
                entries.pop(entry.key, None)
            case FlowChange(_, entry):
                entries[entry.key] = entry
            case GroupChange("-", group):
                groups.pop(group.group, None)
            case GroupChange(_, group):
                groups[group.group] = group
            case MeterChange("-", meter):
                meters.pop(meter.meter, None)
            case MeterChange(_, meter):
                meters[meter.meter] = meter
    return TableSet(entries, groups, meters)
