# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a transaction compiles, and what it does not compile once more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from controller import compiler, ledger
from controller.compiler import Compilation, capacity_refusals, compile_documents
from controller.ledger import Ledger, OpenTransaction
from controller.profiles import openvswitch
from tests.unit.controller import samples


def committed(documents: Mapping[str, Any]) -> Ledger:
    state = {key: {"seq": 1, "document": value} for key, value in documents.items()}
    found = Ledger.restored(state, [])
    assert found.compilation.tables
    return found


def joining(number: int, phase: str | None = None) -> OpenTransaction:
    node = f"shop-app-{number}"
    binding = samples.binding(node, "shop/app", f"172.16.20.{number}", "h3")
    changes = {f"binding/{node}": binding}
    prepare = {"dark": {f"binding/{node}": {**binding, "phase": phase}} if phase else {}, "changes": {}}
    operation = {"prepare": prepare, "stages": {"admit": {"changes": changes}}}
    return OpenTransaction.of(f"tx-{number}", number, operation)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Compilation]:
    found: list[Compilation] = []

    def counted(documents: Any) -> Compilation:
        found.append(compile_documents(documents))
        return found[-1]

    monkeypatch.setattr(ledger, "compile_documents", counted)
    return found


def test_a_transaction_compiles_its_outcome_and_nothing_else(compiled: list[Compilation]) -> None:
    now = committed(samples.shop())
    compiled.clear()
    prepared, outcome = now.prepared(joining(5))
    done = prepared.with_stage(joining(5), "admit")
    assert done.compilation is outcome
    assert done.without("tx-5").compilation is outcome
    assert compiled == [outcome]


def test_another_open_transaction_costs_one_compilation_more(compiled: list[Compilation]) -> None:
    first, outcome = committed(samples.shop()).prepared(joining(5))
    compiled.clear()
    both, _ = first.prepared(joining(6))
    assert len(compiled) == 1
    assert both.with_stage(joining(5), "admit").compilation is outcome


def test_what_is_given_up_is_as_it_was(compiled: list[Compilation]) -> None:
    now = committed(samples.shop())
    prepared, _ = now.prepared(joining(5, "dark"))
    assert prepared.compilation.tables != now.compilation.tables
    compiled.clear()
    assert prepared.without("tx-5").compilation is now.compilation
    assert compiled == []


def test_what_is_remembered_does_not_grow(compiled: list[Compilation]) -> None:
    now, kept = committed(samples.shop()), set()
    for number in range(5, 15):
        one = joining(number)
        now = now.prepared(one)[0].with_stage(one, "admit")
        assert now.compilation
        now = now.without(one.id)
        kept.add(len(now.compiled))
    assert max(kept) <= 4


def test_who_uses_the_room_is_asked_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    compilation = samples.compiled(samples.shop())

    def asked(*_: object) -> str:
        raise AssertionError("everything fits")

    monkeypatch.setattr(compiler, "user_of", asked)
    assert capacity_refusals(compilation, [compilation]) == []


def test_two_threads_compile_two_inventories(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from an inventory is kept; the other thread replaces it right after it was looked at."""
    old, new = samples.shop(), samples.shop()
    new["inventory"]["hosts"]["h3"]["attachments"][0]["port"] = 33
    wanted = compile_documents(samples.stamped(new)).tables
    inner, main = openvswitch._Fabric.is_of, threading.current_thread()
    once: list[bool] = []

    def is_of(fabric: openvswitch._Fabric, *args: Any) -> bool:
        answer = inner(fabric, *args)
        if threading.current_thread() is main and not once:
            once.append(answer)
            other = threading.Thread(target=compile_documents, args=(samples.stamped(old),))
            other.start()
            other.join()
        return answer

    monkeypatch.setattr(openvswitch._Fabric, "is_of", is_of)
    assert compile_documents(samples.stamped(new)).tables == wanted
    assert once == [True]
