# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest

import schemas
from agents.spec import Committed, Health, NodeSpec, OnChange, Operation, Volume
from tests.unit.agents.documents import document, neighbours, operation, spec


@pytest.mark.parametrize("name", ["node-spec", "agent-operation", "agent-observation"])
def test_the_examples_of_the_schemas_are_valid(name: str) -> None:
    for example in schemas.document(name)["examples"]:
        assert schemas.validate(name, example) == ()


def test_a_small_document_gets_defaults() -> None:
    parsed = spec()
    assert parsed.health is None and parsed.on_change is None and parsed.volume is None
    assert parsed.attachment.mtu == 1500
    assert parsed.neighbours == {"node": "shop-app-3", "revision": 0, "dependencies": {}}


def test_the_attachment_is_read() -> None:
    plain = spec().attachment
    assert (plain.address6, plain.service_addresses, plain.tagged, plain.link) == (None, (), frozenset(), "up")
    full = spec(
        address6="FD00:20:0::3",
        serviceAddresses=["172.16.20.1", "fd00:0020::0001"],
        vlan=120,
        taggedNics=["eth1"],
        link="admitted",
    ).attachment
    assert (full.address6, full.gateway6) == ("fd00:20::3", "fe80::1")
    assert full.service_addresses == ("172.16.20.1", "fd00:20::1")
    assert (full.vlan, full.tagged) == (120, frozenset({"eth1"}))
    assert [full.stands_up(phase) for phase in ("admitted", "standby", None)] == [True, False, False]
    assert all(plain.stands_up(phase) for phase in ("admitted", "standby", None))


def test_what_to_avoid_is_read_and_silence_is_not_an_empty_list() -> None:
    assert Operation.parse(operation(prefer={"avoid": ["eth1"]})).avoid == ("eth1",)
    assert Operation.parse(operation(prefer={"avoid": []})).avoid == ()
    assert Operation.parse(operation()).avoid is None


def test_neighbours_of_both_families_and_their_service_are_passed_on() -> None:
    told = neighbours("shop-lb-1", 3)
    told["dependencies"] = {
        "app": {
            "ports": [{"protocol": "tcp", "port": 8080}],
            "service": {"address": "172.16.20.1", "address6": "fd00:20::1"},
            "nodes": [{"node": "shop-app-3", "address": "172.16.20.3", "address6": "fd00:20::3"}],
        }
    }
    read = Operation.parse(operation(neighbours={"files": {"shop-lb-1": told}}))
    assert spec("shop-lb-1").with_neighbours(read.neighbours["shop-lb-1"]).neighbours == told


def test_a_full_document_is_read() -> None:
    parsed = NodeSpec.parse(schemas.document("node-spec")["examples"][0])
    assert parsed.health == Health("http", 8080, "/healthz", (), 0.2, 1.0, 20.0)
    assert parsed.secrets == {"db-password": "/run/secrets/db-password"}
    other = spec(volume={"name": "shop-db-1-data", "path": "/data"}, onChange={"command": ["x"], "timeout": 2})
    assert other.volume == Volume("shop-db-1-data", "/data")
    assert other.on_change == OnChange(("x",), 2.0)


@pytest.mark.parametrize(
    ("field", "value", "path"),
    [
        ("node", "Shop", "$.prepare.start[0].node"),
        ("node", "a/../../etc", "$.prepare.start[0].node"),
        ("address", "172.16.20.300", "$.prepare.start[0].address"),
        ("mac", "02:00", "$.prepare.start[0].mac"),
        ("image", "-v", "$.prepare.start[0].image"),
        ("nics", ["eth0;rm"], "$.prepare.start[0].nics[0]"),
        ("nics", [], "$.prepare.start[0].nics"),
        ("address6", "172.16.20.3", "$.prepare.start[0].address6"),
        ("vlan", 4095, "$.prepare.start[0].vlan"),
        ("taggedNics", ["eth0 up"], "$.prepare.start[0].taggedNics[0]"),
        ("link", "down", "$.prepare.start[0].link"),
        ("secrets", {"../shadow": "/run/x"}, "$.prepare.start[0].secrets.../shadow"),
        ("secrets", {"x": "/run/../etc/passwd"}, "$.prepare.start[0].secrets.x"),
        ("environment", {"A=B": "x"}, "$.prepare.start[0].environment"),
        ("health", {"type": "http"}, "$.prepare.start[0].health.port"),
        ("health", {"type": "http", "port": 80, "path": "/a b"}, "$.prepare.start[0].health.path"),
        ("resources", {"cpus": 0}, "$.prepare.start[0].resources.cpus"),
        ("password", "x", "$.prepare.start[0].password"),
    ],
)
def test_what_is_wrong_in_an_operation_is_named(field: str, value: Any, path: str) -> None:
    with pytest.raises(schemas.SchemaError) as caught:
        Operation.parse(operation([document(**{field: value})]))
    (fault,) = caught.value.faults
    assert fault.path == path or fault.path.startswith(path) or "../shadow" in fault.path


def test_an_operation_names_phases() -> None:
    parsed = Operation.parse(operation([document()], admit={"nodes": ["shop-app-3"], "standby": ["shop-app-4"]}))
    assert parsed.admit == {"shop-app-3": "admitted", "shop-app-4": "standby"}
    assert parsed.started == {"shop-app-3"}


def test_a_committed_node_survives_its_document() -> None:
    node = Committed(spec().with_neighbours(neighbours("shop-app-3", 9)), "standby", "t1")
    again = Committed.parse(json.loads(json.dumps(node.to_document())))
    assert again == node and again.spec.neighbours["revision"] == 9
