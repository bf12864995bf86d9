# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl host`: machines with a Docker engine and an agent."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.output import Column
from odyssey.cli.parameters import duration
from odyssey.cli.text import cell, json_text, seconds, since
from rdmp.enrolment import ROLES, TOKEN_VARIABLE

ENROL_PORT = 7421
_WHO = {
    "agent": "On {name}, as root",
    "operator": "As the user who will type odysseyctl --server",
    "publisher": "As the user who will publish",
}
_OTHERS = "As root, where {name} runs"

_HOSTS = (
    Column("HOST", "host"),
    Column("CONNECTED", "connected"),
    Column("SINCE", "since"),
    Column("LABELS", "labels"),
    Column("NODES", "nodes", right=True),
    Column("CPUS", "cpus", right=True),
    Column("MEMORY MIB", "memory", right=True),
    Column("REMARK", "remark"),
)


@click.group()
def host() -> None:
    """Hosts: machines that run containers."""


@host.command("ls")
@output_option
@click.pass_obj
def list_hosts(app: App) -> None:
    """List the hosts with what they can hold and what they hold."""
    answer = app.ask("host.list")
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.table(
            _HOSTS, [_row(item) for item in answer.get("hosts", [])], "there is no host (inventory apply FILE)"
        )


@host.command()
@click.argument("name")
@output_option
@click.pass_obj
def show(app: App, name: str) -> None:
    """Show a host and everything that its agent sees."""
    answer = app.ask("host.show", {"host": name})
    if app.out.json:
        app.out.data(answer)
        return
    observed = answer.pop("observed", None)
    if answer.get("since"):
        answer["since"] = f"{since(answer['since'], datetime.now(UTC))} ago"
    app.out.fields(list(answer.items()))
    app.out.heading("Seen by its agent")
    app.out.raw(json_text(observed) if observed else "nothing: the agent does not answer")


@host.command()
@click.argument("name")
@click.option(
    "--ttl",
    metavar="DURATION",
    callback=duration,
    default="1h",
    show_default=True,
    help="How long the token is good (30m, 1h, 2d).",
)
@click.option("--enrol", metavar="HOST:PORT", help="Where the new host reaches the enrolment port.")
@click.option("--role", type=click.Choice(ROLES), default="agent", show_default=True)
@output_option
@click.pass_obj
def join(app: App, name: str, ttl: float, enrol: str | None, role: str) -> None:
    """Make a one-time token for host NAME and print the command to type there.

    The token pins the cluster's CA. It is shown once and stored as a hash only. The command takes it from the
    environment, for other users can read arguments.
    """
    answer = app.ask("token.create", {"role": role, "name": name, "ttl": ttl})
    server = enrol or _address(answer) or _guess(app)
    command = join_command(name, str(answer["token"]), server, role)
    if app.out.json:
        app.out.data({**answer, "server": server, "command": command})
        return
    left = float(answer.get("expires") or 0) - time.time()
    who = _WHO.get(role, _OTHERS).format(name=name)
    app.out.note(f"{who}, within {seconds(max(left, 0))} (the token works once):")
    app.out.raw(command)
    if server is None:
        app.out.note("HOST is the address of odysseyd as the new host reaches it; --enrol HOST:PORT fills it in.")


def join_command(name: str, token: str, server: str | None, role: str) -> str:
    """The exact command for the newcomer."""
    words = ["odyssey-agent", "join", "--server", server or f"HOST:{ENROL_PORT}", "--name", name]
    if role != "agent":
        words += ["--role", role]
    return f"{TOKEN_VARIABLE}={shlex.quote(token)} {shlex.join(words)}"


def _address(answer: Mapping[str, Any]) -> str | None:
    """The enrolment address that odysseyd told, unless it listens on every address."""
    told = answer.get("enrol")
    if not isinstance(told, str) or told.startswith(("0.0.0.0:", "[::]:", ":")):
        return None
    return told


def _guess(app: App) -> str | None:
    """Whoever reaches odysseyd by TLS knows an address of it."""
    if not app.connection.server:
        return None
    return f"{app.connection.server.rpartition(':')[0]}:{ENROL_PORT}"


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    capacity: Mapping[str, Any] = item.get("capacity") or {}
    used: Mapping[str, Any] = item.get("used") or {}
    nodes = item.get("nodes")
    count = used.get("nodes", len(nodes) if isinstance(nodes, list) else nodes)
    return {
        "host": item.get("host"),
        "connected": item.get("connected"),
        "since": since(item["since"], datetime.now(UTC)) if item.get("since") else None,
        "labels": item.get("labels"),
        "nodes": _share(count, capacity.get("nodes")),
        "cpus": _share(used.get("cpus"), capacity.get("cpus")),
        "memory": _share(used.get("memoryMiB"), capacity.get("memoryMiB")),
        "remark": "not in the inventory" if item.get("inventory") is False else None,
    }


def _share(used: Any, capacity: Any) -> str:
    return f"{cell(used)}/{cell(capacity)}" if capacity is not None else cell(used)
