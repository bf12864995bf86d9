# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl inventory`: hosts and fabric as one document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from odyssey.cli.app import App, PlanCommand, output_option
from odyssey.cli.documents import read_document
from odyssey.cli.output import Column
from odyssey.cli.submit import CallOptions, call_options, carry_out, plan

_HOSTS = (Column("HOST", "host"), Column("LABELS", "labels"), Column("CAPACITY", "capacity"), Column("PORTS", "ports"))
_SWITCHES = (
    Column("SWITCH", "switch"),
    Column("DATAPATH", "datapathId"),
    Column("PROFILE", "profile"),
    Column("MAX ENTRIES", "maxEntries", right=True),
)


@click.group()
def inventory() -> None:
    """The inventory: hosts, switches, links and borders."""


@inventory.command()
@click.argument("file")
@call_options
@output_option
@click.pass_obj
def apply(app: App, /, file: str, **options: Any) -> None:
    """Set the inventory to FILE (-: stdin)."""
    carry_out(app, "setInventory", {"document": read_document(file)}, CallOptions(**options))


@inventory.command("plan", cls=PlanCommand)
@click.argument("file")
@click.option("--flows", is_flag=True, help="Show each switch entry and setting too.")
@output_option
@click.pass_obj
@click.pass_context
def plan_command(context: click.Context, app: App, file: str, flows: bool) -> None:
    """Show what `apply FILE` would change; exits 0 (nothing), 1 (something) or 255 (error)."""
    system = {"document": read_document(file)}
    context.exit(int(plan(app, "setInventory", system, CallOptions(flows=flows))))


@inventory.command()
@output_option
@click.pass_obj
def show(app: App) -> None:
    """Show the inventory (-o json: the document as it was applied)."""
    document: Mapping[str, Any] = app.ask("inventory.show").get("document") or {}
    if app.out.json:
        app.out.data(document)
        return
    fabric: Mapping[str, Any] = document.get("fabric") or {}
    app.out.fields(
        [("Cluster", document.get("cluster")), ("Fabric MAC", fabric.get("mac")), ("MTU", fabric.get("mtu"))]
    )
    app.out.heading("Switches")
    app.out.table(_SWITCHES, [{"switch": name, **item} for name, item in fabric.get("switches", {}).items()], "none")
    app.out.heading("Hosts")
    hosts: Mapping[str, Mapping[str, Any]] = document.get("hosts") or {}
    app.out.table(_HOSTS, [{"host": name, **item, "ports": _ports(item)} for name, item in hosts.items()], "none")


def _ports(item: Mapping[str, Any]) -> list[str]:
    return [f"{port['nic']} to {port['switch']}:{port['port']}" for port in item.get("attachments", [])]
