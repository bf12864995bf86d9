# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is not done twice: comparing shared entries, compiling what prepare compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller import ledger
from controller.changes import Change, FlowChange, difference, patched, unshared
from controller.compiler import Compilation, compile_documents
from controller.fabric import Document
from controller.flows import FlowEntry, TableSet
from controller.ledger import Ledger, OpenTransaction
from tests.unit.controller import samples


def copied(tables: TableSet) -> TableSet:
    """Return equal tables of other objects, as they are when a switch was read."""
    return TableSet.of((replace(entry) for entry in tables), tables.groups.values(), tables.meters.values())


def as_sets(changes: tuple[Change, ...]) -> set[Change]:
    return set(changes)


def test_shared_and_read_entries_give_the_same_difference() -> None:
    before = samples.compiled(samples.shop()).tables["sw1"]
    after = samples.compiled(samples.shop(app_1="draining", lb_2="standby")).tables["sw1"]
    changes = difference(before, after)
    assert {change.op for change in changes} == {"+", "-"}
    assert as_sets(changes) == as_sets(difference(copied(before), after)) == as_sets(difference(before, copied(after)))
    assert patched(before, changes) == after
    assert difference(after, after) == difference(copied(after), after) == ()


def test_only_what_is_not_the_same_object_is_looked_at() -> None:
    before = samples.compiled(samples.shop()).tables["sw1"]
    after = samples.compiled(samples.shop(app_1="draining")).tables["sw1"]
    looked_at = list(unshared(after, before))
    assert 0 < len(looked_at) < len(after.entries)
    changed = {change.entry for change in difference(before, after) if isinstance(change, FlowChange)}
    assert changed <= {*looked_at, *unshared(before, after)}
    assert len(list(unshared(copied(after), before))) == len(after.entries)


def test_additions_come_with_egress_tables_first() -> None:
    tables = samples.compiled(samples.shop()).tables["sw1"]
    added = [change.entry.table for change in difference(TableSet(), tables) if isinstance(change, FlowChange)]
    assert added == sorted(added, reverse=True) and len(set(added)) > 3


class Compiler:
    """Counts what the ledger has compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0

        def counted(documents: Mapping[str, Document]) -> Compilation:
            self.count += 1
            return compile_documents(documents)

        monkeypatch.setattr(ledger, "compile_documents", counted)


def opened(seq: int, node: str, network: str, address: str) -> OpenTransaction:
    binding = samples.binding(node, network, address, "h1")
    changes: dict[str, Any] = {f"binding/{node}": binding}
    operation = {
        "prepare": {"changes": changes, "dark": {f"binding/{node}": {**binding, "phase": "dark"}}},
        "stages": {"admit": {"changes": changes}},
    }
    return OpenTransaction.of(f"tx-{seq}", seq, operation)


def entries(tables: Mapping[str, TableSet]) -> dict[str, set[FlowEntry]]:
    return {name: set(one) for name, one in tables.items()}


def test_a_commit_takes_what_prepare_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Ledger(samples.stamped(samples.shop()))
    one = opened(7, "shop-app-9", "shop/app", "172.16.20.99")
    prepared, outcome = before.prepared(one)
    compiler = Compiler(monkeypatch)
    assert prepared.compilation.intent.bindings["shop-app-9"].phase.value == "dark"
    after = prepared.with_stage(one, "admit")
    assert after.compilation is outcome
    assert after.without(one.id).compilation is outcome
    assert compiler.count == 0


def test_a_commit_compiles_anew_when_something_else_was_committed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Ledger(samples.stamped(samples.shop()))
    one = opened(7, "shop-app-9", "shop/app", "172.16.20.99")
    other = opened(8, "shop-lb-9", "shop/lb", "172.16.10.99")
    both = before.prepared(one)[0].prepared(other)[0]
    compiler = Compiler(monkeypatch)
    first = both.with_stage(one, "admit").without(one.id)
    second = first.with_stage(other, "admit").without(other.id)
    fresh = Ledger(second.committed)
    assert entries(second.compilation.tables) == entries(fresh.compilation.tables)
    assert compiler.count >= 2
