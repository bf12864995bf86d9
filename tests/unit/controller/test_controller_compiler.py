# SPDX-License-Identifier: AGPL-3.0-or-later
"""The compiler: what each object becomes, what is refused, and what changes between two intents."""

from __future__ import annotations

import copy
import shutil
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from controller import texts
from controller.changes import FlowChange, GroupChange, difference
from controller.compiler import capacity_refusals, compile_documents, preview, with_changes
from controller.evaluate import Fabric
from controller.fabric import Document, IntentRefused, Port
from controller.flows import FlowEntry, Kind, TableSet, make_cookie
from tests.unit.controller import samples

LB_1, APP_2 = "172.16.10.2", "172.16.20.3"
REWRITE = "set_field:02:fa:00:00:00:01->eth_src,set_field:02:00:ac:10:14:03->eth_dst"


def lines(tables: TableSet, owner: str | None = None, compilation: Any = None) -> list[str]:
    """The entries as text without cookies."""
    found = [
        f"table={entry.table},priority={entry.priority} {texts.match_text(entry.match)}"
        f" {texts.actions_text(entry.actions)}"
        for entry in tables
        if owner is None or compilation.owner_name(entry.owner) == owner
    ]
    return sorted(found)


def of_app_2(phase: str, switches: int = 2) -> list[str]:
    documents = samples.shop(app_2=phase)
    documents["inventory"] = samples.inventory(switches=switches)
    compilation = samples.compiled(documents)
    return lines(compilation.tables["sw1"], "binding/shop-app-2", compilation)


PIN = "in_port=2,vlan_tci=0x0000/0x1fff,dl_src=02:00:ac:10:14:03,nw_src=172.16.20.3"
GROUP = "load:0->NXM_OF_IN_PORT[],group:224033877"
FROM_TRUNK = "set_field:02:00:ac:10:14:03->eth_dst,set_field:0xd5a7c55->reg5,goto_table:32"
TRANSIT = "push_vlan:0x8100,set_field:8096->vlan_vid"
WALK_TO_SW1, WALK_TO_SW2 = "02:fa:00:80:00:01", "02:fa:00:80:00:02"


def test_an_admitted_node_is_pinned_and_delivered() -> None:
    assert of_app_2("admitted") == [
        f"table=0,priority=300 ip,{PIN} set_field:0x2->reg0,goto_table:10",
        f"table=30,priority=200 ip,nw_dst=172.16.20.3 {REWRITE},{GROUP}",
        f"table=31,priority=200 ip,nw_dst=172.16.20.3 {FROM_TRUNK}",
    ]


def test_a_dark_node_sends_tcp_only_and_gets_return_traffic_only() -> None:
    assert of_app_2("dark") == [
        f"table=0,priority=300 tcp,{PIN} set_field:0x8002->reg0,goto_table:10",
        f"table=30,priority=200 ip,reg1=0x1,nw_dst=172.16.20.3 {REWRITE},{GROUP}",
        f"table=31,priority=200 ip,nw_dst=172.16.20.3 {FROM_TRUNK}",
    ]


def test_a_draining_node_gets_no_syn_and_a_standby_node_nothing() -> None:
    syn = "table=30,priority=300 tcp,nw_dst=172.16.20.3,tcp_flags=+syn-ack drop"
    assert of_app_2("draining") == sorted([*of_app_2("admitted"), syn])
    assert of_app_2("standby") == []


def test_a_switch_without_trunks_has_no_trunk_entries() -> None:
    assert [line for line in of_app_2("admitted", switches=1) if line.startswith("table=31")] == []


def of_host_2(homes: tuple[str, ...], switches: int, switch: str) -> tuple[list[str], list[str]]:
    """The entries and the groups for what goes to host h2, with its ports on some switches of a line."""
    documents = samples.shop()
    documents["inventory"] = inventory = samples.inventory(switches=switches)
    inventory["hosts"]["h2"]["attachments"] = [{"nic": home, "switch": home, "port": 2} for home in homes]
    compilation = samples.compiled(documents)
    tables = compilation.tables[switch]
    used = {224033877, 230510052, 230325618}  # walk 1, walk 2 to the second home, walk 2 to the first home
    groups = [texts.group_text(group) for number, group in sorted(tables.groups.items()) if number in used]
    return lines(tables, "host/h2", compilation), groups


def test_a_station_is_reached_by_its_port_here_else_by_a_second_walk_to_its_other_home() -> None:
    entries, groups = of_host_2(("sw1", "sw2"), 2, "sw1")
    assert entries == [
        "table=0,priority=1 in_port=2 drop",
        f"table=32,priority=100 reg5=0xd5a7c55,dl_src={WALK_TO_SW1} set_field:02:fa:00:00:00:01->eth_src,output:2",
        f"table=32,priority=100 reg5=0xd5a7c55,dl_src={WALK_TO_SW2} group:230510052",
        f"table=32,priority=50 reg5=0xd5a7c55 {GROUP}",
    ]
    walk_2 = f"actions=set_field:{WALK_TO_SW2}->eth_src,{TRANSIT},output:101"
    assert groups == [
        "group_id=224033877,type=ff,bucket=watch_port:2,actions=output:2,bucket=watch_port:101," + walk_2,
        f"group_id=230510052,type=ff,bucket=watch_port:101,actions={TRANSIT},output:101",
    ]


def test_a_switch_in_between_hands_trunk_frames_on() -> None:
    to_next = f"group_id=224033877,type=ff,bucket=watch_port:102,actions={TRANSIT},output:102"
    assert of_host_2(("sw3",), 3, "sw2") == ([f"table=32,priority=50 reg5=0xd5a7c55 {GROUP}"], [to_next])
    entries, groups = of_host_2(("sw1", "sw3"), 3, "sw2")
    marked = "table=32,priority=100 reg5=0xd5a7c55,dl_src="
    assert entries[:2] == [f"{marked}{WALK_TO_SW1} group:230325618", f"{marked}{WALK_TO_SW2} group:230510052"]
    # Both homes are equally far: walk 1 takes either, so there is nothing left for a second walk to try.
    assert groups[0].count("bucket") == 2 and "eth_src" not in groups[0]


def test_policy_entries_do_not_grow_with_nodes() -> None:
    few, many = samples.shop(), samples.shop()
    for number in range(10, 60):
        address = f"172.16.20.{number}"
        many[f"binding/shop-app-{number}"] = samples.binding(f"shop-app-{number}", "shop/app", address, "h1")
    grown = [samples.compiled(one).tables["sw1"] for one in (few, many)]
    assert [sum(entry.table == 10 for entry in tables) for tables in grown] == [36, 36]
    assert len(grown[1].entries) - len(grown[0].entries) == 50 * 3


def grow(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**document, **more}


def count(documents: dict[str, Any], switch: str = "sw1") -> int:
    return len(samples.compiled(documents).tables[switch].entries)


def test_the_counts_of_the_document_hold_for_the_inventory() -> None:
    """docs/fabric.md, "Entry counts"."""
    assert count({"inventory": samples.inventory(border=False, hosts=0, switches=1)}) == 11
    assert count({"inventory": samples.inventory(border=False, hosts=0)}) == 11 + 4
    bare = {"inventory": samples.inventory(border=False, hosts=1)}
    assert count(bare) == 11 + 4 + 3 + (1 + 2)
    single = copy.deepcopy(bare)
    del single["inventory"]["hosts"]["h1"]["attachments"][1]
    assert (count(single), count(single, "sw2")) == (11 + 4 + 3 + 1, 11 + 4 + 1)
    border = {"inventory": samples.inventory(hosts=1)}
    assert (count(border) - count(bare), count(border, "sw2") - count(bare, "sw2")) == (1 + 3 + 1 + 6, 1 + 3 + 1)
    both = copy.deepcopy(border)
    both["inventory"]["fabric"]["borders"]["edge"] |= {"prefix6": "2001:db8::/64", "gateway6": "2001:db8::1"}
    assert (count(both) - count(border), count(both, "sw2") - count(border, "sw2")) == (3 + 4, 3)


NETWORKS = {
    "network/shop/a": samples.network(1, "172.16.10.0/24"),
    "network/shop/b": samples.network(2, "172.16.20.0/24"),
}
NETWORKS6 = {key: grow(value, subnet6=f"2001:db8:0:{value['id']}::/64") for key, value in NETWORKS.items()}


@pytest.mark.parametrize(("networks", "families", "errors"), [(NETWORKS, 1, 3), (NETWORKS6, 2, 3 + 4)])
def test_the_counts_of_the_document_hold_for_policies(networks: dict[str, Any], families: int, errors: int) -> None:
    bare = {"inventory": samples.inventory()}
    assert count(bare | networks) - count(bare) == 2
    tcp = {"policy/shop/a/b": samples.policy("shop/a", "shop/b", ("tcp", 1), ("tcp", 2))}
    assert count(bare | networks | tcp) - count(bare | networks) == families * 2 * 3 + 2 * errors
    back = {"policy/shop/b/a": samples.policy("shop/b", "shop/a", ("udp", 1))}
    assert count(bare | networks | tcp | back) - count(bare | networks | tcp) == families * 2
    peers = {"policy/shop/a/a": samples.policy("shop/a", "shop/a", ("udp", 1))}
    assert count(bare | networks | peers) - count(bare | networks) == families * 2 + errors


def test_the_counts_of_the_document_hold_for_nodes_and_services() -> None:
    bare = {"inventory": samples.inventory(), **NETWORKS6}
    one_home = bare["inventory"]["hosts"]["h1"]["attachments"]
    del one_home[1]

    def node(phase: str) -> dict[str, Any]:
        of_4 = samples.binding("shop-a-1", "shop/a", "172.16.10.2", "h1", phase)
        return {"binding/shop-a-1": grow(of_4, address6="2001:db8:0:1::2")}

    for phase, entries in (("standby", 0), ("dark", 3), ("admitted", 3), ("draining", 4)):
        assert count(bare | node(phase)) - count(bare) == 2 * entries, phase
        assert count(bare | node(phase), "sw2") - count(bare, "sw2") == 2 * max(entries - 1, 0), phase
    admitted = bare | node("admitted")
    service = {"network": "shop/a", "address": "172.16.10.1", "address6": "2001:db8:0:1::1", "slots": ["shop-a-1"] * 8}
    served = {**admitted, "service/shop/a": service}
    assert count(served) - count(admitted) == 2 * 4 + 8 + (1 + 2 * 2)
    assert count(served, "sw2") - count(admitted, "sw2") == 2 * 4 + 8 + (1 + 2)


def test_a_generation_is_of_the_content_of_a_document_and_of_nothing_else() -> None:
    first, later = (samples.stamped(samples.shop(), seq=seq) for seq in (5, 9))
    assert compile_documents(first).tables == compile_documents(later).tables
    backwards = {key: Document(dict(reversed(list(one.value.items()))), one.seq) for key, one in first.items()}
    assert compile_documents(backwards).tables == compile_documents(first).tables
    drained = {**first["binding/shop-app-2"].value, "phase": "draining"}
    old, new = (
        {entry.owner: entry.cookie & 0xFFFF for entry in compile_documents(documents).tables["sw1"]}
        for documents in (first, with_changes(first, {"binding/shop-app-2": drained}, 9))
    )
    node = make_cookie(Kind.BINDING, int(IPv4Address(drained["address"])), 0)
    assert {owner for owner in old if old[owner] != new[owner]} == {node}


def test_a_difference_adds_egress_before_ingress_and_revokes_first() -> None:
    old = samples.compiled(samples.shop()).tables["sw1"]
    documents = samples.shop()
    del documents["binding/shop-app-1"]
    documents["inventory"] = samples.inventory(hosts=4)
    documents["binding/shop-db-9"] = samples.binding("shop-db-9", "shop/db", "172.16.30.9", "h4")
    changes = difference(old, samples.compiled(documents).tables["sw1"])
    words = [
        f"{change.op}{change.entry.table}" if isinstance(change, FlowChange) else f"group{change.op}"
        for change in changes
        if not isinstance(change, FlowChange) or change.entry.cookie >> 48 & 0xFF == Kind.BINDING
    ]
    assert words == ["group+", "group+", "-0", "-30", "-31", "+31", "+30", "+0"]
    assert [isinstance(change, GroupChange) for change in difference(samples.compiled(documents).tables["sw1"], old)][
        -1
    ]


def test_owners_have_names() -> None:
    compilation = samples.compiled(samples.shop())
    names = {compilation.owner_name(entry.owner) for entry in compilation.tables["sw1"]}
    assert names == {
        *("base", "host/h1", "host/h2", "host/h3", "border/edge", "expose/shop/lb/edge"),
        *("policy/shop/lb/app", "policy/shop/app/db", "network/shop/lb", "network/shop/app", "network/shop/db"),
        *("binding/shop-lb-1", "binding/shop-lb-2", "binding/shop-app-1", "binding/shop-app-2", "binding/shop-db-1"),
    }
    assert compilation.owner_name(77 << 16).startswith("unknown")


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    small = samples.shop() | {"inventory": samples.inventory(max_entries=90)}
    refusals = capacity_refusals(samples.compiled(small), [])
    assert [refusal.subject for refusal in refusals] == ["switch sw1"], "sw2 has no border port and needs less"
    assert refusals[0].reason == (
        "91 entries are needed, at most 90 fit (maxEntries); used by: base 23, hosts 12, "
        "policies towards shop/db 11, policies towards shop/lb 9, policies towards shop/app 9, borders 9, "
        "nodes of shop/lb 6, nodes of shop/app 6, nodes of shop/db 3, networks 3"
    )


def test_old_and_new_entries_are_counted_together() -> None:
    documents = samples.shop() | {"inventory": samples.inventory(max_entries=92)}
    without = dict(documents)
    del without["binding/shop-db-1"]
    other = without | {"binding/shop-db-2": samples.binding("shop-db-2", "shop/db", "172.16.30.3", "h3")}
    now = samples.compiled(documents)
    assert capacity_refusals(now, []) == [] and capacity_refusals(samples.compiled(other), []) == []
    assert len(capacity_refusals(now, [samples.compiled(other)])) == 1


def test_a_preview_shows_what_changes_but_not_generations() -> None:
    old = samples.compiled(samples.shop(), seq=1)
    assert preview(old, samples.compiled(samples.shop(), seq=2))["sw1"]["entries"] == []
    report = preview(old, samples.compiled(samples.shop(app_2="draining"), seq=2))["sw1"]
    assert (report["before"], report["after"], report["add"], report["remove"]) == (91, 92, 1, 0)
    assert report["entries"] == [
        {
            "op": "+", "table": 30, "priority": 300, "match": "tcp,nw_dst=172.16.20.3,tcp_flags=+syn-ack",
            "actions": "drop", "owner": "binding/shop-app-2",
        }
    ]  # fmt: skip


def wrong(change: dict[str, Any]) -> str:
    documents = {key: value for key, value in (samples.shop() | change).items() if value is not None}
    with pytest.raises(IntentRefused) as caught:
        samples.compiled(documents)
    return str(caught.value)


def test_wrong_references_are_refused_with_the_document() -> None:
    node = samples.shop()["binding/shop-app-2"]
    assert "binding/shop-app-2: there is no host h9" in wrong({"binding/shop-app-2": {**node, "host": "h9"}})
    assert "there is no network shop/x" in wrong({"binding/shop-app-2": {**node, "network": "shop/x"}})
    assert "10.0.0.1 is not in 172.16.20.0/24" in wrong({"binding/shop-app-2": {**node, "address": "10.0.0.1"}})
    twice = {**node, "node": "shop-app-3"}
    assert "172.16.20.3 is already the address of shop-app-2" in wrong({"binding/shop-app-3": twice})
    assert "is of node shop-app-2" in wrong({"binding/shop-app-2": None, "binding/shop-app-4": node})
    assert "policy/shop/lb/app: there is no network shop/lb" in wrong({"network/shop/lb": None})
    assert "belongs under the key policy/shop/lb/app" in wrong(
        {"policy/shop/app/lb": samples.shop()["policy/shop/lb/app"]}
    )
    assert "there is no border edge" in wrong({"inventory": samples.inventory(border=False)})
    assert "there is no inventory; set it first" in wrong({"inventory": None})


def test_wrong_numbers_and_subnets_are_refused() -> None:
    assert "network/shop/x: id 1 is already that of shop/lb" in wrong(
        {"network/shop/x": samples.network(1, "172.16.90.0/24")}
    )
    assert "overlaps" in wrong({"network/shop/x": samples.network(9, "172.16.0.0/16")})
    assert "overlaps 203.0.113.0/24" in wrong({"network/shop/x": samples.network(9, "203.0.113.64/26")})
    assert "VLAN 4000 is the transit VLAN" in wrong({"network/shop/x": samples.network(9, "172.16.90.0/24", 4000)})


def broken(change: Any) -> str:
    inventory = samples.inventory()
    change(inventory)
    return wrong({"inventory": inventory})


def test_wrong_inventories_are_refused() -> None:
    link = {"a": {"switch": "sw1", "port": 150}, "b": {"switch": "sw2", "port": 150}}
    assert "sw1:150 - sw2:150 is parallel to sw1:101 - sw2:101" in broken(
        lambda one: one["fabric"]["links"].append(link)
    )
    port = {"nic": "eth2", "switch": "sw1", "port": 201}
    second = {"nic": "eth2", "switch": "sw1", "port": 33}
    lost = {"nic": "eth2", "switch": "sw9", "port": 1}
    attach = {
        name: (lambda one, item=item: one["hosts"]["h1"]["attachments"].append(item))
        for name, item in {"taken": port, "twice": second, "lost": lost}.items()
    }
    assert "port sw1:201 is used twice: by h1 and by edge" in broken(attach["taken"])
    assert "sw1: h1 has ports 1 and 33 on it" in broken(attach["twice"])
    assert "there is no switch sw9; there are: sw1, sw2" in broken(attach["lost"])

    def same_id(one: Any) -> None:
        one["fabric"]["switches"]["sw2"]["datapathId"] = "0000000000000001"

    def other_profile(one: Any) -> None:
        one["fabric"]["switches"]["sw2"]["profile"] = "abacus"

    def far_gateway(one: Any) -> None:
        one["fabric"]["borders"]["edge"]["gateway"] = "10.0.0.1"

    def no_attachment(one: Any) -> None:
        one["hosts"]["h1"]["attachments"] = []

    assert "sw1 and sw2 have the same datapath id" in broken(same_id)
    assert "switch sw2 has the profile abacus; there are: openvswitch" in broken(other_profile)
    assert "gateway 10.0.0.1 is not in 203.0.113.0/24" in broken(far_gateway)
    assert "host h1 has no attachment" in broken(no_attachment)


def test_every_fault_is_told_at_once() -> None:
    node = {**samples.shop()["binding/shop-app-2"], "host": "h9", "network": "shop/x"}
    assert wrong({"binding/shop-app-2": node}).count("; ") == 1


@pytest.mark.skipif(shutil.which("ovs-ofctl") is None, reason="ovs-ofctl is not installed")
def test_ovs_ofctl_understands_our_words(tmp_path: Path) -> None:
    documents = samples.shop(app_1="dark", app_2="draining")
    tables = samples.compiled(documents).tables["sw1"]
    file = tmp_path / "flows"
    file.write_text("".join(f"{texts.entry_text(entry)}\n" for entry in tables))
    done = subprocess.run(
        ["ovs-ofctl", "-O", "OpenFlow13", "parse-flows", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    parsed = [line for line in done.stdout.splitlines() if "FLOW_MOD" in line]
    assert len(parsed) == len(tables.entries)
    unequal = [entry for entry in tables if not any(said(entry, line) for line in parsed)]
    assert [texts.entry_text(entry) for entry in unequal] == []


def said(entry: FlowEntry, line: str) -> bool:
    """Tell whether ovs-ofctl wrote the entry back with our match and actions."""
    actions = texts.actions_text(entry.actions)
    words = set(texts.match_text(entry.match).split(",")) - {""}
    return line.endswith(f"actions={actions}") and all(word in line for word in words)


def test_a_document_keeps_its_sequence_number_unless_it_changes() -> None:
    old = {"a": Document({"x": 1}, 1), "b": Document({"x": 1}, 1)}
    new = with_changes(old, {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3}}, 7)
    assert {key: document.seq for key, document in new.items()} == {"a": 1, "b": 7, "c": 7}
    assert with_changes(new, {"a": None, "z": None}, 8).keys() == {"b", "c"}


def ring(switches: int) -> dict[str, Any]:
    """The shop on a ring of switches; hosts and border have one port each, on the first switches."""
    documents = samples.shop()
    documents["inventory"] = inventory = samples.inventory(switches=switches)
    ends = {"a": {"switch": "sw1", "port": 150}, "b": {"switch": f"sw{switches}", "port": 150}}
    inventory["fabric"]["links"].append(ends)
    for number, host in enumerate(inventory["hosts"].values(), start=1):
        host["attachments"] = [{"nic": "eth0", "switch": f"sw{number}", "port": number}]
    return documents


def test_a_switch_whose_ways_share_one_trunk_has_a_detour_around_it() -> None:
    """On a ring of four: sw2 reaches host h1 through sw1 only, and else through sw3, sw4 and sw1."""
    compilation = samples.compiled(ring(4))
    group, detour = 223555055, "02:fa:00:81:"
    buckets = texts.group_text(compilation.tables["sw2"].groups[group]).split("bucket=")[1:]
    assert [bucket.split(",")[0] for bucket in buckets] == ["watch_port:101", "watch_port:102"]
    mark = buckets[1].split("set_field:")[1].split("->")[0]
    assert mark.startswith(detour) and buckets[1].endswith("output:102")
    along = {
        switch: [line for line in lines(compilation.tables[switch], "host/h1", compilation) if mark in line]
        for switch in compilation.tables
    }
    into = f"table=32,priority=100 reg5=0xd532def,dl_src={mark} "
    assert along == {
        "sw1": [f"{into}set_field:02:fa:00:00:00:01->eth_src,output:1"],
        "sw2": [],
        "sw3": [f"{into}{TRANSIT},output:103"],
        "sw4": [f"{into}{TRANSIT},output:150"],
    }


def test_two_switches_in_maintenance_on_one_way_make_no_loop() -> None:
    """Every switch has to count the same way: one in maintenance too."""
    documents = samples.shop()
    documents["inventory"] = inventory = samples.inventory(switches=6)
    for switch in ("sw1", "sw3"):
        inventory["fabric"]["switches"][switch]["maintenance"] = True
    ports = [{"nic": "eth0", "switch": "sw1", "port": 2}, {"nic": "eth1", "switch": "sw6", "port": 2}]
    inventory["hosts"]["h2"]["attachments"] = ports
    inventory["hosts"]["h1"]["attachments"] = [{"nic": "eth0", "switch": "sw2", "port": 1}]
    compilation = samples.compiled(documents)
    assert compilation.intent.inventory is not None
    fabric = Fabric.of(compilation.tables, compilation.intent.inventory)
    sent = samples.packet(compilation.intent, "shop-lb-1", "shop-app-2", **samples.syn(40000, 8080))
    assert [one.port for one in fabric.trace(sent, Port("sw2", 1)).deliveries] == [Port("sw1", 2)]
