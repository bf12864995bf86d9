# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values as text for people."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

NONE = "-"


def clean(text: str) -> str:
    """`text` without control characters: what a peer sends must not steer the terminal."""
    return "".join(" " if char in "\n\t\r" else char for char in text if char in "\n\t\r" or _visible(char))


def _visible(char: str) -> bool:
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs"}


def cell(value: Any) -> str:
    """One value of a table: nothing as `-`, lists joined, objects as `key=value`."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, Mapping):
        return clean(" ".join(f"{key}={cell(item)}" for key, item in value.items())) or NONE
    if isinstance(value, list | tuple):
        return clean(", ".join(cell(item) for item in value)) or NONE
    return clean(str(value))


def json_text(value: Any) -> str:
    """Indented JSON, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def seconds(value: float) -> str:
    """A duration: `17 ms`, `1.8 s`, `12 s`, `3 min 5 s`, `2 h 4 min`, `3 d 1 h`."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    whole = int(value)
    if whole < 60:
        return f"{whole} s"
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def since(value: Any, now: datetime) -> str:
    """How long ago `value` was (RFC 3339 text or seconds since the epoch); anything else as it is."""
    moment: datetime
    try:
        if isinstance(value, int | float):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return cell(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return seconds(max(0.0, (now - moment).total_seconds()))


def plural(count: int, singular: str) -> str:
    """`1 node`, `2 nodes`, `2 switches`."""
    ending = "" if count == 1 else "es" if singular.endswith(("ch", "s", "x")) else "s"
    return f"{count} {singular}{ending}"


def columns(rows: Iterable[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """Rows as columns two spaces apart, without trailing blanks; those of the indexes in `right` end together."""
    table = list(rows)
    if not table:
        return []
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    return [
        "  ".join(
            item.rjust(width) if index in right else item.ljust(width)
            for index, (item, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
