# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a command writes: data on stdout (table or JSON), messages on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from odyssey.cli.text import cell, clean, columns, json_text

TABLE = "table"
JSON = "json"

STYLES = {"+": "green", "~": "yellow", "-": "red"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading and the key of the value in each row."""

    heading: str
    key: str
    right: bool = False


def is_terminal(stream: Any) -> bool:
    """Whether a person looks at `stream` on a terminal that can be redrawn."""
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def colour_wanted(stream: Any) -> bool:
    """Colour only on a terminal and where NO_COLOR (https://no-color.org) is not set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


class Output:
    """The two streams of one command, in the format that the user chose."""

    def __init__(self, form: str = TABLE) -> None:
        self.form = form

    @property
    def json(self) -> bool:
        """Whether the user wants JSON."""
        return self.form == JSON

    def data(self, value: Any) -> None:
        """The answer of a command as JSON."""
        click.echo(json_text(value))

    def line(self, text: str, style: str | None = None) -> None:
        """One line of data for people."""
        text = clean(text)
        click.echo(click.style(text, fg=style) if style and colour_wanted(sys.stdout) else text)

    def raw(self, text: str) -> None:
        """Text of a container, as it is."""
        click.echo(text, nl=not text.endswith("\n"))

    def note(self, text: str) -> None:
        """A message: never mixed with data."""
        click.echo(clean(text), err=True)

    def table(self, shape: Sequence[Column], rows: Sequence[Mapping[str, Any]], empty: str) -> None:
        """A table, or the sentence `empty` on stderr if there are no rows."""
        if not rows:
            self.note(empty)
            return
        texts = [tuple(cell(row.get(column.key)) for column in shape) for row in rows]
        if is_terminal(sys.stdout):
            self._rich_table(shape, texts)
            return
        right = {index for index, column in enumerate(shape) if column.right}
        for text in columns([tuple(column.heading for column in shape), *texts], right):
            click.echo(text)

    def fields(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """Names and values, one to a line."""
        for text in columns([(name, cell(value)) for name, value in pairs]):
            click.echo(text)

    def heading(self, text: str) -> None:
        """A heading inside the data, with an empty line above."""
        click.echo()
        click.echo(click.style(text, bold=True) if colour_wanted(sys.stdout) else text)

    def _rich_table(self, shape: Sequence[Column], texts: Sequence[tuple[str, ...]]) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in shape:
            table.add_column(column.heading, justify="right" if column.right else "left", overflow="fold")
        for row in texts:
            table.add_row(*(Text(item) for item in row))
        Console(file=sys.stdout, no_color=not colour_wanted(sys.stdout), highlight=False).print(table)
