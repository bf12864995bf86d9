# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults of a document as lines: JSON path, what was found, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odyssey.cli.text import clean

_FOUND_LIMIT = 120


@dataclass(frozen=True, slots=True)
class FaultLine:
    """One fault as RDMP's `reply` carries it."""

    path: str
    found: Any
    expected: str
    message: str

    def text(self) -> str:
        """`$.networks.app.scale.min: found 5, expected at most 2`.

        The message is a whole sentence and mostly begins with the path; where there is none, one is made.
        """
        message = self.message
        if not message:
            found = "nothing" if self.found is None else _short(self.found)
            message = f"found {found}, expected {self.expected}"
        return clean(message if message.startswith(self.path) else f"{self.path}: {message}")


def fault_lines(faults: Sequence[Any]) -> tuple[FaultLine, ...]:
    """Read faults given as objects with attributes or as JSON objects."""
    return tuple(_fault(fault) for fault in faults)


def _fault(fault: Any) -> FaultLine:
    def read(name: str) -> Any:
        return fault.get(name) if isinstance(fault, Mapping) else getattr(fault, name, None)

    return FaultLine(str(read("path") or "$"), read("found"), str(read("expected") or ""), str(read("message") or ""))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _FOUND_LIMIT else text[: _FOUND_LIMIT - 3] + "..."
