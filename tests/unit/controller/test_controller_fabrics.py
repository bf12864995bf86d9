# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random small fabrics: the tables let through what the policy says, and nothing else, whatever ports are down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.changes import difference, patched
from controller.compiler import Compilation, compile_documents
from controller.evaluate import Fabric, Trace, overlapping
from controller.fabric import Intent, Phase, Port, parse_mac
from controller.flows import PROTO_ICMP, PROTO_TCP, PROTO_UDP, TCP_ACK, TCP_SYN, TableSet
from tests.unit.controller import samples

PORTS = (80, 81, 5000)
TIERS = ("lb", "app", "db")
ICMP_ERRORS = (3, 11, 12)


@dataclass(frozen=True)
class Case:
    """A compiled fabric, some failures and some packets."""

    compilation: Compilation
    down: frozenset[Port]
    packets: tuple[tuple[str, str, dict[str, int]], ...]

    @property
    def intent(self) -> Intent:
        return self.compilation.intent


@st.composite
def inventories(draw: st.DrawFn, switches: int) -> dict[str, Any]:
    inventory = samples.inventory(hosts=draw(st.integers(1, 3)), switches=switches)
    names = [f"sw{number}" for number in range(1, switches + 1)]
    for number, host in enumerate(inventory["hosts"].values(), start=1):
        homes = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        host["attachments"] = [{"nic": f"eth{nic}", "switch": home, "port": number} for nic, home in enumerate(homes)]
    inventory["fabric"]["borders"]["edge"]["ports"] = [
        {"switch": name, "port": 201}
        for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    ]
    return inventory


services = st.lists(
    st.tuples(st.sampled_from(["tcp", "udp"]), st.sampled_from(PORTS)), min_size=1, max_size=3, unique=True
)


@st.composite
def documents(draw: st.DrawFn, switches: int) -> dict[str, Any]:
    inventory = draw(inventories(switches))
    found: dict[str, Any] = {"inventory": inventory}
    for number, tier in enumerate(TIERS, start=1):
        found[f"network/shop/{tier}"] = samples.network(number, f"172.16.{number}0.0/24")
        for ordinal in range(1, draw(st.integers(1, 2)) + 1):
            node = f"shop-{tier}-{ordinal}"
            host = draw(st.sampled_from(sorted(inventory["hosts"])))
            phase = draw(st.sampled_from([*Phase, Phase.ADMITTED, Phase.ADMITTED]))
            place = (f"shop/{tier}", f"172.16.{number}0.{ordinal + 1}", host)
            found[f"binding/{node}"] = samples.binding(node, *place, phase.value)
    for source in TIERS:
        for target in TIERS:
            if draw(st.integers(0, 2)) == 0:
                policy = samples.policy(f"shop/{source}", f"shop/{target}", *draw(services))
                found[f"policy/shop/{source}/{target}"] = policy
    if draw(st.booleans()):
        ports = [{"protocol": protocol, "port": port} for protocol, port in draw(services)]
        found["expose/shop/lb/edge"] = {"network": "shop/lb", "border": "edge", "ports": ports}
    return found


@st.composite
def transports(draw: st.DrawFn) -> dict[str, int]:
    port = st.sampled_from((*PORTS, 40000))
    protocol = draw(st.sampled_from([PROTO_TCP, PROTO_TCP, PROTO_UDP, PROTO_ICMP]))
    if protocol == PROTO_TCP:
        flags = draw(st.sampled_from([TCP_SYN, TCP_SYN | 1, TCP_ACK, TCP_SYN | TCP_ACK, 4, TCP_ACK | 1]))
        return {"ip_proto": protocol, "tcp_src": draw(port), "tcp_dst": draw(port), "tcp_flags": flags}
    if protocol == PROTO_UDP:
        return samples.udp(draw(port), draw(port))
    return samples.icmp(draw(st.sampled_from([0, 3, 5, 8, 11, 12])))


@st.composite
def cases(draw: st.DrawFn, switches: int) -> Case:
    compilation = compile_documents(samples.stamped(draw(documents(switches))))
    intent = compilation.intent
    assert intent.inventory is not None
    stations = [*intent.inventory.hosts.values(), *intent.inventory.borders.values()]
    ports = [port for station in stations for port in station.ports] + [link.a for link in intent.inventory.links]
    down = draw(st.frozensets(st.sampled_from(sorted(ports)), max_size=draw(st.sampled_from([0, 1, 1, 4]))))
    ends = st.sampled_from([*intent.bindings, "edge"])
    pairs = st.tuples(ends, ends).filter(lambda pair: pair[0] != pair[1])
    packets = draw(st.lists(st.tuples(pairs, transports()), min_size=4, max_size=12))
    return Case(compilation, down, tuple((*pair, fields) for pair, fields in packets))


def allowed(intent: Intent, source: str, target: str, fields: Mapping[str, int]) -> bool:
    """The policy in words: what docs/fabric.md promises, written without looking at a table."""
    sender = Phase.ADMITTED if source == "edge" else intent.bindings[source].phase
    receiver = Phase.ADMITTED if target == "edge" else intent.bindings[target].phase
    protocol = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_ICMP: "icmp"}[fields["ip_proto"]]
    if Phase.STANDBY in (sender, receiver) or (sender is Phase.DARK and protocol != "tcp"):
        return False
    opens = protocol == "tcp" and fields["tcp_flags"] & (TCP_SYN | TCP_ACK) == TCP_SYN
    asks, answers = opened(intent, source, target), opened(intent, target, source)
    if protocol == "icmp":
        passes = bool(asks or answers) and fields["icmpv4_type"] in ICMP_ERRORS
        return passes and receiver is not Phase.DARK
    forward = (protocol, fields[f"{protocol}_dst"]) in asks
    back = (protocol, fields[f"{protocol}_src"]) in answers and not opens and sender is not Phase.DARK
    if receiver is Phase.DARK:
        return protocol == "tcp" and back and not forward
    if receiver is Phase.DRAINING and opens:
        return False
    return forward or back


def opened(intent: Intent, source: str, target: str) -> set[tuple[str, int]]:
    """Return the ports of ``target`` to which ``source`` may open connections."""
    of = {node: binding.network for node, binding in intent.bindings.items()} | {"edge": "edge"}
    return {
        (service.protocol, service.port)
        for policy in intent.policies.values()
        if (policy.source, policy.target) == (of[source], of[target])
        for service in policy.services
    }


def run(case: Case, source: str, target: str, fields: dict[str, int], at: Port) -> Trace:
    assert case.intent.inventory is not None
    fabric = Fabric.of(case.compilation.tables, case.intent.inventory, case.down)
    return fabric.trace(samples.packet(case.intent, source, target, **fields), at)


def check_delivery(case: Case, trace: Trace, target: str) -> None:
    """At most one copy, at a port of the target, with the addresses rewritten and no tag."""
    assert len(trace.deliveries) <= 1
    for delivery in trace.deliveries:
        assert delivery.port in samples.entrances(case.intent, target)
        assert delivery.packet["eth_src"] == parse_mac(samples.FABRIC_MAC)
        mac = parse_mac(samples.EDGE_MAC) if target == "edge" else case.intent.bindings[target].mac
        assert delivery.packet["eth_dst"] == mac
        assert delivery.packet["vlan_vid"] == 0


def reachable(case: Case, target: str, at: Port) -> bool:
    """For at most two switches: is there a way from ``at`` that is up."""
    assert case.intent.inventory is not None
    ports = samples.entrances(case.intent, target)
    trunk_up = all(link.a not in case.down for link in case.intent.inventory.links)
    return any(port not in case.down and (port.switch == at.switch or trunk_up) for port in ports)


relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(st.one_of(cases(switches=1), cases(switches=2)))
def test_delivered_if_and_only_if_the_policy_says_so_and_a_way_is_up(case: Case) -> None:
    for source, target, fields in case.packets:
        for at in samples.entrances(case.intent, source):
            trace = run(case, source, target, fields, at)
            check_delivery(case, trace, target)
            expected = (
                at not in case.down and allowed(case.intent, source, target, fields) and reachable(case, target, at)
            )
            assert bool(trace.deliveries) == expected, (source, target, fields, at, trace)


@relaxed
@given(cases(switches=3))
def test_three_switches_never_loop_nor_leak_and_deliver_when_all_is_up(case: Case) -> None:
    for source, target, fields in case.packets:
        for at in samples.entrances(case.intent, source):
            trace = run(case, source, target, fields, at)
            check_delivery(case, trace, target)
            may = allowed(case.intent, source, target, fields)
            assert may or not trace.deliveries
            if not case.down:
                assert bool(trace.deliveries) == may


@relaxed
@given(cases(switches=2), st.data())
def test_a_spoofed_source_is_never_delivered(case: Case, data: st.DataObject) -> None:
    nodes = sorted(case.intent.bindings)
    assert case.intent.inventory is not None
    for source, target, fields in case.packets:
        victim = data.draw(st.sampled_from(nodes), label="claimed source")
        packet = samples.packet(case.intent, source, target, **fields) | {
            "ipv4_src": int(case.intent.bindings[victim].address)
        }
        if victim == source:
            continue
        fabric = Fabric.of(case.compilation.tables, case.intent.inventory)
        for at in samples.entrances(case.intent, source):
            assert not fabric.trace(packet, at).deliveries


@relaxed
@given(documents(switches=3))
def test_no_two_entries_of_one_priority_can_match_one_packet(found: dict[str, Any]) -> None:
    for tables in compile_documents(samples.stamped(found)).tables.values():
        assert not overlapping(tables)


@relaxed
@given(documents(switches=2), documents(switches=2))
def test_a_difference_turns_the_old_tables_into_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = compile_documents(samples.stamped(old)).tables
    after = compile_documents(samples.stamped(new, seq=2)).tables
    for switch in after:
        assert patched(before[switch], difference(before[switch], after[switch])) == after[switch]
        assert difference(after[switch], after[switch]) == ()
        assert patched(TableSet(), difference(TableSet(), after[switch])) == after[switch]
