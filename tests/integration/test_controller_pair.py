# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two controllers run hot on real switches: killed, stopped, restarted, robbed of their memory, under traffic."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.controller_pair import (
    FIRST,
    HARMLESS,
    SECOND,
    Pair,
    Traffic,
    messages,
    refused,
    untouched,
    writes,
)
from tests.integration.controller_support import Lab, OpenVSwitch, server

PLAIN_PORT = 8080  # lb may open it at app


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture
async def pair(lab: Lab, tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(lab, tmp_path)
    try:
        await made.up()
        yield made
    finally:
        await made.down()


def traffic(pair: Pair) -> Traffic:
    return Traffic("shop-lb-1", pair.nodes["shop-app-1"]["address"], PLAIN_PORT)


def assert_nothing_written(pair: Pair, switch: OpenVSwitch, name: str, since: int) -> None:
    """Since so many messages a controller sent nothing but what it believed due, and the switch refused that."""
    port = pair.daemons[name].port
    sent = [kind for kind, _ in writes(messages(switch, port)[since:])]
    assert set(sent) <= {"OFPT_PACKET_OUT"} and refused(switch, port) >= len(sent)


def app(count: int) -> dict[str, object]:
    return {"platform": "shop", "Network": {"name": "app", "Node": {"count": count}}}


async def test_a_role_comes_first_and_only_the_master_writes(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    await pair.roles(leader, follower)
    for switch in pair.lab.switches.values():
        for name in (leader, follower):
            received = messages(switch, pair.daemons[name].port)
            first = next(number for number, (kind, _) in enumerate(received) if kind == "OFPT_ROLE_REQUEST")
            assert {kind for kind, _ in received[: first + 1]} <= HARMLESS
            asked = {text.split("role=")[1].split()[0] for kind, text in received if kind == "OFPT_ROLE_REQUEST"}
            assert asked == {"primary" if name == leader else "secondary"}, "as Open vSwitch calls master and slave"
        assert writes(messages(switch, pair.daemons[leader].port))
        assert writes(messages(switch, pair.daemons[follower].port)) == []
    ours, theirs = [await pair.observe(name) for name in (leader, follower)]
    assert ours["intentDigest"] == theirs["intentDigest"] and ours["generation"] == theirs["generation"]
    assert (ours["leads"], theirs["leads"]) == (True, False)
    assert {one["role"] for one in theirs["switches"].values()} == {"slave"}


async def test_killing_the_leader_loses_no_packet_and_changes_no_entry(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    with server("shop-app-1", PLAIN_PORT), traffic(pair).flowing():
        before = pair.ages()
        await pair.daemons[leader].end(signal.SIGKILL)
        await pair.leader(follower)
        await pair.roles(follower, None)
        untouched(before, pair.ages())
        await pair.daemons[leader].start()
        await pair.in_step(FIRST, SECOND)
        await pair.roles(follower, leader)
        untouched(before, pair.ages())
    for switch in pair.lab.switches.values():
        kinds = {kind for kind, _ in writes(messages(switch, pair.daemons[follower].port))}
        assert kinds <= {"OFPT_PACKET_OUT"}, "the take-over found nothing to write; LLDP is sent by who leads"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_leader_lost_in_the_middle_of_a_transaction_leaves_nothing_half_done(
    pair: Pair, number: signal.Signals
) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    hosts = list(pair.orchestra.members.values())
    for host in hosts:
        host.gates["prepare"] = asyncio.Event()
    call = asyncio.create_task(pair.orchestra.serve("addNode", "more", app(2)))

    async def voted() -> bool:
        return all([await pair.phase(name, "more.1") == "prepared" for name in (leader, follower)])

    try:
        await pair.eventually(voted, "both controllers have prepared")
        await asyncio.sleep(0.2)  # their votes are on the way
        if number is signal.SIGKILL:
            await pair.daemons[leader].end(number)
        else:
            pair.daemons[leader].send(number)
        stopped = {name: len(messages(one, pair.daemons[leader].port)) for name, one in pair.lab.switches.items()}
    finally:
        for host in hosts:
            host.gates.pop("prepare").set()
    answer = await asyncio.wait_for(call, 60)
    assert answer["state"] == "done", (answer, pair.logs())
    await pair.leader(follower)
    await pair.attach()
    flows = pair.flows()
    for node in (name for name in pair.nodes if name.startswith("shop-app-")):
        if pair.nodes[node]["phase"] == "admitted":
            address = pair.nodes[node]["address"]
            assert all(any(f"nw_dst={address} " in line for line in lines) for lines in flows.values())
    with server("shop-app-1", PLAIN_PORT), traffic(pair).flowing():
        before = pair.ages()
        if number is signal.SIGKILL:
            await pair.daemons[leader].start()
        else:
            pair.daemons[leader].send(signal.SIGCONT)
        await pair.in_step(FIRST, SECOND)
        await pair.roles(follower, leader)
        untouched(before, pair.ages())
    for name, switch in pair.lab.switches.items():
        assert_nothing_written(pair, switch, leader, stopped[name])
    ours, theirs = [await pair.observe(name) for name in (leader, follower)]
    assert ours["intentDigest"] == theirs["intentDigest"] and ours["open"] == theirs["open"] == {}
    assert all(one["finished"] for one in (await pair.orchestra.ask("tx.list"))["transactions"])


async def test_an_old_leader_that_was_stopped_writes_nothing_when_it_goes_on(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    pair.daemons[leader].send(signal.SIGSTOP)
    await pair.leader(follower)
    await pair.serve("addNode", "more", app(2))
    before, told = pair.ages(), {}
    for name, switch in pair.lab.switches.items():
        told[name] = len(messages(switch, pair.daemons[leader].port))
    await pair.orchestra.stop()  # nobody tells it that another one leads: the switches have to
    pair.daemons[leader].send(signal.SIGCONT)
    await pair.eventually(lambda: "leads)" in pair.daemons[leader].log(), "a switch told it")
    await pair.roles(follower, leader)
    await asyncio.sleep(2.5)  # it looks at the switches every second
    untouched(before, pair.ages())
    for name, switch in pair.lab.switches.items():
        assert_nothing_written(pair, switch, leader, told[name])
    await pair.orchestra.start()
    await pair.in_step(FIRST, SECOND)
    assert await pair.leader() == follower


async def test_a_restart_changes_nothing(pair: Pair) -> None:
    leader = await pair.leader()
    before = pair.ages()
    for name in (leader, pair.other(leader)):
        assert await pair.daemons[name].end(signal.SIGTERM) == 0
        await pair.daemons[name].start()
        await pair.in_step(FIRST, SECOND)
    now = await pair.leader()
    await pair.roles(now, pair.other(now))
    untouched(before, pair.ages())


async def test_a_lone_controller_restores_its_switches_without_an_orchestrator(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    await pair.daemons[follower].end(signal.SIGKILL)
    await pair.orchestra.stop()
    await pair.daemons[leader].end(signal.SIGKILL)
    before = pair.flows()
    switch = pair.lab.switches["sw2"]
    switch.ofctl("del-flows")
    switch.ofctl("del-groups")
    await pair.daemons[leader].start()
    await pair.eventually(lambda: pair.flows() == before, "all entries are back")
    await pair.roles(leader, None)
    await pair.daemons[follower].start()
    await pair.roles(leader, follower)
    await pair.orchestra.start()
    await pair.in_step(FIRST, SECOND)


async def test_a_superseded_controller_follows_also_without_an_orchestrator(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    await pair.daemons[leader].end(signal.SIGKILL)
    await pair.leader(follower)
    await pair.serve("addNode", "more", app(1))
    await pair.orchestra.stop()
    before = pair.ages()
    await pair.daemons[leader].start()
    await pair.roles(follower, leader)
    await asyncio.sleep(1.5)
    untouched(before, pair.ages())
    await pair.orchestra.start()
    await pair.in_step(FIRST, SECOND)


@pytest.mark.parametrize("whose", ["leader", "follower", "both"])
async def test_a_lost_journal_is_repaired_and_empties_no_switch(pair: Pair, whose: str) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    losers = {"leader": [leader], "follower": [follower], "both": [leader, follower]}[whose]
    before = pair.ages()
    for name in losers:
        await pair.daemons[name].end(signal.SIGKILL)
    for name in losers:
        pair.lose_state(name)
        await pair.daemons[name].start()
    await pair.in_step(FIRST, SECOND)
    now = await pair.leader()
    await pair.roles(now, pair.other(now))
    untouched(before, pair.ages())
    await pair.daemons[now].end(signal.SIGKILL)
    await pair.leader(pair.other(now))
    await pair.roles(pair.other(now), None)
    untouched(before, pair.ages())


async def test_a_follower_that_was_away_catches_up_and_can_take_over(pair: Pair) -> None:
    leader = await pair.leader()
    follower = pair.other(leader)
    await pair.daemons[follower].end(signal.SIGKILL)
    await pair.serve("addNode", "more", app(2))
    await pair.serve("removeNode", "less", app(1))
    await pair.daemons[follower].start()
    await pair.in_step(FIRST, SECOND)
    before = pair.ages()
    await pair.daemons[leader].end(signal.SIGKILL)
    await pair.leader(follower)
    await pair.roles(follower, None)
    untouched(before, pair.ages())
    await pair.serve("addNode", "again", app(1))
