# SPDX-License-Identifier: AGPL-3.0-or-later
"""The compiler: what each object becomes, what is refused, and what changes between two intents."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from controller import texts
from controller.compiler import (
    FlowChange,
    GroupChange,
    capacity_refusals,
    compile_documents,
    difference,
    preview,
    with_changes,
)
from controller.fabric import Document, IntentRefused
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


def test_an_admitted_node_is_pinned_and_delivered() -> None:
    assert of_app_2("admitted") == [
        f"table=0,priority=300 ip,{PIN} set_field:0x2->reg0,goto_table:10",
        f"table=30,priority=200 ip,nw_dst=172.16.20.3 {REWRITE},{GROUP}",
        f"table=31,priority=200 ip,nw_dst=172.16.20.3 {REWRITE},output:2",
    ]


def test_a_dark_node_sends_tcp_only_and_gets_return_traffic_only() -> None:
    assert of_app_2("dark") == [
        f"table=0,priority=300 tcp,{PIN} set_field:0x8002->reg0,goto_table:10",
        f"table=30,priority=200 ip,reg1=0x1,nw_dst=172.16.20.3 {REWRITE},{GROUP}",
        f"table=31,priority=200 ip,nw_dst=172.16.20.3 {REWRITE},output:2",
    ]


def test_a_draining_node_gets_no_syn_and_a_standby_node_nothing() -> None:
    syn = "table=30,priority=300 tcp,nw_dst=172.16.20.3,tcp_flags=+syn-ack drop"
    assert of_app_2("draining") == sorted([*of_app_2("admitted"), syn])
    assert of_app_2("standby") == []


def test_a_switch_without_trunks_has_no_trunk_entries() -> None:
    assert [line for line in of_app_2("admitted", switches=1) if line.startswith("table=31")] == []


def test_a_switch_in_between_hands_trunk_frames_on() -> None:
    documents = samples.shop()
    documents["inventory"] = inventory = samples.inventory(switches=3)
    inventory["hosts"]["h2"]["attachments"] = [{"nic": "eth0", "switch": "sw3", "port": 2}]
    compilation = samples.compiled(documents)
    assert lines(compilation.tables["sw2"], "binding/shop-app-2", compilation)[1] == (
        "table=31,priority=200 ip,in_port=101,nw_dst=172.16.20.3 push_vlan:0x8100,set_field:8096->vlan_vid,output:102"
    )
    group = texts.group_text(compilation.tables["sw1"].groups[224033877])
    assert group.endswith("bucket=watch_port:101,actions=push_vlan:0x8100,set_field:8096->vlan_vid,output:101")


def test_policy_entries_do_not_grow_with_nodes() -> None:
    few, many = samples.shop(), samples.shop()
    for number in range(10, 60):
        address = f"172.16.20.{number}"
        many[f"binding/shop-app-{number}"] = samples.binding(f"shop-app-{number}", "shop/app", address, "h1")
    grown = [samples.compiled(one).tables["sw1"] for one in (few, many)]
    assert [sum(entry.table == 10 for entry in tables) for tables in grown] == [35, 35]
    assert len(grown[1].entries) - len(grown[0].entries) == 50 * 3


def test_the_counts_of_the_document_hold() -> None:
    """docs/fabric.md, "Entry counts for each switch"."""
    bare = {"inventory": samples.inventory(border=False)}
    border = {"inventory": samples.inventory()}

    def count(documents: dict[str, Any], switch: str = "sw1") -> int:
        return len(samples.compiled(documents).tables[switch].entries)

    assert count({"inventory": samples.inventory(border=False, hosts=0, switches=1)}) == 7
    assert count({"inventory": samples.inventory(border=False, hosts=0)}) == 7 + 2
    assert count(bare) == 7 + 2 + 3
    assert (count(border) - count(bare), count(border, "sw2") - count(bare, "sw2")) == (8, 3)
    networks = {
        "network/shop/a": samples.network(1, "172.16.10.0/24"),
        "network/shop/b": samples.network(2, "172.16.20.0/24"),
    }
    assert count(bare | networks) - count(bare) == 2
    tcp = {"policy/shop/a/b": samples.policy("shop/a", "shop/b", ("tcp", 1), ("tcp", 2))}
    assert count(bare | networks | tcp) - count(bare | networks) == 2 * 3 + 6
    back = {"policy/shop/b/a": samples.policy("shop/b", "shop/a", ("udp", 1))}
    assert count(bare | networks | tcp | back) - count(bare | networks | tcp) == 2


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
    assert words == ["group+", "-0", "-30", "-31", "+31", "+30", "+0"]
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
    small = samples.shop() | {"inventory": samples.inventory(max_entries=66)}
    refusals = capacity_refusals(samples.compiled(small), [])
    assert [refusal.subject for refusal in refusals] == ["switch sw1"], "sw2 has no border port and needs less"
    assert refusals[0].reason == (
        "67 entries are needed, at most 66 fit (maxEntries); used by: policies 29, base 9, borders 8, "
        "nodes of shop/lb 6, nodes of shop/app 6, nodes of shop/db 3, networks 3, hosts 3"
    )


def test_old_and_new_entries_are_counted_together() -> None:
    documents = samples.shop() | {"inventory": samples.inventory(max_entries=68)}
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
    assert (report["before"], report["after"], report["add"], report["remove"]) == (67, 68, 1, 0)
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
    assert "closes a loop; the switches must form a tree" in broken(lambda one: one["fabric"]["links"].append(link))
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
