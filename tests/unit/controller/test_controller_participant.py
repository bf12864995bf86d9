# SPDX-License-Identifier: AGPL-3.0-or-later
"""The participant and its switches, over switches in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import schemas
from controller.channel import ChannelError
from controller.connection import OWNERS_READ_SINGLY
from controller.flows import COOKIE_OWNER_MASK, TableSet
from controller.participant import ControllerParticipant
from controller.tenure import Tenure
from rdmp.participant import Effect, Refused, Transaction
from rdmp.rpc import RpcError
from tests.unit.controller import samples, single_tables
from tests.unit.controller.fake_switch import FakeSwitch, Held

NEW = samples.binding("shop-app-3", "shop/app", "172.16.20.4", "h3", "dark")
ADMITTED = {**NEW, "phase": "admitted"}


class Rig:
    """A participant with two switches in memory."""

    def __init__(self, folder: TemporaryDirectory[str] | None = None, **options: Any) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        quiet = {"verify_seconds": 3600.0, "wait_seconds": 0.05, "lldp_seconds": 60.0}
        settings: dict[str, Any] = {"allow_absent": False} | quiet | options
        self.folder = folder or TemporaryDirectory()
        self.tenure = Tenure(Path(self.folder.name) / "tenure.json")
        self.participant = ControllerParticipant(self._publish, self.tenure, **settings)
        self.switches: dict[str, FakeSwitch] = {}
        self.state: dict[str, Any] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.seq = 0

    def _publish(self, topic: str, data: Mapping[str, Any]) -> None:
        self.events.append((topic, data))

    async def restore(
        self, state: Mapping[str, Any], in_doubt: Sequence[Transaction] = (), generation: int | None = 1
    ) -> None:
        """Restore, and lead under a generation unless it is None."""
        self.state = dict(state)
        await self.participant.restore(state, in_doubt)
        if generation is not None:
            await self.ask("lead", generation=generation)

    async def ask(self, method: str, **params: Any) -> Mapping[str, Any]:
        async def nothing(_: Mapping[str, Any]) -> None: ...

        return await self.participant.call(method, params, nothing)

    async def connect(
        self, name: str, datapath_id: int, tables: TableSet | None = None, held: Held | None = None
    ) -> FakeSwitch:
        switch = FakeSwitch(datapath_id, tables, held)
        self.switches[name] = switch
        self.tasks.append(asyncio.create_task(self.participant.switches.connected(name, switch)))
        await self.settle()
        return switch

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def transaction(self, prepare: Mapping[str, Any] | None, **stages: Mapping[str, Any]) -> Transaction:
        self.seq += 1
        operation = {"prepare": prepare, "stages": {name: {"changes": changes} for name, changes in stages.items()}}
        return Transaction(f"tx-{self.seq}", self.seq, 1, operation, 30.0)

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        effect = await self.participant.commit(tx, stage)
        for key, document in effect.state.items():
            if document is None:
                self.state.pop(key, None)
            else:
                self.state[key] = document
        return effect

    async def carry_out(self, changes: Mapping[str, Any], stage: str = "admit") -> Transaction:
        tx = self.transaction({"changes": changes}, **{stage: changes})
        await self.participant.prepare(tx)
        await self.commit(tx, stage)
        return tx

    def topics(self, topic: str) -> list[Mapping[str, Any]]:
        return [data for name, data in self.events if name == topic]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.folder.cleanup()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    await made.restore({})
    await made.connect("sw1", 1)
    await made.connect("sw2", 2)
    try:
        yield made
    finally:
        await made.close()


def nodes(switch: FakeSwitch) -> set[int]:
    """Addresses of the bindings that a switch holds entries of."""
    return {entry.owner >> 16 & 0xFFFFFFFF for entry in switch.tables if entry.owner >> 48 & 0xFF == 1}


async def test_a_switch_that_is_right_is_sent_nothing(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    writes = {name: len(switch.writes) for name, switch in rig.switches.items()}
    await rig.carry_out(samples.shop())
    assert {name: len(switch.writes) for name, switch in rig.switches.items()} == writes


async def test_dark_entries_come_with_prepare_and_go_with_abort(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    before = rig.switches["sw1"].tables
    tx = rig.transaction({"changes": {}, "dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
    effect = await rig.participant.prepare(tx)
    assert effect.detail["entries"]["sw1"] == len(before.entries) + 3
    assert len(rig.switches["sw1"].tables.entries) == len(before.entries) + 3
    assert (await rig.participant.observe())["bindings"]["shop-app-3"] == "dark"
    await rig.participant.prepare(tx)
    assert await rig.participant.status(tx.id) == {"open": True, "dark": ["binding/shop-app-3"], "done": []}
    await rig.participant.abort(tx)
    await rig.participant.abort(tx)
    assert rig.switches["sw1"].tables == before
    assert await rig.participant.status(tx.id) == {"open": False}


async def test_an_abort_that_a_switch_failed_is_carried_out_by_its_repeat(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    before = rig.switches["sw1"].tables
    tx = rig.transaction({"changes": {}, "dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
    await rig.participant.prepare(tx)
    rig.switches["sw1"].refuse = "sw1: table full"
    with pytest.raises(ChannelError, match="table full"):
        await rig.participant.abort(tx)
    await rig.participant.abort(tx)
    assert rig.switches["sw1"].tables == before


async def test_one_commit_is_one_write_and_keeps_what_does_not_change(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    tx = rig.transaction({"changes": {}, "dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
    await rig.participant.prepare(tx)
    rig.switches["sw1"].writes.clear()
    effect = await rig.commit(tx, "admit")
    assert effect.state["binding/shop-app-3"] == {"seq": tx.seq, "document": ADMITTED}
    [write] = rig.switches["sw1"].writes
    # The delivery and the pin of a dark node look otherwise; its entry in table 31 gets another generation.
    tables = sorted(change.entry.table for change in write if hasattr(change, "entry"))
    assert tables == [0, 0, 30, 30, 31]
    assert (await rig.participant.observe())["open"] == {}


async def test_a_failing_switch_fails_the_commit_which_can_be_repeated(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    tx = rig.transaction(None, retire={"binding/shop-app-2": None})
    await rig.participant.prepare(tx)
    rig.switches["sw2"].refuse = "sw2: table full"
    with pytest.raises(ChannelError, match="table full"):
        await rig.commit(tx, "retire")
    effect = await rig.commit(tx, "retire")
    assert effect.state["binding/shop-app-2"] is None
    assert nodes(rig.switches["sw1"]) == nodes(rig.switches["sw2"])
    assert len(nodes(rig.switches["sw1"])) == 4


async def test_a_switch_that_confirms_and_does_nothing_is_found_out(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    tx = rig.transaction(
        None, withdraw={"binding/shop-app-2": {**samples.shop()["binding/shop-app-2"], "phase": "draining"}}
    )
    await rig.participant.prepare(tx)
    rig.switches["sw1"].lose_next_write = True
    with pytest.raises(ChannelError, match="differences after a change was confirmed: missing"):
        await rig.commit(tx, "withdraw")
    await rig.commit(tx, "withdraw")
    assert rig.switches["sw1"].reads[-1][1] == COOKIE_OWNER_MASK, "few owners are read back by their cookies"


async def test_many_owners_are_read_back_at_once(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    switch = rig.switches["sw1"]
    switch.reads.clear()
    many = {
        f"binding/shop-app-{number}": samples.binding(f"shop-app-{number}", "shop/app", f"172.16.20.{number}", "h1")
        for number in range(10, 11 + OWNERS_READ_SINGLY)
    }
    await rig.carry_out(many)
    assert switch.reads == [(0, 0)]


async def test_prepare_refuses_with_reasons(rig: Rig) -> None:
    await rig.carry_out(samples.shop())

    async def refused(prepare: Mapping[str, Any] | None, **stages: Mapping[str, Any]) -> str:
        with pytest.raises(Refused) as caught:
            await rig.participant.prepare(rig.transaction(prepare, **stages))
        return caught.value.reason

    assert "does not match its schema" in await refused({"changes": {"nonsense": 1}})
    assert "there is no host h9" in await refused({"dark": {"binding/shop-app-3": {**NEW, "host": "h9"}}})
    taken = samples.binding("shop-app-1", "shop/app", "172.16.20.2", "h1", "dark")
    assert "already committed as admitted" in await refused({"dark": {"binding/shop-app-1": taken}})
    assert "there is no network shop/app" in await refused(None, retire={"network/shop/app": None})
    tx = rig.transaction({"dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
    await rig.participant.prepare(tx)
    assert f"held by the open transaction {tx.id}" in await refused({"dark": {"binding/shop-app-3": NEW}})
    other = {**NEW, "node": "shop-app-4"}
    assert "172.16.20.4 is already the address of shop-app-3" in await refused({"dark": {"binding/shop-app-4": other}})
    assert (await rig.participant.observe())["open"] == {tx.id: ["shop-app-3"]}


async def test_prepare_waits_a_moment_for_a_switch_that_is_away() -> None:
    rig = Rig(wait_seconds=5.0)
    await rig.restore({})
    await rig.connect("sw1", 1)
    tx = rig.transaction({"changes": samples.shop()}, admit=samples.shop())
    waiting = asyncio.create_task(rig.participant.prepare(tx))
    await rig.settle()
    assert not waiting.done()
    await rig.connect("sw2", 2)
    await waiting
    await rig.close()
    rig = Rig()
    await rig.restore({})
    with pytest.raises(Refused, match=r"switch sw1 is not connected; switch sw2 is not connected; connect it"):
        await rig.participant.prepare(tx)


async def test_open_transactions_reserve_room(rig: Rig) -> None:
    documents = samples.shop() | {"inventory": samples.inventory(max_entries=93)}
    await rig.carry_out(documents)  # 91 entries on sw1
    drain = {"binding/shop-app-2": {**documents["binding/shop-app-2"], "phase": "draining"}}
    first = rig.transaction(None, withdraw=drain)
    await rig.participant.prepare(first)
    again = {"binding/shop-lb-2": {**documents["binding/shop-lb-2"], "phase": "draining"}}
    await rig.participant.prepare(rig.transaction(None, withdraw=again))
    third = {"binding/shop-lb-1": {**documents["binding/shop-lb-1"], "phase": "draining"}}
    with pytest.raises(Refused, match="94 entries are needed, at most 93 fit"):
        await rig.participant.prepare(rig.transaction(None, withdraw=third))
    await rig.participant.abort(first)
    await rig.participant.prepare(rig.transaction(None, withdraw=third))


async def test_a_restart_compares_and_writes_nothing() -> None:
    first = Rig()
    await first.restore({})
    for name, number in (("sw1", 1), ("sw2", 2)):
        await first.connect(name, number)
    await first.carry_out(samples.shop())
    dark = {"dark": {"binding/shop-app-3": NEW}}
    tx = first.transaction(dark, admit={"binding/shop-app-3": ADMITTED}, retire={"binding/shop-lb-2": None})
    await first.participant.prepare(tx)
    await first.close()
    second = Rig()
    try:
        await second.restore(first.state, [tx])
        second.seq = first.seq
        for name, number in (("sw1", 1), ("sw2", 2)):
            await second.connect(name, number, first.switches[name].tables)
        assert [switch.writes for switch in second.switches.values()] == [[], []]
        assert second.topics("switch.drift") == []
        await second.commit(tx, "admit")
        assert (await second.participant.observe())["open"] == {tx.id: ["shop-app-3"]}
        await second.commit(tx, "retire")
        observed = await second.participant.observe()
        assert observed["open"] == {} and observed["bindings"]["shop-app-3"] == "admitted"
        assert observed["revision"] == tx.seq
        assert schemas.validate("controller-observation", observed) == ()
    finally:
        await second.close()


async def test_a_controller_with_an_empty_journal_removes_nothing() -> None:
    """Its journal was lost: the switches keep forwarding as they were told."""
    first = Rig()
    await first.restore({})
    for name, number in (("sw1", 1), ("sw2", 2)):
        await first.connect(name, number)
    await first.carry_out(samples.shop())
    await first.close()
    second = Rig()
    try:
        await second.restore({})
        for name, number in (("sw1", 1), ("sw2", 2)):
            await second.connect(name, number, first.switches[name].tables)
        removal = second.transaction(None, retire={"binding/shop-app-2": None})
        with pytest.raises(Refused, match="no inventory"):
            await second.participant.prepare(removal)
        await second.participant.abort(removal)
        assert [switch.writes for switch in second.switches.values()] == [[], []]
    finally:
        await second.close()


async def test_a_stage_that_a_crash_kept_from_the_journal_is_not_taken_back() -> None:
    """The switches have admitted a node, and the controller dies before its journal has the result."""
    first = Rig()
    await first.restore({})
    for name, number in (("sw1", 1), ("sw2", 2)):
        await first.connect(name, number)
    await first.carry_out(samples.shop())
    tx = first.transaction({"dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
    await first.participant.prepare(tx)
    await first.participant.commit(tx, "admit")
    await first.close()
    second = Rig()
    try:
        await second.restore(first.state, [replace(tx, stage="admit")])
        for name, number in (("sw1", 1), ("sw2", 2)):
            await second.connect(name, number, first.switches[name].tables)
        assert [switch.writes for switch in second.switches.values()] == [[], []]
        assert (await second.participant.observe())["bindings"]["shop-app-3"] == "admitted"
        await second.commit(tx, "admit")
        assert (await second.participant.observe())["open"] == {}
    finally:
        await second.close()


async def test_a_stage_that_is_done_is_not_undone_by_a_restart() -> None:
    rig = Rig()
    await rig.restore({})
    await rig.connect("sw1", 1)
    await rig.connect("sw2", 2)
    await rig.carry_out(samples.shop())
    tx = rig.transaction(
        {"dark": {"binding/shop-app-3": NEW}},
        admit={"binding/shop-app-3": ADMITTED},
        retire={"binding/shop-app-2": None},
    )
    await rig.participant.prepare(tx)
    await rig.commit(tx, "admit")
    await rig.close()
    again = Rig()
    await again.restore(rig.state, [tx])
    assert (await again.participant.observe())["bindings"]["shop-app-3"] == "admitted"
    await again.connect("sw1", 1, rig.switches["sw1"].tables)
    await again.connect("sw2", 2, rig.switches["sw2"].tables)
    await again.commit(tx, "retire")
    assert await again.participant.status(tx.id) == {"open": False}
    await again.close()


async def test_a_switch_of_the_wrong_identity_is_refused(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    impostor = FakeSwitch(77)
    await rig.participant.switches.connected("sw1", impostor)
    assert impostor.is_closed and not rig.switches["sw1"].is_closed
    assert "datapath id is 000000000000004d" in rig.topics("switch.refused")[0]["reason"]


async def test_a_second_connection_replaces_the_first(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    old = rig.switches["sw1"]
    await rig.connect("sw1", 1, old.tables)
    assert old.is_closed and not rig.switches["sw1"].is_closed
    assert rig.topics("switch.lost") == []
    await rig.carry_out({"binding/shop-app-2": None}, "retire")
    assert len(nodes(rig.switches["sw1"])) == 4


async def test_a_switch_that_leaves_the_inventory_loses_our_entries(rig: Rig) -> None:
    await rig.carry_out({"inventory": samples.inventory()})
    assert rig.switches["sw2"].tables.entries
    await rig.carry_out({"inventory": samples.inventory(switches=1)})
    assert rig.switches["sw2"].tables == TableSet()


async def test_a_slow_switch_holds_up_no_revocation_elsewhere(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    rig.switches["sw2"].slow.clear()
    tx = rig.transaction(None, retire={"binding/shop-app-2": None})
    await rig.participant.prepare(tx)
    commit = asyncio.create_task(rig.commit(tx, "retire"))
    await rig.settle()
    gone = int(IPv4Address("172.16.20.3"))

    def tables(switch: str) -> set[int]:
        return {entry.table for entry in rig.switches[switch].tables if entry.owner >> 16 & 0xFFFFFFFF == gone}

    assert tables("sw2") == {0, 30, 31}
    assert tables("sw1") == {31}, "nobody is let in any more; what delivers stays until nobody can be let in anywhere"
    rig.switches["sw2"].slow.set()
    await commit
    assert tables("sw1") == tables("sw2") == set()


async def test_questions_are_answered_and_wrong_ones_refused(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    flows = await rig.ask("flows", switch="sw1", owner="binding/shop-lb-1")
    assert [entry["table"] for entry in flows["entries"]] == [0, 30, 31]
    assert flows["entries"][0]["packets"] == 3 and flows["entries"][0]["cookie"].startswith("0x0d01ac100a02")
    assert len((await rig.ask("flows", switch="sw1"))["entries"]) == 91
    answer = await rig.ask("compile", changes={"binding/shop-app-3": ADMITTED})
    assert answer["switches"]["sw1"]["add"] == 3 and answer["refusals"] == []
    assert answer["notes"] == {}
    answer = await rig.ask("compile", changes={"inventory": single_tables.shop()["inventory"]})
    assert any("static neighbour" in note for note in answer["notes"]["sw1"])
    answer = await rig.ask("compile", changes={"binding/shop-app-3": {**ADMITTED, "host": "h9"}})
    assert answer["refusals"] == [{"path": "binding/shop-app-3", "reason": "there is no host h9 in the inventory"}]
    assert set((await rig.ask("switches"))["switches"]) == {"sw1", "sw2"}
    for method, params, code in (
        ("compile", {"changes": {"x": 1}}, "invalid"),
        ("flows", {"switch": "sw9"}, "not_found"),
        ("flows", {}, "not_found"),
        ("flows", {"switch": "sw1", "owner": "nobody"}, "not_found"),
        ("dance", {}, "unknown_method"),
    ):
        with pytest.raises(RpcError) as caught:
            await rig.ask(method, **params)
        assert caught.value.code == code


async def test_a_switch_in_maintenance_may_be_away(rig: Rig) -> None:
    await rig.carry_out(samples.shop())
    inventory = samples.inventory()
    inventory["fabric"]["switches"]["sw2"] |= {"maintenance": True, "isolated": True}
    await rig.carry_out({"inventory": inventory})
    assert rig.switches["sw2"].ports_down == {1, 2, 3} and rig.switches["sw1"].ports_down == set()
    rig.switches["sw2"].close("upgraded")
    await rig.settle()
    tx = await rig.carry_out({"binding/shop-app-2": None}, "retire")
    assert tx is not None and len(nodes(rig.switches["sw1"])) == 4
