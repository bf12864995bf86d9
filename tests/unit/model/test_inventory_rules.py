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
    world.wish(ApplyPlatform(shop()))
    return world.state


def test_the_lab_has_no_fault() -> None:
    assert faults(inventory()) == {}
    assert faults(inventory(), running()) == {}


SINGLE: list[tuple[str, Callable[[Json], Any], str, str]] = [
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
]


@pytest.mark.parametrize(("change", "path", "expected"), [row[1:] for row in SINGLE], ids=[row[0] for row in SINGLE])
def test_a_fault_names_its_path_and_what_is_allowed(change: Callable[[Json], Any], path: str, expected: str) -> None:
    document = inventory()
    change(document)
    assert expected in faults(document)[path]


UNDER_LOAD: list[tuple[str, Callable[[Json], Any], str, str]] = [
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
