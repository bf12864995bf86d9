# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl network`: the tiers of a platform."""

from __future__ import annotations

from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.commands.node import NODE_COLUMNS
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.names import find_network
from odyssey.cli.output import Column
from odyssey.cli.submit import CallOptions, call_options, carry_out

NETWORK_COLUMNS = (
    Column("PLATFORM", "platform"),
    Column("NETWORK", "network"),
    Column("SUBNET", "subnet"),
    Column("VLAN", "vlan", right=True),
    Column("IMAGE", "image"),
    Column("MIN", "min", right=True),
    Column("MAX", "max", right=True),
    Column("COUNT", "count", right=True),
    Column("ADMITTED", "admitted", right=True),
    Column("STANDBY", "standby", right=True),
    Column("DRAINING", "draining", right=True),
)


@click.group()
def network() -> None:
    """Networks: a subnet, a VLAN, an image and a scale."""


@network.command("ls")
@click.option("--platform", help="Only networks of this platform.")
@output_option
@click.pass_obj
def list_networks(app: App, platform: str | None) -> None:
    """List the networks with their scale, wanted and found."""
    answer = app.ask("network.list", {"platform": platform} if platform else {})
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.table(NETWORK_COLUMNS, answer.get("networks", []), "there is no network")


@network.command()
@click.argument("network_name", metavar="NETWORK")
@output_option
@click.pass_obj
def show(app: App, network_name: str) -> None:
    """Show a network and its nodes. NETWORK is PLATFORM/NETWORK, or NETWORK alone where only one has that name."""
    platform, name = find_network(app, network_name)
    networks = app.ask("network.list", {"platform": platform}).get("networks", [])
    found = next((item for item in networks if item["network"] == name), None)
    if found is None:
        raise Failure(f"there is no network {platform}/{name} (odysseyctl network ls)", Exit.REFUSED)
    nodes = app.ask("node.list", {"platform": platform, "network": name}).get("nodes", [])
    if app.out.json:
        app.out.data({**found, "nodes": nodes})
        return
    app.out.fields([(key, value) for key, value in found.items()])
    app.out.heading("Nodes")
    app.out.table(NODE_COLUMNS, nodes, "no nodes")


@network.command()
@click.argument("network_name", metavar="NETWORK")
@click.argument("count", type=click.IntRange(min=0))
@call_options
@output_option
@click.pass_obj
def scale(app: App, /, network_name: str, count: int, **options: Any) -> None:
    """Bring NETWORK to COUNT admitted nodes, and wait until it is there."""
    platform, name = find_network(app, network_name)
    system = {"platform": platform, "Network": {"name": name, "count": count}}
    carry_out(app, "scaleNetwork", system, CallOptions(**options))
