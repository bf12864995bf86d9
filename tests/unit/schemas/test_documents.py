# SPDX-License-Identifier: AGPL-3.0-or-later
"""The schema documents of platform, inventory, service calls and events: usable by an editor, strict, and exact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest

import schemas
from tests.unit.planning.worlds import ROOT, Json, inventory, network, opening, platform, shop

OURS = ("platform", "inventory", "service-call", "event", "netconf-operation")


def subschemas(node: Any, path: str = "#") -> Iterator[tuple[str, Json]]:
    """Every schema of a property, of a definition, or of the root."""
    if not isinstance(node, dict):
        return
    yield path, node
    for part in ("properties", "$defs"):
        for name, inner in node.get(part, {}).items():
            yield from subschemas(inner, f"{path}/{part}/{name}")
    for part in ("items", "additionalProperties"):
        yield from subschemas(node.get(part), f"{path}/{part}")
    for number, inner in enumerate(node.get("oneOf", [])):
        yield from subschemas(inner, f"{path}/oneOf/{number}")


def resolved(document: Json, node: Json) -> Json:
    """The schema with what its reference says beneath it."""
    reference = node.get("$ref")
    if reference is None:
        return node
    where, _, pointer = reference.partition("#")
    if where:
        document = dict(schemas.document(where.removesuffix(".schema.json")))
    target: Any = document
    for token in pointer.split("/")[1:]:
        target = target[token]
    return {**resolved(document, target), **node}


@pytest.mark.parametrize("name", OURS)
def test_a_schema_is_valid_itself(name: str) -> None:
    jsonschema_rs.meta.validate(dict(schemas.document(name)))


@pytest.mark.parametrize("name", OURS)
def test_every_property_and_definition_is_described_with_an_example(name: str) -> None:
    document = dict(schemas.document(name))
    for path, node in subschemas(document):
        if "/properties/" not in path and "/$defs/" not in path:
            continue
        last = path.split("/")[-2]
        if last in ("properties", "$defs"):
            full = resolved(document, node)
            assert full.get("description"), f"{name}{path} has no description"
            assert full.get("examples"), f"{name}{path} has no example"


@pytest.mark.parametrize("name", OURS)
def test_every_object_of_ours_is_closed(name: str) -> None:
    for path, node in subschemas(dict(schemas.document(name))):
        if node.get("type") == "object" and "properties" in node and not (name == "event" and "/$defs/" in path):
            assert node.get("additionalProperties") is False, f"{name}{path} lets unknown fields through"


@pytest.mark.parametrize("name", OURS)
def test_every_example_fits(name: str) -> None:
    document = dict(schemas.document(name))
    for example in document["examples"]:
        assert schemas.validate(name, example) == ()
    for path, node in subschemas(document):
        # A query keeps the part apart from the whole, and relative references where they were.
        part = {**node, "$id": document["$id"] + "?part", "$defs": document["$defs"]}
        validator = jsonschema_rs.Draft202012Validator(part, formats=FORMATS, retriever=retrieve)
        for example in node.get("examples", []):
            assert validator.is_valid(example), f"{name}{path}: {example}"


FORMATS = dict.fromkeys(("mac", "ipv4-network", "ipv6-network"), lambda _: True)


def retrieve(uri: str) -> Json:
    """The schema document with this identity."""
    return dict(schemas.document(uri.rsplit("/", 1)[1].removesuffix(".schema.json")))


def test_the_examples_of_the_project_fit() -> None:
    platforms = [("platform", f"{name}/platform.json") for name in ("shop", "balanced")]
    for name, file in (*platforms, ("inventory", "lab/inventory.json")):
        document = json.loads((ROOT / "examples" / file).read_text(encoding="utf-8"))
        assert schemas.validate(name, document) == ()
        assert schemas.document(name)["$id"] == document["$schema"]


def test_the_example_of_the_manual_fits() -> None:
    text = (ROOT / "docs/platform.md").read_text(encoding="utf-8")
    document = json.loads(text.split("```json\n")[1].split("```")[0])
    assert schemas.validate("platform", document) == ()


WRONG: list[tuple[str, Json, str]] = [
    ("host bits", {"subnet": "10.0.0.1/24"}, "subnet"),
    ("too small", {"subnet": "10.0.0.0/30"}, "subnet"),
    ("no prefix", {"subnet": "10.0.0.0"}, "subnet"),
    ("ipv6", {"subnet": "fd00::/64"}, "subnet"),
    ("vlan 1", {"vlan": 1}, "vlan"),
    ("vlan 4095", {"vlan": 4095}, "vlan"),
    ("image", {"image": "Shop App"}, "image"),
    ("scale", {"scale": {"min": 0}}, "scale.max"),
    ("standby", {"scale": {"min": 0, "max": 1, "standby": -1}}, "scale.standby"),
    ("protocol", {"dependsOn": {"db": {"ports": [{"protocol": "sctp", "port": 1}]}}}, "dependsOn.db.ports[0].protocol"),
    ("port 0", {"dependsOn": {"db": opening(0)}}, "dependsOn.db.ports[0].port"),
    ("no port", {"dependsOn": {"db": opening()}}, "dependsOn.db.ports"),
    ("port twice", {"dependsOn": {"db": opening(1, 1)}}, "dependsOn.db.ports"),
    ("health", {"health": {"type": "http", "port": 80}}, "health.path"),
    ("health field", {"health": {"type": "tcp", "port": 80, "path": "/"}}, "health.path"),
    ("health kind", {"health": {"type": "icmp"}}, "health.type"),
    ("relative", {"stateful": {"volume": "data"}}, "stateful.volume"),
    ("dots", {"secrets": {"a": "/run/../etc/passwd"}}, "secrets.a"),
    ("variable", {"environment": {"A-B": "1"}}, "environment.A-B"),
    ("empty command", {"command": []}, "command"),
    ("unknown", {"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("change", "path"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_network_is_refused_by_path(change: Json, path: str) -> None:
    faults = schemas.validate("platform", platform({"app": {**network(1), **change}}))
    assert [fault.path for fault in faults] == [f"$.networks.app.{path}"]
    assert all(fault.expected and fault.message for fault in faults)


@pytest.mark.parametrize("name", ["", "App", "1app", "a_b", "a" * 32, "app\n"])
def test_names_are_plain(name: str) -> None:
    assert schemas.validate("platform", platform({name: network(1)}))
    assert schemas.validate("platform", platform({"app": network(1)}, name))


@pytest.mark.parametrize(
    "image",
    ["shop-app:1", "team/shop:1.0_x", "r.example.org:5000/a/b:c", "a@sha256:" + "0" * 64, "localhost/a", "a__b"],
)
def test_image_references(image: str) -> None:
    assert schemas.validate("platform", platform({"app": network(1, image=image)})) == ()


def test_every_fault_of_a_document_is_told_at_once() -> None:
    document = shop()
    document["networks"]["lb"]["vlan"] = 0
    document["networks"]["app"]["image"] = ""
    del document["networks"]["db"]["health"]
    document["extra"] = 1
    assert {fault.path for fault in schemas.validate("platform", document)} == {
        "$.networks.lb.vlan", "$.networks.app.image", "$.networks.db.health", "$.extra",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cluster", "Lab"),
        ("fabric.mac", "02:FA:00:00:00:01"),
        ("fabric.gateway", "169.254.1"),
        ("fabric.mtu", 500),
        ("fabric.transitVlan", 5000),
        ("fabric.switches.sw1.datapathId", "1"),
        ("fabric.switches.sw1.profile", "juniper"),
        ("fabric.borders.edge.prefix", "203.0.113.1/24"),
        ("fabric.borders.edge.peer.mac", "02-cc"),
        ("hosts.h1.capacity.cpus", 0),
        ("hosts.h1.attachments", []),
    ],
)
def test_a_wrong_inventory_is_refused_by_path(path: str, value: Any) -> None:
    document = deepcopy(inventory())
    at: Any = document
    *before, last = path.split(".")
    for key in before:
        at = at[key]
    at[last] = value
    assert [fault.path for fault in schemas.validate("inventory", document)] == [f"$.{path}"]


NODE_EVENT = {"node": "shop-app-3", "host": "h1", "address": "172.16.20.3", "network": "app", "platform": "shop"}


def test_known_events_have_their_data_and_others_are_free() -> None:
    assert schemas.validate("event", {"topic": "node.admitted", "data": NODE_EVENT}) == ()
    assert schemas.validate("event", {"topic": "switch.drift", "data": {"anything": 1}}) == ()
    faults = schemas.validate("event", {"topic": "node.admitted", "data": {"node": "shop-app-3"}})
    assert {fault.path for fault in faults} == {f"$.data.{name}" for name in NODE_EVENT if name != "node"}
    assert schemas.validate("event", {"topic": "admitted", "data": {}})[0].path == "$.topic"
