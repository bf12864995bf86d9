# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl fabric`: the whole fabric as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from odyssey.cli import fabricview as view
from odyssey.cli.app import READ_TIMEOUT, App, PlanCommand, output_option
from odyssey.cli.drawing import draw as draw_fabric
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.output import Column

_SWITCHES = (
    Column("SWITCH", "switch"),
    Column("PROFILE", "profile"),
    Column("STATE", "state"),
    Column("ROLE", "role"),
    Column("ENTRIES", "entries", right=True),
    Column("CAPACITY", "capacity", right=True),
    Column("USED", "used", right=True),
    Column("FOREIGN", "foreign", right=True),
    Column("DRIFT", "drift", right=True),
    Column("PORTS UP", "up", right=True),
)
_PORTS = (
    Column("SWITCH", "switch"),
    Column("PORT", "port", right=True),
    Column("NAME", "name"),
    Column("STATE", "state"),
    Column("ATTACHED", "attached"),
    Column("SPEED", "speed", right=True),
    Column("RECEIVES", "received", right=True),
    Column("SENDS", "sent", right=True),
    Column("WRONG CABLE", "cable"),
)
_LINKS = (Column("FROM", "a"), Column("TO", "b"), Column("STATE", "state"))
_HOSTS = (
    Column("HOST", "host"),
    Column("AGENT", "connected"),
    Column("PORTS", "ports"),
    Column("ADMITTED", "admitted"),
    Column("DRAINING", "draining"),
    Column("DARK", "dark"),
    Column("STANDBY", "standby"),
)
_CAPACITY = (
    Column("SWITCH", "switch"),
    Column("ENTRIES", "entries", right=True),
    Column("RESERVED", "reserved", right=True),
    Column("CAPACITY", "capacity", right=True),
    Column("USED", "used", right=True),
    Column("FREE", "free", right=True),
)
_USERS = (
    Column("SWITCH", "switch"),
    Column("FOR", "user"),
    Column("ENTRIES", "entries", right=True),
    Column("SHARE", "share", right=True),
)
_HEADROOM = (
    Column("NETWORK", "network"),
    Column("ENTRIES A NODE", "perNode", right=True),
    Column("MORE NODES", "nodes", right=True),
    Column("FULL FIRST", "full"),
)
_COUNTERS = (
    Column("WHAT", "what"),
    Column("SENT", "sent", right=True),
    Column("PACKETS", "sentPackets", right=True),
    Column("RECEIVED", "received", right=True),
    Column("PACKETS", "receivedPackets", right=True),
)
_DROPS = (Column("DROPPED FROM", "what"), Column("WHY", "why"), Column("PACKETS", "packets", right=True))
_interval = click.option(
    "--interval", type=click.FloatRange(0.0, 10.0), default=1.0, show_default=True, metavar="SECONDS",
    help="How long the load of ports is measured; 0 does not measure.",
)  # fmt: skip


@click.group()
def fabric() -> None:
    """The fabric: switches, ports, links, hosts and nodes, as they are now."""


@fabric.command()
@_interval
@output_option
@click.pass_obj
def show(app: App, interval: float) -> None:
    """Show switches, ports with what hangs there and their load, links, hosts and nodes."""
    answer = app.ask("fabric.show", {"interval": interval}, READ_TIMEOUT)
    if app.out.json:
        app.out.data(answer)
        return
    app.out.table(_SWITCHES, view.switch_rows(answer), "there is no switch (odysseyctl inventory apply FILE)")
    app.out.heading("Ports")
    app.out.table(_PORTS, view.port_rows(answer), "none")
    app.out.heading("Links")
    app.out.table(_LINKS, view.link_rows(answer), "none")
    app.out.heading("Hosts")
    app.out.table(_HOSTS, view.host_rows(answer), "none")


@fabric.command(cls=PlanCommand)
@click.argument("switch", required=False)
@output_option
@click.pass_context
def verify(context: click.Context, switch: str | None) -> None:
    """Read every switch now, or SWITCH, and compare it with what was decided.

    Changes nothing. Exits with 0 if all are equal, with 1 if one differs or cannot be read, with 255 after an error.
    """
    _compare(context, switch, differences=False)


@fabric.command(cls=PlanCommand)
@click.argument("switch", required=False)
@output_option
@click.pass_context
def diff(context: click.Context, switch: str | None) -> None:
    """Show entry by entry what differs on every switch, or on SWITCH, from what was decided, and whose it is.

    + is missing there, - should not be there, ~ is other than it should be. Exits as `fabric verify` does.
    """
    _compare(context, switch, differences=True)


def _compare(context: click.Context, switch: str | None, *, differences: bool) -> None:
    app: App = context.obj
    answer = app.ask("fabric.verify", {} if switch is None else {"switch": switch}, READ_TIMEOUT)
    if app.out.json:
        app.out.data(answer)
    else:
        lines = list(view.verdict_lines(answer))
        if differences:
            lines = [*view.difference_lines(answer), *lines]
        for line, style in lines:
            app.out.line(line, style)
    context.exit(int(Exit.DONE if answer["equal"] else Exit.CHANGES))


@fabric.command()
@output_option
@click.pass_obj
def capacity(app: App) -> None:
    """Show for whom the entries of each switch are, what is reserved, and how many more nodes fit."""
    answer = app.ask("fabric.capacity", {}, READ_TIMEOUT)
    if app.out.json:
        app.out.data(answer)
        return
    app.out.table(_CAPACITY, view.capacity_rows(answer), "there is no switch (odysseyctl inventory apply FILE)")
    app.out.heading("For whom")
    app.out.table(_USERS, view.user_rows(answer), "nothing")
    app.out.heading("How many more nodes fit")
    app.out.table(_HEADROOM, view.headroom_rows(answer), "there is no network")
    if answer.get("untried"):
        app.out.note(f"{answer['untried']} more networks were not tried.")


@fabric.command()
@output_option
@click.pass_obj
def counters(app: App) -> None:
    """Show what nodes and dependencies have sent and received, and what was dropped, since the controller started."""
    answer = app.ask("fabric.counters", {}, READ_TIMEOUT)
    if app.out.json:
        app.out.data(answer)
        return
    for title, rows in view.counter_tables(answer):
        app.out.heading(title)
        app.out.table(_COUNTERS, rows, "none")
    if answer.get("truncated"):
        app.out.note(f"{answer['truncated']} more nodes are not shown.")
    app.out.heading("Dropped")
    app.out.table(_DROPS, view.drop_rows(answer), "nothing was dropped")


@fabric.command()
@click.option(
    "-o", "--output", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg",
    help="Where to write the picture (default: stdout).",
)  # fmt: skip
@_interval
@click.pass_obj
def draw(app: App, path: Path | None, interval: float) -> None:
    """Draw the fabric as SVG: switches, links, hosts and nodes, with their use and with every fault."""
    answer: dict[str, Any] = app.ask("fabric.show", {"interval": interval}, READ_TIMEOUT)
    text = draw_fabric(answer)
    if path is None:
        app.out.raw(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror}", Exit.USAGE) from error
    app.out.note(f"{path} is written")
