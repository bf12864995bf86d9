# SPDX-License-Identifier: AGPL-3.0-or-later
"""Updates in rounds: at no moment passes what neither intent allows, or is lost what both allow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.changes import Change, FlowChange, difference, patched
from controller.compiler import Compilation, compile_documents
from controller.evaluate import EvaluationError, Fabric, Packet
from controller.fabric import Port
from controller.flows import TableSet
from controller.rounds import Round, rounds
from tests.unit.controller import samples

Tables = Mapping[str, TableSet]
NODES = ("shop-lb-1", "shop-lb-2", "shop-app-1", "shop-app-2", "shop-db-1")


@dataclass(frozen=True)
class Flow:
    """A packet that a node sends at a port."""

    source: str
    target: str
    at: Port
    packet: Packet


def flows(compilation: Compilation) -> Iterator[Flow]:
    """Yield what the nodes of an intent may try: opening, answering, asking by UDP."""
    tries = (
        samples.syn(40000, 8080),
        samples.syn(40000, 5432),
        samples.syn(40000, 80),
        samples.ack(8080, 40000),
        samples.ack(5432, 40000),
        samples.udp(40000, 5353),
    )
    intent = compilation.intent
    for source, target in itertools.permutations((*intent.bindings, "edge"), 2):
        for fields in tries:
            packet = samples.packet(intent, source, target, **fields)
            for at in samples.entrances(intent, source):
                yield Flow(source, target, at, packet)
    for source in intent.bindings:
        asked = samples.packet(intent, source, "service", **samples.syn(40000, 8080))
        for at in samples.entrances(intent, source):
            yield Flow(source, "service", at, asked)


def wired(tables: Tables, compilation: Compilation) -> Fabric:
    """Return the fabric of an intent with these tables."""
    assert compilation.intent.inventory is not None
    return Fabric.of(tables, compilation.intent.inventory)


def reached(fabric: Fabric, flow: Flow) -> bool:
    """Tell whether a flow arrives somewhere."""
    return bool(fabric.trace(flow.packet, flow.at).deliveries)


def moments(old: Tables, sequence: tuple[Round, ...], order: list[int]) -> Iterator[Tables]:
    """Yield the tables after each step, where each switch makes a round's changes at once; ``order`` ranks switches."""
    state = dict(old)
    for changes in sequence:
        for switch in sorted(changes, key=lambda name: order[sorted(old).index(name) % len(order)]):
            state[switch] = patched(state[switch], changes[switch])
            yield dict(state)


@st.composite
def intents(draw: st.DrawFn) -> tuple[Compilation, Compilation]:
    """Draw two intents for the same fabric: phases, hosts, policies and ports of borders differ."""

    def one(base: Mapping[str, Any]) -> Compilation:
        documents = {**base}
        for node in NODES:
            phase = draw(st.sampled_from(["admitted", "admitted", "admitted", "dark", "draining", "standby", None]))
            if phase is None:
                del documents[f"binding/{node}"]
                continue
            host = draw(st.sampled_from(["h1", "h2", "h3"])) if node == "shop-app-2" else None
            binding = dict(documents[f"binding/{node}"], phase=phase)
            documents[f"binding/{node}"] = binding | ({"host": host} if host else {})
        phases = {node: documents.get(f"binding/{node}", {}).get("phase") for node in ("shop-app-1", "shop-app-2")}
        members = [node for node, phase in phases.items() if phase == "admitted"]
        slots = [draw(st.sampled_from(members)) for _ in range(4)] if members else []
        documents["service/shop/app"] = samples.service("shop/app", samples.SERVICE, *slots)
        for key in ("policy/shop/lb/app", "policy/shop/app/db", "expose/shop/lb/edge"):
            if draw(st.integers(0, 3)) == 0:
                del documents[key]
        return samples.compiled(documents)

    base = samples.shop()
    base["inventory"] = samples.inventory(switches=draw(st.integers(2, 3)))
    return one(base), one(base)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(intents(), st.permutations([0, 1, 2]))
def test_every_moment_of_an_update_is_consistent(pair: tuple[Compilation, Compilation], order: list[int]) -> None:
    old, new = pair
    assert breaches(old, new, rounds(old.tables, new.tables, new.is_egress), order) == []


def breaches(old: Compilation, new: Compilation, sequence: tuple[Round, ...], order: list[int]) -> list[str]:
    """Return every moment at which a flow leaks or is lost."""
    common = {flow.source for flow in flows(old)} & {flow.source for flow in flows(new)} | {"service"}
    tried = [flow for flow in flows(old) if {flow.source, flow.target} <= common]
    tried = [flow for flow in tried if same_place(old, new, flow.source)]
    first, last = wired(old.tables, old), wired(new.tables, new)
    before = [reached(first, flow) for flow in tried]
    after = [reached(last, flow) for flow in tried]
    found = []
    for number, state in enumerate(moments(old.tables, sequence, order)):
        fabric = wired(state, new)
        for flow, was, will in zip(tried, before, after, strict=True):
            try:
                now = reached(fabric, flow)
            except EvaluationError as error:
                found.append(f"moment {number}: {flow.source} -> {flow.target}: {error}")
                continue
            if now and not was and not will:
                found.append(f"moment {number}: {flow.source} -> {flow.target} leaks at {flow.at}: {flow.packet}")
            if was and will and not now and same_place(old, new, flow.target):
                found.append(f"moment {number}: {flow.source} -> {flow.target} is lost at {flow.at}: {flow.packet}")
    return found


def same_place(old: Compilation, new: Compilation, node: str) -> bool:
    """A node that comes up on another host is another container: nothing of the old one has to arrive at it."""
    if node == "service":
        return all(same_place(old, new, member) for member in ("shop-app-1", "shop-app-2"))
    was, will = old.intent.bindings.get(node), new.intent.bindings.get(node)
    return was is None or will is None or was.host == will.host


def test_the_rounds_lead_from_old_to_new() -> None:
    old, new = samples.compiled(samples.shop()), samples.compiled(samples.shop(app_2="draining", lb_2="standby"))
    sequence = rounds(old.tables, new.tables, new.is_egress)
    *_, last = moments(old.tables, sequence, [0])
    assert last == dict(new.tables)
    assert rounds(new.tables, new.tables, new.is_egress) == ()


def test_only_connected_switches_take_part() -> None:
    old, new = samples.compiled(samples.shop()), samples.compiled(samples.shop(app_2="draining"))
    [changes] = rounds({"sw2": old.tables["sw2"]}, new.tables, new.is_egress)
    assert changes.keys() == {"sw2"}


def test_an_address_that_moves_is_closed_first() -> None:
    moved = samples.shop()
    moved["binding/shop-app-2"] = dict(moved["binding/shop-app-2"], host="h3", phase="dark")
    old, new = samples.compiled(samples.shop()), samples.compiled(moved)
    sequence = rounds(old.tables, new.tables, new.is_egress)
    revoked = {change.entry.table for change in sequence[0]["sw1"] if isinstance(change, FlowChange)}
    assert revoked == {0, 30}
    assert breaches(old, new, sequence, [0, 1]) == []


def delete_first(old: Tables, new: Tables, *_: Any) -> tuple[Round, ...]:
    """The mistake that the rounds avoid: all that changes goes first, then it comes anew."""
    gone: dict[str, tuple[Change, ...]] = {}
    come: dict[str, tuple[Change, ...]] = {}
    for switch, before in old.items():
        after = new[switch]
        touched = [key for key, entry in before.entries.items() if after.entries.get(key) != entry]
        gone[switch] = tuple(FlowChange("-", before.entries[key]) for key in touched)
        come[switch] = difference(patched(before, gone[switch]), after)
    return gone, come


def ingress_first(old: Tables, new: Tables, is_egress: Any) -> tuple[Round, ...]:
    """Another one: what lets in comes before what delivers."""
    return tuple(reversed(rounds(old, new, is_egress)))


@pytest.mark.parametrize("mistake", [delete_first, ingress_first])
def test_planted_mistakes_are_found(mistake: Any) -> None:
    old = samples.compiled(samples.shop())
    documents = samples.shop()
    documents["inventory"]["fabric"]["gateway"] = "169.254.1.2"
    documents["policy/shop/lb/app"]["ports"].append({"protocol": "udp", "port": 9})
    documents["binding/shop-app-2"] = dict(documents["binding/shop-app-2"], host="h3", phase="dark")
    new = compile_documents(samples.stamped(documents))
    assert breaches(old, new, mistake(old.tables, new.tables, new.is_egress), [0, 1])
    assert breaches(old, new, rounds(old.tables, new.tables, new.is_egress), [0, 1]) == []


def revoke_first(old: Tables, new: Tables, is_egress: Any) -> tuple[Round, ...]:
    """A third one: what lets in goes before what takes its place comes."""
    sequence = rounds(old, new, is_egress)
    gone = {
        switch: tuple(
            FlowChange("-", entry)
            for key, entry in before.entries.items()
            if key not in new[switch].entries and not is_egress(switch, entry)
        )
        for switch, before in old.items()
    }
    return gone, *sequence


def test_a_member_leaves_only_with_its_slots() -> None:
    documents = samples.shop()
    documents["service/shop/app"] = samples.service("shop/app", samples.SERVICE, "shop-app-1", "shop-app-2")
    old = samples.compiled(documents)
    documents = {**documents, "binding/shop-app-2": dict(documents["binding/shop-app-2"], phase="standby")}
    documents["service/shop/app"] = samples.service("shop/app", samples.SERVICE, "shop-app-1", "shop-app-1")
    new = samples.compiled(documents)
    assert breaches(old, new, revoke_first(old.tables, new.tables, new.is_egress), [0, 1])
    assert breaches(old, new, rounds(old.tables, new.tables, new.is_egress), [0, 1]) == []
