# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which entries of a single-table switch begin or end something in an update.

An entry that sends a whole prefix into a trunk also lets in to the addresses there that nobody has.  Where its policy
ends in the same update in which somebody gets such an address, it has to be gone before that one is delivered; where
its policy begins, it has to wait until those who lose theirs are not delivered any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.flows import EntryKey, FlowEntry, Kind, Match, TableSet, Term
from controller.profiles.single_table_layers import FENCE

_TARGETS = ("ipv4_dst", "ipv6_dst")
_LEFT_OUT = (*_TARGETS, "in_port")


def ending(tables: TableSet, others: TableSet) -> frozenset[EntryKey]:
    """Return the entries of policies of which none of ``others`` lets in the same to a part of the same prefix.

    And the fences that only ``others`` have: a network that leaves a host sends nothing from there any more.
    """
    fences = {key for key, entry in others.entries.items() if entry.priority == FENCE and key not in tables.entries}
    candidates = [entry for key, entry in tables.entries.items() if key not in others.entries and _is_policy(entry)]
    if not candidates:
        return frozenset(fences)
    there: dict[tuple[Term, ...], list[Match]] = {}
    for entry in others:
        if _is_policy(entry):
            there.setdefault(_what(entry.match), []).append(_whereto(entry.match))
    gone = {one.key for one in candidates if not _overlaps(_whereto(one.match), there.get(_what(one.match), ()))}
    return frozenset(fences | gone)


def _is_policy(entry: FlowEntry) -> bool:
    return entry.cookie >> 48 & 0xFF == Kind.POLICY and bool(entry.actions)


def _what(match: Match) -> tuple[Term, ...]:
    """Return what is let in, wherever it goes."""
    return tuple(term for term in match.terms if term[0] not in _LEFT_OUT)


def _whereto(match: Match) -> Match:
    return Match(tuple(term for term in match.terms if term[0] in _TARGETS))


def _overlaps(target: Match, others: Iterable[Match]) -> bool:
    return any(target.overlaps(other) for other in others)
