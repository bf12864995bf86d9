# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl lab`: hosts, switches and daemons on one machine, to try and to test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.output import Column
from odyssey.cli.text import seconds

if TYPE_CHECKING:
    from odyssey.lab import Lab

_PARTS = (Column("PART", "name"), Column("UP", "up"), Column("DETAIL", "detail"))


@click.group()
def lab() -> None:
    """The lab on this machine (needs root). ODYSSEY_LAB names its directory."""


@lab.command()
@output_option
@click.pass_obj
def up(app: App) -> None:
    """Bring the lab up; what runs already stays as it is."""
    started = time.monotonic()
    with _lab() as found:
        found.up(app.out.note)
        directory = found.settings.directory
    took = time.monotonic() - started
    if app.out.json:
        app.out.data({"directory": str(directory), "up": True, "seconds": round(took, 1)})
    else:
        app.out.line(f"the lab is up in {directory} ({seconds(took)})")


@lab.command()
@click.option("--wipe", is_flag=True, help="Remove the lab's directory too, with state, keys and logs.")
@output_option
@click.pass_obj
def down(app: App, wipe: bool) -> None:
    """Stop everything."""
    with _lab() as found:
        found.down(wipe=wipe, progress=app.out.note)
        directory = found.settings.directory
    if app.out.json:
        app.out.data({"directory": str(directory), "up": False, "wiped": wipe})
    else:
        app.out.line("the lab is down")


@lab.command()
@output_option
@click.pass_obj
def status(app: App) -> None:
    """Show what runs. Exits 0 if everything is up, else 4."""
    with _lab() as found:
        answer = found.status()
    parts = [{"name": part.name, "up": part.up, "detail": part.detail} for part in answer.parts]
    if app.out.json:
        app.out.data({"directory": str(answer.directory), "up": answer.up, "parts": parts})
    else:
        app.out.table(_PARTS, parts, "the lab has no parts")
    if not answer.up:
        click.get_current_context().exit(int(Exit.FAILED))


@contextmanager
def _lab() -> Iterator[Lab]:
    """The lab of the environment; imported here because nothing else of odysseyctl needs it."""
    from odyssey.lab import Lab, LabError

    try:
        yield Lab()
    except LabError as error:
        raise Failure(str(error), Exit.FAILED) from error
