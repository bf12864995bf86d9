# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl path`, `fabric` and `switch probe`: what is asked, exit codes, and how real answers look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from controller.capacity import capacity_report
from controller.counters import Tally, counters_json
from controller.ends import both_ends
from controller.fabric import Port, Service
from controller.ledger import Ledger
from controller.path import SwitchView, View, explain
from controller.ports import PortCounters, PortState
from controller.report import fabric_report
from odyssey.cli.drawing import draw, faults_of
from odyssey.cli.fabricview import rate, share, size
from tests.unit.cli.conftest import Ctl
from tests.unit.cli.fake import Call, FakeDaemon, RpcFault
from tests.unit.controller import samples

Json = dict[str, Any]


def path_answer(source: str, target: str, port: int, down: frozenset[Port] = frozenset()) -> Json:
    compilation = samples.compiled(samples.shop())
    view = View(compilation, {name: SwitchView(tables) for name, tables in compilation.tables.items()}, {}, down)
    return explain(view, *both_ends(compilation.intent, source, target), Service("tcp", port))[0]


def fabric_answer(
    documents: Mapping[str, Json] | None = None, down: tuple[Port, ...] = (), away: tuple[str, ...] = (),
    wrong: Mapping[Port, str] | None = None,
) -> Json:  # fmt: skip
    compilation = samples.compiled(documents or samples.shop())
    inventory = compilation.intent.inventory
    assert inventory is not None
    seen = {
        name: {"connected": name not in away, "entries": 90, "capacity": 100, "drift": 0, "foreign": 0}
        for name in compilation.tables
    }
    ports = {
        name: {n: PortState(n, f"p{n}", Port(name, n) not in down, 10_000_000, n) for n in inventory.ports(name)}
        for name in compilation.tables
        if name not in away
    }
    counters = {
        name: (
            {n: PortCounters(n, 0, 0, 0, 0, 0, 0, 0, 0, 0.0) for n in numbers},
            {n: PortCounters(n, 9, 9, 125_000_000, 5, 0, 0, 0, 0, 1.0) for n in numbers},
        )
        for name, numbers in ports.items()
    }
    report = fabric_report(compilation, seen, ports, wrong or {}, counters)
    for host in report["hosts"].values():
        host["connected"] = True
    return report


# Paths


def test_an_open_path_is_told_hop_by_hop_and_exits_0(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["fabric.path"] = path_answer("shop-lb-1", "shop-app-2", 8080, frozenset({Port("sw1", 2)}))
    result = ctl("path", "shop-lb-1", "shop-app-2", "--port", "8080", "--protocol", "tcp")
    assert result.exit_code == 0
    params = {"from": "shop-lb-1", "to": "shop-app-2", "port": 8080, "protocol": "tcp"}
    assert daemon.calls == [("fabric.path", params)]
    for text in (
        "shop-lb-1 (172.16.10.2) -> shop-app-2 (172.16.20.3), tcp 8080: open",
        "by fab0 on h1 eth0, 02:00:ac:10:0a:02, to 02:fa:00:00:00:01, untagged",
        "lets lb open connections to app [policy/shop/lb/app]",
        "priority 300: tcp,reg0=0x1/0xffff7fff,nw_dst=172.16.20.0/24,tp_dst=8080 -> goto_table:20",
        "VLAN 4000, cable to sw2 port 101",
        "Back",
    ):
        assert text in result.stdout
    assert "STOPS" not in result.stdout


def test_a_closed_path_says_where_why_and_what_to_declare_and_exits_1(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["fabric.path"] = path_answer("shop-lb-1", "shop-db-1", 5432)
    result = ctl("path", "shop-lb-1", "shop-db-1")
    assert result.exit_code == 1
    assert daemon.calls == [("fabric.path", {"from": "shop-lb-1", "to": "shop-db-1"})]
    assert "drops what no policy lets shop/lb send [network/shop/lb]" in result.stdout
    assert "STOPS HERE in sw1: nothing declares that shop/lb may open tcp 5432 of shop/db" in result.stdout
    declare = '"lb": {"dependsOn": {"db": {"ports": [{"protocol": "tcp", "port": 5432}]}}}'
    assert f"declare in platform shop: {declare}" in result.stdout
    assert "Back" not in result.stdout


def test_the_json_of_a_path_is_complete(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["fabric.path"] = answer = path_answer("edge", "shop-lb-1", 80)
    result = ctl("path", "edge", "lb", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, answer)


def test_an_unknown_end_or_a_wrong_line_exits_255(ctl: Ctl, daemon: FakeDaemon) -> None:
    def absent(_: Any) -> None:
        raise RpcFault("not_found", "there is no node, network, border or address nope")

    daemon.answers["fabric.path"] = absent
    assert ctl("path", "nope", "shop-db-1").exit_code == 255
    assert ctl("path", "one").exit_code == 255
    assert ctl("path", "a", "b", "--port", "99999").exit_code == 255


# Comparisons

DIFFERENCE = {
    "what": "changed", "kind": "entry", "table": 10, "priority": 210, "match": "tcp", "actions": "drop",
    "owner": "policy/shop/lb/app", "tableName": "policy", "meaning": "drops connections",
    "found": "group:5 (x, cookie 0x1)",
}  # fmt: skip
EQUAL: Json = {
    "connected": True, "reason": None, "equal": True, "entries": 90, "foreign": 2, "differences": [], "truncated": 0,
}  # fmt: skip
DIFFERS = {**EQUAL, "equal": False, "differences": [DIFFERENCE], "truncated": 4}
AWAY = {**EQUAL, "connected": False, "equal": False, "reason": "switch sw2 is not connected"}


@pytest.mark.parametrize(
    ("switches", "code", "text"),
    [
        ({"sw1": EQUAL}, 0, "sw1: equal, 90 entries of ours, 2 of others"),
        ({"sw1": EQUAL, "sw2": DIFFERS}, 1, "sw2: 5 differences"),
        ({"sw2": AWAY}, 1, "sw2: switch sw2 is not connected"),
    ],
)
def test_verify_exits_0_only_if_every_switch_is_equal(
    ctl: Ctl, daemon: FakeDaemon, switches: Json, code: int, text: str
) -> None:
    daemon.answers["fabric.verify"] = {"equal": code == 0, "switches": switches}
    result = ctl("fabric", "verify")
    assert result.exit_code == code
    assert text in result.stdout
    assert ctl("fabric", "verify", "sw1", "-o", "json").exit_code == code
    assert daemon.calls[-1] == ("fabric.verify", {"switch": "sw1"})


def test_diff_shows_each_entry_with_its_owner_and_what_was_found(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["fabric.verify"] = {"equal": False, "switches": {"sw2": DIFFERS}}
    result = ctl("fabric", "diff")
    assert result.exit_code == 1
    assert "~ sw2  changed: table 10 policy, priority 210: tcp -> drop" in result.stdout
    assert "drops connections [policy/shop/lb/app]" in result.stdout
    assert "found: group:5" in result.stdout
    assert "and 4 more" in result.stdout


def test_an_error_of_a_comparison_exits_255(ctl: Ctl, daemon: FakeDaemon) -> None:
    def absent(_: Any) -> None:
        raise RpcFault("peer_absent", "controller is not connected")

    daemon.answers["fabric.verify"] = absent
    assert ctl("fabric", "verify").exit_code == 255
    assert ctl("fabric", "diff").exit_code == 255


# Tables


def test_show_tells_switches_ports_links_and_hosts(ctl: Ctl, daemon: FakeDaemon) -> None:
    documents = samples.shop(app_2="draining")
    documents["inventory"]["fabric"]["switches"]["sw2"]["maintenance"] = True
    daemon.answers["fabric.show"] = fabric_answer(documents, down=(Port("sw1", 2),))
    result = ctl("fabric", "show", "--interval", "0.5")
    assert (result.exit_code, daemon.calls) == (0, [("fabric.show", {"interval": 0.5})])
    for text in ("maintenance", "4/5", "90 %", "host h2 eth0", "DOWN", "1 Gbit/s", "sw1 port 101", "shop-app-2"):
        assert text in result.stdout


def test_capacity_tells_users_and_how_many_nodes_fit(ctl: Ctl, daemon: FakeDaemon) -> None:
    documents = samples.shop()
    documents["inventory"] = samples.inventory(max_entries=100)
    daemon.answers["fabric.capacity"] = capacity_report(Ledger(samples.stamped(documents), {}, 1))
    result = ctl("fabric", "capacity")
    assert result.exit_code == 0
    for text in ("nodes of shop/app", "policies", "MORE NODES", "shop/db", "RESERVED"):
        assert text in result.stdout


def test_counters_tell_nodes_dependencies_and_drops(ctl: Ctl, daemon: FakeDaemon) -> None:
    answer = counters_json(Tally(), samples.compiled(samples.shop()))
    answer["nodes"]["shop-lb-1"] |= {"sentBytes": 12_300_000, "sentPackets": 8200}
    answer["networks"]["shop/lb"]["deniedPackets"] = 7
    daemon.answers["fabric.counters"] = answer
    result = ctl("fabric", "counters")
    assert result.exit_code == 0
    for text in ("12.3 MB", "8200", "shop/lb -> shop/app", "border/edge -> shop/lb", "no policy opens it"):
        assert text in result.stdout
    assert "spoofed" not in result.stdout, "what never happened is not told"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0, "0 bit/s"), (999, "999 bit/s"), (1.25e9, "1.2 Gbit/s")])
def test_rates_are_in_decimal_units(value: float | None, text: str) -> None:
    assert rate(value) == text
    assert (size(12_300_000), share(1, 1000), share(85, 100)) == ("12.3 MB", "0.1 %", "85 %")


# Probes


def test_a_probe_shows_progress_findings_and_the_line_for_the_inventory(ctl: Ctl, daemon: FakeDaemon) -> None:
    def answer(call: Call) -> Json:
        call.progress({"kind": "probe", "step": 1, "of": 9, "text": "tables"})
        finding = {"capability": "reflects", "profile": "unknown", "found": "yes", "agrees": None, "detail": "50 of 50"}
        return {"switch": "sw1", "findings": [finding], "inventory": {"reflects": "yes"}}

    daemon.answers["switch.probe"] = answer
    result = ctl("switch", "probe", "sw1", "--capacity", "5", "--yes")
    assert result.exit_code == 0
    assert daemon.calls == [("switch.probe", {"switch": "sw1", "capacity": 5, "force": True})]
    assert "[1/9] tables" in result.stderr
    assert "reflects" in result.stdout
    assert '"reflects": "yes"' in result.stdout


def test_a_probe_of_a_switch_in_use_is_refused(ctl: Ctl, daemon: FakeDaemon) -> None:
    def refused(_: Any) -> None:
        raise RpcFault("refused", "sw1 carries traffic of 2 nodes of host h1: say so (--yes)")

    daemon.answers["switch.probe"] = refused
    result = ctl("switch", "probe", "sw1", "--vlan", "99")
    assert (result.exit_code, result.stdout) == (3, "")
    assert daemon.calls == [("switch.probe", {"switch": "sw1", "capacity": 1000, "force": False, "vlan": 99})]


# Pictures


def leaf_spine(hosts: int) -> dict[str, Json]:
    """Four leaves, two spines, hosts on pairs of leaves."""
    documents = {key: value for key, value in samples.shop().items() if not key.startswith("binding/")}
    inventory = documents["inventory"]
    fabric = inventory["fabric"]
    names = [f"leaf{n}" for n in range(1, 5)] + ["spine1", "spine2"]
    fabric["switches"] = {
        name: {"datapathId": f"{n:016x}", "profile": "openvswitch", "maxEntries": 3000}
        for n, name in enumerate(names, start=1)
    }
    fabric["links"] = [
        {"a": {"switch": f"leaf{leaf}", "port": 100 + spine}, "b": {"switch": f"spine{spine}", "port": leaf}}
        for leaf in range(1, 5)
        for spine in (1, 2)
    ]
    inventory["hosts"] = {
        f"h{n}": {
            "attachments": [{"nic": f"eth{k}", "switch": f"leaf{1 + 2 * (n % 2) + k}", "port": n} for k in (0, 1)]
        }
        for n in range(1, hosts + 1)
    }
    fabric["borders"]["edge"]["ports"] = [{"switch": "leaf1", "port": 201}]
    for n in range(1, hosts + 1):
        documents[f"binding/app-{n}"] = samples.binding(f"app-{n}", "shop/app", f"172.16.20.{n + 1}", f"h{n}")
    return documents


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


@pytest.mark.parametrize("documents", [samples.shop(), leaf_spine(6), leaf_spine(40)], ids=["two", "spines", "many"])
def test_a_picture_names_everything_and_keeps_it_inside(documents: dict[str, Json]) -> None:
    fabric = fabric_answer(documents)
    svg = draw(fabric)
    found = words(svg)
    for name in (*fabric["switches"], *fabric["hosts"], *fabric["borders"]):
        assert name in found
    assert "No faults" not in found, "entries are at 90 of 100"
    root = ElementTree.fromstring(svg)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [element.attrib for element in root.iter() if element.tag.endswith("}rect")]
    for box in boxes:
        x, y = float(box["x"]), float(box["y"])
        assert 0 <= x <= x + float(box["width"]) <= width
        assert 0 <= y <= y + float(box["height"]) <= height


@pytest.mark.parametrize("documents", [samples.shop(), leaf_spine(6), leaf_spine(40)], ids=["two", "spines", "many"])
def test_no_two_boxes_of_switches_hosts_and_borders_overlap(documents: dict[str, Json]) -> None:
    root = ElementTree.fromstring(draw(fabric_answer(documents)))
    boxes = [
        tuple(float(one.attrib[key]) for key in ("x", "y", "width", "height"))
        for one in root.iter()
        if one.tag.endswith("}rect") and one.attrib["class"].split()[0] in ("switch", "host", "border")
    ]
    assert len(boxes) > 5
    for number, (x, y, width, height) in enumerate(boxes):
        for x2, y2, width2, height2 in boxes[number + 1 :]:
            apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
            assert apart, ((x, y), (x2, y2))


def test_every_fault_is_marked_and_listed() -> None:
    documents = samples.shop()
    documents["inventory"]["fabric"]["switches"]["sw1"]["maintenance"] = True
    wrong = {Port("sw1", 3): "sw1:3 is cabled to sw2:9; the inventory says host h3"}
    fabric = fabric_answer(documents, down=(Port("sw1", 2),), away=("sw2",), wrong=wrong)
    fabric["switches"]["sw1"]["drift"] = 4
    fabric["hosts"]["h3"]["connected"] = False
    fabric["hosts"]["h1"]["wrongCables"] = ["h1 eth1 hears nothing"]
    texts = [fault.text for fault in faults_of(fabric)]
    assert texts == [
        "sw1: in maintenance, others do not use it",
        "sw1: 4 differences from what was decided (drift)",
        "sw1: 90 of 100 entries are used",
        "sw2: not connected to the controller",
        "sw2: 90 of 100 entries are used",
        "sw1 port 2 (host h2 eth0): down",
        "cabling: sw1:3 is cabled to sw2:9; the inventory says host h3",
        "cabling: h1 eth1 hears nothing",
        "h3: its agent is not connected",
    ]
    found = words(draw(fabric))
    assert set(texts) <= set(found)
    assert found.count("!") == 6, "a mark for sw1, sw2, both ports, h1 and h3"


def test_a_fabric_without_faults_says_so() -> None:
    fabric = fabric_answer()
    for switch in fabric["switches"].values():
        switch["capacity"] = 100000
    assert "No faults" in words(draw(fabric))


def test_an_empty_fabric_is_a_picture_too() -> None:
    empty: Json = {"switches": {}, "links": [], "hosts": {}, "borders": {}, "networks": {}}
    assert "No faults" in words(draw(empty))


def test_text_from_outside_is_escaped() -> None:
    wrong = {Port("sw1", 1): '<script>alert("x")</script>\x1b[31m & more'}
    svg = draw(fabric_answer(wrong=wrong))
    assert "<script>" not in svg
    assert "\x1b" not in svg
    assert any('<script>alert("x")</script>' in word for word in words(svg)), "and is shown as it is"


def test_draw_writes_a_file_or_stdout(ctl: Ctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answers["fabric.show"] = fabric_answer()
    printed = ctl("fabric", "draw", "--interval", "0")
    assert (printed.exit_code, printed.stdout.startswith("<svg ")) == (0, True)
    written = ctl("fabric", "draw", "-o", str(tmp_path / "fabric.svg"))
    assert (written.exit_code, written.stdout) == (0, "")
    assert (tmp_path / "fabric.svg").read_text() == printed.stdout
    assert ctl("fabric", "draw", "-o", str(tmp_path / "none" / "x.svg")).exit_code == 2
