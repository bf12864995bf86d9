# SPDX-License-Identifier: AGPL-3.0-or-later
"""Load the schema documents of this folder and report every fault of a value at once.

A document is a file ``<name>.schema.json`` (JSON Schema 2020-12) whose ``$id`` is ``BASE_URI + file name``, so that
documents may refer to each other by file name: ``{"$ref": "platform.schema.json#/$defs/name"}``.  Formats are
asserted; besides those of the specification there are ``mac``, ``ipv4-network`` and
``ipv6-network``.  A subschema may carry the
annotation ``x-expected``: a human text that replaces the built-in one, for example that of a regular expression.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

BASE_URI = "https://schemas.odyssey.invalid/"
SUFFIX = ".schema.json"
_FOLDER = Path(__file__).parent
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_FOUND_LIMIT = 120  # characters of a found value that a message shows


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a document.

    ``path`` is a JSON path (``$.networks.app.scale.min``), ``found`` the value there (None where it is missing),
    ``expected`` what is allowed, ``message`` the whole sentence for a person.
    """

    path: str
    found: Any
    expected: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the fault as the object that RDMP's ``reply`` carries."""
        return {"path": self.path, "found": self.found, "expected": self.expected, "message": self.message}


class SchemaError(ValueError):
    """A document does not match its schema; ``faults`` holds every fault."""

    def __init__(self, name: str, faults: tuple[Fault, ...]) -> None:
        super().__init__(f"not a valid {name} document:\n" + "\n".join(f"  {fault.message}" for fault in faults))
        self.name = name
        self.faults = faults


def names() -> tuple[str, ...]:
    """Return the names of all schema documents, sorted."""
    return tuple(sorted(file.name.removesuffix(SUFFIX) for file in _FOLDER.glob(f"*{SUFFIX}")))


@functools.cache
def document(name: str) -> Mapping[str, Any]:
    """Return the schema document ``name``; raises LookupError if there is none, ValueError if it is broken."""
    file = _FOLDER / f"{name}{SUFFIX}"
    if name not in names():
        raise LookupError(f"there is no schema document {name!r} in {_FOLDER}; there are: {', '.join(names())}")
    try:
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if loaded.get("$id") != BASE_URI + file.name:
        raise ValueError(f"{file}: $id is {loaded.get('$id')!r}; it must be {BASE_URI + file.name!r}")
    return loaded


def valid(name: str, value: Any) -> bool:
    """Tell whether ``value`` matches the schema ``name``; quick also for a large value full of faults."""
    return _validator(name).is_valid(value)


def validate(name: str, value: Any) -> tuple[Fault, ...]:
    """Check ``value`` (as json.loads gives it) against the schema ``name`` and return every fault, by path."""
    validator = _validator(name)
    if validator.is_valid(value):
        return ()
    faults = {(fault.path, fault.message): fault for fault in _faults(validator.iter_errors(value))}
    return tuple(faults[key] for key in sorted(faults))


def check(name: str, value: Any) -> None:
    """Raise SchemaError with every fault if ``value`` does not match the schema ``name``."""
    if faults := validate(name, value):
        raise SchemaError(name, faults)


def json_path(keys: Iterable[str | int]) -> str:
    """Return the JSON path of a sequence of object keys and array indexes."""
    path = "$"
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif _PLAIN_KEY.fullmatch(key):
            path += f".{key}"
        else:
            path += f"[{json.dumps(key)}]"
    return path


def _is_network(kind: type[ipaddress.IPv4Network | ipaddress.IPv6Network], text: str) -> bool:
    try:
        kind(text, strict=True)
    except ValueError:
        return False
    return "/" in text


def _retrieve(uri: str) -> Any:
    return document(uri.removeprefix(BASE_URI).removesuffix(SUFFIX))


@functools.cache
def _validator(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        dict(document(name)),
        formats={
            "mac": lambda text: bool(_MAC.fullmatch(text)),
            "ipv4-network": functools.partial(_is_network, ipaddress.IPv4Network),
            "ipv6-network": functools.partial(_is_network, ipaddress.IPv6Network),
        },
        validate_formats=True,
        ignore_unknown_formats=False,
        retriever=_retrieve,
    )


def _faults(errors: Iterable[jsonschema_rs.ValidationError]) -> Iterator[Fault]:
    for error in errors:
        yield from _SPECIAL.get(error.kind.name, _general)(error)


def _general(error: jsonschema_rs.ValidationError) -> Iterator[Fault]:
    kind = error.kind
    describe = _EXPECTED.get(kind.name)
    expected = _annotation(error, "x-expected") or (describe(kind.value) if describe else error.message)
    yield _fault(error.instance_path, error.instance, str(expected))


def _required(error: jsonschema_rs.ValidationError) -> Iterator[Fault]:
    name = error.kind.value
    path = json_path([*error.instance_path, name])
    here = _subschema(error).get("properties", {}).get(name, {})
    hint = here.get("description") if isinstance(here, Mapping) else None
    expected = f"{name!r} is required" + (f": {hint}" if hint else "")
    yield Fault(path, None, expected, f"{path} is missing; {expected}")


def _unexpected(error: jsonschema_rs.ValidationError) -> Iterator[Fault]:
    known = sorted(_subschema(error).get("properties", {}))
    allowed = f"only {', '.join(known)}" if known else "no such field"
    for name in error.kind.value:
        path = json_path([*error.instance_path, name])
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        found = error.instance.get(name) if isinstance(error.instance, dict) else None
        yield Fault(path, found, allowed, f"{path}: unknown field {name!r}{hint}; allowed: {allowed}")


def _property_names(error: jsonschema_rs.ValidationError) -> Iterator[Fault]:
    inner: jsonschema_rs.ValidationError = error.kind.value
    for fault in _faults([inner]):
        path = json_path([*error.instance_path, str(inner.instance)])
        yield Fault(path, inner.instance, fault.expected, f"{path}: the name is wrong; expected {fault.expected}")


def _alternatives(error: jsonschema_rs.ValidationError) -> Iterator[Fault]:
    """Report the faults of the one alternative that was meant, or what the alternatives are."""
    branches: list[list[jsonschema_rs.ValidationError]] = error.kind.value
    depth = len(error.instance_path)
    fitting = [branch for branch in branches if not any(_wrong_kind(inner, depth) for inner in branch)]
    meant = [branch for branch in fitting if not any(_wrong_tag(inner, depth) for inner in branch)]
    if len(meant) == 1:
        yield from _faults(meant[0])
        return
    if fitting and not meant:
        tags = [next(inner for inner in branch if _wrong_tag(inner, depth)) for branch in fitting]
        reason, at = tags, tags[0]
    else:
        reason, at = [inner for branch in branches for inner in branch if _wrong_kind(inner, depth)], error
    expected = " or ".join(dict.fromkeys(fault.expected for fault in _faults(reason)))
    fields = ", ".join(str(inner.kind.value) for branch in meant for inner in branch if inner.kind.name == "required")
    fallback = f"one of the fields {fields}" if fields else f"exactly one of {len(branches)} forms (see the schema)"
    yield _fault(at.instance_path, at.instance, str(_annotation(error, "x-expected") or expected or fallback))


def _wrong_kind(error: jsonschema_rs.ValidationError, depth: int) -> bool:
    """Tell whether the value as a whole is of another kind than the alternative."""
    return len(error.instance_path) == depth and error.kind.name in ("type", "const", "enum")


def _wrong_tag(error: jsonschema_rs.ValidationError, depth: int) -> bool:
    """Tell whether a direct field that must be constant in the alternative (such as ``type``) has another value."""
    return len(error.instance_path) == depth + 1 and error.kind.name == "const"


def _fault(keys: Iterable[str | int], found: Any, expected: str) -> Fault:
    path = json_path(keys)
    return Fault(path, found, expected, f"{path}: found {_shown(found)}, expected {expected}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _FOUND_LIMIT else text[: _FOUND_LIMIT - 1] + "…"


def _annotation(error: jsonschema_rs.ValidationError, keyword: str) -> Any:
    return _subschema(error).get(keyword)


def _subschema(error: jsonschema_rs.ValidationError) -> Mapping[str, Any]:
    """Return the subschema whose keyword failed."""
    uri, _, pointer = (error.absolute_keyword_location or "").partition("#")
    if not uri.startswith(BASE_URI):
        return {}
    node: Any = _retrieve(uri)
    for raw in pointer.split("/")[1:-1]:
        token = unquote(raw).replace("~1", "/").replace("~0", "~")
        node = node[int(token)] if isinstance(node, list) else node[token]
    return node if isinstance(node, Mapping) else {}


def _type_names(types: Any) -> str:
    listed = sorted(types, key="null".__eq__) if isinstance(types, list) else [types]
    return " or ".join(_TYPES.get(str(name), str(name)) for name in listed)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


_TYPES = {
    "string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "object": "an object", "array": "a list", "null": "null",
}  # fmt: skip

_EXPECTED: Mapping[str, Callable[[Any], str]] = {
    "type": _type_names,
    "enum": lambda value: "one of " + ", ".join(json.dumps(item) for item in value),
    "const": json.dumps,
    "pattern": lambda value: f"a text that matches {value}",
    "format": lambda value: f"a valid {value}",
    "minimum": lambda value: f"at least {value}",
    "maximum": lambda value: f"at most {value}",
    "exclusiveMinimum": lambda value: f"more than {value}",
    "exclusiveMaximum": lambda value: f"less than {value}",
    "multipleOf": lambda value: f"a multiple of {value}",
    "minLength": lambda value: f"at least {_plural(value, 'character', 'characters')}",
    "maxLength": lambda value: f"at most {_plural(value, 'character', 'characters')}",
    "minItems": lambda value: f"at least {_plural(value, 'item', 'items')}",
    "maxItems": lambda value: f"at most {_plural(value, 'item', 'items')}",
    "minProperties": lambda value: f"at least {_plural(value, 'field', 'fields')}",
    "maxProperties": lambda value: f"at most {_plural(value, 'field', 'fields')}",
    "uniqueItems": lambda value: "no item twice",
}

_SPECIAL: Mapping[str, Callable[[jsonschema_rs.ValidationError], Iterator[Fault]]] = {
    "required": _required,
    "additionalProperties": _unexpected,
    "unevaluatedProperties": _unexpected,
    "propertyNames": _property_names,
    "anyOf": _alternatives,
    "oneOf": _alternatives,
}
