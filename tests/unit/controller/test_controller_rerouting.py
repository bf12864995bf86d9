# SPDX-License-Identifier: AGPL-3.0-or-later
"""When the ways of switches without groups are compiled anew, and brought to them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from controller import rerouting
from controller.compiler import Compilation, compile_documents
from controller.fabric import Port
from controller.rerouting import Rerouting
from tests.unit.controller import samples, single_tables

DOWN = frozenset({Port("sw1", 1)})


class Fabric:
    """An intent, the ports that are down, and how often the switches were brought to what they have to hold."""

    def __init__(self, compilation: Compilation) -> None:
        self.compilation = compilation
        self.down: frozenset[Port] = frozenset()
        self.brought: list[Mapping[str, object]] = []
        self.failures: list[dict[str, str] | Exception] = []
        self.rerouting = Rerouting(lambda: self.compilation, lambda: self.down, self.bring)

    async def bring(self) -> Mapping[str, str]:
        self.brought.append(self.rerouting.target().tables)
        failure = self.failures.pop() if self.failures else {}
        if isinstance(failure, Exception):
            raise failure
        return failure

    async def settle(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.brought) < count:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert len(self.brought) == count


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerouting, "SETTLE_SECONDS", 0.001)
    monkeypatch.setattr(rerouting, "RETRY_SECONDS", 0.001)


async def test_ports_that_change_together_are_one_update() -> None:
    documents = single_tables.shop()
    fabric = Fabric(samples.compiled(documents))
    assert fabric.rerouting.target() is fabric.compilation
    fabric.down = DOWN
    for _ in range(3):
        fabric.rerouting.changed()
    await fabric.settle(1)
    assert fabric.brought == [compile_documents(samples.stamped(documents), DOWN).tables]
    assert fabric.rerouting.target() is fabric.rerouting.target(), "compiled once"
    fabric.down = frozenset()
    fabric.rerouting.changed()
    await fabric.settle(2)
    assert fabric.brought[1] == fabric.compilation.tables


async def test_a_failure_is_tried_again() -> None:
    fabric = Fabric(samples.compiled(single_tables.shop()))
    fabric.failures = [{"sw1": "gone"}]
    fabric.rerouting.changed()
    await fabric.settle(2)


async def test_whatever_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    fabric = Fabric(samples.compiled(single_tables.shop()))
    fabric.failures = [OSError(28, "No space left on device")]
    fabric.rerouting.changed()
    await fabric.settle(2)
    assert "No space left on device" in caplog.text


async def test_the_same_failure_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fabric = Fabric(samples.compiled(single_tables.shop()))
    fabric.failures = [{"sw1": "gone"}] * 3
    fabric.rerouting.changed()
    await fabric.settle(4)
    assert [record.message for record in caplog.records] == ["ways around ports that are down: gone"]


async def test_switches_with_groups_are_left_alone() -> None:
    fabric = Fabric(samples.compiled(samples.shop()))
    fabric.down = DOWN
    fabric.rerouting.changed()
    await fabric.settle(0)
    assert fabric.rerouting.target() is fabric.compilation


async def test_in_a_mixed_fabric_only_those_without_groups_change() -> None:
    documents = single_tables.shop()
    documents["inventory"]["fabric"]["switches"]["sw2"]["profile"] = "openvswitch"
    fabric = Fabric(samples.compiled(documents))
    fabric.down = DOWN
    target = fabric.rerouting.target()
    assert target.tables["sw2"] is fabric.compilation.tables["sw2"]
    assert target.tables["sw1"] != fabric.compilation.tables["sw1"]
    assert target.tables == compile_documents(samples.stamped(documents), DOWN).tables
