# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the controller has promised: the committed intent and the open transactions.  Pure values.

The switches hold the *effective* intent: what is committed and, in phase dark, the new nodes of open transactions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import schemas
from controller.compiler import Compilation, capacity_refusals, compile_documents, with_changes
from controller.fabric import Document, IntentRefused, Refusal

Json = Mapping[str, Any]
#: Documents and what they compile to.
Compiled = tuple[Mapping[str, Document], Compilation]
REVISION_KEY = "revision"  # state document with the highest committed sequence number


@dataclass(frozen=True)
class OpenTransaction:
    """A transaction that was prepared and whose last stage is not yet done."""

    id: str
    seq: int
    dark: Mapping[str, Json]
    changes: Mapping[str, Json | None]
    stages: Mapping[str, Mapping[str, Json | None]]
    done: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tx_id: str, seq: int, operation: Json) -> OpenTransaction:
        """Read a controller operation that matches its schema."""
        prepare = operation.get("prepare") or {}
        stages = {stage: body["changes"] for stage, body in operation.get("stages", {}).items()}
        return cls(tx_id, seq, prepare.get("dark") or {}, prepare.get("changes") or {}, stages)

    def outcomes(self, documents: Mapping[str, Document]) -> Iterator[dict[str, Document]]:
        """Yield the intent as it will be after each stage, the last one also where there is none."""
        staged = {key for changes in self.stages.values() for key in changes}
        documents = with_changes(
            documents, {key: value for key, value in self.changes.items() if key not in staged}, self.seq
        )
        if not self.stages:
            yield documents
        for changes in self.stages.values():
            documents = with_changes(documents, changes, self.seq)
            yield documents


@dataclass(frozen=True)
class Ledger:
    """The committed documents, the open transactions by id, and the highest committed sequence number.

    ``marks`` tells the content of each committed document.  ``compiled`` is what the last prepare compiled, for every
    open transaction: stages come to the same, so a commit need not compile again.
    """

    committed: Mapping[str, Document] = field(default_factory=dict)
    open: Mapping[str, OpenTransaction] = field(default_factory=dict)
    revision: int = 0
    marks: Mapping[str, str] = field(default_factory=dict)
    compiled: tuple[Compiled, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def restored(cls, state: Mapping[str, Json], open_transactions: Iterable[OpenTransaction]) -> Ledger:
        """Read the state documents that ``changed_state`` wrote."""
        committed = {
            key: Document(value["document"], value["seq"]) for key, value in state.items() if key != REVISION_KEY
        }
        revision = state.get(REVISION_KEY, {}).get("seq", 0)
        found = {one.id: replace(one, done=_done(one, committed)) for one in open_transactions}
        return cls(committed, found, revision, {key: schemas.mark(one.value) for key, one in committed.items()})

    @cached_property
    def digest(self) -> str:
        """What the committed intent is, for the comparison with what it should be."""
        return schemas.digest(self.marks)

    @cached_property
    def effective(self) -> Mapping[str, Document]:
        """The committed documents and the dark bindings of the open transactions.

        A dark binding gives way as soon as a stage of its transaction has committed the node.
        """
        documents = dict(self.committed)
        for one in self.open.values():
            for key, value in one.dark.items():
                if key not in self.committed or self.committed[key].seq < one.seq:
                    documents[key] = Document({**value, "phase": "dark"}, one.seq)
        return documents

    @cached_property
    def compilation(self) -> Compilation:
        """What the switches have to hold; raises IntentRefused."""
        return _found(self.compiled, self.effective) or compile_documents(self.effective)

    def prepared(self, new: OpenTransaction) -> tuple[Ledger, Compilation]:
        """Return the ledger with a new open transaction, and what that one comes to.

        Raises IntentRefused if it cannot be carried out or does not fit.
        """
        refusals = [
            Refusal(
                key, f"is already committed as {self.committed[key].value['phase']}; only a new or standby node is dark"
            )
            for key in new.dark
            if key in self.committed and self.committed[key].value["phase"] != "standby"
        ]
        taken = {key: one.id for one in self.open.values() if one.id != new.id for key in one.dark}
        refusals += [Refusal(key, f"is held by the open transaction {taken[key]}") for key in new.dark if key in taken]
        if refusals:
            raise IntentRefused(refusals)
        known = self._known()
        after = replace(self, open={**self.without(new.id).open, new.id: new}, compiled=known)
        outcomes = [
            (documents, _found(known, documents) or compile_documents(documents))
            for one in after.open.values()
            for documents in one.outcomes(after.effective)
        ]
        if refusals := capacity_refusals(after.compilation, [compilation for _, compilation in outcomes]):
            raise IntentRefused(refusals)
        # Of what was compiled before only the intent as it was, for the case that this is given up.
        before = [one for one in known if one[0] == self.effective][:1]
        return replace(after, compiled=((after.effective, after.compilation), *before, *outcomes)), outcomes[-1][1]

    def _known(self) -> tuple[Compiled, ...]:
        """Return what is compiled already; nothing is compiled for this."""
        own = vars(self).get("compilation")  # where the cached property keeps it
        return self.compiled if own is None else ((self.effective, own), *self.compiled)

    def without(self, tx_id: str) -> Ledger:
        """Return the ledger without an open transaction; itself if it is not open."""
        if tx_id not in self.open:
            return self
        opened = {key: one for key, one in self.open.items() if key != tx_id}
        return replace(self, open=opened, compiled=self._known())

    def with_stage(self, one: OpenTransaction, stage: str) -> Ledger:
        """Return the ledger after one stage.  The transaction stays open: the stage may have to be repeated."""
        known = self.open.get(one.id, one)
        known = replace(known, done=known.done | {stage})
        changes = known.stages.get(stage, {})
        committed = with_changes(self.committed, changes, one.seq)
        coming = {key: schemas.mark(value) for key, value in changes.items() if value is not None}
        marks = {key: value for key, value in (dict(self.marks) | coming).items() if key in committed}
        opened = {**self.open, one.id: known}
        return replace(self, committed=committed, open=opened, revision=max(self.revision, one.seq), marks=marks)

    def finished(self, tx_id: str) -> bool:
        """Tell whether every stage of an open transaction is done."""
        return tx_id in self.open and self.open[tx_id].stages.keys() <= self.open[tx_id].done

    def changed_state(self, one: OpenTransaction, stage: str) -> dict[str, Json | None]:
        """Return the state documents that the journal keeps for a stage that is in this ledger."""
        state: dict[str, Json | None] = {REVISION_KEY: {"seq": self.revision}}
        for key in one.stages.get(stage, {}):
            document = self.committed.get(key)
            state[key] = None if document is None else {"seq": document.seq, "document": document.value}
        return state


def _found(compiled: Iterable[Compiled], documents: Mapping[str, Document]) -> Compilation | None:
    return next((compilation for known, compilation in compiled if known == documents), None)


def _done(one: OpenTransaction, committed: Mapping[str, Document]) -> frozenset[str]:
    """Return the stages whose every change is committed already."""

    def is_in(key: str, value: Json | None) -> bool:
        document = committed.get(key)
        return document is None if value is None else document is not None and document.value == value

    return frozenset(
        stage for stage, changes in one.stages.items() if all(is_in(key, value) for key, value in changes.items())
    )
