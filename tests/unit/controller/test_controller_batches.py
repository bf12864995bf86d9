# SPDX-License-Identifier: AGPL-3.0-or-later
"""Updates of switches without bundles: no step between leaks or loses, lots are bounded, what does not show is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import texts
from controller.batches import Delivery, batches, phases
from controller.changes import Change, FlowChange, difference, patched
from controller.channel import ChannelError, CountedEntry, FlowReading
from controller.compiler import Compilation
from controller.evaluate import EvaluationError, Fabric, Packet, matches
from controller.fabric import Port
from controller.flows import FlowEntry, Match, TableSet, match
from controller.openflow import batched
from controller.rounds import rounds
from tests.unit.controller import samples, single_tables

Tables = Mapping[str, TableSet]
Flow = tuple[str, str, Port, Packet]
Order = Callable[[Sequence[Change]], tuple[tuple[Change, ...], ...]]


def entry(priority: int, port: int = 1, cookie: int = 0x0D << 56) -> FlowEntry:
    return FlowEntry(0, priority, match(in_port=port), (), cookie)


def test_additions_come_from_above_and_deletions_from_below() -> None:
    changes = [FlowChange("-", entry(priority)) for priority in (9, 1)]
    changes += [FlowChange("+", entry(priority)) for priority in (3, 8, 5)]
    order = [[(change.op, change.entry.priority) for change in phase] for phase in _entries(phases(changes))]
    assert order == [[("+", 8), ("+", 5), ("+", 3)], [("-", 1), ("-", 9)]]
    assert phases([]) == ()


def _entries(found: Sequence[Sequence[Change]]) -> Iterator[list[FlowChange]]:
    return ([change for change in phase if isinstance(change, FlowChange)] for phase in found)


def test_lots_are_bounded() -> None:
    changes = [FlowChange("+", entry(priority)) for priority in range(1, 8)]
    assert [len(lot) for lot in batches(changes, 3)] == [3, 3, 1]
    assert [len(lot) for lot in batches(changes, None)] == [7]
    assert [change for lot in batches(changes, 3) for change in lot] == changes


# Every step of an update


def flows(compilation: Compilation) -> Iterator[Flow]:
    """Yield what may be tried; also to addresses that nobody has, and from one service address to another."""
    intent = compilation.intent
    tries = [samples.syn(40000, 8080), samples.syn(40000, 5432), samples.syn(40000, 80), samples.udp(40000, 5353)]
    tries += [samples.ack(8080, 40000), samples.ack(5432, 40000), samples.ack(80, 40000)]
    for source in (*intent.bindings, "edge"):
        for fields in tries:
            for target in (*intent.bindings, "edge", "service"):
                if source == target or (source in ("shop-app-1", "shop-app-2") and target == "service"):
                    continue
                packet = single_tables.packet(intent, source, target, **fields)
                for at in samples.entrances(intent, source):
                    yield source, target, at, packet
                    yield source, "nobody", at, packet | {"ipv4_dst": packet["ipv4_dst"] | 0x60}
                    if target == "service":
                        yield source, "nobody", at, packet | {"ipv4_src": packet["ipv4_src"] & ~0xFF | 1}
                    if target == "edge":
                        yield source, "nobody", at, packet | {"ipv4_dst": int(IPv4Address("203.0.113.1"))}


def steps(old: Tables, new: Compilation, order: Order, turns: list[int]) -> Iterator[tuple[Tables, Change]]:
    """Yield the tables after each single change, and the change; the switches take turns within a round."""
    state = dict(old)
    for changes in rounds(old, new.tables, new.is_egress, new.only_in):
        waiting = {switch: [one for phase in order(some) for one in phase] for switch, some in changes.items()}
        for number in range(sum(map(len, waiting.values()))):
            ready = sorted(switch for switch in waiting if waiting[switch])
            switch = ready[turns[number % len(turns)] % len(ready)]
            change = waiting[switch].pop(0)
            state[switch] = patched(state[switch], [change])
            yield state, change


def touches(change: Change, packet: Packet) -> bool:
    """Tell whether a packet may match what was changed, on whatever port, and with the tag and MACs it has there."""
    assert isinstance(change, FlowChange)
    kept = [term for term in change.entry.match.terms if term[0] not in ("in_port", "vlan_vid", "eth_src", "eth_dst")]
    return matches(Match(tuple(kept)), packet)


def outcome(fabric: Fabric, flow: Flow) -> int | None:
    """Return the MAC of whom a flow arrives at."""
    found = [one.packet["eth_dst"] for one in fabric.trace(flow[3], flow[2]).deliveries]
    return found[0] if found else None


def breaches(old: Compilation, new: Compilation, order: Order, turns: list[int]) -> list[str]:
    """Return every step at which a flow goes where neither intent sends it, or is lost though both let it."""
    inventory = new.intent.inventory
    assert inventory is not None and old.intent.inventory == inventory
    common = set(old.intent.bindings) & set(new.intent.bindings) | {"edge", "service", "nobody"}
    tried = [flow for flow in flows(old) if {flow[0], flow[1]} <= common and stays(old, new, flow[0])]
    ends = [Fabric.of(one.tables, inventory) for one in (old, new)]
    known = [tuple(outcome(fabric, flow) for fabric in ends) for flow in tried]
    found = []
    for number, (tables, change) in enumerate(steps(old.tables, new, order, turns)):
        fabric = Fabric.of(dict(tables), inventory)
        for flow, expected in zip(tried, known, strict=True):
            if not touches(change, flow[3]):
                continue
            try:
                now = outcome(fabric, flow)
            except EvaluationError as error:
                found.append(f"step {number}: {flow}: {error}")
                continue
            lost = now is None and None not in expected and stays(old, new, flow[1])
            if lost or (now is not None and now not in expected):
                found.append(f"step {number}, {texts.change_text(change)}: {flow}: {now} instead of {expected}")
    return found


def stays(old: Compilation, new: Compilation, node: str) -> bool:
    """Tell whether a node, or each member of the service, is on the same host before and after."""
    if node == "service":
        pins = [compilation.intent.services.get("shop/app") for compilation in (old, new)]
        return pins[0] == pins[1] and all(stays(old, new, member) for member in ("shop-app-1", "shop-app-2"))
    was, will = old.intent.bindings.get(node), new.intent.bindings.get(node)
    return was is None or will is None or was.host == will.host


booleans = st.booleans()


@st.composite
def intents(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw two intents for one fabric: phases, hosts, policies and pins differ."""
    base = single_tables.shop("alliedtelesis")
    inventory = single_tables.tagged(samples.inventory(switches=draw(st.integers(2, 3))), "alliedtelesis")
    places: list[tuple[int, ...]] = [(0,), (1,), (0, 1)]
    for host, homes in zip(("h1", "h2", "h3"), draw(st.permutations(places)), strict=True):
        attachments = inventory["hosts"][host]["attachments"]
        inventory["hosts"][host]["attachments"] = [attachments[home] for home in homes]
    base["inventory"] = inventory

    def one() -> dict[str, Any]:
        documents = dict(base)
        admitted: list[str] = []
        for key in [key for key in base if key.startswith("binding/")]:
            phase = draw(st.sampled_from(["admitted", "admitted", "admitted", "draining", "standby", None]))
            if phase is None:
                del documents[key]
                continue
            host = draw(st.sampled_from(["h1", "h2", "h3"])) if key == "binding/shop-app-2" else base[key]["host"]
            documents[key] = base[key] | {"phase": phase, "host": host}
            admitted += [base[key]["node"]] if phase == "admitted" and "app" in key else []
        if draw(booleans) and admitted:
            pins = draw(st.sets(st.sampled_from(["172.16.10.0/24", "172.16.10.2/32", "203.0.113.0/25"])))
            pinned = [(pin, draw(st.sampled_from(admitted))) for pin in sorted(pins)]
            documents["service/shop/app"] = single_tables.service(*pinned)
        for key in ("policy/shop/lb/app", "policy/shop/app/db", "expose/shop/lb/edge"):
            if draw(st.integers(0, 3)) == 0:
                del documents[key]
        return documents

    return one(), one()


turns = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(intents(), turns)
def test_every_step_is_as_before_or_as_after(pair: tuple[dict[str, Any], ...], chosen: list[int]) -> None:
    old, new = map(samples.compiled, pair)
    found = breaches(old, new, phases, chosen)
    assert not found, found[0]


def deletions_first(changes: Sequence[Change]) -> tuple[tuple[Change, ...], ...]:
    return tuple(reversed(phases(changes)))


def from_below(changes: Sequence[Change]) -> tuple[tuple[Change, ...], ...]:
    return tuple(tuple(reversed(phase)) for phase in phases(changes))


def changing() -> tuple[Compilation, Compilation]:
    """Return two intents between which two service addresses appear."""
    before = single_tables.shop("alliedtelesis")
    after = before | {"service/shop/app": single_tables.service(("172.16.10.0/24", "shop-app-1"))}
    after |= {"service/shop/lb": samples.service("shop/lb", "172.16.10.1")}
    return samples.compiled(before), samples.compiled(after)


def splitting() -> tuple[Compilation, Compilation]:
    """Return two intents between which a prefix towards a trunk is split."""
    before = ring()
    after = before | {"binding/shop-db-2": samples.binding("shop-db-2", "shop/db", "172.16.30.200", "h4")}
    return samples.compiled(before), samples.compiled(after)


def ring() -> dict[str, Any]:
    """Return a ring of three switches with the database on the third and an empty host on the second."""
    documents = single_tables.shop("alliedtelesis")
    inventory = single_tables.tagged(samples.inventory(hosts=4, switches=3), "alliedtelesis")
    inventory["fabric"]["links"].append({"a": {"switch": "sw1", "port": 110}, "b": {"switch": "sw3", "port": 110}})
    for host, switch in (("h3", "sw3"), ("h4", "sw2")):
        inventory["hosts"][host]["attachments"] = [{"nic": "eth0", "switch": switch, "port": 9, "tagged": True}]
    return documents | {"inventory": inventory}


def test_planted_orders_are_found() -> None:
    old, new = changing()
    assert breaches(old, new, phases, [0, 1]) == []
    assert breaches(old, new, from_below, [0, 1]), "a service asks another one before that is closed"
    old, new = splitting()
    assert breaches(old, new, phases, [0, 1, 2]) == [] and breaches(new, old, phases, [0, 1, 2]) == []
    assert breaches(old, new, deletions_first, [0, 1, 2]), "the prefix goes before its halves come"


# The wire


class SlowSwitch:
    """Confirms at once, and shows what it holds only when it was asked some times."""

    def __init__(self, tables: TableSet, looks: int) -> None:
        self.shown = self.held = tables
        self.lots: list[tuple[Change, ...]] = []
        self.refuses: FlowEntry | None = None
        self.looks = self._left = looks

    @property
    def address(self) -> str:
        return "slow"

    async def send(self, changes: Sequence[Change]) -> None:
        if any(isinstance(change, FlowChange) and change.entry == self.refuses for change in changes):
            raise ChannelError("slow: table full")
        self.lots.append(tuple(changes))
        self.held = patched(self.held, changes)
        self._left = self.looks

    async def read_flows(self, cookie: int = 0, mask: int = 0) -> FlowReading:
        assert mask == 0xFF << 56 and cookie == 0x0D << 56
        self._left -= 1
        if self._left <= 0:
            self.shown = self.held
        return FlowReading(tuple(CountedEntry(one, 0, 0, 0.0) for one in self.shown), 0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "SETTLE_SECONDS", 0.03)
    monkeypatch.setattr(batched, "FIRST_LOOK_SECONDS", 0.001)


def tables(*entries: FlowEntry) -> TableSet:
    return TableSet.of(entries)


@pytest.mark.usefixtures("impatient")
async def test_the_next_phase_waits_until_the_last_one_shows() -> None:
    before, after = tables(entry(1), entry(2)), tables(entry(2), entry(3), entry(4), entry(5))
    switch = SlowSwitch(before, looks=4)
    await batched.apply(switch, difference(before, after), Delivery(2, verified=True))
    assert switch.held == switch.shown == after
    assert [[change.op for change in lot] for lot in switch.lots] == [["+", "+"], ["+"], ["-"]]
    await batched.apply(switch, (), Delivery(2, verified=True))
    assert len(switch.lots) == 3


@pytest.mark.usefixtures("impatient")
async def test_what_never_shows_is_told_and_ends_the_update() -> None:
    before, after = tables(entry(1)), tables(entry(3))
    switch = SlowSwitch(before, looks=10**6)
    with pytest.raises(
        ChannelError, match=r"1 of 1 confirmed changes do not show after 0.03 s; the first: \(\+\) .*=3"
    ):
        await batched.apply(switch, difference(before, after), Delivery(300, verified=True))
    assert [[change.op for change in lot] for lot in switch.lots] == [["+"]], "nothing is deleted before"


async def test_a_barrier_that_counts_needs_no_look() -> None:
    before, after = tables(entry(1)), tables(entry(3))
    switch = SlowSwitch(before, looks=10**6)
    await batched.apply(switch, difference(before, after), Delivery(300, verified=False))
    assert switch.held == after and switch.shown == before


async def test_a_refused_lot_ends_the_update() -> None:
    before, after = tables(entry(1)), tables(entry(3), entry(4), entry(5))
    switch = SlowSwitch(before, looks=0)
    switch.refuses = entry(4)
    with pytest.raises(ChannelError, match="table full"):
        await batched.apply(switch, difference(before, after), Delivery(1, verified=True))
    assert switch.held == tables(entry(1), entry(5)), "what was let in stays, nothing was revoked"


def test_what_kind_of_switch_gets_which_delivery() -> None:
    documents: dict[str, Any] = single_tables.shop("nexus9000")
    switches = documents["inventory"]["fabric"]["switches"]
    switches["sw2"]["profile"] = "alliedtelesis"
    compilation = samples.compiled(documents)
    assert compilation.delivery("sw1") == Delivery(300, verified=True)
    assert compilation.delivery("sw2") == Delivery(100, verified=True)
    assert samples.compiled(samples.shop()).delivery("sw1") is None
    assert compilation.delivery("elsewhere") is None
