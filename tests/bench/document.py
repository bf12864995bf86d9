# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parts of docs/benchmarks.md: each program writes its own between its markers and leaves the others' alone."""

from __future__ import annotations

from pathlib import Path

WIDTH = 118  # of a line of text


def write_part(target: Path, name: str, text: str) -> None:
    """Put a text between the markers of a part, at the end of the document where there are none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = target.read_text(encoding="utf-8") if target.exists() else "# Benchmarks\n"
    part = f"{begin}\n{text}{end}\n"
    if begin in old and end in old:
        before, rest = old.split(begin, 1)
        new = before + part + rest.split(end, 1)[1].removeprefix("\n")
    else:
        new = old.rstrip("\n") + "\n\n" + part
    write(target, new)


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def row(*cells: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
