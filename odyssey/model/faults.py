# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults of meaning: how one is told, and in which order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas import Fault


def fault(path: str, found: Any, expected: str) -> Fault:
    """A fault whose sentence follows from its parts."""
    return Fault(path, found, expected, f"{path}: found {found}, expected {expected}")


def network_path(name: str, *parts: str) -> str:
    """The JSON path of something in a network of a platform document; names need no quoting."""
    return ".".join(("$.networks", name, *parts))


def by_path(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """The faults in order of their paths, each once."""
    once = {(item.path, item.message): item for item in faults}
    return tuple(once[key] for key in sorted(once))
