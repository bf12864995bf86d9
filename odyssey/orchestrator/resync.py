# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a controller holds beside what it should hold, and how it is brought there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import schemas
from odyssey.model.naming import is_controller
from odyssey.model.snapshot import Snapshot
from odyssey.planning.whole import whole_intent
from odyssey.state.view import StateView
from rdmp.records import TxRecord

Changes = Mapping[str, Mapping[str, Any] | None]

BATCH = 5000
"""Documents that one transaction sets at most, so that it stays below RDMP's size of a message."""

_ORDER = ("inventory", "network", "policy", "expose", "service", "binding")
"""Each kind of document names only those before it."""


class Expected:
    """What every controller should hold, kept for as long as the state is the same."""

    def __init__(self, view: StateView) -> None:
        self._view = view
        self._index = -1
        self.documents: Mapping[str, Mapping[str, Any]] = {}
        self.marks: dict[str, str] = {}
        self.digest = schemas.digest({})

    def refresh(self) -> None:
        """Follow the state."""
        if self._index == self._view.index:
            return
        self._index = self._view.index
        documents = whole_intent(Snapshot.from_documents(self._index, self._view.documents))
        self.marks = {
            key: self.marks[key] if self.documents.get(key) == value else schemas.mark(value)
            for key, value in documents.items()
        }
        self.documents = documents
        self.digest = schemas.digest(self.marks)


@dataclass(frozen=True, slots=True)
class Difference:
    """Keys whose documents a controller must be given, and keys of documents that it must not have."""

    wrong: frozenset[str]
    extra: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.wrong or self.extra)


def differ(held: Mapping[str, str], expected: Mapping[str, str], explained: Set[str]) -> Difference:
    """Compare marks by key; what an open transaction may still change is left out."""
    wrong = {key for key, mark in expected.items() if held.get(key) != mark}
    return Difference(frozenset(wrong - explained), frozenset(held.keys() - expected.keys() - explained))


def explained(name: str, open_records: Iterable[TxRecord]) -> frozenset[str]:
    """Keys that unfinished transactions change at one controller, now or later."""
    found: set[str] = set()
    for record in open_records:
        if (operation := record.participants.get(name)) is not None:
            for stage in operation["stages"].values():
                found |= stage.get("changes", {}).keys()
    return frozenset(found)


def left_out(name: str, open_records: Iterable[TxRecord]) -> bool:
    """Tell whether a transaction that is not decided goes on without this controller."""
    return any(
        record.state == "preparing" and name not in record.participants and any(map(is_controller, record.participants))
        for record in open_records
    )


def batches(
    difference: Difference, held: Mapping[str, str], expected: Mapping[str, Mapping[str, Any]]
) -> list[Changes]:
    """The changes that undo a difference: together where they fit into one transaction.

    More than that begin with the removal of all that is wrong, what names others first, so that each of them leaves
    something that can be carried out.
    """
    wrong = sorted(difference.wrong, key=_rank)
    gone: dict[str, None] = dict.fromkeys(sorted(difference.extra, key=_rank, reverse=True))
    come: dict[str, Mapping[str, Any]] = {key: expected[key] for key in wrong}
    if len(gone) + len(come) <= BATCH:
        return [{**gone, **come}]
    remove = dict.fromkeys(sorted({*gone, *(key for key in wrong if key in held)}, key=_rank, reverse=True))
    return [*_pieces(remove), *_pieces(come)]


def _rank(key: str) -> tuple[int, str]:
    return _ORDER.index(key.partition("/")[0]), key


def _pieces(changes: Changes) -> list[Changes]:
    items = list(changes.items())
    return [dict(items[start : start + BATCH]) for start in range(0, len(items), BATCH)]
