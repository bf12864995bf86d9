# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service calls as documents."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from odyssey.orchestrator.calls import CallBook
from odyssey.state.sqlite import SqliteStore
from rdmp.rpc import RpcError


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path)
    await opened.open()
    yield opened
    await opened.close()


def request(call_id: str, count: int = 1) -> dict[str, Any]:
    return {"SYSServiceID": "addNode", "id": call_id, "data": [{"System": {"Network": {"Node": {"count": count}}}}]}


async def test_an_id_stands_for_one_request(store: SqliteStore) -> None:
    book = CallBook(store)
    first = await book.open(request("a"), "operator/x")
    assert await book.open(request("a"), "operator/y") == first
    with pytest.raises(RpcError, match="used before for something else"):
        await book.open(request("a", 2), "operator/x")


async def test_a_call_that_was_running_at_the_crash_is_interrupted(store: SqliteStore) -> None:
    book = CallBook(store)
    ended = await book.open(request("ended"), "operator/x")
    await book.end(ended, "done", {"id": "ended"})
    await book.open(request("cut"), "operator/x")
    again = CallBook(store)
    assert await again.interrupt() == ["cut"]
    states = {name: found.state for name in ("ended", "cut") if (found := await again.find(name))}
    assert states == {"ended": "done", "cut": "interrupted"}


async def test_only_the_newest_ended_calls_are_kept(store: SqliteStore) -> None:
    ticks = itertools.count(1)
    book = CallBook(store, kept=10, clock=lambda: f"{next(ticks):06}")
    await book.open(request("open"), "operator/x")
    for number in range(100):
        state = "done" if number % 2 else "failed"
        await book.end(await book.open(request(f"c{number:03}"), "operator/x"), state, {})
    names = [item.key for item in await store.list("call/")]
    assert names == [*(f"call/c{number:03}" for number in range(90, 100)), "call/open"]
