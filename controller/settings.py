# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads the TOML file of a daemon of this house: one table of its own and ``[rdmp]``, unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rdmp.endpoints import Endpoint
from rdmp.limits import Limits

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
#: Checks one value; raises ValueError that says what it must be.
Reader = Callable[[Any], Any]


class ConfigError(Exception):
    """The configuration cannot be used: file, key, what was found and what is allowed."""


def load(path: Path, name: str, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Read ``path``; raises ConfigError that names the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(document, name, readers)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: Mapping[str, Any], name: str, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the checked values of table ``name`` and the limits of ``[rdmp]``; raises ConfigError with the key."""
    for table in document:
        if table not in (name, "rdmp"):
            raise ConfigError(f"unknown table [{table}]; known are {name}, rdmp")
    found = document.get(name, {})
    for key in found:
        if key not in readers:
            raise ConfigError(f"[{name}] unknown key {key}; known are {', '.join(readers)}")
    if "orchestrators" not in found:
        raise ConfigError(f'[{name}] orchestrators is required, for example ["tls:192.0.2.1:7420"]')
    values: dict[str, Any] = {}
    for key, value in found.items():
        try:
            values[key] = readers[key](value)
        except ValueError as error:
            raise ConfigError(f"[{name}] {key}: found {value!r}, must be {error}") from error
    try:
        values["rdmp"] = Limits.from_table(document.get("rdmp", {}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return values


def endpoints(value: Any) -> tuple[Endpoint, ...]:
    """Read a list of endpoints."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of endpoints")
    try:
        return tuple(Endpoint.parse(item) for item in value)
    except ValueError as error:
        raise ValueError(f"a list of endpoints: {error}") from error


def folder(value: Any) -> Path:
    """Read an absolute path."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("an absolute path")
    return Path(value)


def address(value: Any) -> tuple[str, int]:
    """Read an address and a port."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("ADDRESS:PORT (port 0 takes a free one)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def flag(value: Any) -> bool:
    """Read a truth value."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def seconds(value: Any) -> float:
    """Read a time in seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError("a number above 0")
    return float(value)


def whole(value: Any) -> int:
    """Read a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number of at least 1")
    return value


def level(value: Any) -> str:
    """Read a log level."""
    if value not in LOG_LEVELS:
        raise ValueError(f"one of {', '.join(LOG_LEVELS)}")
    return str(value)
