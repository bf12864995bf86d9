# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every Store promises; a new implementation is added to the fixture and must pass unchanged."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from odyssey.state import retention
from odyssey.state.retention import Retention
from odyssey.state.sqlite import SqliteStore
from odyssey.state.store import Append, Conflict, LeaseHeldError, Set, Store, StoreError


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = SqliteStore(tmp_path / "state")
    await opened.open()
    yield opened
    await opened.close()


async def test_a_document_comes_back_with_its_revision(store: Store) -> None:
    assert await store.get("a") is None
    assert await store.last_event() == 0
    await store.commit(Set("a", {"x": 1}, expect=0))
    await store.commit(Set("a", {"x": 2}, expect=1))
    found = await store.get("a")
    assert found is not None
    assert (found.revision, found.value) == (2, {"x": 2})


async def test_a_lost_compare_and_set_changes_nothing_and_shows_the_winner(store: Store) -> None:
    await store.commit(Set("a", {"x": 1}))
    with pytest.raises(Conflict) as caught:
        await store.commit(Set("a", {"x": 9}, expect=0), [Set("b", {"y": 1}), Append("t", "now", {})])
    assert caught.value.actual is not None
    assert caught.value.actual.value == {"x": 1}
    assert await store.get("b") is None
    assert await store.read(0, 10) == []


async def test_only_one_of_many_concurrent_deciders_wins(store: Store) -> None:
    await store.commit(Set("tx", {"state": "preparing"}))

    async def decide(number: int) -> bool:
        try:
            await store.commit(Set("tx", {"by": number}, expect=1))
        except Conflict:
            return False
        return True

    wins = await asyncio.gather(*(decide(number) for number in range(50)))
    assert sum(wins) == 1


async def test_list_gives_a_prefix_in_order(store: Store) -> None:
    for key in ("node/b", "node/a", "network/x", "nodes"):
        await store.commit(Set(key, {}))
    assert [item.key for item in await store.list("node/")] == ["node/a", "node/b"]


async def test_a_delete_removes_the_document(store: Store) -> None:
    await store.commit(Set("a", {}))
    await store.commit(Set("a", None, expect=1))
    assert await store.get("a") is None


async def test_events_are_numbered_once_and_read_on_from_any_index(store: Store) -> None:
    written = await store.commit(None, [Append("t", "now", {"n": number}) for number in range(5)])
    assert [event.index for event in written.events] == [1, 2, 3, 4, 5]
    assert [event.data["n"] for event in await store.read(3, 10)] == [3, 4]
    assert len(await store.read(0, 2)) == 2
    assert await store.last_event() == 5


async def test_the_epoch_rises_with_every_lease_and_the_incarnation_stays(tmp_path: Path) -> None:
    epochs, incarnations = [], set()
    for _ in range(3):
        store = SqliteStore(tmp_path)
        await store.open()
        epochs.append((await store.acquire("one")).epoch)
        incarnations.add(store.incarnation)
        await store.close()
    assert epochs == [1, 2, 3]
    assert len(incarnations) == 1


async def test_a_second_leader_on_one_store_is_refused(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path), SqliteStore(tmp_path)
    await first.open()
    await second.open()
    await first.acquire("one")
    with pytest.raises(LeaseHeldError, match="another odysseyd leads"):
        await second.acquire("two")
    await first.close()
    await second.close()


async def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    await store.close()
    with sqlite3.connect(tmp_path / "odyssey.db") as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
    again = SqliteStore(tmp_path)
    with pytest.raises(StoreError, match="schema version 99"):
        await again.open()
    await again.close()


async def test_the_files_are_readable_by_the_owner_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state")
    await store.open()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "odyssey.db").stat().st_mode & 0o777 == 0o600
    await store.close()


async def test_events_beyond_a_number_are_forgotten_oldest_first(store: Store) -> None:
    await store.commit(None, [Append("t", "2026-11-23T10:00:00Z", {"n": number}) for number in range(25)])
    assert await store.trim(10, "2026-11-01T00:00:00Z", limit=4) == 4
    assert await store.trim(10, "2026-11-01T00:00:00Z") == 11
    assert await store.trim(10, "2026-11-01T00:00:00Z") == 0
    assert [event.index for event in await store.read(0, 100)] == list(range(16, 26))


async def test_old_events_are_forgotten_and_their_indexes_stay_used(store: Store) -> None:
    times = ["2026-11-20T10:00:00.000Z", "2026-11-22T10:00:00.000Z", "2026-11-21T10:00:00.000Z"]
    await store.commit(None, [Append("t", time, {}) for time in times])
    assert await store.trim(10, "2026-11-21T12:00:00.000000Z") == 1  # a clock that was set back leaves no hole
    assert [event.index for event in await store.read(0, 10)] == [2, 3]
    assert await store.trim(10, "2026-11-23T00:00:00Z") == 2
    assert (await store.read(0, 10), await store.last_event()) == ([], 3)
    assert (await store.commit(None, [Append("t", times[0], {})])).events[0].index == 4


async def test_retention_forgets_in_batches_what_is_too_old_or_too_much(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH", 3)
    old, new = "2001-01-01T00:00:00Z", "2999-01-01T00:00:00Z"
    await store.commit(None, [Append("t", old, {})] * 10 + [Append("t", new, {})] * 10)
    assert await Retention(store, 15, 86400.0).trim() == 10
    assert await Retention(store, 4, 86400.0).trim() == 6
    assert [event.index for event in await store.read(0, 100)] == [17, 18, 19, 20]
