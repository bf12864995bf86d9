# SPDX-License-Identifier: AGPL-3.0-or-later
"""Switches with one table: what their tables let through, what is refused, what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from controller import texts
from controller.compiler import Compilation, capacity_refusals, compile_documents
from controller.evaluate import Fabric
from controller.fabric import IntentRefused, Port
from controller.flows import FlowEntry, Kind, Match, Output, TableSet, full_mask, match
from controller.profiles import PROFILES
from controller.profiles.single_table_ways import SINGLE_TABLE_PROFILES
from tests.bench.fabric import intents
from tests.fabric_check.case import Case, Mismatch
from tests.fabric_check.cases import Shape
from tests.fabric_check.failures import Failures
from tests.fabric_check.run import Effort, run
from tests.fabric_check.verdicts import fault
from tests.unit.controller import samples, single_tables
from tests.unit.controller.single_tables import service, shop

SINGLE = ("nexus9000", "alliedtelesis")
MIXED = Shape(("openvswitch", *SINGLE), mixed=1.0)


def lines(compilation: Compilation, switch: str, owner: str | None = None) -> list[str]:
    """Return the entries of a switch in words, highest priority first."""
    found = [one for one in compilation.tables[switch] if owner in (None, compilation.owner_name(one.owner))]
    return [
        f"{one.priority} {texts.match_text(one.match)} {texts.actions_text(one.actions)}"
        for one in sorted(found, key=lambda one: (-one.priority, one.match))
    ]


def delivered(compilation: Compilation, source: str, target: str, *down: Port, **fields: int) -> list[Port]:
    """Return where a packet leaves that enters by the first port of its sender."""
    assert compilation.intent.inventory is not None
    fabric = Fabric.of(compilation.tables, compilation.intent.inventory, frozenset(down))
    at = samples.entrances(compilation.intent, source)[0]
    packet = single_tables.packet(compilation.intent, source, target, **fields)
    return [one.port for one in fabric.trace(packet, at).deliveries]


def accounts(mismatches: Iterable[Mismatch]) -> str:
    return "\n".join(str(one) for one in list(mismatches)[:3])


def test_the_profiles_without_groups_are_those_whose_ways_the_compiler_chooses() -> None:
    assert {name for name, profile in PROFILES.items() if not profile.capabilities.groups} == SINGLE_TABLE_PROFILES


def test_a_dependency_is_one_entry_for_each_node_here_and_one_prefix_for_those_beyond_the_trunk() -> None:
    compilation = samples.compiled(shop())
    mac = "set_field:02:fa:00:00:00:01->eth_src"
    rewrite = f"set_field:4216->vlan_vid,{mac},set_field:02:00:ac:10:14:02->eth_dst"
    asked = "tcp,dl_vlan=110,nw_src=172.16.10.0/24,nw_dst=172.16.20.2,tp_dst=8080"
    back = asked.replace("tcp,", "tcp,in_port=1,")
    found = lines(compilation, "sw1", "policy/shop/lb/app")
    assert f"4032 {asked} {rewrite},output:1" in found
    assert f"4232 {back} {rewrite},IN_PORT" in found, "a node of the load balancer shares the host"
    beyond = "nw_src=172.16.20.0/24,nw_dst=172.16.30.0/24,tp_dst=5432"
    assert f"4024 tcp,dl_vlan=120,{beyond} set_field:8096->vlan_vid,{mac},output:101" in lines(
        compilation, "sw1", "policy/shop/app/db"
    )
    arrives = lines(compilation, "sw2", "binding/shop-db-1")
    delivery = f"set_field:4226->vlan_vid,{mac},set_field:02:00:ac:10:1e:02->eth_dst,output:3"
    assert arrives == [f"8032 ip,dl_vlan=4000,nw_dst=172.16.30.2 {delivery}"]


def test_nothing_of_others_is_matched() -> None:
    """Every entry names a port of the inventory or a VLAN of ours, and none is NORMAL."""
    for tables in samples.compiled(shop()).tables.values():
        for entry in tables:
            assert entry.match.get("in_port") or entry.match.get("vlan_vid"), entry
            assert entry.table == 0


@pytest.mark.parametrize("profile", SINGLE)
def test_policy_by_hand(profile: str) -> None:
    compilation = samples.compiled(shop(profile, app_2="dark"))
    assert delivered(compilation, "shop-lb-1", "shop-app-1", **samples.syn(40000, 8080)) == [Port("sw1", 1)]
    assert delivered(compilation, "shop-app-1", "shop-db-1", **samples.syn(40000, 5432)) == [Port("sw2", 3)]
    assert delivered(compilation, "shop-db-1", "shop-app-1", **samples.ack(5432, 40000)) == [Port("sw2", 1)]
    assert delivered(compilation, "edge", "shop-lb-2", **samples.syn(40000, 80)) == [Port("sw1", 2)]
    assert delivered(compilation, "shop-lb-2", "edge", **samples.ack(80, 40000)) == [Port("sw1", 201)]
    assert not delivered(compilation, "shop-lb-1", "shop-app-2", **samples.syn(40000, 8080)), "dark"
    assert not delivered(compilation, "shop-lb-1", "shop-db-1", **samples.syn(40000, 5432)), "not declared"
    assert not delivered(compilation, "shop-lb-1", "shop-app-1", **samples.syn(40000, 8081)), "another port"
    assert not delivered(compilation, "edge", "shop-app-1", **samples.syn(40000, 80)), "not exposed"
    errors = delivered(compilation, "shop-db-1", "shop-app-1", **samples.icmp(3))
    assert bool(errors) == PROFILES[profile].capabilities.icmp_errors


def test_a_return_is_told_by_its_port_alone() -> None:
    compilation = samples.compiled(shop())
    assert delivered(compilation, "shop-db-1", "shop-app-1", **samples.syn(5432, 40000)), "no flags are matched"
    assert any("source port" in note for note in PROFILES["nexus9000"].notes(compilation.intent, "sw1"))


def test_what_pretends_to_be_of_another_network_or_switch_is_dropped() -> None:
    compilation = samples.compiled(shop())
    intent = compilation.intent
    assert intent.inventory is not None
    fabric = Fabric.of(compilation.tables, intent.inventory)
    honest = single_tables.packet(intent, "shop-app-1", "shop-db-1", **samples.syn(40000, 5432))
    at = Port("sw1", 1)
    assert fabric.trace(honest, at).deliveries
    lb = {"ipv4_src": samples.address(intent, "shop-lb-1"), "vlan_vid": 0x1000 | 110}
    spoofs = [
        (honest | {"ipv4_src": lb["ipv4_src"]}, at, Kind.NETWORK),
        (honest | {"vlan_vid": lb["vlan_vid"]}, at, Kind.NETWORK),
        (honest | {"vlan_vid": 0x1000 | 4000}, at, Kind.HOST),
        (honest | {"vlan_vid": 0}, at, Kind.HOST),
        (honest, Port("sw2", 3), Kind.HOST),
        (honest, Port("sw1", 201), Kind.BORDER),
        (honest, Port("sw1", 101), Kind.BASE),
    ]
    for packet, port, counter in spoofs:
        [drop] = fabric.trace(packet, port).drops
        assert drop.entry is not None and drop.entry.cookie >> 48 & 0xFF == counter, (packet, port)


def test_what_the_entries_count() -> None:
    compilation = samples.compiled(shop("alliedtelesis"))
    profile = PROFILES["alliedtelesis"]
    found: dict[str, set[str]] = {}
    for entry in compilation.tables["sw1"]:
        for use in profile.uses(entry):
            found.setdefault(use.value, set()).add(compilation.owner_name(entry.owner))
    dependencies = {"policy/shop/lb/app", "policy/shop/app/db", "expose/shop/lb/edge"}
    assert found == {
        "opened": dependencies,
        "returned": dependencies - {"policy/shop/app/db"},
        "reported": dependencies,
        "denied": {"network/shop/lb", "network/shop/app", "border/edge"},
        "spoofed": {"host/h1", "host/h2", "border/edge"},
    }


# Services


def test_a_client_goes_to_the_member_of_its_longest_pin() -> None:
    pins = (("172.16.10.0/24", "shop-app-1"), ("172.16.10.3/32", "shop-app-2"))
    compilation = samples.compiled(shop() | {"service/shop/app": service(*pins)})
    assert delivered(compilation, "shop-lb-1", "service", **samples.syn(40000, 8080)) == [Port("sw1", 1)]
    assert delivered(compilation, "shop-lb-2", "service", **samples.syn(40000, 8080)) == [Port("sw1", 2)]
    assert not delivered(compilation, "shop-lb-1", "service", **samples.syn(40000, 8081))
    only = samples.compiled(shop() | {"service/shop/app": service(pins[1])})
    assert not delivered(only, "shop-lb-1", "service", **samples.syn(40000, 8080)), "no pin, no member"


def test_a_member_beyond_the_trunk_is_named_by_its_mac() -> None:
    documents = shop() | {"policy/shop/lb/db": samples.policy("shop/lb", "shop/db", ("tcp", 5432))}
    document = samples.service("shop/db", "172.16.30.1") | {"pins": {"172.16.10.0/24": "shop-db-1"}}
    compilation = samples.compiled(documents | {"service/shop/db": document})
    assert compilation.intent.inventory is not None
    packet = single_tables.packet(compilation.intent, "shop-lb-1", "shop-db-1", **samples.syn(40000, 5432))
    fabric = Fabric.of(compilation.tables, compilation.intent.inventory)
    trace = fabric.trace(packet | {"ipv4_dst": 0xAC101E01}, Port("sw1", 1))
    assert [one.port for one in trace.deliveries] == [Port("sw2", 3)]
    answer = single_tables.packet(compilation.intent, "shop-db-1", "shop-lb-1", **samples.ack(5432, 40000))
    assert fabric.trace(answer | {"ipv4_src": 0xAC101E01}, Port("sw2", 3)).deliveries, "answers from the service"
    asks = single_tables.packet(compilation.intent, "shop-app-1", "shop-db-1", **samples.syn(40000, 5432))
    assert not fabric.trace(asks | {"ipv4_src": 0xAC101E01, "vlan_vid": 0x1000 | 130}, Port("sw2", 3)).deliveries


# Ports down


def test_the_compiler_takes_a_port_that_is_up() -> None:
    documents = samples.stamped(shop())
    down = Port("sw1", 1)
    compilation = compile_documents(documents, frozenset({down}))
    found = delivered(compilation, "shop-lb-2", "shop-app-1", down, **samples.syn(40000, 8080))
    assert found == [Port("sw2", 1)]
    both = frozenset({down, Port("sw2", 1)})
    assert not delivered(compile_documents(documents, both), "shop-lb-2", "shop-app-1", *both, **samples.syn(1, 8080))


def ring() -> dict[str, Any]:
    """Return the three tiers on a ring of three switches; the database hangs on the third."""
    documents = shop()
    documents["inventory"] = single_tables.tagged(samples.inventory(switches=3), "nexus9000")
    links = documents["inventory"]["fabric"]["links"]
    links.append({"a": {"switch": "sw1", "port": 110}, "b": {"switch": "sw3", "port": 110}})
    documents["inventory"]["hosts"]["h3"]["attachments"] = [{"nic": "eth0", "switch": "sw3", "port": 3, "tagged": True}]
    return documents


def test_ways_go_around_a_cut_link() -> None:
    documents = ring()
    asks = samples.syn(40000, 5432)
    direct = samples.compiled(documents)
    cut = Port("sw1", 110)
    assert delivered(direct, "shop-app-1", "shop-db-1", **asks) == [Port("sw3", 3)]
    assert not delivered(direct, "shop-app-1", "shop-db-1", cut, **asks), "until the controller has seen it"
    mended = compile_documents(samples.stamped(documents), frozenset({cut}))
    assert delivered(mended, "shop-app-1", "shop-db-1", cut, **asks) == [Port("sw3", 3)]


# What is refused, and what is told


def refused(documents: Mapping[str, Any]) -> list[str]:
    with pytest.raises(IntentRefused) as caught:
        samples.compiled(documents)
    return [str(one) for one in caught.value.refusals]


def test_what_a_fabric_must_have() -> None:
    documents = shop()
    inventory = documents["inventory"]
    inventory["fabric"]["switches"]["sw1"]["maxEntries"] = 5000
    del inventory["fabric"]["borders"]["edge"]["vlan"]
    inventory["fabric"]["borders"]["edge"] |= {"prefix6": "2001:db8::/64", "gateway6": "2001:db8::1"}
    del inventory["hosts"]["h1"]["attachments"][1]["tagged"]
    assert refused(documents) == [
        "sw1: maxEntries is 5000, and a switch of profile nexus9000 holds at most 3000",
        "sw1: border edge has no VLAN, and profile nexus9000 pushes and pops none; give the border a vlan",
        "sw1: border edge has IPv6, and profile nexus9000 cannot have both families; leave out prefix6",
        "sw2: host h1 hangs on port 1 without tags, and profile nexus9000 pushes no VLAN; set tagged: true on the "
        "attachment",
    ]


def test_two_families_are_refused_where_there_is_one() -> None:
    documents = shop()
    documents["network/shop/db"]["subnet6"] = "2001:db8:3::/64"
    [reason] = refused(documents)
    assert reason == (
        "sw2: network shop/db has IPv4 and IPv6 (subnet6), and profile nexus9000 cannot have both; leave out subnet6, "
        "or keep the network off this switch"
    )
    documents["inventory"] = single_tables.tagged(documents["inventory"], "alliedtelesis")
    assert samples.compiled(documents)


@pytest.mark.parametrize("reflects", [None, "no"])
def test_nodes_that_may_talk_never_share_a_port_that_does_not_reflect(reflects: str | None) -> None:
    documents = shop(reflects=reflects)
    first, *_ = refused(documents)
    assert first.startswith("sw1: shop-app-1 and shop-lb-1 may talk and share port 1 of host h1; sw1 is not known to")
    assert "odysseyctl switch probe sw1" in first
    documents["binding/shop-app-1"]["host"] = "h3"
    assert [line for line in refused(documents) if "shop-app-1 and shop-lb-1" in line] == []
    documents["binding/shop-app-2"]["phase"] = "standby"
    documents["binding/shop-db-1"]["phase"] = "standby"
    assert samples.compiled(documents)


def test_the_operator_is_told_what_entries_cannot_do() -> None:
    documents = shop(app_2="draining") | {
        "service/shop/app": samples.service("shop/app", samples.SERVICE, "shop-app-1")
    }
    intent = samples.compiled(documents).intent
    notes = PROFILES["nexus9000"].notes(intent, "sw1")
    assert notes[0] == (
        "border edge: give the device 203.0.113.2 the static neighbour 203.0.113.1 at 02:fa:00:00:00:01"
    )
    for part in ("draining nodes still", "ICMP errors are dropped", "service/shop/app: clients", "to the subnet"):
        assert any(part in note for note in notes), part
    assert not any("ICMP" in note for note in PROFILES["alliedtelesis"].notes(intent, "sw1"))


def test_the_operator_is_told_of_vlans_that_a_nexus_keeps_for_itself() -> None:
    intent = samples.compiled(shop()).intent
    assert PROFILES["nexus9000"].notes(intent, "sw1")[-1] == (
        "transitVlan: VLAN 4000 is one that NX-OS keeps for itself (3968 to 4095); "
        "choose another one, or move the block with system vlan N reserve"
    )
    assert not any("4000" in note for note in PROFILES["alliedtelesis"].notes(intent, "sw1"))


def crowd(nodes: int, hosts: int = 20) -> dict[str, Any]:
    """Return a chain of three tiers with so many nodes in all, on one switch."""
    inventory = samples.inventory(hosts=hosts, switches=1, border=False)
    documents: dict[str, Any] = {"inventory": single_tables.tagged(inventory, "nexus9000")}
    tiers = ("lb", "app", "db")
    for number, tier in enumerate(tiers, start=1):
        documents[f"network/shop/{tier}"] = samples.network(number, f"172.{15 + number}.0.0/16", 100 + number)
        for place in range(nodes // len(tiers)):
            address = f"172.{15 + number}.{place // 250}.{place % 250 + 2}"
            binding = samples.binding(f"shop-{tier}-{place}", f"shop/{tier}", address, f"h{place % hosts + 1}")
            documents[f"binding/{binding['node']}"] = binding
    for source, target in (("lb", "app"), ("app", "db")):
        documents[f"policy/shop/{source}/{target}"] = samples.policy(f"shop/{source}", f"shop/{target}", ("tcp", 80))
    return documents


def test_what_does_not_fit_is_refused_with_numbers_and_names() -> None:
    assert capacity_refusals(samples.compiled(crowd(900)), []) == []
    [refusal] = capacity_refusals(samples.compiled(crowd(1200)), [])
    assert refusal.subject == "switch sw1"
    assert refusal.reason == (
        "3243 entries are needed, at most 3000 fit (maxEntries); used by: policies towards shop/db 1600, "
        "policies towards shop/app 1600, hosts 20, base 20, networks 3"
    )


@pytest.mark.parametrize(("nodes", "shared", "entries"), [(1034, False, 2945), (680, True, 2995)])
def test_the_capacity_of_the_document(nodes: int, shared: bool, entries: int) -> None:
    documents = intents.documents(intents.Size(nodes, 2, "nexus9000", 3000, tagged=True))
    hosts = list(documents["inventory"]["hosts"])
    documents["inventory"]["fabric"]["switches"]["sw1"]["reflects"] = "yes"
    documents["inventory"]["fabric"]["switches"]["sw2"]["reflects"] = "yes"
    if shared:
        for number, key in enumerate(key for key in documents if key.startswith("binding/")):
            documents[key] = documents[key] | {"host": hosts[number % len(hosts)]}
    compilation = compile_documents(intents.stamped(documents))
    assert len(compilation.tables["sw1"].entries) == entries
    assert capacity_refusals(compilation, []) == []


def test_entries_grow_with_ports_times_the_nodes_on_both_sides() -> None:
    """2 x ports x (clients + servers) where they share hosts; the document's arithmetic."""
    for nodes in (60, 120):
        compilation = samples.compiled(crowd(nodes))
        kinds = Counter(Kind(entry.cookie >> 48 & 0xFF) for entry in compilation.tables["sw1"])
        assert kinds[Kind.POLICY] == 2 * (nodes // 3 + nodes // 3) * 2
        assert kinds[Kind.BINDING] == 0, "there is no trunk"


# Random fabrics


@pytest.mark.parametrize("profile", SINGLE)
def test_every_way_that_is_left_is_found_and_nothing_goes_in_a_circle(profile: str) -> None:
    shape = Shape((profile,), mixed=0.0, most_switches=4)
    report = run(range(1, 16), Effort(packets=60, failures=True), shape)
    assert not report.mismatches, accounts(report.mismatches)
    assert report.failures > 500 and report.cases > 8, report


def test_mixed_fabrics_do_what_the_policy_says() -> None:
    report = run(range(1, 61), Effort(packets=100), MIXED)
    assert not report.mismatches, accounts(report.mismatches)
    assert report.cases > 30 and report.delivered > 500, report
    assert sum(1 for kinds in report.by_profile if "openvswitch+" in f"{kinds}+" and "+" in kinds) >= 2


def test_any_packet_under_any_failure_of_a_mixed_fabric_ends() -> None:
    """Also those for addresses that nobody has, before and after the controller saw the failure."""
    tried = 0
    for seed in range(1, 31):
        case = Case.of(seed, MIXED)
        try:
            shots = case.shots(60)
        except IntentRefused:
            continue
        failures = Failures(case)
        for down in list(failures.combinations())[:: 1 + len(list(failures.combinations())) // 8]:
            for fabric in (case.fabric.with_down(down), case.mended(down)):
                for shot in shots:
                    verdict = case.oracle.judge(shot.packet, shot.at)
                    if verdict.answer is None and not verdict.to_controller:
                        outcome = case.evaluated(fabric, shot)
                        assert not isinstance(outcome, str), (seed, outcome)
                        assert not fault(shot.packet, shot.at, verdict, outcome, ways_are_up=False), (seed, shot)
                        tried += 1
    assert tried > 10000


# Planted faults

Change = Callable[[FlowEntry], FlowEntry | None]


def _without(entry: FlowEntry, *names: str) -> FlowEntry:
    return replace(entry, match=Match(tuple(term for term in entry.match.terms if term[0] not in names)))


def _wide(entry: FlowEntry) -> FlowEntry:
    """Let any source of the VLAN in."""
    return _without(entry, "ipv4_src") if 4000 <= entry.priority < 4500 else entry


def _without_fences(entry: FlowEntry) -> FlowEntry | None:
    return None if entry.priority == 9000 else entry


def _without_border_fence(entry: FlowEntry) -> FlowEntry | None:
    return None if entry.priority == 6500 else entry


def _any_port(entry: FlowEntry) -> FlowEntry:
    return _without(entry, "tcp_dst", "udp_dst") if 4000 <= entry.priority < 4500 else entry


def _not_back(entry: FlowEntry) -> FlowEntry | None:
    return None if 4200 <= entry.priority < 4400 else entry


def _through_gateway(entry: FlowEntry) -> FlowEntry | None:
    return None if entry.priority == 5300 else entry


def _service_opens(entry: FlowEntry) -> FlowEntry | None:
    return None if entry.priority == 4500 else entry


def _wrong_tag(entry: FlowEntry) -> FlowEntry:
    """Leave the tag as it came."""
    actions = tuple(one for one in entry.actions if getattr(one, "name", "") != "vlan_vid")
    return replace(entry, actions=actions) if 4000 <= entry.priority < 4500 else entry


def _short_transit(entry: FlowEntry) -> FlowEntry:
    """Compare 16 bits of the destination of a frame from a trunk."""
    what = entry.match.get("ipv4_dst")
    if not 8017 <= entry.priority <= 8032 or what is None:
        return entry
    mask = full_mask("ipv4_dst") & ~0xFFFF
    terms = tuple(("ipv4_dst", what[0] & mask, mask) if one[0] == "ipv4_dst" else one for one in entry.match.terms)
    return replace(entry, match=Match(terms))


FAULTS: Mapping[str, Change] = {
    one.__name__: one
    for one in (
        *(_wide, _without_fences, _without_border_fence, _any_port, _not_back, _through_gateway, _service_opens),
        *(_wrong_tag, _short_transit),
    )
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    for seed in range(1, 120):
        sound = Case.of(seed, Shape(("nexus9000",), mixed=0.0))
        try:
            compiled = sound.compilation.tables
        except IntentRefused:
            continue
        tables = {switch: planted(one, FAULTS[name]) for switch, one in compiled.items()}
        if tables == compiled:
            continue
        case = Case(seed, sound.documents, tables)
        if next(chain(case.overlaps(), case.mismatches(case.shots(300))), None) is not None:
            return
    pytest.fail(f"nobody noticed: {name}")


def planted(tables: TableSet, change: Change) -> TableSet:
    changed = (change(entry) for entry in tables)
    return TableSet({entry.key: entry for entry in changed if entry is not None})


def test_a_circle_of_trunks_is_found() -> None:
    """Every switch of a ring sends what comes from one trunk to the other: the check has to see it."""
    documents = ring()
    sound = Case(1, documents)
    tables = dict(sound.compilation.tables)
    for switch, one in tables.items():
        trunks = sorted(sound.inventory.trunks(switch))
        circle = [
            FlowEntry(0, 8999, match(in_port=here, vlan_vid=0x1000 | 4000), (Output(there),), 0)
            for here, there in (trunks, reversed(trunks))
        ]
        tables[switch] = TableSet.of([*one, *circle])
    assert not list(sound.mismatches(sound.shots(300)))
    case = Case(1, documents, tables)
    assert any("twice" in one.fault for one in case.mismatches(case.shots(300)))
