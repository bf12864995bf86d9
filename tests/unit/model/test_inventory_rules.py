# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults of meaning in an inventory, by itself and under what runs on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from odyssey.model import Inventory, Snapshot
from odyssey.model.inventory_rules import inventory_faults
from odyssey.services.wish import ApplyPlatform
from tests.unit.planning.worlds import Json, World, inventory, shop, snapshot


def faults(document: Json, state: Snapshot | None = None) -> dict[str, str]:
    """Path and expectation of each fault."""
    found = inventory_faults(Inventory.parse(document), state or snapshot({}))
    return {fault.path: fault.expected for fault in found}


def running() -> Snapshot:
    """The shop with its nodes."""
    world = World()
    document = shop()
    document["networks"]["app"]["subnet6"] = "fd00:0:0:20::/64"
    world.wish(ApplyPlatform(document))
    return world.state


def test_the_lab_has_no_fault() -> None:
    assert faults(inventory()) == {}
    assert faults(inventory(), running()) == {}


V6: Json = {"prefix6": "2001:db8:f::/64", "gateway6": "2001:db8:f::1"}
PEER: Json = {"address": "203.0.113.2", "mac": "02:cc:00:00:00:01"}
Change = Callable[[Json], Any]


def port(switch: str, number: int) -> Json:
    """A port of a switch."""
    return {"switch": switch, "port": number}


def peer6(address: str) -> Json:
    """The peer of the border with an IPv6 address."""
    return {**PEER, "address6": address}


def edge(**fields: Any) -> Change:
    """A change of the border."""
    return lambda document: document["fabric"]["borders"]["edge"].update(fields)


def owned(*ranges: tuple[int, int]) -> Change:
    """A change: these VLANs are ours."""
    return lambda document: document["fabric"].update(owned={"vlans": [{"from": a, "to": b} for a, b in ranges]})


def ports(*ranges: tuple[int, int]) -> Change:
    """A change: these ports of sw1 are ours."""
    return lambda document: document["fabric"]["switches"]["sw1"].update(
        ownedPorts=[{"from": a, "to": b} for a, b in ranges]
    )


SINGLE: list[tuple[str, Change, str, str]] = [
    ("multicast mac", lambda d: d["fabric"].update(mac="03:fa:00:00:00:01"), "$.fabric.mac", "unicast"),
    ("node mac", lambda d: d["fabric"].update(mac="02:00:0a:00:00:01"), "$.fabric.mac", "02:00"),
    (
        "same datapath",
        lambda d: d["fabric"]["switches"]["sw2"].update(datapathId="0000000000000001"),
        "$.fabric.switches.sw2.datapathId",
        "sw1",
    ),
    (
        "unknown switch in a link",
        lambda d: d["fabric"]["links"][0]["b"].update(switch="sw9"),
        "$.fabric.links[0].b.switch",
        "sw1, sw2",
    ),
    ("loop", lambda d: d["fabric"]["links"][0]["b"].update(switch="sw1", port=9), "$.fabric.links[0]", "two switches"),
    (
        "unknown switch of a host",
        lambda d: d["hosts"]["h2"]["attachments"][1].update(switch="sw3"),
        "$.hosts.h2.attachments[1].switch",
        "sw1, sw2",
    ),
    (
        "port twice",
        lambda d: d["hosts"]["h2"]["attachments"][0].update(port=1),
        "$.hosts.h2.attachments[0].port",
        "$.hosts.h1.attachments[0] has this one",
    ),
    (
        "port of a link",
        lambda d: d["hosts"]["h2"]["attachments"][0].update(port=101),
        "$.hosts.h2.attachments[0].port",
        "$.fabric.links[0].a",
    ),
    (
        "port of a border",
        lambda d: d["hosts"]["h2"]["attachments"][0].update(port=201),
        "$.hosts.h2.attachments[0].port",
        "$.fabric.borders.edge.ports[0]",
    ),
    (
        "nic twice",
        lambda d: d["hosts"]["h1"]["attachments"][1].update(nic="eth0"),
        "$.hosts.h1.attachments[1].nic",
        "once",
    ),
    ("name", lambda d: d["hosts"].update(controller=d["hosts"].pop("h1")), "$.hosts.controller", "another name"),
    (
        "gateway outside",
        lambda d: d["fabric"]["borders"]["edge"].update(gateway="203.0.114.1"),
        "$.fabric.borders.edge.gateway",
        "203.0.113.0/24",
    ),
    (
        "peer is gateway",
        lambda d: d["fabric"]["borders"]["edge"]["peer"].update(address="203.0.113.1"),
        "$.fabric.borders.edge.peer.address",
        "another",
    ),
    (
        "borders overlap",
        lambda d: d["fabric"]["borders"].update(
            wan={**d["fabric"]["borders"]["edge"], "ports": [{"switch": "sw1", "port": 202}]}
        ),
        "$.fabric.borders.wan.prefix",
        "border edge",
    ),
    (
        "parallel links",
        lambda d: d["fabric"]["links"].append({"a": port("sw2", 102), "b": port("sw1", 102)}),
        "$.fabric.links[1]",
        "$.fabric.links[0]",
    ),
    ("transit of others", owned((100, 199)), "$.fabric.transitVlan", "100 to 199"),
    ("range", owned((199, 100), (4000, 4000)), "$.fabric.owned.vlans[0].to", "at least 199"),
    (
        "border of others",
        lambda d: (owned((4000, 4000))(d), edge(vlan=200)(d)),
        "$.fabric.borders.edge.vlan",
        "that Odyssey owns: 4000",
    ),
    ("border in transit", edge(vlan=4000), "$.fabric.borders.edge.vlan", "transit"),
    ("host port of others", ports((2, 48), (101, 201)), "$.hosts.h1.attachments[0].port", "2 to 48, 101 to 201"),
    ("trunk of others", ports((1, 48), (201, 201)), "$.fabric.links[0].a.port", "ownedPorts"),
    ("border port of others", ports((1, 101)), "$.fabric.borders.edge.ports[0].port", "1 to 101"),
    ("port range", ports((48, 1), (1, 201)), "$.fabric.switches.sw1.ownedPorts[0].to", "at least 48"),
    (
        "named port of others",
        lambda d: d["fabric"]["switches"]["sw1"].update(
            ownedPorts=[{"from": 1, "to": 201}], ports={"300": {"name": "eth1/1"}}
        ),
        "$.fabric.switches.sw1.ports.300",
        "1 to 201",
    ),
    ("no peer6", edge(**V6, peer=PEER), "$.fabric.borders.edge.peer.address6", "2001:db8:f::/64"),
    ("peer6 alone", edge(peer={**PEER, "address6": "2001:db8::2"}), "$.fabric.borders.edge.peer.address6", "prefix6"),
    ("peer6 outside", edge(**V6, peer=peer6("2001:db8::2")), "$.fabric.borders.edge.peer.address6", "host address"),
    ("peer6 is gateway6", edge(**V6, peer=peer6("2001:db8:f::1")), "$.fabric.borders.edge.peer.address6", "another"),
    (
        "gateway6 outside",
        edge(**{**V6, "gateway6": "2001:db8::1"}, peer=peer6("2001:db8:f::2")),
        "$.fabric.borders.edge.gateway6",
        "2001:db8:f::/64",
    ),
    (
        "next hop behind the border",
        lambda d: (d["fabric"].update(gateway6="2001:db8:f::9"), edge(**V6, peer=peer6("2001:db8:f::2"))(d)),
        "$.fabric.borders.edge.prefix6",
        "next hop",
    ),
    (
        "borders overlap in IPv6",
        lambda d: (
            edge(**V6, peer=peer6("2001:db8:f::2"))(d),
            d["fabric"]["borders"].update(
                wan={**d["fabric"]["borders"]["edge"], "ports": [port("sw1", 202)], "prefix6": "2001:db8::/32"}
            ),
        ),
        "$.fabric.borders.wan.prefix6",
        "border edge",
    ),
    (
        "ipv6 on a border of a switch without",
        lambda d: (
            edge(**V6, peer=peer6("2001:db8:f::2"))(d),
            d["fabric"]["switches"]["sw1"].update(profile="nexus9000"),
        ),
        "$.fabric.borders.edge.prefix6",
        "cannot have both",
    ),
    (
        "untagged",
        lambda d: d["fabric"]["switches"]["sw2"].update(profile="nexus9000"),
        "$.hosts.h1.attachments[1].tagged",
        "cannot push VLANs",
    ),
    (
        "long name of a tagged nic",
        lambda d: d["hosts"]["h1"]["attachments"][0].update(tagged=True, nic="enp65s0f0np0"),
        "$.hosts.h1.attachments[0].nic",
        "at most 10",
    ),
]


@pytest.mark.parametrize(("change", "path", "expected"), [row[1:] for row in SINGLE], ids=[row[0] for row in SINGLE])
def test_a_fault_names_its_path_and_what_is_allowed(change: Callable[[Json], Any], path: str, expected: str) -> None:
    document = inventory()
    change(document)
    assert expected in faults(document)[path]


UNDER_LOAD: list[tuple[str, Change, str, str]] = [
    ("host with nodes", lambda d: d["hosts"].pop("h1"), "$.hosts.h1", "still has nodes: shop-"),
    ("nics", lambda d: d["hosts"]["h1"]["attachments"].pop(), "$.hosts.h1.attachments", "which nodes use"),
    ("fabric mac", lambda d: d["fabric"].update(mac="02:fa:00:00:00:02"), "$.fabric.mac", "02:fa:00:00:00:01"),
    ("gateway", lambda d: d["fabric"].update(gateway="169.254.1.2"), "$.fabric.gateway", "169.254.1.1"),
    ("mtu", lambda d: d["fabric"].update(mtu=9000), "$.fabric.mtu", "1500"),
    ("transit", lambda d: d["fabric"].update(transitVlan=120), "$.fabric.transitVlan", "shop/app"),
    ("border", lambda d: d["fabric"].update(borders={}), "$.fabric.borders.edge", "shop/lb"),
    (
        "prefix",
        lambda d: d["fabric"]["borders"]["edge"].update(
            prefix="172.16.0.0/16", gateway="172.16.0.1", peer={"address": "172.16.0.2", "mac": "02:cc:00:00:00:01"}
        ),
        "$.fabric.borders.edge.prefix",
        "network shop/",
    ),
    ("cluster", lambda d: d.update(cluster="other"), "$.cluster", "lab"),
    ("gateway6", lambda d: d["fabric"].update(gateway6="fe80::2"), "$.fabric.gateway6", "fe80::1"),
    ("vlans", owned((110, 120), (4000, 4000)), "$.fabric.owned.vlans", "VLAN 130 of network shop/db"),
    ("border vlan", edge(vlan=130), "$.fabric.borders.edge.vlan", "shop/db"),
    ("accepts", edge(accepts=[]), "$.fabric.borders.edge.accepts", "tcp 80 too, which network shop/lb"),
    (
        "tags",
        lambda d: d["hosts"]["h1"]["attachments"][1].update(tagged=True),
        "$.hosts.h1.attachments[1].tagged",
        "nodes that run",
    ),
    (
        "another switch",
        lambda d: d["fabric"]["switches"]["sw2"].update(datapathId="00000000000000aa"),
        "$.fabric.switches.sw2.datapathId",
        "odysseyctl switch maintenance sw2 on",
    ),
    (
        "another kind of switch",
        lambda d: d["fabric"]["switches"]["sw2"].update(profile="alliedtelesis", reflects="yes"),
        "$.fabric.switches.sw2.profile",
        "openvswitch",
    ),
    (
        "prefix6",
        edge(prefix6="fd00::/48", gateway6="fd00::1", peer=peer6("fd00::2")),
        "$.fabric.borders.edge.prefix6",
        "network shop/app",
    ),
    (
        "a switch without IPv6",
        lambda d: d["fabric"]["switches"].update(
            sw3={"datapathId": "0000000000000003", "profile": "nexus9000", "maxEntries": 100}
        ),
        "$.fabric.switches.sw3.profile",
        "network shop/app has a subnet6",
    ),
]


@pytest.mark.parametrize(
    ("change", "path", "expected"), [row[1:] for row in UNDER_LOAD], ids=[row[0] for row in UNDER_LOAD]
)
def test_what_runs_is_protected(change: Callable[[Json], Any], path: str, expected: str) -> None:
    document = inventory()
    change(document)
    assert expected in faults(document, running())[path]


def test_what_no_node_was_started_with_may_change() -> None:
    document = inventory(4)
    document["fabric"]["transitVlan"] = 4001
    document["hosts"]["h1"]["attachments"][0]["port"] = 50
    document["hosts"]["h1"]["labels"] = {}
    assert faults(document, running()) == {}


def test_the_next_hop_lies_in_no_network() -> None:
    document = inventory()
    document["fabric"]["gateway6"] = "fd00:0:0:20::9"
    found = inventory_faults(Inventory.parse(document), running())
    assert {fault.path for fault in found} == {"$.fabric.gateway6"}
    assert any("outside fd00:0:0:20::/64 of network shop/app" in fault.message for fault in found)


def test_a_switch_may_be_replaced_where_nothing_runs() -> None:
    document = inventory()
    document["fabric"]["switches"]["sw2"]["datapathId"] = "00000000000000aa"
    assert faults(document, snapshot()) == {}


def test_a_switch_must_go_on_to_send_frames_back_under_nodes_that_share_a_host() -> None:
    world = World(snapshot(hosts=1))
    world.wish(ApplyPlatform(shop()))
    document = inventory(1)
    document["fabric"]["switches"]["sw2"]["reflects"] = "no"
    assert "sw2 is not known to send frames" in faults(document, world.state)["$.hosts.h1"]


def test_what_is_allowed_beside_ipv6_and_owned_ranges() -> None:
    document = inventory()
    owned((100, 199), (4000, 4000))(document)
    ports((1, 48), (101, 101), (201, 201))(document)
    edge(**V6, peer=peer6("2001:db8:f::2"), vlan=150, accepts=[{"protocol": "tcp", "port": 80}])(document)
    document["hosts"]["h4"] = {
        "capacity": {"cpus": 1, "memoryMiB": 64, "nodes": 1},
        "attachments": [{"nic": "eno1", "switch": "sw1", "port": 4, "tagged": True}],
    }
    assert faults(document, running()) == {}
