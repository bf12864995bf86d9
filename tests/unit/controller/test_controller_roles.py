# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two controllers and their switches in memory: who writes, who does not, and what a take-over finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import schemas
from controller.channel import Role
from controller.tenure import MAX_GENERATION, Appointment, Tenure, TenureError
from rdmp.participant import Refused
from rdmp.rpc import RpcError
from tests.unit.controller import samples
from tests.unit.controller.fake_switch import Held
from tests.unit.controller.test_controller_participant import ADMITTED, NEW, Rig


class Pair:
    """Two controllers at the same two switches; ``one`` leads under generation 1."""

    def __init__(self) -> None:
        self.one, self.two = Rig(), Rig()
        self.devices = {"sw1": Held(), "sw2": Held()}

    async def connect(self, rig: Rig) -> None:
        for number, (name, device) in enumerate(self.devices.items(), start=1):
            await rig.connect(name, number, held=device)

    async def carry_out(self) -> None:
        """Give both the same intent, as a transaction with both does."""
        for rig in (self.one, self.two):
            await rig.carry_out(samples.shop())


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    await made.one.restore({}, generation=1)
    await made.two.restore({}, generation=None)
    await made.two.ask("follow", generation=1)
    for rig in (made.one, made.two):
        await made.connect(rig)
    await made.carry_out()
    try:
        yield made
    finally:
        await made.one.close()
        await made.two.close()


def written(rig: Rig) -> int:
    return sum(len(switch.writes) for switch in rig.switches.values())


async def test_the_role_is_asked_for_before_anything_else(pair: Pair) -> None:
    for switch in pair.one.switches.values():
        assert switch.roles[0] == (Role.MASTER, 1) and switch.writes
    for switch in pair.two.switches.values():
        assert switch.roles and set(switch.roles) == {(Role.SLAVE, 1)} and not switch.writes
    assert {data["role"] for data in pair.one.topics("switch.role")} == {"master"}
    assert pair.two.topics("switch.role") == []
    observed = await pair.two.participant.observe()
    assert schemas.validate("controller-observation", observed) == ()
    assert (observed["leads"], observed["generation"]) == (False, 1)
    assert observed["switches"]["sw1"]["role"] == "slave"
    assert observed["intentDigest"] == (await pair.one.participant.observe())["intentDigest"]


async def test_a_follower_checks_reserves_and_writes_nothing(pair: Pair) -> None:
    follower = pair.two
    tx = follower.transaction({"dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
    await follower.participant.prepare(tx)
    with pytest.raises(Refused, match=f"held by the open transaction {tx.id}"):
        await follower.participant.prepare(follower.transaction({"dark": {"binding/shop-app-3": NEW}}))
    for switch in follower.switches.values():
        switch.close("away")
    await follower.settle()
    effect = await follower.commit(tx, "admit")
    assert effect.degraded is None, "it does not wait for switches either"
    assert (await follower.participant.observe())["bindings"]["shop-app-3"] == "admitted"
    assert written(follower) == 0


async def test_a_take_over_finds_nothing_to_write(pair: Pair) -> None:
    before = {name: device.tables for name, device in pair.devices.items()}
    writes = written(pair.one)
    assert (await pair.two.ask("lead", generation=2))["failed"] == {}
    assert written(pair.two) == 0 and written(pair.one) == writes
    assert {name: device.tables for name, device in pair.devices.items()} == before
    assert {device.master for device in pair.devices.values()} == set(pair.two.switches.values())
    await pair.two.carry_out({"binding/shop-app-2": None})
    assert written(pair.two) > 0


async def test_a_take_over_carries_on_what_the_earlier_leader_left_half_done(pair: Pair) -> None:
    for rig in (pair.one, pair.two):
        tx = rig.transaction({"dark": {"binding/shop-app-3": NEW}}, admit={"binding/shop-app-3": ADMITTED})
        await rig.participant.prepare(tx)
    pair.one.switches["sw2"].close("the leader dies between two switches")
    await pair.one.settle()
    with pytest.raises(Exception, match="sw2 is not connected"):
        await pair.one.commit(tx, "admit")
    await pair.two.commit(tx, "admit")
    await pair.two.ask("lead", generation=2)
    expected = samples.compiled(samples.shop() | {"binding/shop-app-3": ADMITTED}).tables
    assert {name: device.tables for name, device in pair.devices.items()} == dict(expected)


async def test_a_leader_that_was_superseded_writes_nothing_and_says_so(pair: Pair) -> None:
    await pair.two.ask("lead", generation=2)
    writes = written(pair.one)
    tables = {name: device.tables for name, device in pair.devices.items()}
    effect = await pair.one.carry_out({"binding/shop-app-2": None})
    assert effect is not None, "its part is done: the other one leads"
    assert written(pair.one) == writes
    assert {name: device.tables for name, device in pair.devices.items()} == tables
    assert not pair.one.tenure.leads() and pair.one.tenure.generation == 2
    told = pair.one.topics("switch.role")[-1]
    assert told["role"] == "slave" and told["reason"] == "generation 2 leads"
    again = Tenure(Path(pair.one.folder.name) / "tenure.json")
    assert (again.leads(), again.generation) == (False, 2), "after a restart too"
    standing = await pair.one.ask("standing")
    assert (standing["leads"], standing["generation"], standing["reach"]) == (False, 2, 2)
    with pytest.raises(RpcError, match="generation 1 is older than 2"):
        await pair.one.ask("lead", generation=1)


async def test_who_takes_a_switch_without_right_does_not_keep_it(pair: Pair) -> None:
    stranger = pair.two.switches["sw1"]
    pair.devices["sw1"].master = stranger  # under the generation of the leader: not an appointment
    await pair.one.carry_out({"binding/shop-app-2": None})
    assert pair.devices["sw1"].master is pair.one.switches["sw1"]
    expected = samples.shop()
    del expected["binding/shop-app-2"]
    assert pair.devices["sw1"].tables == samples.compiled(expected).tables["sw1"]
    assert pair.one.tenure.leads()


async def test_a_restart_without_an_orchestrator_asks_with_the_generation_of_before() -> None:
    first = Rig()
    await first.restore({}, generation=7)
    device = Held()
    await first.connect("sw1", 1, held=device)
    await first.carry_out({"inventory": samples.inventory(hosts=1, switches=1, border=False)})
    tables = device.tables
    assert tables.entries
    again = Rig(first.folder)
    await again.restore(first.state, generation=None)
    device.tables = type(tables)()
    await again.connect("sw1", 1, held=device)
    assert again.switches["sw1"].roles == [(Role.MASTER, 7)]
    assert device.tables == tables, "an emptied switch is refilled"
    await again.close()


async def test_without_its_journal_a_controller_does_not_lead() -> None:
    first = Rig()
    await first.restore({}, generation=7)
    device = Held()
    await first.connect("sw1", 1, held=device)
    await first.carry_out({"inventory": samples.inventory(hosts=1, switches=1, border=False)})
    tables = device.tables
    await first.participant.restore({}, [])
    assert not first.tenure.leads() and first.tenure.generation == 7
    switch = await first.connect("sw1", 1, held=device)
    assert switch.roles == [(Role.SLAVE, 7)] and device.tables == tables
    await first.close()


async def test_a_follower_learns_the_generation_of_a_switch() -> None:
    rig = Rig()
    await rig.restore({}, generation=None)
    device = Held(generation=41)
    switch = await rig.connect("sw1", 1, held=device)
    async with asyncio.timeout(5):
        while switch.role is None:
            await asyncio.sleep(0.01)
    assert switch.roles == [(Role.SLAVE, 0), (Role.SLAVE, 41)]
    assert (await rig.ask("standing"))["generation"] == 41
    foreign = await rig.connect("sw2", 2, held=Held(generation=MAX_GENERATION + 1))
    assert foreign.role is None and rig.tenure.generation == 41, "no appointment could ever exceed that one"
    await rig.close()


@pytest.mark.parametrize("value", [0, -1, True, "5", None, MAX_GENERATION + 1])
async def test_a_generation_is_a_number_that_can_be_sent(value: object) -> None:
    rig = Rig()
    with pytest.raises(RpcError, match=r"\$\.generation: found"):
        await rig.ask("lead", generation=value)
    await rig.close()


async def test_a_tenure_only_rises(tmp_path: Path) -> None:
    path = tmp_path / "tenure.json"
    tenure = Tenure(path)
    assert (tenure.leads(), tenure.generation) == (False, 0)
    assert await tenure.lead(5) and tenure.leads()
    assert not await tenure.lead(4) and not await tenure.follow(3)
    assert tenure.leads() and tenure.generation == 5
    await tenure.superseded(2**64 - 1)
    assert tenure.leads(), "a switch that never heard a generation says this"
    await tenure.superseded(5)
    assert tenure.leads(), "its own generation"
    await tenure.superseded(6)
    assert (tenure.leads(), tenure.generation) == (False, 6)
    assert await tenure.lead(6) and Tenure(path).leads()
    await tenure.resign()
    assert (Tenure(path).leads(), Tenure(path).generation) == (False, 6)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{")
    with pytest.raises(TenureError, match="remove it"):
        Tenure(path)
    assert Appointment() == Appointment(0, leads=False)
