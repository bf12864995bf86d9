# SPDX-License-Identifier: AGPL-3.0-or-later
"""The OpenFlow connection and roles, message by message, against a switch that counts what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.changes import FlowChange
from controller.channel import NotMasterError, Role, StaleGenerationError
from controller.flows import FlowEntry, Kind, make_cookie, match
from controller.openflow.channel import OpenFlowChannel
from tests.integration.controller_support import Pki
from tests.integration.test_controller_channel import Gate
from tests.soak import openflow_switch as of
from tests.soak.openflow_switch import OpenFlowSwitch
from tests.soak.run import HARMLESS

ENTRY = FlowChange("+", FlowEntry(0, 7, match(in_port=3), (), make_cookie(Kind.BASE, 0, 1)))


class Site:
    """A switch and the channel to it."""

    def __init__(self, gate: Gate, switch: OpenFlowSwitch, channel: OpenFlowChannel) -> None:
        self.gate, self.switch, self.channel = gate, switch, channel

    def writes(self) -> int:
        return sum(self.switch.received[kind] for kind in of.WRITES)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    gate = Gate(Pki(tmp_path / "pki"))
    gate.port = await gate.terminator.start("127.0.0.1", 0)
    switch = OpenFlowSwitch("sw1", 1, gate.pki.issue("switch", "sw1"))
    await switch.connect("127.0.0.1", gate.port)
    try:
        async with asyncio.timeout(10):
            _, channel = await gate.channels.get()
        yield Site(gate, switch, channel)
    finally:
        await switch.leave()
        await gate.terminator.stop()


async def test_without_the_role_nothing_is_sent(site: Site) -> None:
    async def refused() -> None:
        with pytest.raises(NotMasterError):
            await site.channel.apply([ENTRY])
        with pytest.raises(NotMasterError):
            await site.channel.send_packets([(1, b"\0" * 60)])

    await refused()
    await site.channel.take_role(Role.SLAVE, 5)
    await refused()
    assert site.writes() == 0 and site.switch.before_role <= HARMLESS
    await site.channel.take_role(Role.MASTER, 5)
    await site.channel.apply([ENTRY])
    assert len(site.switch.entries) == 1 and site.switch.refused == 0
    assert (await site.channel.read_flows()).entries[0].entry == ENTRY.entry


async def test_a_stale_generation_names_the_newer_one(site: Site) -> None:
    site.switch.generation = 8 << 32
    with pytest.raises(StaleGenerationError) as caught:
        await site.channel.take_role(Role.MASTER, (8 << 32) - 1)
    assert caught.value.generation == 8 << 32
    with pytest.raises(StaleGenerationError):
        await site.channel.take_role(Role.SLAVE, 1)
    with pytest.raises(NotMasterError):
        await site.channel.apply([ENTRY])
    assert site.writes() == 0


async def test_a_master_that_was_replaced_is_refused_and_sends_no_more(site: Site) -> None:
    await site.channel.take_role(Role.MASTER, 5)
    site.switch.role = of.SLAVE  # as a switch does when another one takes MASTER; OpenFlow 1.3 does not tell us
    with pytest.raises(NotMasterError):
        await site.channel.apply([ENTRY])
    assert site.switch.entries == {} and site.switch.refused > 0
    tried = site.writes()
    with pytest.raises(NotMasterError):
        await site.channel.apply([ENTRY])
    assert site.writes() == tried


async def test_a_refused_packet_ends_the_sending_of_packets(site: Site) -> None:
    await site.channel.take_role(Role.MASTER, 5)
    site.switch.role = of.SLAVE
    await site.channel.send_packets([(1, b"\0" * 60)])

    async def until_refused() -> None:
        with pytest.raises(NotMasterError):
            while True:
                await site.channel.send_packets([])
                await asyncio.sleep(0.01)

    await asyncio.wait_for(until_refused(), 10)
    assert site.switch.received[of.PACKET_OUT] == site.switch.refused == 1
