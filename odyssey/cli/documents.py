# SPDX-License-Identifier: AGPL-3.0-or-later
"""JSON documents that the user names on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from odyssey.cli.exits import Exit, Failure

LARGEST = 2 * 1024 * 1024
"""Bytes of a document; an RDMP message holds 4 MiB."""


def read_document(name: str) -> dict[str, Any]:
    """The JSON object in the file `name` (`-`: stdin). Raises Failure that names line and column."""
    label = "stdin" if name == "-" else name
    try:
        with click.open_file(name, "rb") if name == "-" else Path(name).open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise Failure(f"cannot read {label}: {error.strerror}", Exit.REFUSED) from error
    if len(content) > LARGEST:
        raise Failure(f"{label} is larger than {LARGEST} bytes", Exit.REFUSED)
    try:
        document = json.loads(content.decode(), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Failure(f"{label} is no JSON: {where}: {error.msg}", Exit.REFUSED) from error
    except (ValueError, RecursionError) as error:
        raise Failure(f"{label} is no JSON: {error}", Exit.REFUSED) from error
    if not isinstance(document, dict):
        raise Failure(f"{label} must hold a JSON object, found {type(document).__name__}", Exit.REFUSED)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once: of two values JSON readers keep one, seldom the intended one."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found
