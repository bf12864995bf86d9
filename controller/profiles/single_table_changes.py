# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which entries of a single-table switch begin or end something in an update.

An entry that sends a whole prefix into a trunk also lets in to the addresses there that nobody has.  Where its policy
ends in the same update in which somebody gets such an address, it has to be gone before that one is delivered; where
its policy begins, it has to wait until those who lose theirs are not delivered any more.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.flows import EntryKey, FlowEntry, Kind, Match, TableSet, Term

_TARGETS = ("ipv4_dst", "ipv6_dst")
_LEFT_OUT = (*_TARGETS, "in_port")


def only_in(tables: TableSet, others: TableSet) -> frozenset[EntryKey]:
    """Return the entries of policies of which none of ``others`` lets in the same to a part of the same prefix."""
    candidates = [entry for key, entry in tables.entries.items() if key not in others.entries and _is_policy(entry)]
    if not candidates:
        return frozenset()
    there: dict[tuple[Term, ...], list[Match]] = {}
    for entry in others:
        if _is_policy(entry):
            there.setdefault(_what(entry.match), []).append(_whereto(entry.match))
    return frozenset(
        entry.key for entry in candidates if not _overlaps(_whereto(entry.match), there.get(_what(entry.match), ()))
    )


def _is_policy(entry: FlowEntry) -> bool:
    return entry.cookie >> 48 & 0xFF == Kind.POLICY and bool(entry.actions)


def _what(match: Match) -> tuple[Term, ...]:
    """Return what is let in, wherever it goes."""
    return tuple(term for term in match.terms if term[0] not in _LEFT_OUT)


def _whereto(match: Match) -> Match:
    return Match(tuple(term for term in match.terms if term[0] in _TARGETS))


def _overlaps(target: Match, others: Iterable[Match]) -> bool:
    return any(target.overlaps(other) for other in others)
