# SPDX-License-Identifier: AGPL-3.0-or-later
"""What README, docs and examples tell to type is what odysseyctl knows, and cli.md names every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from odyssey.cli.program import program

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
SPAN = re.compile(r"`odysseyctl ([^`]+)`")
SHOWN = re.compile(r"^(?:\$ |# )?(?:\S*/)?odysseyctl ([^#|\n]+)", re.MULTILINE)
BLOCK = re.compile(r"^```\w*\n(.*?)^```|((?:^ {4}[^\n]*\n?)+)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (`.+?`) \|", re.MULTILINE)
PLACEHOLDER = "COMMAND"


def typed(page: str) -> Iterator[str]:
    """Whatever a page shows behind the name of the program, in a line of text or a block."""
    yield from SPAN.findall(re.sub(r"\n\s*", " ", page))
    for fenced, indented in BLOCK.findall(page):
        yield from SHOWN.findall(re.sub(r"^ {4}", "", fenced or indented, flags=re.MULTILINE))


def wrong(line: str) -> str | None:
    """What of a command line odysseyctl does not know."""
    command: click.Command = program
    known: set[str] = {"--help"}
    for word in line.split():
        known |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        if word.startswith("-"):
            if word.partition("=")[0].rstrip(",.;:") not in known:
                return f"{line!r}: no option {word}"
        elif isinstance(command, click.Group) and word != PLACEHOLDER and not word.startswith("/"):
            found = [command.commands.get(one) for one in word.rstrip(",.;:").split("|")]  # ls|show: each of them
            if None in found:
                return f"{line!r}: no command {word}"
            command = found[0] or command
    return None


def leaves(command: click.Command, name: str = "") -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield name
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{name} {word}".strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_a_page_is_one(page: Path) -> None:
    assert [fault for line in typed(page.read_text(encoding="utf-8")) if (fault := wrong(line))] == []


def test_the_pages_are_read_at_all() -> None:
    lines = {line for page in PAGES for line in typed(page.read_text(encoding="utf-8"))}
    assert len(lines) > 30
    assert wrong("platform plane FILE") and wrong("platform plan FILE --flow") and wrong("nodes ls")


def test_the_list_of_commands_is_whole() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    rows = [f"{span} " for row in ROW.findall(page) for span in re.findall(r"`([^`]+)`", row)]
    assert [name for name in leaves(program) if not any(row.startswith(f"{name} ") for row in rows)] == []
