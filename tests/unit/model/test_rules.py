# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults of meaning in a platform document: each with its path, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from odyssey.model import Platform, Snapshot
from odyssey.model.rules import change_faults, platform_faults
from tests.unit.planning.worlds import Json, inventory, network, opening, platform, shop, snapshot


def faults(document: Json, state: Snapshot | None = None) -> dict[str, str]:
    """Path and expectation of each fault."""
    found = platform_faults(Platform.parse(document), state or snapshot())
    return {fault.path: fault.expected for fault in found}


def with_platforms(*documents: Json) -> Snapshot:
    """A snapshot in which these platforms exist."""
    stored: Json = {"inventory": inventory()}
    number = 0
    for document in documents:
        stored[f"platform/{document['platform']}"] = document
        for name in document["networks"]:
            number += 1
            stored[f"network/{document['platform']}/{name}"] = {"id": number, "count": 1}
    return snapshot(stored)


def test_the_example_has_no_fault() -> None:
    assert faults(shop()) == {}


def test_without_an_inventory_nothing_can_be_placed() -> None:
    assert "setInventory" in faults(shop(), snapshot({}))["$"]


Change = Callable[[Json], Any]


def setting(name: str, **values: Any) -> Change:
    """A change that sets fields of the network `name`."""
    return lambda networks: networks[name].update(values)


def within(name: str, part: str, **values: Any) -> Change:
    """A change that sets fields in a part of the network `name`."""
    return lambda networks: networks[name][part].update(values)


def at(address: str, **more: Any) -> Json:
    """A service address."""
    return {"address": address, **more}


def served(name: str, address: str, **more: Any) -> Change:
    """A change that gives the network `name` a service address."""
    return setting(name, service=at(address, **more))


SINGLE: list[tuple[str, Change, str, str]] = [
    ("min above max", within("lb", "scale", min=3), "lb.scale.min", "scale.max, which is 2"),
    ("count above max", within("lb", "scale", count=3), "lb.scale.count", "from 1 to 2"),
    ("count below min", within("app", "scale", count=0), "app.scale.count", "from 1 to 8"),
    ("pool too small", setting("app", subnet="172.16.20.0/29"), "app.subnet", "it has 5 usable"),
    ("unknown network", setting("lb", dependsOn={"ap": opening(1)}), "lb.dependsOn.ap", "app, db"),
    ("itself", setting("db", dependsOn={"db": opening(1)}), "db.dependsOn.db", '"peers"'),
    ("unknown border", setting("lb", exposedTo={"wan": opening(1)}), "lb.exposedTo.wan", "edge"),
    ("same vlan", setting("db", vlan=110), "lb.vlan", "network db"),
    ("transit vlan", setting("db", vlan=4000), "db.vlan", "transit"),
    ("overlap", setting("db", subnet="172.16.0.0/16"), "lb.subnet", "172.16.0.0/16 of network db"),
    ("border prefix", setting("db", subnet="203.0.113.0/25"), "db.subnet", "border edge"),
    ("link-local", setting("db", subnet="169.254.1.0/24"), "db.subnet", "169.254."),
    ("multicast", setting("db", subnet="224.0.0.0/24"), "db.subnet", "224.0.0.0/4"),
    ("label", setting("db", placement={"labels": {"zone": "z9"}}), "db.placement.labels", "zone=z1"),
    ("too large", within("db", "resources", cpus=9), "db.resources.cpus", "at most 8"),
    ("memory", within("db", "resources", memoryMiB=9000), "db.resources.memoryMiB", "8192"),
    ("mounts", setting("db", stateful={"volume": "/run/secrets"}), "db.secrets.db-password", "apart from /run/secrets"),
    ("neighbours", setting("db", stateful={"volume": "/run"}), "db.stateful.volume", "/run/odyssey"),
    ("small subnet6", setting("app", subnet="10.0.0.0/8", subnet6="fd00::/112"), "app.subnet6", "of 16777216"),
    ("link-local6", setting("app", subnet6="fe80:0:0:1::/64"), "app.subnet6", "fe80::/10"),
    ("multicast6", setting("app", subnet6="ff00::/64"), "app.subnet6", "ff00::/8"),
    ("service outside", served("app", "172.16.21.1"), "app.service.address", "172.16.20.0/24"),
    ("service network", served("app", "172.16.20.0"), "app.service.address", "another address than the network"),
    ("service broadcast", served("app", "172.16.20.255"), "app.service.address", "the broadcast address"),
    ("service6 alone", served("app", "172.16.20.1", address6="fd00::1"), "app.service.address6", "app.subnet6 too"),
    ("few slots", served("app", "172.16.20.1", slots=4), "app.service.slots", "scale.max, which is 8"),
    (
        "no room beside the service",
        lambda d: d["app"].update(subnet="172.16.20.0/28", scale={"min": 1, "max": 13}, service=at("172.16.20.9")),
        "app.subnet",
        "it has 12 usable",
    ),
    (
        "service6 outside",
        lambda d: d["app"].update(subnet6="fd00::/64", service=at("172.16.20.1", address6="fd01::1")),
        "app.service.address6",
        "fd00::/64",
    ),
    (
        "service6 of routers",
        lambda d: d["app"].update(subnet6="fd00::/64", service=at("172.16.20.1", address6="fd00::")),
        "app.service.address6",
        "RFC 4291",
    ),
    (
        "overlap6",
        lambda d: (d["db"].update(subnet6="fd00::/64"), d["app"].update(subnet6="fd00::/80")),
        "db.subnet6",
        "fd00::/80 of network app",
    ),
]


@pytest.mark.parametrize(("change", "path", "expected"), [row[1:] for row in SINGLE], ids=[row[0] for row in SINGLE])
def test_a_fault_names_its_path_and_what_is_allowed(change: Change, path: str, expected: str) -> None:
    document = shop()
    change(document["networks"])
    assert expected in faults(document)[f"$.networks.{path}"]


def test_every_fault_is_told_at_once() -> None:
    document = shop()
    document["networks"]["lb"]["scale"]["min"] = 9
    document["networks"]["app"]["dependsOn"] = {"nowhere": opening(1)}
    document["networks"]["db"]["vlan"] = 4000
    assert set(faults(document)) == {
        "$.networks.lb.scale.min",
        "$.networks.app.dependsOn.nowhere",
        "$.networks.db.vlan",
    }


def test_a_cycle_is_named_in_full() -> None:
    document = shop()
    document["networks"]["db"]["dependsOn"] = {"lb": opening(1)}
    found = platform_faults(Platform.parse(document), snapshot())
    assert [(fault.path, fault.found) for fault in found] == [("$.networks.app.dependsOn.db", "app -> db -> lb -> app")]


def test_two_cycles_are_both_named() -> None:
    edges = {"a": "b", "b": "a", "c": "d", "d": "c"}
    document = platform({n: network(i, dependsOn={to: opening(1)}) for i, (n, to) in enumerate(edges.items(), 1)})
    found = {fault.found for fault in platform_faults(Platform.parse(document), snapshot())}
    assert found == {"a -> b -> a", "c -> d -> c"}


def test_other_platforms_are_respected() -> None:
    state = with_platforms(platform({"web": network(1)}, "blog"))
    found = faults(platform({"app": network(1)}), state)
    assert found["$.networks.app.subnet"] == "a subnet apart from 10.1.0.0/24 of network blog/web"
    assert found["$.networks.app.vlan"] == "a VLAN apart from that of network blog/web"


def test_a_platform_does_not_clash_with_itself() -> None:
    document = platform({"web": network(1)})
    assert faults(document, with_platforms(document)) == {}


def test_node_names_stay_unique_in_the_cluster() -> None:
    state = with_platforms(platform({"b-c": network(1)}, "a"))
    found = faults(platform({"c": network(2)}, "a-b"), state)
    assert "nodes would be called like those of a/b-c" in found["$.networks.c"]


def test_node_names_fit_a_host_name() -> None:
    found = faults(platform({"n" * 31: network(1)}, "p" * 31))
    assert "at most 56 characters" in found[f"$.networks.{'n' * 31}"]


def test_a_subnet_is_free_only_after_its_network_is_gone() -> None:
    state = with_platforms(platform({"old": network(1)}))
    found = faults(platform({"new": network(1)}), state)
    assert "must be removed by an earlier apply" in found["$.networks.new.subnet"]
    assert "must be removed by an earlier apply" in found["$.networks.new.vlan"]


FROZEN: list[tuple[str, Any]] = [
    ("image", "shop-db:2"),
    ("subnet", "172.16.31.0/24"),
    ("vlan", 131),
    ("subnet6", "fd00:0:0:30::/64"),
    ("service", {"address": "172.16.30.1"}),
    ("stateful", {"volume": "/elsewhere"}),
    ("command", ["/bin/other"]),
    ("environment", {"A": "b"}),
    ("secrets", {}),
    ("resources", {"cpus": 2}),
]


def _running(nodes: int) -> Snapshot:
    stored: Json = with_platforms(shop()).documents()
    for ordinal in range(1, nodes + 1):
        stored[f"node/shop-db-{ordinal}"] = {
            "node": f"shop-db-{ordinal}", "platform": "shop", "network": "db", "ordinal": ordinal, "host": "h1",
            "address": f"172.16.30.{ordinal + 1}", "mac": "02:00:ac:10:1e:02", "phase": "admitted",
            "image": "shop-db:1", "imageId": None, "tx": "t",
        }  # fmt: skip
    return snapshot(stored)


@pytest.mark.parametrize(("field", "value"), FROZEN, ids=[field for field, _ in FROZEN])
def test_what_would_replace_nodes_is_refused(field: str, value: Any) -> None:
    document = shop()
    document["networks"]["db"][field] = value
    found = change_faults(Platform.parse(document), _running(1))
    assert [fault.path for fault in found] == [f"$.networks.db.{field}"]
    assert "rolling updates are not available yet" in found[0].message


@pytest.mark.parametrize(("field", "value"), FROZEN, ids=[field for field, _ in FROZEN])
def test_a_network_without_nodes_may_change_in_everything(field: str, value: Any) -> None:
    document = shop()
    document["networks"]["db"][field] = value
    assert change_faults(Platform.parse(document), _running(0)) == ()


def test_what_needs_no_new_node_may_change() -> None:
    document = shop()
    document["networks"]["db"] |= {
        "scale": {"min": 0, "max": 3},
        "health": {"type": "tcp", "port": 5433},
        "onChange": {"command": ["/x"]},
        "placement": {"labels": {"zone": "z1"}},
        "drain": {"timeout": 1},
        "peers": opening(1),
        "exposedTo": {"edge": opening(5432)},
    }
    assert change_faults(Platform.parse(document), _running(1)) == ()


def owning(**fabric: Any) -> Snapshot:
    """A snapshot whose fabric has these fields; those of `edge` go to the border."""
    document = inventory()
    document["fabric"]["borders"]["edge"] |= fabric.pop("edge", {})
    document["fabric"] |= fabric
    return snapshot({"inventory": document})


def test_a_vlan_of_others_is_refused() -> None:
    state = owning(owned={"vlans": [{"from": 110, "to": 120}, {"from": 4000, "to": 4000}]})
    assert faults(shop(), state) == {
        "$.networks.db.vlan": "a VLAN that Odyssey owns: 110 to 120, 4000 ($.fabric.owned.vlans of the inventory)"
    }


def test_the_vlan_of_a_border_is_not_that_of_a_network() -> None:
    assert "border edge" in faults(shop(), owning(edge={"vlan": 130}))["$.networks.db.vlan"]


def test_only_what_a_border_accepts_is_exposed() -> None:
    state = owning(edge={"accepts": [{"protocol": "tcp", "port": 443}]})
    found = platform_faults(Platform.parse(shop()), state)
    assert [(item.path, item.found, item.expected) for item in found] == [
        ("$.networks.lb.exposedTo.edge", "tcp 80", "only what the border accepts: tcp 443")
    ]
    assert faults(shop(), owning(edge={"accepts": [{"protocol": "tcp", "port": 80}]})) == {}
    assert "nothing" in faults(shop(), owning(edge={"accepts": []}))["$.networks.lb.exposedTo.edge"]


def test_ipv6_stays_apart_from_the_border_and_the_gateway() -> None:
    state = owning(edge={"prefix6": "fd00::/48", "gateway6": "fd00::1"}, gateway6="fd01::1")
    document = shop()
    document["networks"]["app"]["subnet6"] = "fd00:0:0:20::/64"
    document["networks"]["db"]["subnet6"] = "fd01::/64"
    found = faults(document, state)
    assert "fd00::/48 of border edge" in found["$.networks.app.subnet6"]
    assert "the fabric's IPv6 gateway" in found["$.networks.db.subnet6"]


def test_a_switch_that_cannot_have_both_families_refuses_ipv6() -> None:
    document = shop()
    document["networks"]["app"]["subnet6"] = "fd00:0:0:20::/64"
    state = snapshot({"inventory": inventory(profile="nexus9000")})
    assert "nexus9000" in faults(document, state)["$.networks.app.subnet6"]


def test_a_service_address_is_no_nodes() -> None:
    document = shop()
    document["networks"]["db"]["service"] = {"address": "172.16.30.2"}
    assert "shop-db-1 has this one" in faults(document, _running(1))["$.networks.db.service.address"]


def test_the_number_of_slots_may_change_under_nodes() -> None:
    document = shop()
    document["networks"]["db"]["service"] = {"address": "172.16.30.1", "slots": 8}
    stored = _running(1).documents()
    wider = snapshot({**stored, "platform/shop": document})
    document = shop()
    document["networks"]["db"]["service"] = {"address": "172.16.30.1", "slots": 16}
    assert change_faults(Platform.parse(document), wider) == ()


def test_nodes_on_one_host_cannot_begin_to_talk_where_the_switch_keeps_their_frames() -> None:
    stored: Json = {**_running(2).documents(), "inventory": inventory(reflects="no")}
    document = shop()
    document["networks"]["db"]["peers"] = opening(1)
    (found,) = change_faults(Platform.parse(document), snapshot(stored))
    assert found.path == "$.networks.db.peers" and "sw1, sw2 are not known to send frames" in found.message
    assert found.found == "shop-db-1 and shop-db-2 on host h1"
    stored["inventory"] = inventory(profile="alliedtelesis", reflects="yes")
    assert change_faults(Platform.parse(document), snapshot(stored)) == ()
