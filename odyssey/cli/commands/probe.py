# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl switch probe`: what a switch really does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.output import Column
from odyssey.cli.text import json_text

PROBE_TIMEOUT = 960.0
"""Seconds that a probe may take; the controller's own limits end it before."""

_COLUMNS = (
    Column("CAPABILITY", "capability"),
    Column("PROFILE SAYS", "profile"),
    Column("DEVICE DID", "found"),
    Column("AGREES", "agrees"),
    Column("DETAIL", "detail"),
)


@click.command()
@click.argument("name", metavar="SWITCH")
@click.option(
    "--capacity", type=click.IntRange(0, 1_000_000), default=1000, show_default=True,
    help="Add at most so many entries to find out how many fit; 0 adds none.",
)  # fmt: skip
@click.option("--vlan", type=click.IntRange(2, 4094), help="A VLAN that nobody uses (default: an unused owned one).")
@click.option("--yes", is_flag=True, help="Also while the switch carries traffic.")
@output_option
@click.pass_obj
def probe(app: App, name: str, capacity: int, vlan: int | None, yes: bool) -> None:
    """Try out what SWITCH really does, and compare it with its profile.

    The probe adds entries of its own above all others, for a VLAN that nobody uses, sends test frames through one
    port, and takes everything away again. While it looks, changes of that switch wait.
    """
    params: dict[str, Any] = {"switch": name, "capacity": capacity, "force": yes}
    params |= {"vlan": vlan} if vlan is not None else {}

    def told(message: Mapping[str, Any]) -> None:
        step = f"[{message['step']}/{message['of']}] " if "step" in message else "      "
        app.out.note(f"{step}{message.get('text', '')}")

    answer = app.ask("switch.probe", params, PROBE_TIMEOUT, told)
    if app.out.json:
        app.out.data(answer)
        return
    app.out.table(_COLUMNS, answer.get("findings", []), "nothing was tried")
    facts = answer.get("inventory", {})
    if facts:
        app.out.heading(f"For the inventory, fabric.switches.{name}")
        for key, value in facts.items():
            app.out.line(f"{json_text(key)}: {json_text(value)}")
