# SPDX-License-Identifier: AGPL-3.0-or-later
"""States, differences, capacity and counters of the fabric over switches in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from controller.cabling import Heard
from controller.capacity import capacity_report
from controller.changes import FlowChange, patched
from controller.channel import CountedEntry
from controller.counters import Count, Tally, counters_json
from controller.discovery import Discovery
from controller.fabric import Inventory, Port
from controller.flows import FlowEntry, Kind, crc_owner, make_cookie, match
from controller.ledger import Ledger, OpenTransaction
from controller.portwatch import PortWatch
from controller.profiles import Use
from controller.queries import Queries
from controller.switches import Switches
from controller.tenure import Tenure
from rdmp.rpc import RpcError
from tests.unit.controller import samples
from tests.unit.controller.fake_switch import FakeSwitch

Json = dict[str, Any]


class World:
    """Two switches in memory with the tables of the shop."""

    def __init__(self) -> None:
        self.ledger = Ledger(samples.stamped(samples.shop()), {}, 1)
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.folder = TemporaryDirectory()
        self.tenure = Tenure(Path(self.folder.name) / "tenure.json")
        self.switches = Switches(lambda: self.ledger.compilation, self._publish, self.tenure, verify_seconds=60)
        self.discovery = Discovery(self._inventory, lambda: True, self._publish, 5.0)
        self.queries = Queries(lambda: self.ledger, self.switches, self.discovery, self.tenure)
        self.fakes: dict[str, FakeSwitch] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def _inventory(self) -> Inventory | None:
        return self.ledger.compilation.intent.inventory

    def _publish(self, topic: str, data: Mapping[str, Any]) -> None:
        self.events.append((topic, data))

    async def connect(self, name: str, number: int) -> FakeSwitch:
        fake = self.fakes[name] = FakeSwitch(number, self.ledger.compilation.tables[name])
        for port in (1, 2, 3, 101, 201):
            fake.port(port, True)
        self.tasks.append(asyncio.create_task(self.switches.connected(name, fake)))
        while (found := self.switches.connection(name)) is None or found.last_verified is None:
            await asyncio.sleep(0)
        return fake

    def ports_told(self) -> list[tuple[str, int, bool]]:
        return [(data["switch"], data["port"], data["up"]) for topic, data in self.events if topic == "switch.port"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.tenure.lead(1)
    await made.connect("sw1", 1)
    yield made
    for fake in made.fakes.values():
        fake.close("the test is over")
    await asyncio.gather(*made.tasks)
    made.folder.cleanup()


# Ports


async def test_a_port_that_goes_down_is_told_with_what_hangs_there(world: World) -> None:
    calls: list[frozenset[Port]] = []
    world.switches.ports.subscribe(lambda: calls.append(world.switches.ports.down()))
    world.fakes["sw1"].port(2, False)
    assert calls == [frozenset({Port("sw1", 2)})]
    [(_, data)] = [event for event in world.events if event[0] == "switch.port"]
    assert data == {
        "switch": "sw1",
        "port": 2,
        "name": "eth2",
        "up": False,
        "attached": {"kind": "host", "name": "h2", "at": "eth0"},
    }
    world.fakes["sw1"].port(2, True)
    assert world.ports_told() == [("sw1", 2, False), ("sw1", 2, True)]
    assert world.switches.ports.down() == frozenset()


async def test_a_port_that_is_taken_out_is_down_and_one_that_nobody_named_is_nobodys_business(world: World) -> None:
    world.fakes["sw1"].port(55, False)
    world.fakes["sw1"].port(101, False, gone=True)
    assert world.ports_told() == [("sw1", 101, False)]
    assert world.switches.ports.down() == {Port("sw1", 101)}


async def test_a_change_that_comes_while_the_ports_are_read_is_kept() -> None:
    class Slow(FakeSwitch):
        async def read_ports(self) -> Any:
            found = await super().read_ports()
            self.port(2, False)
            return found

    compilation = samples.compiled(samples.shop())
    watch = PortWatch(lambda: compilation.intent.inventory, lambda topic, data: None)
    slow = Slow(1)
    for number in (1, 2, 3, 101, 201):
        slow.port(number, True)
    await watch.follow("sw1", slow)
    assert watch.down() == {Port("sw1", 2)}


async def test_ports_are_known_while_their_switch_is_away(world: World) -> None:
    world.fakes["sw1"].port(3, False)
    world.fakes["sw1"].close("gone")
    await asyncio.gather(*world.tasks)
    assert world.switches.ports.down() == {Port("sw1", 3)}
    report = await world.queries.call("fabric", {})
    assert report["switches"]["sw1"]["connected"] is False
    assert {port["up"] for port in report["switches"]["sw1"]["ports"]} == {None}, "nobody knows"


# The fabric


async def test_the_fabric_names_switches_links_hosts_and_nodes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = {Port("sw1", 1): Heard(Port("sw2", 1))}
    monkeypatch.setattr(world.discovery, "heard", lambda: heard)
    world.fakes["sw1"].port(101, False)
    report = await world.queries.call("fabric", {})
    sw1, sw2 = report["switches"]["sw1"], report["switches"]["sw2"]
    assert (sw1["connected"], sw2["connected"], sw1["down"], sw2["down"]) == (True, False, 1, None)
    by_number = {port["port"]: port for port in sw1["ports"]}
    assert by_number[1]["wrongCable"] == "sw1:1 is cabled to sw2:1; the inventory says host h1"
    assert by_number[201]["attached"] == {"kind": "border", "name": "edge", "at": ""}
    assert report["links"] == [
        {"a": {"switch": "sw1", "port": 101}, "b": {"switch": "sw2", "port": 101}, "up": False}
    ]
    assert [node["node"] for node in report["hosts"]["h1"]["nodes"]] == ["shop-app-1", "shop-lb-1"]
    assert report["networks"]["shop/app"]["vlan"] == 120


async def test_an_interval_that_is_no_number_is_refused(world: World) -> None:
    for wrong in (-1, 11, "1", True):
        with pytest.raises(RpcError, match="interval"):
            await world.queries.call("fabric", {"interval": wrong})


async def test_switch_ports_are_by_number_with_counters(world: World) -> None:
    answer = await world.queries.call("switch_ports", {"switch": "sw1"})
    assert set(answer["ports"]) == {"1", "2", "3", "101", "201"}
    with pytest.raises(RpcError, match="switch sw2 is not connected"):
        await world.queries.call("switch_ports", {"switch": "sw2"})


# Differences


async def test_verify_says_entry_by_entry_what_differs_and_repairs_nothing(world: World) -> None:
    await world.connect("sw2", 2)
    assert (await world.queries.call("verify", {}))["equal"] is True
    fake, tables = world.fakes["sw1"], world.fakes["sw1"].tables
    owner = world.ledger.compilation.owner_name
    lost = next(entry for entry in tables if owner(entry.owner) == "binding/shop-db-1" and entry.table == 30)
    bent = next(entry for entry in tables if owner(entry.owner) == "policy/shop/lb/app" and entry.priority == 210)
    strange = FlowEntry(10, 999, match(reg0=7), (), make_cookie(Kind.POLICY, crc_owner("policy/x/y/z"), 1))
    opened = FlowEntry(bent.table, bent.priority, bent.match, lost.actions, bent.cookie)
    changes = (FlowChange("-", lost), FlowChange("+", opened), FlowChange("+", strange))
    fake.tables = damaged = patched(tables, changes)
    answer = await world.queries.call("verify", {})
    assert answer["equal"] is False
    assert answer["switches"]["sw2"]["equal"] is True
    found = {(one["what"], one["owner"]) for one in answer["switches"]["sw1"]["differences"]}
    cookie = f"unknown {make_cookie(Kind.POLICY, crc_owner('policy/x/y/z'), 0):#018x}"
    assert found == {("missing", "binding/shop-db-1"), ("changed", "policy/shop/lb/app"), ("unexpected", cookie)}
    changed = next(one for one in answer["switches"]["sw1"]["differences"] if one["what"] == "changed")
    assert changed["actions"] == "drop"
    assert "group:" in changed["found"]
    assert fake.tables is damaged, "looking repairs nothing"
    connection = world.switches.connection("sw1")
    assert connection is not None
    drift = await connection.verify(lambda: world.ledger.compilation.tables["sw1"])
    assert drift.count == 3, "and the drift is still found afterwards"


async def test_a_switch_that_is_not_connected_is_not_equal(world: World) -> None:
    answer = await world.queries.call("verify", {"switch": "sw2"})
    assert (answer["equal"], answer["switches"]["sw2"]["reason"]) == (False, "switch sw2 is not connected")
    with pytest.raises(RpcError, match="switch sw9 is not in the inventory"):
        await world.queries.call("verify", {"switch": "sw9"})


# Paths by RPC


async def test_a_path_is_that_of_what_the_switch_holds_not_of_what_it_should(world: World) -> None:
    await world.connect("sw2", 2)
    question = {"from": "shop-lb-1", "to": "shop-app-2"}
    answer = await world.queries.call("path", question)
    assert answer["open"] is True
    assert (answer["protocol"], answer["port"]) == ("tcp", 8080)
    assert answer["notes"] == ["no port was named: taken tcp 8080"]
    assert {hop["packets"] for hop in answer["there"]["hops"] if hop["kind"] == "entry"} == {3}
    fake = world.fakes["sw1"]
    owner = world.ledger.compilation.owner_name
    lost = [entry for entry in fake.tables if owner(entry.owner) == "policy/shop/lb/app"]
    fake.tables = patched(fake.tables, [FlowChange("-", entry) for entry in lost])
    closed = await world.queries.call("path", question)
    assert closed["there"]["stop"]["code"] == "tables_differ"


async def test_a_path_through_an_absent_switch_says_so(world: World) -> None:
    world.fakes["sw1"].port(2, False)
    answer = await world.queries.call("path", {"from": "shop-lb-1", "to": "shop-app-2", "port": 8080})
    assert answer["open"] is True
    assert answer["notes"] == ["sw2 could not be read: its entries are those that it should hold"]


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"from": "shop-lb-1"}, r"\$\.to"),
        ({"from": "shop-lb-1", "to": "shop-app-1", "port": 0}, r"\$\.port"),
        ({"from": "shop-lb-1", "to": "shop-app-1", "protocol": "icmp"}, r"\$\.protocol"),
        ({"from": "nobody", "to": "shop-app-1"}, "there is no node"),
    ],
)
async def test_a_wrong_question_is_refused(world: World, params: Json, fault: str) -> None:
    with pytest.raises(RpcError, match=fault):
        await world.queries.call("path", params)


# Capacity


def test_capacity_counts_users_reservations_and_how_many_nodes_fit() -> None:
    documents = samples.shop()
    documents["inventory"] = samples.inventory(max_entries=100)
    ledger = Ledger(samples.stamped(documents), {}, 1)
    before = capacity_report(ledger)["switches"]["sw1"]
    assert before["entries"] == sum(before["byUser"].values()) == sum(before["byKind"].values())
    assert before["reserved"] == 0
    assert before["perNode"] == {"shop/app": 3, "shop/db": 3, "shop/lb": 3}
    assert before["headroom"]["shop/app"] == before["free"] // 3
    dark = samples.binding("shop-app-3", "shop/app", "172.16.20.4", "h3")
    change = {"binding/shop-app-3": dark | {"phase": "admitted"}}
    operation = {"prepare": {"dark": {"binding/shop-app-3": dark}}, "stages": {"admit": {"changes": change}}}
    held, _ = ledger.prepared(OpenTransaction.of("tx-1", 2, operation))
    after = capacity_report(held)
    assert after["open"] == ["tx-1"]
    # Prepared, it stands in the table with three entries; admitted, two of them look otherwise for a while.
    assert after["switches"]["sw1"]["entries"] == before["entries"] + 3
    assert after["switches"]["sw1"]["reserved"] == 2
    assert after["switches"]["sw1"]["free"] == before["free"] - 5


def test_the_headroom_ends_with_the_addresses_of_the_subnet() -> None:
    documents = samples.shop()
    documents["network/shop/db"]["subnet"] = "172.16.30.0/29"
    report = capacity_report(Ledger(samples.stamped(documents), {}, 1))
    assert report["switches"]["sw1"]["headroom"]["shop/db"] == report["addresses"]["shop/db"] == 4


async def test_the_event_loop_goes_on_while_capacity_is_tried_out(world: World) -> None:
    documents = samples.shop()
    for number in range(60):
        network = {"id": 10 + number, "subnet": f"10.0.{number}.0/24", "vlan": 200 + number}
        documents[f"network/shop/n{number}"] = network
    world.ledger = Ledger(samples.stamped(documents), {}, 1)
    assert world.ledger.compilation.intent.networks
    asked, turns = asyncio.create_task(world.queries.call("capacity", {})), 0
    while not asked.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert len((await asked)["addresses"]) == 63 and turns > 3


# Counters


def counted(entry: FlowEntry, packets: int) -> CountedEntry:
    return CountedEntry(entry, packets, packets * 100, 1.0)


def pick(owner: str, table: int, priority: int) -> FlowEntry:
    compilation = samples.compiled(samples.shop())
    return next(
        entry
        for entry in compilation.tables["sw1"]
        if (compilation.owner_name(entry.owner), entry.table, entry.priority) == (owner, table, priority)
    )


def test_entries_count_for_nodes_dependencies_networks_and_ports() -> None:
    compilation = samples.compiled(samples.shop())
    tally = Tally()
    wanted = {
        (0, 300, "binding/shop-lb-1"): 5,
        (30, 200, "binding/shop-app-1"): 7,
        (10, 300, "policy/shop/lb/app"): 11,
        (10, 200, "policy/shop/lb/app"): 13,
        (10, 10, "network/shop/lb"): 17,
        (0, 1, "host/h2"): 19,
    }
    reading = [counted(pick(owner, table, priority), n) for (table, priority, owner), n in wanted.items()]
    tally.add("sw1", reading, compilation)
    found = counters_json(tally, compilation)
    assert (found["nodes"]["shop-lb-1"]["sentPackets"], found["nodes"]["shop-lb-1"]["sentBytes"]) == (5, 500)
    assert found["nodes"]["shop-app-1"]["receivedPackets"] == 7
    dependency = found["dependencies"]["policy/shop/lb/app"]
    assert (dependency["openedPackets"], dependency["returnedPackets"]) == (11, 13)
    assert found["networks"]["shop/lb"]["deniedPackets"] == 17
    spoofed = {(one["switch"], one["port"]): one["spoofedPackets"] for one in found["ports"]}
    assert spoofed[("sw1", 2)] == 19
    assert found["nodes"]["shop-db-1"]["sentPackets"] == 0


def test_a_member_counts_what_it_serves_under_the_service_address() -> None:
    documents = samples.shop()
    slots = ["shop-app-1", "shop-app-2"]
    documents["service/shop/app"] = {"network": "shop/app", "address": "172.16.20.1", "slots": slots, "pins": {}}
    compilation = samples.compiled(documents)
    tally = Tally()
    reading = [counted(entry, 2) for entry in compilation.tables["sw1"] if entry.kind is Kind.SERVICE]
    tally.add("sw1", reading, compilation)
    node = counters_json(tally, compilation)["nodes"]["shop-app-1"]
    assert (node["sentPackets"], node["receivedPackets"]) == (2, 2)


def test_a_sum_never_falls_whatever_becomes_of_the_entry() -> None:
    compilation = samples.compiled(samples.shop())
    entry = pick("binding/shop-lb-1", 0, 300)
    replaced = FlowEntry(entry.table, entry.priority, entry.match, entry.actions, entry.cookie ^ 1)
    tally, sums = Tally(), []
    for found, packets in ((entry, 10), (entry, 15), (replaced, 18), (replaced, 4), (entry, 0), (entry, 3)):
        tally.add("sw1", [counted(found, packets)], compilation)
        sums.append(tally.totals[Count(Use.SENT, "binding/shop-lb-1")].packets)
    # It counts on, is replaced and keeps its counter, begins anew with a restart, and once more.
    assert sums == [10, 15, 18, 22, 22, 25]


def test_what_the_intent_does_not_have_any_more_is_forgotten() -> None:
    compilation = samples.compiled(samples.shop())
    tally = Tally()
    tally.add("sw1", [counted(pick("binding/shop-lb-1", 0, 300), 10)], compilation)
    documents = {key: value for key, value in samples.shop().items() if key != "binding/shop-lb-1"}
    tally.add("sw1", [], samples.compiled(documents))
    assert Count(Use.SENT, "binding/shop-lb-1") not in tally.totals


async def test_counters_are_read_from_the_switches_that_are_there(world: World) -> None:
    answer = await world.queries.call("counters", {})
    assert answer["nodes"]["shop-lb-1"]["sentPackets"] == 3, "the switch in memory has counted 3 for each entry"
    assert answer["truncated"] == 0


async def test_of_very_many_nodes_an_answer_has_the_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.views.MAX_COUNTED_NODES", 2)
    answer = await world.queries.call("counters", {})
    assert (len(answer["nodes"]), answer["truncated"]) == (2, 3)
