# SPDX-License-Identifier: AGPL-3.0-or-later
"""The program itself: options that hold for all commands, and the list of commands."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from odyssey.cli.app import App, output_option
from odyssey.cli.commands.bus import bus
from odyssey.cli.commands.ca import ca
from odyssey.cli.commands.completion import PROGRAM, VARIABLE, completion
from odyssey.cli.commands.events import events
from odyssey.cli.commands.fabric import fabric
from odyssey.cli.commands.host import host
from odyssey.cli.commands.inventory import inventory
from odyssey.cli.commands.lab import lab
from odyssey.cli.commands.netconf import netconf
from odyssey.cli.commands.network import network
from odyssey.cli.commands.node import node
from odyssey.cli.commands.path import path
from odyssey.cli.commands.platform import platform
from odyssey.cli.commands.status import status
from odyssey.cli.commands.switch import switch
from odyssey.cli.commands.tx import call, tx
from odyssey.cli.connection import DEFAULT_RECONNECT, ConnectionOptions
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.parameters import duration

_EPILOG = (
    "Exit codes: 0 done, 1 a plan would change something, 2 usage, 3 refused (nothing was done), 4 failed, "
    "5 odysseyd cannot be reached, 6 decided but not yet confirmed everywhere, 130 interrupted, 255 a plan failed."
)


class Program(click.Group):
    """The root group: an interrupt ends the program with 130, not with a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):  # Abort: Ctrl-C or Ctrl-D at a question
            raise Failure("interrupted", Exit.INTERRUPTED) from None


@click.group(cls=Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", envvar="ODYSSEYCTL_SOCKET", show_envvar=True, metavar="PATH", help="Unix socket of odysseyd.")
@click.option(
    "--server", envvar="ODYSSEYCTL_SERVER", show_envvar=True, metavar="HOST:PORT", help="odysseyd by TLS, with --pki."
)
@click.option(
    "--pki", envvar="ODYSSEYCTL_PKI", show_envvar=True, metavar="DIR",
    help="Your certificate: cert.pem, key.pem and ca.pem.",
)  # fmt: skip
@click.option(
    "--reconnect", envvar="ODYSSEYCTL_RECONNECT", show_envvar=True, callback=duration, metavar="DURATION",
    default=f"{DEFAULT_RECONNECT:g}s",
    help=f"How long to look for odysseyd after a connection was lost (default: {DEFAULT_RECONNECT:g}s).",
)  # fmt: skip
@output_option
@click.version_option(package_name="odyssey-sdmi", prog_name=PROGRAM)
@click.pass_context
def program(context: click.Context, socket: str | None, server: str | None, pki: str | None, reconnect: float) -> None:
    """Control an Odyssey cluster: platforms, networks, nodes, hosts and switches.

    Data goes to stdout, messages and progress to stderr.
    """
    if server and socket:  # what stands on the command line beats the environment
        said = {
            name for name in ("server", "socket") if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        }
        socket = None if said == {"server"} else socket
        server = None if said == {"socket"} else server
    app = context.ensure_object(App)
    app.connection = ConnectionOptions(socket, server, pki, reconnect)


for _command in (
    platform, network, node, host, inventory, switch, netconf, fabric, path, events, tx, call, bus, status, lab, ca,
    completion,
):  # fmt: skip
    program.add_command(_command)


def run() -> None:
    """Run with the arguments of the process; does not return."""
    program(prog_name=PROGRAM, complete_var=VARIABLE)
