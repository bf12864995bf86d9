# SPDX-License-Identifier: AGPL-3.0-or-later
"""Paths in words: every hop there and back, or where and why a connection stops and what would open it."""

from __future__ import annotations

from typing import Any

import pytest

from controller.changes import FlowChange, patched
from controller.compiler import Compilation
from controller.ends import UnknownEnd, both_ends
from controller.fabric import Port, Service
from controller.path import SwitchView, View, declared_services, explain
from tests.unit.controller import samples

Json = dict[str, Any]


def ask(
    compilation: Compilation,
    source: str,
    target: str,
    port: int,
    protocol: str = "tcp",
    down: frozenset[Port] = frozenset(),
) -> Json:
    view = View(compilation, {name: SwitchView(tables) for name, tables in compilation.tables.items()}, {}, down)
    ends = both_ends(compilation.intent, source, target)
    return explain(view, *ends, Service(protocol, port))[0]


def entries(leg: Json) -> list[tuple[str, str, str]]:
    return [(hop["switch"], hop["tableName"], hop["owner"]) for hop in leg["hops"] if hop["kind"] == "entry"]


def ports(leg: Json) -> list[tuple[str, int, str, int | None]]:
    return [(hop["switch"], hop["port"], hop["direction"], hop["vlan"]) for hop in leg["hops"] if hop["kind"] == "port"]


def service_shop(**phases: str) -> dict[str, Json]:
    documents = samples.shop(**phases)
    slots = ["shop-app-1", "shop-app-2", "shop-app-1", "shop-app-1"]
    documents["service/shop/app"] = {"network": "shop/app", "address": "172.16.20.1", "slots": slots, "pins": {}}
    return documents


def test_an_open_path_tells_every_hop_there_and_back() -> None:
    answer = ask(samples.compiled(samples.shop()), "shop-lb-1", "shop-app-2", 8080)
    assert answer["open"] is True
    there, back = answer["there"], answer["back"]
    assert (there["stop"], back["stop"]) == (None, None)
    assert entries(there) == [
        ("sw1", "classify", "binding/shop-lb-1"),
        ("sw1", "policy", "policy/shop/lb/app"),
        ("sw1", "service", "base"),
        ("sw1", "deliver", "binding/shop-app-2"),
    ]
    assert ports(there) == [("sw1", 1, "in", None), ("sw1", 2, "out", None)]
    assert there["hops"][0]["what"] == "sends"
    assert (there["hops"][0]["nic"], there["hops"][0]["link"]) == ("eth0", "fab0")
    assert (there["hops"][-1]["what"], there["hops"][-1]["node"]) == ("receives", "shop-app-2")
    assert back["hops"][0]["node"] == "shop-app-2"
    assert back["hops"][-1]["node"] == "shop-lb-1"
    assert entries(back)[1] == ("sw1", "policy", "policy/shop/lb/app")


def test_a_path_over_a_trunk_names_its_vlan_and_far_port() -> None:
    down = frozenset({Port("sw1", 2)})
    answer = ask(samples.compiled(samples.shop()), "shop-lb-1", "shop-app-2", 8080, down=down)
    assert answer["open"] is True
    assert ports(answer["there"]) == [
        ("sw1", 1, "in", None),
        ("sw1", 101, "out", 4000),
        ("sw2", 101, "in", 4000),
        ("sw2", 2, "out", None),
    ]
    out = next(hop for hop in answer["there"]["hops"] if hop["kind"] == "port" and hop["port"] == 101)
    assert out["link"] == {"switch": "sw2", "port": 101}
    assert answer["there"]["hops"][-1]["nic"] == "eth1"


def test_the_sender_uses_its_other_nic_when_its_first_port_is_down() -> None:
    answer = ask(samples.compiled(samples.shop()), "shop-lb-1", "shop-app-2", 8080, down=frozenset({Port("sw1", 1)}))
    assert answer["there"]["hops"][0]["nic"] == "eth1"
    assert answer["open"] is True


@pytest.mark.parametrize(
    ("source", "target", "port", "declare"),
    [
        ("shop-lb-1", "shop-db-1", 5432, {"lb": {"dependsOn": {"db": {"ports": [{"protocol": "tcp", "port": 5432}]}}}}),
        ("shop-app-1", "shop-app-2", 7000, {"app": {"peers": {"ports": [{"protocol": "tcp", "port": 7000}]}}}),
        ("edge", "shop-app-1", 8080, {"app": {"exposedTo": {"edge": {"ports": [{"protocol": "tcp", "port": 8080}]}}}}),
    ],
)
def test_what_no_policy_opens_stops_at_the_deny_entry_and_says_what_to_declare(
    source: str, target: str, port: int, declare: Json
) -> None:
    answer = ask(samples.compiled(samples.shop()), source, target, port)
    stop = answer["there"]["stop"]
    assert (answer["open"], answer["back"], stop["code"]) == (False, None, "no_policy")
    assert (stop["switch"], stop["entry"]["tableName"], stop["entry"]["actions"]) == ("sw1", "policy", "drop")
    assert stop["entry"]["owner"] in ("network/shop/lb", "network/shop/app", "border/edge")
    assert stop["declare"] == declare


def test_towards_a_border_nothing_can_be_declared() -> None:
    stop = ask(samples.compiled(samples.shop()), "shop-lb-1", "edge", 443)["there"]["stop"]
    assert stop["code"] == "no_policy"
    assert "declare" not in stop
    assert "behind a border only" in stop["remedy"]


@pytest.mark.parametrize(
    ("phases", "source", "target", "code", "owner"),
    [
        ({"app_2": "standby"}, "shop-lb-1", "shop-app-2", "not_admitted", "base"),
        ({"app_2": "dark"}, "shop-lb-1", "shop-app-2", "not_admitted", "base"),
        ({"app_2": "draining"}, "shop-lb-1", "shop-app-2", "draining", "binding/shop-app-2"),
        ({"lb_1": "standby"}, "shop-lb-1", "shop-app-2", "not_admitted", "host/h1"),
    ],
)
def test_a_node_that_is_not_admitted_or_drains_is_the_reason(
    phases: dict[str, str], source: str, target: str, code: str, owner: str
) -> None:
    stop = ask(samples.compiled(samples.shop(**phases)), source, target, 8080)["there"]["stop"]
    assert (stop["code"], stop["entry"]["owner"]) == (code, owner)


def test_a_dark_node_may_open_tcp_and_gets_its_answer_but_no_udp() -> None:
    compilation = samples.compiled(samples.shop(app_1="dark"))
    assert ask(compilation, "shop-app-1", "shop-db-1", 5432)["open"] is True
    assert ask(compilation, "shop-app-1", "shop-db-1", 5353, "udp")["there"]["stop"]["code"] == "dark"


def test_ports_down_are_the_reason_where_no_way_is_left() -> None:
    compilation = samples.compiled(samples.shop())
    both = frozenset({Port("sw1", 2), Port("sw2", 2)})
    stop = ask(compilation, "shop-lb-1", "shop-app-2", 8080, down=both)["there"]["stop"]
    assert stop["code"] == "port_down"
    unplugged = ask(compilation, "shop-app-2", "shop-db-1", 5432, down=both)["there"]["stop"]
    assert (unplugged["code"], unplugged["switch"]) == ("port_down", None)


def test_a_way_back_that_is_missing_closes_the_path() -> None:
    compilation = samples.compiled(samples.shop())
    lost = [
        FlowChange("-", entry)
        for entry in compilation.tables["sw1"]
        if compilation.owner_name(entry.owner) == "binding/shop-app-2" and entry.table == 0
    ]
    held = {name: SwitchView(tables) for name, tables in compilation.tables.items()}
    held["sw1"] = SwitchView(patched(compilation.tables["sw1"], lost))
    ends = both_ends(compilation.intent, "shop-lb-1", "shop-app-2")
    answer, seen = explain(View(compilation, held, {}, frozenset()), *ends, Service("tcp", 8080))
    assert (answer["open"], answer["there"]["open"], answer["back"]["open"]) == (False, True, False)
    assert answer["back"]["stop"]["code"] == "tables_differ"
    assert seen == {"sw1"}


def test_a_service_address_leads_to_a_member_and_tells_of_the_others() -> None:
    answer = ask(samples.compiled(service_shop()), "shop-lb-1", "172.16.20.1", 8080)
    assert answer["open"] is True
    assert answer["to"]["service"] == "172.16.20.1"
    assert answer["members"] == [
        {"node": "shop-app-1", "slots": 3, "open": True},
        {"node": "shop-app-2", "slots": 1, "open": True},
    ]
    assert ("sw1", "choose", "service/shop/app") in entries(answer["there"])
    assert answer["back"]["hops"][0]["address"] == "172.16.20.1"


def test_a_network_stands_for_its_service_or_its_first_admitted_node() -> None:
    intent = samples.compiled(service_shop(lb_1="standby")).intent
    source, target = both_ends(intent, "lb", "shop/app")
    assert (source.name, target.service is not None) == ("shop-lb-2", True)
    assert source.note == "lb is a network: taken its node shop-lb-2"


def test_an_address_behind_a_border_and_the_border_itself_are_ends() -> None:
    compilation = samples.compiled(samples.shop())
    named, _ = both_ends(compilation.intent, "edge", "shop-lb-1")
    there, _ = both_ends(compilation.intent, "203.0.113.77", "shop-lb-1")
    assert (str(named.address), str(there.address)) == ("203.0.113.2", "203.0.113.77")
    assert ask(compilation, "203.0.113.77", "lb", 80)["open"] is True


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("shop-lb-9", "no node, network, border or address shop-lb-9"),
        ("172.16.10.77", "is of network shop/lb, and no node there has it"),
        ("192.0.2.9", "is of no network and behind no border"),
        ("203.0.113.1", "is the gateway of the border edge"),
    ],
)
def test_an_unknown_end_is_refused_with_what_there_is(source: str, why: str) -> None:
    with pytest.raises(UnknownEnd, match=why):
        both_ends(samples.compiled(samples.shop()).intent, source, "shop-app-1")


def test_declared_services_are_those_of_the_policy() -> None:
    intent = samples.compiled(samples.shop())
    ends = both_ends(intent.intent, "app", "db")
    assert declared_services(intent, *ends) == [Service("tcp", 5432), Service("udp", 5353)]


def test_an_ipv6_address_asks_for_the_ipv6_path() -> None:
    documents = samples.shop()
    for name, number in (("lb", 10), ("app", 20)):
        documents[f"network/shop/{name}"]["subnet6"] = f"fd00:0:0:{number}::/64"
        documents[f"binding/shop-{name}-1"]["address6"] = f"fd00:0:0:{number}::2"
    compilation = samples.compiled(documents)
    answer = ask(compilation, "shop-lb-1", "fd00:0:0:20::2", 8080)
    assert answer["open"] is True
    assert answer["from"]["address"] == "fd00:0:0:10::2"
    assert any("ipv6_dst=fd00:0:0:20::2" in hop["match"] for hop in answer["there"]["hops"] if hop["kind"] == "entry")
    with pytest.raises(UnknownEnd, match="shop-lb-2 has no IPv6 address"):
        both_ends(compilation.intent, "shop-lb-2", "fd00:0:0:20::2")


def test_tagged_nics_and_borders_show_their_vlans() -> None:
    documents = samples.shop()
    for attachment in documents["inventory"]["hosts"]["h1"]["attachments"]:
        attachment["tagged"] = True
    documents["inventory"]["fabric"]["borders"]["edge"]["vlan"] = 300
    answer = ask(samples.compiled(documents), "edge", "shop-lb-1", 80)
    assert answer["open"] is True
    assert ports(answer["there"]) == [("sw1", 201, "in", 300), ("sw1", 1, "out", 110)]
    assert [hop["vlan"] for hop in (answer["there"]["hops"][0], answer["there"]["hops"][-1])] == [300, 110]


def test_a_switch_in_maintenance_is_the_last_choice_of_a_sender() -> None:
    documents = samples.shop()
    documents["inventory"]["fabric"]["switches"]["sw1"]["maintenance"] = True
    answer = ask(samples.compiled(documents), "shop-lb-1", "shop-app-2", 8080)
    assert answer["there"]["hops"][0]["nic"] == "eth1"
    assert {hop["switch"] for hop in answer["there"]["hops"] if "switch" in hop} == {"sw2"}
