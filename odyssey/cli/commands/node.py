# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl node`: single containers."""

from __future__ import annotations

from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.names import find_network, find_node
from odyssey.cli.output import Column
from odyssey.cli.submit import CallOptions, call_options, carry_out
from odyssey.cli.text import json_text

NODE_COLUMNS = (
    Column("NODE", "node"),
    Column("PLATFORM", "platform"),
    Column("NETWORK", "network"),
    Column("HOST", "host"),
    Column("ADDRESS", "address"),
    Column("PHASE", "phase"),
    Column("WEIGHT", "weight", right=True),
    Column("STATE", "state"),
    Column("HEALTHY", "healthy"),
    Column("IMAGE", "image"),
)


@click.group()
def node() -> None:
    """Nodes: containers with an address of their own."""


@node.command("ls")
@click.argument("network_name", metavar="[NETWORK]", required=False)
@click.option("--platform", help="Only nodes of this platform.")
@output_option
@click.pass_obj
def list_nodes(app: App, network_name: str | None, platform: str | None) -> None:
    """List the nodes, all or those of NETWORK."""
    params: dict[str, Any] = {"platform": platform} if platform else {}
    if network_name:
        full = f"{platform}/{network_name}" if platform and "/" not in network_name else network_name
        params["platform"], params["network"] = find_network(app, full)
    answer = app.ask("node.list", params)
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.table(NODE_COLUMNS, answer.get("nodes", []), "there is no node")


@node.command()
@click.argument("network_name", metavar="NETWORK")
@click.option("--count", type=click.IntRange(min=1), help="How many nodes to add (default: 1).")
@click.option("--name", help="The name of the one node to add.")
@call_options
@output_option
@click.pass_obj
def add(app: App, /, network_name: str, count: int | None, name: str | None, **options: Any) -> None:
    """Add nodes to NETWORK (PLATFORM/NETWORK, or NETWORK alone where only one has that name)."""
    if name and count:
        raise click.UsageError("--name adds one node: leave --count out")
    platform, network = find_network(app, network_name)
    wanted: dict[str, Any] = {"name": name} if name else {"count": count or 1}
    system = {"platform": platform, "Network": {"name": network, "Node": wanted}}
    carry_out(app, "addNode", system, CallOptions(**options))


@node.command()
@click.argument("targets", metavar="NODE...|NETWORK", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(min=1), help="Remove so many nodes of NETWORK, the highest first.")
@call_options
@output_option
@click.pass_obj
def rm(app: App, /, targets: tuple[str, ...], count: int | None, **options: Any) -> None:
    """Remove NODEs of one network, or with --count that many nodes of NETWORK; connections are drained first."""
    wanted: dict[str, Any]
    if count:
        if len(targets) > 1:
            raise click.UsageError("--count takes one network")
        platform, network = find_network(app, targets[0])
        wanted = {"count": count}
    else:
        platform, network = _network_of(app, targets)
        wanted = {"name": targets[0] if len(targets) == 1 else list(targets)}
    system = {"platform": platform, "Network": {"name": network, "Node": wanted}}
    carry_out(app, "removeNode", system, CallOptions(**options))


@node.command()
@click.argument("name", metavar="NODE")
@click.argument("value", metavar="WEIGHT", type=click.IntRange(0, 1000))
@call_options
@output_option
@click.pass_obj
def weight(app: App, /, name: str, value: int, **options: Any) -> None:
    """Give NODE another share of the new connections to its network's service address.

    A node that nobody weighed has 100. With 0 it gets no new connection, and those that it has go on.
    """
    platform, network = _network_of(app, (name,))
    system = {"platform": platform, "Network": {"name": network, "Node": {"name": name, "weight": value}}}
    carry_out(app, "weighNode", system, CallOptions(**options))


def _network_of(app: App, nodes: tuple[str, ...]) -> tuple[str, str]:
    """The network of all `nodes`. Raises Failure if one does not exist, or if they are of several networks."""
    found = [find_node(app, name) for name in nodes]
    networks = {(str(item["platform"]), str(item["network"])) for item in found}
    if len(networks) > 1:
        names = ", ".join(sorted("/".join(network) for network in networks))
        raise Failure(f"these nodes are of several networks ({names}): name those of one network", Exit.REFUSED)
    return networks.pop()


@node.command()
@click.argument("name", metavar="NODE")
@output_option
@click.pass_obj
def show(app: App, name: str) -> None:
    """Show a node: what was decided, and what its host sees."""
    found = dict(find_node(app, name))
    if app.out.json:
        app.out.data(found)
        return
    observed = found.pop("observed", None)
    app.out.fields(list(found.items()))
    app.out.heading("Seen on the host")
    app.out.raw(json_text(observed) if observed else "nothing: the host does not answer, or has no such container")


@node.command()
@click.argument("name", metavar="NODE")
@click.option("--tail", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many lines.")
@output_option
@click.pass_obj
def logs(app: App, name: str, tail: int) -> None:
    """Print the last lines that a node wrote."""
    answer = app.ask("node.logs", {"node": name, "tail": tail})
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.raw(str(answer.get("text", "")))
