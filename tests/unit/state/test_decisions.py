# SPDX-License-Identifier: AGPL-3.0-or-later
"""The decision log over the store: one decision, its fold, and what a crash in between leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.sqlite import SqliteStore
from odyssey.state.store import Append, Set, Written
from odyssey.state.trace import trace
from odyssey.state.view import StateView
from rdmp.records import TxProgress, TxRecord


class GuardOnlyStore(SqliteStore):
    """A store without multi-document atomicity that dies right after the guard."""

    dead = False

    async def commit(self, guard: Set | None, then: Sequence[Set | Append] = (), *, durable: bool = True) -> Written:
        if guard is not None and then and self.dead:
            await super().commit(guard, (), durable=durable)
            raise OSError("power cut")
        return await super().commit(guard, then, durable=durable)


def record(name: str, *objects: str) -> TxRecord:
    return TxRecord(
        id=name, seq=0, epoch=1, revision=0, state="preparing",
        participants={"h1": {"prepare": {}, "stages": {"admit": {}}}}, stages=("admit",),
        changes={f"node/{name}": {"node": name}}, events=({"topic": "node.admitted", "data": {"node": name}},),
        objects=objects,
    )  # fmt: skip


async def opened(path: Path, kind: type[SqliteStore] = SqliteStore) -> tuple[SqliteStore, StoreDecisionLog, StateView]:
    store, view = kind(path), StateView()
    await store.open()
    log = StoreDecisionLog(store, view, kept=3)
    await log.load()
    return store, log, view


async def test_a_commit_folds_its_changes_and_appends_its_events(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    created = await log.create(record("a"))
    assert view.documents == {}
    decided = await log.decide("a", created.revision, "committed", None)
    assert decided.state == "committed"
    assert view.documents == {"node/a": {"node": "a"}}
    assert view.index == 1
    (event,) = await store.read(0, 10)
    assert (event.topic, event.data) == ("node.admitted", {"node": "a", "tx": "a"})
    await store.close()


async def test_an_abort_changes_nothing(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    created = await log.create(record("a"))
    aborted = await log.decide("a", created.revision, "aborted", "no room")
    assert (aborted.state, aborted.reason) == ("aborted", "no room")
    assert (view.documents, view.index, await store.read(0, 10)) == ({}, 0, [])
    await store.close()


async def test_whoever_decides_second_gets_the_first_decision(tmp_path: Path) -> None:
    store, log, _ = await opened(tmp_path)
    created = await log.create(record("a"))
    first, second = await asyncio.gather(
        log.decide("a", created.revision, "aborted", "late"), log.decide("a", created.revision, "committed", None)
    )
    assert first.state == second.state == "aborted"
    assert await store.read(0, 10) == []
    await store.close()


async def test_objects_of_an_open_transaction_are_reserved(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    created = await log.create(record("a", "address/10.0.0.1"))
    with pytest.raises(ValueError, match=r"address/10\.0\.0\.1 belongs to another"):
        await log.create(record("b", "address/10.0.0.1"))
    aborted = await log.decide("a", created.revision, "aborted", None)
    await log.advance("a", aborted.revision, {"abort": ("h1",)}, {}, True)
    assert view.held() == frozenset()
    await log.create(record("b", "address/10.0.0.1"))
    await store.close()


async def test_after_a_restart_everything_stands_as_it_was(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    for name in "ab":
        created = await log.create(record(name))
        await log.decide(name, created.revision, "committed", None)
    await log.create(record("c"))
    await store.close()
    store, log, again = await opened(tmp_path)
    assert (again.documents, again.index) == (view.documents, 2)
    assert [item.id for item in await log.open()] == ["a", "b", "c"]
    assert log.low_water() == 1
    assert (await log.create(record("d"))).seq == 4
    await store.close()


async def test_a_decision_whose_fold_was_cut_off_is_folded_at_the_next_start(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path, GuardOnlyStore)
    created = await log.create(record("a"))
    assert isinstance(store, GuardOnlyStore)
    store.dead = True
    with pytest.raises(OSError, match="power cut"):
        await log.decide("a", created.revision, "committed", None)
    assert view.documents == {}
    await store.close()
    store, log, again = await opened(tmp_path)
    found = await log.lookup("a")
    assert found is not None
    assert found.state == "committed"
    assert again.documents == {"node/a": {"node": "a"}}
    assert [event.topic for event in await store.read(0, 10)] == ["node.admitted"]
    await store.close()
    store, log, once_more = await opened(tmp_path)
    assert len(await store.read(0, 10)) == 1
    assert once_more.documents == again.documents
    await store.close()


async def test_finished_transactions_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    for number in range(8):
        created = await log.create(record(f"t{number}"))
        decided = await log.decide(created.id, created.revision, "committed", None)
        await log.advance(created.id, decided.revision, {"admit": ("h1",)}, {}, True)
    assert sorted(view.entries) == ["t5", "t6", "t7"]
    assert log.low_water() == 9
    await store.close()


async def test_a_record_that_cannot_be_carried_out_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    with pytest.raises(ValueError, match="has no participant"):
        await log.create(replace(record("a"), participants={}))
    assert view.entries == {}
    await store.close()


async def test_the_steps_of_a_transaction_are_kept_with_their_times(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    created = await log.create(record("a"))
    log.note(TxProgress("a", "created", "preparing"))
    log.note(TxProgress("a", "vote", "preparing", "h1", reason="yes"))
    log.note(TxProgress("unknown", "vote", "preparing", "h1"))
    decided = await log.decide("a", created.revision, "committed", None)
    log.note(TxProgress("a", "decided", "committed"))
    log.note(TxProgress("a", "done", "committed", "h1", "admit"))
    await log.advance("a", decided.revision, {"admit": ("h1",)}, {}, True)
    steps = trace(view.entries["a"])
    assert [step["event"] for step in steps] == ["created", "vote", "decided", "done", "finished"]
    assert steps[3]["participant"] == "h1" and steps[3]["stage"] == "admit"
    assert steps[0]["since"] == 0.0 and all(step["took"] >= 0 for step in steps)
    await store.close()
    store, log, again = await opened(tmp_path)
    assert trace(again.entries["a"]) == steps
    await store.close()


async def test_steps_of_single_participants_are_bounded(tmp_path: Path) -> None:
    store, log, view = await opened(tmp_path)
    created = await log.create(record("a"))
    for number in range(1000):
        log.note(TxProgress("a", "waiting", "preparing", f"h{number}"))
    log.note(TxProgress("a", "decided", "aborted"))
    await log.decide("a", created.revision, "aborted", "late")
    assert len(view.entries["a"].hops) == 257 and view.entries["a"].hops[-1]["event"] == "decided"
    await store.close()


async def test_who_was_given_up_is_on_record_and_the_decision_stays_known(tmp_path: Path) -> None:
    store, log, _ = await opened(tmp_path)
    created = await log.create(record("a"))
    decided = await log.decide("a", created.revision, "committed", None)
    await log.give_up("a", "operator/alice", ["h1"], "burnt down")
    done = await log.advance("a", decided.revision, {"admit": ("h1",)}, {"h1": "burnt down"}, True)
    assert done.finished
    for number in range(9):
        other = await log.create(record(f"b{number}"))
        other = await log.decide(other.id, other.revision, "aborted", None)
        await log.advance(other.id, other.revision, {}, {}, True)
    event = (await store.read(0, 10))[-1]
    assert (event.topic, event.data["operator"], event.data["decision"]) == (
        "tx.heuristic", "operator/alice", "committed",
    )  # fmt: skip
    await store.close()
    store, log, view = await opened(tmp_path)
    assert "a" not in view.entries
    kept = await log.lookup("a")
    assert kept is not None and (kept.state, kept.finished, list(kept.participants)) == ("committed", True, ["h1"])
    await store.close()


def test_whoever_configures_switches_takes_part_where_one_is_configured() -> None:
    view = StateView()
    assert view.participants() == frozenset()
    switch = {"profile": "nexus9000"}
    view.documents["inventory"] = {"hosts": {"h1": {}}, "fabric": {"switches": {"sw1": switch}}}
    assert view.participants() == {"h1", "controller"}
    view.documents["inventory"] = {"hosts": {}, "fabric": {"switches": {"sw1": switch, "sw2": {"management": {}}}}}
    assert view.participants() == {"controller", "netconf"}
