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
