# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl platform`: what an operator describes in one document."""

from __future__ import annotations

import sys
from typing import Any

import click

from odyssey.cli.app import App, PlanCommand, output_option
from odyssey.cli.commands.network import NETWORK_COLUMNS
from odyssey.cli.commands.node import NODE_COLUMNS
from odyssey.cli.documents import read_document
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.output import Column
from odyssey.cli.submit import CallOptions, call_options, carry_out, plan
from odyssey.cli.text import json_text, plural

_PLATFORMS = (Column("PLATFORM", "platform"), Column("NETWORKS", "networks"), Column("NODES", "nodes", right=True))


@click.group()
def platform() -> None:
    """Platforms: networks and how they depend on each other."""


@platform.command()
@click.argument("file")
@call_options
@output_option
@click.pass_obj
def apply(app: App, /, file: str, **options: Any) -> None:
    """Make the platform as FILE describes it (-: stdin), and wait until it is."""
    carry_out(app, "addPlatform", {"document": read_document(file)}, CallOptions(**options))


@platform.command("plan", cls=PlanCommand)
@click.argument("file")
@click.option("--flows", is_flag=True, help="Show each switch entry and setting too.")
@click.option("--index", type=click.IntRange(min=0), help="Refuse if the state is not at this index.")
@output_option
@click.pass_obj
@click.pass_context
def plan_command(context: click.Context, app: App, file: str, flows: bool, index: int | None) -> None:
    """Show what `apply FILE` would change; change nothing.

    Exits 0 if nothing would change, 1 if something would, 255 on an error.
    """
    system = {"document": read_document(file)}
    context.exit(int(plan(app, "addPlatform", system, CallOptions(flows=flows, index=index))))


@platform.command("ls")
@output_option
@click.pass_obj
def list_platforms(app: App) -> None:
    """List the platforms."""
    answer = app.ask("platform.list")
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.table(_PLATFORMS, answer.get("platforms", []), "there is no platform (odysseyctl platform apply FILE)")


@platform.command()
@click.argument("name")
@click.option("--document", is_flag=True, help="Print the platform's document only, as it was applied.")
@output_option
@click.pass_obj
def show(app: App, name: str, document: bool) -> None:
    """Show a platform with its networks and nodes."""
    answer = app.ask("platform.show", {"platform": name})
    if document:
        click.echo(json_text(answer.get("document")))
    elif app.out.json:
        app.out.data(answer)
    else:
        app.out.fields([("Platform", answer.get("platform"))])
        app.out.heading("Networks")
        app.out.table(NETWORK_COLUMNS, answer.get("networks", []), "no networks")
        app.out.heading("Nodes")
        app.out.table(NODE_COLUMNS, answer.get("nodes", []), "no nodes")


@platform.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@call_options
@output_option
@click.pass_obj
def rm(app: App, /, name: str, yes: bool, **options: Any) -> None:
    """Remove a platform with all its networks and nodes. Volumes of stateful nodes stay on their hosts."""
    chosen = CallOptions(**options)
    if not yes and not chosen.dry_run and sys.stdin.isatty() and sys.stderr.isatty():
        nodes = app.ask("node.list", {"platform": name}).get("nodes", [])
        if not click.confirm(f"Remove platform {name} with {plural(len(nodes), 'node')}?", err=True):
            raise Failure("nothing was removed", Exit.REFUSED)
    carry_out(app, "removePlatform", {"platform": name}, chosen)
