# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pool of sandboxes on an engine that fails: what it takes over, what it removes, what it makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents.docker import pool as module
from agents.docker.containers import POOL, Owner
from agents.docker.engine import EngineError
from agents.docker.pool import Pool

OWNER = Owner("lab", "h1")


class Containers:
    """An engine in memory: names to whether they run."""

    def __init__(self) -> None:
        self.running: dict[str, bool] = {}
        self.broken: set[str] = set()
        """Those that never start, as one that is `dead`."""
        self.stuck: set[str] = set()
        """Those that cannot be removed."""
        self.hangs = False
        """Calls time out, and what they asked for is done."""
        self.asked = 0

    def _answer(self) -> None:
        self.asked += 1
        if self.hangs:
            raise EngineError("the engine did not answer in time", unreachable=True)

    async def containers(self, _filters: Any) -> list[Mapping[str, Any]]:
        self._answer()
        labels = OWNER.labels(POOL)
        return [{"Id": name, "Names": [f"/{name}"], "Labels": labels, "State": "x"} for name in self.running]

    async def inspect(self, name: str) -> Mapping[str, Any] | None:
        self._answer()
        if name not in self.running:
            return None
        state = {"Status": "running" if self.running[name] else "exited", "Pid": 7 if self.running[name] else 0}
        return {
            "Id": name, "Name": f"/{name}", "Image": "", "State": state,
            "Config": {"Labels": OWNER.labels(POOL)}, "HostConfig": {},
        }  # fmt: skip

    async def start(self, name: str) -> None:
        self._answer()
        if name in self.broken:
            raise EngineError("container is marked for removal", 409)
        self.running[name] = True

    async def create(self, name: str, _config: Any) -> str:
        self.running[name] = False
        self._answer()
        return name

    async def remove(self, name: str) -> None:
        self._answer()
        if name in self.stuck:
            raise EngineError("device or resource busy", 500)
        self.running.pop(name, None)

    async def image(self, _reference: str) -> Mapping[str, Any]:
        self._answer()
        return {}


@asynccontextmanager
async def filled(engine: Containers, size: int) -> AsyncIterator[Pool]:
    pool = Pool(engine, OWNER, size)  # type: ignore[arg-type]
    task = asyncio.create_task(pool.run())
    try:
        yield pool
    finally:
        task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)


async def test_what_stands_is_started_and_the_rest_is_made() -> None:
    engine = Containers()
    engine.running = {"odyssey-pool-1": False, "odyssey-pool-2": True}
    async with filled(engine, 3) as pool:
        await until(lambda: len(pool) == 3)
    assert len(engine.running) == 3 and all(engine.running.values())
    assert {"odyssey-pool-1", "odyssey-pool-2"} <= engine.running.keys()


@pytest.mark.parametrize("stuck", [False, True])
async def test_one_that_does_not_start_is_removed_and_holds_up_nothing(stuck: bool) -> None:
    engine = Containers()
    engine.running = {"odyssey-pool-1": False, "odyssey-pool-2": True}
    engine.broken = {"odyssey-pool-1"}
    engine.stuck = {"odyssey-pool-1"} if stuck else set()
    async with filled(engine, 2) as pool:
        await until(lambda: len(pool) == 2)
    assert ("odyssey-pool-1" in engine.running) is stuck
    assert sum(engine.running.values()) == 2


async def test_what_is_too_much_for_a_smaller_pool_is_removed() -> None:
    engine = Containers()
    engine.running = {f"odyssey-pool-{number}": True for number in range(4)} | {"shop-app-1.sandbox": True}
    async with filled(engine, 1):
        await until(lambda: len(engine.running) == 2)
    assert "shop-app-1.sandbox" in engine.running


async def test_what_the_engine_made_after_it_was_given_up_is_found_again() -> None:
    engine = Containers()
    async with filled(engine, 2) as pool:
        await until(lambda: len(pool) == 2)
        taken = pool.reserve()
        assert taken is not None
        engine.hangs = True
        pool.hold()
        pool.release()
        await until(lambda: engine.asked > 50)
        assert len(engine.running) == 3, "it does not ask for another one before it has looked for the last"
        engine.hangs = False
        await until(lambda: len(pool) == 2)
        assert len(engine.running) == 3
        pool.give_back(taken)
    assert all(engine.running.values()) and taken.id in engine.running
