# SPDX-License-Identifier: AGPL-3.0-or-later
"""The schema loader: every fault at once, with path, what was found and what is allowed, in words for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import schemas
from schemas import Fault, SchemaError, loader

NAME = {"type": "string", "pattern": "^[a-z]+$", "x-expected": "a lower-case name"}
HEALTH = {
    "oneOf": [
        {
            "type": "object",
            "required": ["port"],
            "properties": {"type": {"const": "http"}, "port": {"type": "integer"}},
            "additionalProperties": False,
        },
        {"type": "object", "properties": {"type": {"const": "tcp"}}},
        {"type": "null"},
    ]
}
THING = {
    "type": "object",
    "required": ["scale"],
    "additionalProperties": False,
    "properties": {
        "scale": {"description": "how many", "type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2},
        "name": {"$ref": "shared.schema.json#/$defs/name"},
        "names": {"propertyNames": {"$ref": "shared.schema.json#/$defs/name"}, "minProperties": 1, "maxProperties": 2},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "uniqueItems": True, "items": {"type": "string"}},
        "subnet": {"type": "string", "format": "ipv4-network"},
        "mac": {"type": "string", "format": "mac"},
        "kind": {"enum": ["a", 1, None]},
        "plain": {"type": ["string", "null"], "pattern": "^x", "minLength": 2, "maxLength": 3},
        "ratio": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "health": HEALTH,
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(loader, "_FOLDER", tmp_path)
    for clear in (loader.document, loader._validator):
        clear.cache_clear()
    for name, document in (("thing", THING), ("shared", {"$defs": {"name": NAME}})):
        put(tmp_path, name, document)
    yield tmp_path
    for clear in (loader.document, loader._validator):
        clear.cache_clear()


def put(folder: Path, name: str, document: dict[str, Any], identifier: str | None = None) -> None:
    identifier = identifier or f"{loader.BASE_URI}{name}.schema.json"
    (folder / f"{name}.schema.json").write_text(json.dumps({"$id": identifier, **document}))


def messages(value: Any) -> list[str]:
    return [fault.message for fault in schemas.validate("thing", value)]


def test_a_valid_document_has_no_fault() -> None:
    good = {
        "scale": 2, "name": "abc", "names": {"x": 1}, "list": ["a"], "subnet": "172.16.0.0/24",
        "mac": "02:00:00:00:00:01", "kind": None, "plain": "xy", "ratio": 0.5, "health": {"type": "http", "port": 80},
    }  # fmt: skip
    assert schemas.validate("thing", good) == ()
    schemas.check("thing", good)


def test_every_fault_is_told_at_once() -> None:
    value = {"nme": "x", "name": "A", "kind": 2, "mac": "02", "list": [1, 1, 1]}
    with pytest.raises(SchemaError) as caught:
        schemas.check("thing", value)
    lists = ["$.list", "$.list[0]", "$.list[1]", "$.list[2]"]
    expected = ["$.kind", *lists, "$.mac", "$.name", "$.nme", "$.scale"]
    assert list(dict.fromkeys(fault.path for fault in caught.value.faults)) == expected
    assert str(caught.value).startswith("not a valid thing document:\n  $.kind: found 2")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "$: found [], expected an object"),
        ({}, "$.scale is missing; 'scale' is required: how many"),
        ({"scale": 0}, "$.scale: found 0, expected at least 1"),
        ({"scale": 10}, "$.scale: found 10, expected at most 9"),
        ({"scale": 3}, "$.scale: found 3, expected a multiple of 2"),
        ({"scale": "2"}, '$.scale: found "2", expected a whole number'),
        ({"scale": 2, "name": "A"}, '$.name: found "A", expected a lower-case name'),
        ({"scale": 2, "names": {"A b": 1}}, '$.names["A b"]: the name is wrong; expected a lower-case name'),
        ({"scale": 2, "names": {}}, "$.names: found {}, expected at least 1 field"),
        ({"scale": 2, "list": ["a", "b", "c"]}, '$.list: found ["a", "b", "c"], expected at most 2 items'),
        ({"scale": 2, "list": ["a", "a"]}, '$.list: found ["a", "a"], expected no item twice'),
        ({"scale": 2, "list": []}, "$.list: found [], expected at least 1 item"),
        ({"scale": 2, "subnet": "172.16.0.1/24"}, '$.subnet: found "172.16.0.1/24", expected a valid ipv4-network'),
        ({"scale": 2, "subnet": "172.16.0.0"}, '$.subnet: found "172.16.0.0", expected a valid ipv4-network'),
        ({"scale": 2, "mac": "02:00"}, '$.mac: found "02:00", expected a valid mac'),
        ({"scale": 2, "kind": "b"}, '$.kind: found "b", expected one of "a", 1, null'),
        ({"scale": 2, "plain": 1}, "$.plain: found 1, expected a text or null"),
        ({"scale": 2, "plain": "yy"}, '$.plain: found "yy", expected a text that matches ^x'),
        ({"scale": 2, "plain": "x"}, '$.plain: found "x", expected at least 2 characters'),
        ({"scale": 2, "ratio": 0}, "$.ratio: found 0, expected more than 0"),
        ({"scale": 2, "ratio": 1}, "$.ratio: found 1, expected less than 1"),
    ],
)  # fmt: skip
def test_messages_for_people(value: Any, message: str) -> None:
    assert messages(value) == [message]


def test_an_unknown_field_gets_a_suggestion() -> None:
    (fault,) = schemas.validate("thing", {"scale": 2, "subnett": "x"})
    assert (fault.path, fault.found) == ("$.subnett", "x")
    assert "did you mean 'subnet'?" in fault.message and "allowed: only health, kind, list" in fault.message


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ({"type": "http", "prt": 1}, ["$.health.port is missing", "$.health.prt: unknown field 'prt'"]),
        ({"type": "http", "port": "a"}, ['$.health.port: found "a", expected a whole number']),
        ({"type": "udp"}, ['$.health.type: found "udp", expected "http" or "tcp"']),
        (7, ["$.health: found 7, expected an object or null"]),
        ({"type": "none"}, ['$.health.type: found "none", expected "http" or "tcp"']),
    ],
)
def test_alternatives_are_told_apart_by_their_tag(health: Any, expected: list[str]) -> None:
    found = messages({"scale": 2, "health": health})
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)


def test_alternatives_without_a_tag_name_the_fields_that_would_do(folder: Path) -> None:
    put(folder, "either", {"oneOf": [{"required": ["result"]}, {"required": ["error"]}]})
    (fault,) = schemas.validate("either", {"x": 1})
    assert fault.expected == "one of the fields result, error"
    (fault,) = schemas.validate("either", {"result": 1, "error": 2})
    assert fault.expected == "exactly one of 2 forms (see the schema)"


def test_long_values_are_cut_in_messages() -> None:
    (message,) = messages({"scale": "x" * 1000})
    assert len(message) < 250 and "…" in message


def test_faults_become_json() -> None:
    fault = Fault("$.a", [1], "a text", "whole")
    assert fault.to_json() == {"path": "$.a", "found": [1], "expected": "a text", "message": "whole"}


def test_paths_quote_what_is_no_plain_name() -> None:
    assert loader.json_path(["networks", "app", 0, 'a"b', "x.y"]) == '$.networks.app[0]["a\\"b"]["x.y"]'


def test_wrong_schema_documents_are_named(folder: Path) -> None:
    assert schemas.names() == ("shared", "thing")
    with pytest.raises(LookupError, match="there are: shared, thing"):
        schemas.document("other")
    (folder / "broken.schema.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        schemas.document("broken")
    put(folder, "strange", {}, "https://example.org/x")
    with pytest.raises(ValueError, match="it must be"):
        schemas.document("strange")


def test_all_documents_of_the_house_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_FOLDER", Path(loader.__file__).parent)
    for clear in (loader.document, loader._validator):
        clear.cache_clear()
    for name in schemas.names():
        document = schemas.document(name)
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema", name
        assert document.get("description") or document.get("title"), f"{name} says nothing about itself"
        jsonschema_rs.meta.validate(dict(document))
        for example in document.get("examples", ()):
            assert schemas.validate(name, example) == (), name
        schemas.validate(name, {})
