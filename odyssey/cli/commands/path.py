# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl path`: how a connection goes through the fabric, or where it stops and why."""

from __future__ import annotations

import click

from odyssey.cli.app import READ_TIMEOUT, App, PlanCommand, output_option
from odyssey.cli.exits import Exit
from odyssey.cli.pathview import path_lines


@click.command(cls=PlanCommand)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of TO (default: the first that is declared).")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), help="Protocol (default: that of the declared port).")
@output_option
@click.pass_context
def path(context: click.Context, source: str, target: str, port: int | None, protocol: str | None) -> None:
    """Show how a connection from FROM to TO goes through links, ports and flow entries, and back.

    FROM and TO are nodes, networks, borders, or addresses of nodes, services and of devices behind a border. The
    entries are read from the switches now. Exits with 0 if the path is open both ways, with 1 if it is closed, and with
    255 after an error.
    """
    app: App = context.obj
    params: dict[str, object] = {"from": source, "to": target}
    params |= {"port": port} if port is not None else {}
    params |= {"protocol": protocol} if protocol is not None else {}
    answer = app.ask("fabric.path", params, READ_TIMEOUT)
    if app.out.json:
        app.out.data(answer)
    else:
        for line, style in path_lines(answer):
            app.out.line(line, style)
    context.exit(int(Exit.DONE if answer["open"] else Exit.CHANGES))
