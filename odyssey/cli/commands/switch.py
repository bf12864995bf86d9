# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl switch`: the fabric as the controller sees it."""

from __future__ import annotations

import sys
from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.commands.probe import probe
from odyssey.cli.exits import Exit
from odyssey.cli.output import Column
from odyssey.cli.planview import joined
from odyssey.cli.submit import CallOptions, call_options, carry_out

_SWITCHES = (
    Column("SWITCH", "switch"),
    Column("DATAPATH", "datapathId"),
    Column("PROFILE", "profile"),
    Column("CONNECTED", "connected"),
    Column("ENTRIES", "entries", right=True),
    Column("CAPACITY", "capacity", right=True),
    Column("GROUPS", "groups", right=True),
    Column("DRIFT", "drift", right=True),
    Column("USE", "use"),
)
_CABLES = (
    Column("AT", "at"),
    Column("STATE", "state"),
    Column("EXPECTED", "expected"),
    Column("HEARD", "heard"),
)
_FLOWS = (
    Column("TABLE", "table", right=True),
    Column("PRIORITY", "priority", right=True),
    Column("PACKETS", "packets", right=True),
    Column("BYTES", "bytes", right=True),
    Column("OWNER", "owner"),
    Column("MATCH", "match"),
    Column("ACTIONS", "actions"),  # the longest: nothing stands behind it
)


@click.group()
def switch() -> None:
    """Switches: what forwards, and what it forwards."""


switch.add_command(probe)


@switch.command("ls")
@output_option
@click.pass_obj
def list_switches(app: App) -> None:
    """List the switches with their entries; drift counts entries that differ from what was decided."""
    answer = app.ask("switch.list")
    if app.out.json:
        app.out.data(answer)
        return
    app.out.table(_SWITCHES, answer.get("switches", []), "there is no switch (odysseyctl inventory apply FILE)")
    if answer.get("controller") is False:
        app.out.note("The controller is not connected to odysseyd.")


@switch.command()
@output_option
@click.pass_obj
def cabling(app: App) -> None:
    """Compare the cables with the inventory, by signed LLDP; exits with 1 if one is wrong."""
    answer = app.ask("switch.cabling")
    wrong = [cable for cable in answer.get("cables", []) if cable["state"] in ("wrong", "narrow", "unexpected")]
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.table(_CABLES, answer.get("cables", []), "nothing is known of any cable yet; ask again in some seconds")
        for cable in wrong:
            app.out.note(cable["text"])
        if forged := answer.get("frames", {}).get("forged"):
            app.out.note(f"{forged} LLDP frames had a wrong signature or an old one.")
        for host in answer.get("absent", []):
            app.out.note(f"The agent of {host} is not connected: nothing is known of its NICs.")
    if wrong:
        sys.exit(Exit.CHANGES)


@switch.command()
@click.argument("name", metavar="SWITCH")
@click.option("--owner", help="Only entries of this owner, for example binding/shop-app-1.")
@output_option
@click.pass_obj
def flows(app: App, name: str, owner: str | None) -> None:
    """Read the flow entries of SWITCH now, with their counters and owners."""
    params: dict[str, Any] = {"switch": name, **({"owner": owner} if owner else {})}
    answer = app.ask("switch.flows", params)
    if app.out.json:
        app.out.data(answer)
        return
    rows = [
        {**entry, "match": joined(entry.get("match")) or "any", "actions": joined(entry.get("actions")) or "drop"}
        for entry in answer.get("entries", [])
    ]
    rows.sort(key=lambda row: (row.get("table") or 0, -(row.get("priority") or 0), str(row["match"])))
    app.out.table(_FLOWS, rows, f"{name} has no such entry")


@switch.command()
@click.argument("name", metavar="SWITCH")
@click.argument("state", type=click.Choice(["on", "off"]))
@click.option("--force", is_flag=True, help="Also where that cuts off a host or border, or a host's agent is away.")
@call_options
@output_option
@click.pass_obj
def maintenance(app: App, /, name: str, state: str, force: bool, **options: Any) -> None:
    """Take SWITCH out of use (on) without a lost packet, or bring it back (off).

    On: hosts leave it, then the other switches, then its ports towards hosts go down. Now it may be upgraded, or
    replaced (an inventory with another datapath id for its name). Off: it is filled and checked, then used again.
    """
    wanted: dict[str, Any] = {"name": name, "maintenance": state == "on", **({"force": True} if force else {})}
    carry_out(app, "setMaintenance", {"Switch": wanted}, CallOptions(**options))
