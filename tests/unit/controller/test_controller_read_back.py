# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reading back beside a commit, switches that come back, and switches that leave the inventory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from controller.changes import Change
from controller.channel import ChannelError, FlowReading
from controller.flows import TableSet
from tests.unit.controller import samples
from tests.unit.controller.test_controller_participant import ADMITTED, Rig, nodes

ADMIT = {"binding/shop-app-3": ADMITTED}
#: The address of shop-app-2 goes to another node: the first round takes away what lets in to it.
MOVED = {
    "binding/shop-app-2": None,
    "binding/shop-app-7": dict(
        samples.binding("shop-app-7", "shop/app", "172.16.20.3", "h3"), mac="02:00:ac:10:77:77"
    ),
}


@asynccontextmanager
async def fabric(
    switches: int = 2, verify_seconds: float = 3600.0, allow_absent_switches: bool = False
) -> AsyncIterator[Rig]:
    rig = Rig(verify_seconds=verify_seconds, allow_absent=allow_absent_switches)
    try:
        await rig.restore({})
        for number in range(1, switches + 1):
            await rig.connect(f"sw{number}", number)
        await rig.carry_out(samples.shop() | {"inventory": samples.inventory(switches=switches)})
        yield rig
    finally:
        await rig.close()


@asynccontextmanager
async def busy(rig: Rig, name: str) -> AsyncIterator[None]:
    """Keep a switch to ourselves, as a long reading does."""
    connection = rig.participant.switches.connection(name)
    assert connection is not None
    async with connection.lock:
        yield


def refuse_changes(monkeypatch: pytest.MonkeyPatch, rig: Rig, name: str) -> None:
    async def apply(changes: Sequence[Change]) -> None:
        raise ChannelError("table full")

    monkeypatch.setattr(rig.switches[name], "apply", apply)


async def prepared_commit(rig: Rig) -> asyncio.Task[object]:
    tx = rig.transaction({"changes": {}}, admit=ADMIT)
    await rig.participant.prepare(tx)
    commit: asyncio.Task[object] = asyncio.create_task(rig.commit(tx, "admit"))
    await rig.settle()
    return commit


async def test_a_switch_that_was_read_back_waits_for_the_rounds_of_a_commit() -> None:
    """Alone it would let in, or deliver, what the others do not yet."""
    async with fabric() as rig:
        second, switches = rig.switches["sw2"], rig.participant.switches
        held = second.tables
        connection = switches.connection("sw2")
        assert connection is not None
        async with busy(rig, "sw1"):
            commit = await prepared_commit(rig)
            second.tables = TableSet(dict(list(held.entries.items())[1:]), held.groups, held.meters)
            drift = await connection.verify(lambda: switches.target.tables["sw2"])
            assert drift.count == 1
            assert second.tables == held, "what was lost is back, and nothing of the commit"
            assert not commit.done()
        await commit
        assert second.tables == switches.target.tables["sw2"] != held


async def test_after_a_round_that_failed_no_switch_goes_on_alone() -> None:
    async with fabric(verify_seconds=0.01) as rig:
        with pytest.MonkeyPatch.context() as patch:
            refuse_changes(patch, rig, "sw2")
            with pytest.raises(ChannelError, match="table full"):
                await (await prepared_commit(rig))
            first = rig.switches["sw1"].tables
            await asyncio.sleep(0.1)
            assert rig.switches["sw1"].tables == first, "it delivers, and lets nobody in"
            assert first != rig.participant.switches.target.tables["sw1"]
        await rig.participant.switches.bring_all()
        assert rig.switches["sw1"].tables == rig.participant.switches.target.tables["sw1"]


async def test_an_empty_switch_waits_for_no_other_one_that_is_right() -> None:
    async with fabric() as rig, busy(rig, "sw1"):
        empty = await rig.connect("sw2", 2)
        assert empty.tables == rig.participant.switches.target.tables["sw2"]
        assert len(empty.writes) == 1


async def test_a_switch_that_ignores_cookie_masks_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric() as rig:
        switch = rig.switches["sw1"]
        inner = switch.read_flows

        async def read(cookie: int = 0, mask: int = 0) -> FlowReading:
            return await inner()

        monkeypatch.setattr(switch, "read_flows", read)
        await rig.carry_out(ADMIT | {"binding/shop-app-2": None})
        assert switch.tables == rig.participant.switches.target.tables["sw1"]


async def test_an_empty_switch_that_comes_back_during_a_commit_joins_its_rounds() -> None:
    async with fabric() as rig:
        async with busy(rig, "sw1"):
            commit = await prepared_commit(rig)
            empty = await rig.connect("sw2", 2)
            assert empty.tables == TableSet()
        await commit
        target = rig.participant.switches.target.tables
        assert {name: one.tables for name, one in rig.switches.items()} == target
        assert len(nodes(empty)) == len(nodes(rig.switches["sw1"]))


async def test_a_switch_that_is_lost_during_a_commit_holds_up_no_other_that_may_go_on() -> None:
    async with fabric(allow_absent_switches=True) as rig:
        lost = rig.switches["sw2"]

        async def apply(changes: Sequence[Change]) -> None:
            lost.close("the power is gone")
            raise ChannelError("the power is gone")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lost, "apply", apply)
            tx = rig.transaction({"changes": {}}, admit=ADMIT)
            await rig.participant.prepare(tx)
            effect = await rig.commit(tx, "admit")
        assert effect.degraded == "switch sw2 is not connected"
        assert rig.switches["sw1"].tables == rig.participant.switches.target.tables["sw1"]


async def test_a_controller_that_starts_mends_every_switch() -> None:
    async with fabric() as earlier:
        rig = Rig()
        await rig.restore(earlier.state)
        first = await rig.connect("sw1", 1, earlier.switches["sw1"].tables)
        second = await rig.connect("sw2", 2)
        assert first.writes == []
        assert second.tables == earlier.switches["sw2"].tables
        await rig.close()


async def test_a_leaving_switch_that_fails_holds_up_nothing() -> None:
    async with fabric(switches=3) as rig:
        rig.switches["sw3"].refuse = "the connection ended"
        await rig.carry_out({"inventory": samples.inventory(switches=2)} | MOVED)
        target = rig.participant.switches.target.tables
        assert {name: rig.switches[name].tables for name in target} == target
        assert rig.switches["sw3"].tables.entries, "it refused"
        await rig.participant.switches.bring_all()
        assert rig.switches["sw3"].tables == TableSet(), "the next update tries again"


async def test_a_leaving_switch_that_failed_is_cleared_by_itself() -> None:
    async with fabric(switches=3, verify_seconds=0.01) as rig:
        rig.switches["sw3"].refuse = "the connection ended"
        await rig.carry_out({"inventory": samples.inventory(switches=2)})
        await asyncio.sleep(0.1)
        assert rig.switches["sw3"].tables == TableSet()


async def test_a_switch_leaves_after_a_change_that_failed_there() -> None:
    async with fabric(switches=3) as rig:
        rig.switches["sw3"].refuse = "table full"
        tx = rig.transaction({"changes": {}}, admit=ADMIT)
        await rig.participant.prepare(tx)
        with pytest.raises(ChannelError, match="table full"):
            await rig.commit(tx, "admit")
        await rig.carry_out({"inventory": samples.inventory(switches=2)})
        assert rig.switches["sw3"].tables == TableSet()


async def test_a_switch_leaves_while_it_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fabric(switches=3, verify_seconds=0.01) as rig:
        switch, reading, go = rig.switches["sw3"], asyncio.Event(), asyncio.Event()
        inner = switch.read_flows

        async def read(cookie: int = 0, mask: int = 0) -> FlowReading:
            reading.set()
            await go.wait()
            return await inner(cookie, mask)

        monkeypatch.setattr(switch, "read_flows", read)
        await reading.wait()
        commit = asyncio.create_task(rig.carry_out({"inventory": samples.inventory(switches=2)}))
        await rig.settle()
        go.set()
        await commit
        await asyncio.sleep(0.05)
        assert (switch.tables, switch.is_closed) == (TableSet(), False)
