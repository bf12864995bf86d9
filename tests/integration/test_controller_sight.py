# SPDX-License-Identifier: AGPL-3.0-or-later
"""Seeing the fabric on real Open vSwitch: ports, paths, differences, counters, and probes that leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rdmp.rpc import RpcError
from tests.integration.controller_harness import Controller, intent, reaches
from tests.integration.controller_support import Lab, connect, echo, inside, server

pytest_plugins = ["tests.integration.controller_fixtures"]

Json = Mapping[str, Any]


async def ask(controller: Controller, method: str, **params: Any) -> Json:
    said: list[Json] = []

    async def progress(message: Json) -> None:
        said.append(message)

    named = {key.rstrip("_"): value for key, value in params.items()}
    return await controller.participant.call(method, named, progress)


async def test_ports_are_known_and_a_pulled_cable_is_told(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    answer = await ask(controller, "switch_ports", switch="sw1")
    assert set(answer["ports"]) == {"1", "2", "3", "101", "201"}
    first = answer["ports"]["1"]
    assert (first["up"], first["name"], first["attached"]["name"]) == (True, "p-h1", "h1")
    assert first["speed"] > 0
    inside("h2", "ip", "link", "set", "eth0", "down")
    try:
        await controller.until(lambda: controller.topics("switch.port"), "switch.port")
        data = controller.topics("switch.port")[-1]
        assert (data["switch"], data["port"], data["up"], data["attached"]["name"]) == ("sw1", 2, False, "h2")
        answer = await ask(controller, "path", from_="lb-1", to="app-2")
        assert answer["open"] is True
        passed = [(hop["switch"], hop["port"], hop["vlan"]) for hop in answer["there"]["hops"] if hop["kind"] == "port"]
        assert ("sw1", 101, 4000) in passed, "over the trunk, in the transit VLAN"
    finally:
        inside("h2", "ip", "link", "set", "eth0", "up")
    await controller.until(lambda: controller.topics("switch.port")[-1]["up"], "the port is up again")


async def test_what_a_path_says_is_what_packets_do(controller: Controller) -> None:
    await controller.carry_out(intent(app_2="draining"))
    with server("app-1", 8080), server("app-2", 8080), server("db-1", 5432), server("lb-1", 80):
        for source, target, port in (
            *(("lb-1", "app-1", 8080), ("app-1", "db-1", 5432), ("edge", "lb-1", 80)),
            *(("lb-1", "db-1", 5432), ("lb-1", "app-2", 8080), ("db-1", "app-1", 8080)),
        ):
            answer = await ask(controller, "path", from_=source, to=target, port=port)
            does = await reaches(source, target, port, seconds=0.0 if not answer["open"] else 10.0)
            assert does == answer["open"], (source, target, port, answer)
    assert (await ask(controller, "path", from_="lb-1", to="app-2"))["there"]["stop"]["code"] == "draining"


async def test_verify_reads_every_switch_and_names_what_somebody_deleted(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    equal = await ask(controller, "verify")
    assert equal["equal"] is True
    ctl_lab.switches["sw2"].ofctl("del-flows", "table=30,ip,nw_dst=172.16.30.2")
    answer = await ask(controller, "verify")
    assert answer["equal"] is False
    [found] = answer["switches"]["sw2"]["differences"]
    assert (found["what"], found["owner"], found["tableName"]) == ("missing", "binding/db-1", "deliver")
    assert answer["switches"]["sw1"]["equal"] is True


async def test_counters_follow_what_nodes_send(controller: Controller) -> None:
    await controller.carry_out(intent())
    with server("app-1", 8080):
        assert await reaches("lb-1", "app-1", 8080)
        before = await ask(controller, "counters")
        with connect("lb-1", "172.16.20.2", 8080) as made:
            for _ in range(20):
                echo(made, b"x" * 1000)
        with pytest.raises(OSError):
            await asyncio.to_thread(connect, "lb-1", "172.16.30.2", 5432, seconds=0.5)

        async def grown() -> Json | None:
            await asyncio.sleep(0.5)  # a switch credits its entries late
            now = await ask(controller, "counters")
            denied = [one["networks"]["shop/lb"]["deniedPackets"] for one in (before, now)]
            return now if denied[1] > denied[0] else None

        after = None
        for _ in range(20):
            after = after or await grown()
        assert after is not None, "the packet that nobody declared is counted"

    def more(kind: str, name: str, key: str) -> int:
        return int(after[kind][name][key] - before[kind][name][key])

    assert more("nodes", "lb-1", "sentBytes") >= 20_000
    assert more("nodes", "app-1", "receivedBytes") >= 20_000
    assert more("nodes", "app-1", "sentBytes") >= 20_000
    assert more("dependencies", "policy/shop/lb/app", "openedBytes") >= 20_000
    assert more("dependencies", "policy/shop/lb/app", "returnedBytes") >= 20_000
    assert more("nodes", "db-1", "receivedPackets") == 0


async def test_counters_do_not_jump_back_when_entries_are_replaced(controller: Controller) -> None:
    await controller.carry_out(intent())
    with server("app-1", 8080):
        assert await reaches("lb-1", "app-1", 8080)
        with connect("lb-1", "172.16.20.2", 8080) as made:
            echo(made, b"x" * 1000)
        sent = -1
        for phase in ("draining", "admitted", "draining", "admitted"):
            await controller.phase("app-1", phase)
            await asyncio.sleep(2.1)  # longer than counters are taken as new
            now = (await ask(controller, "counters"))["nodes"]["app-1"]["sentPackets"]
            assert now >= max(sent, 1)
            sent = now


async def test_the_load_of_a_port_is_measured(controller: Controller) -> None:
    await controller.carry_out(intent())
    with server("app-1", 8080):
        assert await reaches("lb-1", "app-1", 8080)
        measured = asyncio.create_task(ask(controller, "fabric", interval=1.0))
        with connect("lb-1", "172.16.20.2", 8080) as made:
            while not measured.done():
                await asyncio.to_thread(echo, made, b"x" * 1000)
                await asyncio.sleep(0.005)
    ports = {port["port"]: port for port in (await measured)["switches"]["sw1"]["ports"]}
    assert ports[1]["rxRate"] > 100_000
    assert ports[1]["rxRate"] > 10 * (ports[3]["rxRate"] or 0)


# Probes


def facts(answer: Json) -> dict[str, str]:
    return {one["capability"]: one["found"] for one in answer["findings"]}


async def test_a_probe_finds_what_open_vswitch_does_and_leaves_nothing(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    connection = controller.participant.switches.connection("sw1")
    assert connection is not None
    held = {name: switch.flows() for name, switch in ctl_lab.switches.items()}
    groups = sorted(ctl_lab.switches["sw1"].ofctl("dump-groups").splitlines())  # told in no order
    answer = await ask(controller, "probe", switch="sw1", capacity=700, force=True)
    found = facts(answer)
    disagrees = [one for one in answer["findings"] if one["agrees"] is False]
    assert disagrees == [], "the profile says what the switch does"
    assert (found["reflects"], found["barrier"], found["atomic bundle"]) == ("yes", "yes", "yes")
    assert answer["inventory"] == {"reflects": "yes"}
    assert found["stale generation refused"] == "yes"
    role = await connection.channel.device().ask_role()
    assert (role.role, role.generation) == ("master", controller.tenure.generation), "as it was"
    assert found["capacity"].startswith("at least ")
    assert not [name for name in found if name.startswith("set: ")], "every field can be set"
    assert {name: switch.flows() for name, switch in ctl_lab.switches.items()} == held
    assert sorted(ctl_lab.switches["sw1"].ofctl("dump-groups").splitlines()) == groups
    assert "meter=3583" not in ctl_lab.switches["sw1"].ofctl("dump-meters")
    assert (await ask(controller, "verify"))["equal"] is True


async def test_a_probe_meets_a_full_table(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    switch = ctl_lab.switches["sw1"]
    limit = ("--id=@t", "create", "flow_table", "flow_limit=400", "overflow_policy=refuse")
    switch.vsctl(*limit, "--", "set", "bridge", "sw1", "flow_tables:0=@t")
    held = switch.flows()
    try:
        answer = await ask(controller, "probe", switch="sw1", capacity=5000, force=True)
    finally:
        switch.vsctl("clear", "bridge", "sw1", "flow_tables")
    found = next(one for one in answer["findings"] if one["capability"] == "capacity")
    assert not found["found"].startswith("at least")
    assert "TABLE_FULL" in found["detail"]
    assert switch.flows() == held


async def test_a_probe_of_a_switch_in_use_is_refused_and_touches_nothing(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    held = ctl_lab.switches["sw1"].flows()
    with pytest.raises(RpcError, match=r"sw1 carries traffic of 2 nodes of host h1.*--yes"):
        await ask(controller, "probe", switch="sw1")
    with pytest.raises(RpcError, match="VLAN 120 is that of network shop/app"):
        await ask(controller, "probe", switch="sw1", vlan=120, force=True)
    assert ctl_lab.switches["sw1"].flows() == held


async def test_what_a_killed_probe_leaves_is_swept_away_by_the_next_look(controller: Controller, ctl_lab: Lab) -> None:
    await controller.carry_out(intent())
    switch = ctl_lab.switches["sw1"]
    held = switch.flows()
    switch.ofctl("add-flow", "cookie=0x0d08000000000000,table=0,priority=65520,dl_vlan=4094,actions=drop")
    answer = await ask(controller, "verify", switch="sw1")
    [left] = answer["switches"]["sw1"]["differences"]
    assert (left["what"], left["owner"]) == ("unexpected", "probe")
    connection = controller.participant.switches.connection("sw1")
    assert connection is not None
    await connection.verify(lambda: controller.participant.switches._tables("sw1"))
    assert switch.flows() == held
