# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl netconf`: switches that are configured by NETCONF, what differs on them, and their backups."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from odyssey.cli.app import App, PlanCommand, output_option
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.output import STYLES, Column
from odyssey.cli.planview import setting_text
from odyssey.cli.text import plural, since

LOOK_TIMEOUT = 125.0
"""Seconds that odysseyd may take until a switch is read; its own limit ends it before."""
CHANGE_TIMEOUT = 610.0
"""The same until a switch is changed."""

_DEVICES = (
    Column("SWITCH", "switch"),
    Column("PROFILE", "profile"),
    Column("ADDRESS", "address"),
    Column("REACHABLE", "reachable"),
    Column("VERIFIED", "verified"),
    Column("DRIFT", "drift", right=True),
    Column("HELD BY", "transaction"),
    Column("RESTORED FROM", "restored"),
    Column("CAPABILITIES", "capabilities"),
)
_BACKUPS = (
    Column("BACKUP", "name"),
    Column("TAKEN", "taken"),
    Column("BYTES", "bytes", right=True),
    Column("NOTE", "note"),
)
_LEFT = "is left so until a transaction configures it (odysseyctl netconf mend"
_switch = click.argument("switch", metavar="SWITCH")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.group()
def netconf() -> None:
    """Switches that are configured by NETCONF: VLANs, ports, access lists, backups."""


@netconf.command("ls")
@output_option
@click.pass_obj
def list_devices(app: App) -> None:
    """List the switches that have `management` in the inventory, as odyssey-netconf last saw them.

    DRIFT counts what differed from what was decided when the switch was last read (VERIFIED, so long ago). HELD BY is
    the open transaction that configures it.
    """
    answer = app.ask("netconf.list")
    if app.out.json:
        app.out.data(answer)
        return
    devices = answer.get("switches", [])
    app.out.table(_DEVICES, [_device(one) for one in devices], "no switch has `management` in the inventory")
    for one in devices:
        if one.get("problem"):
            app.out.note(f"{one['switch']}: {one['problem']}")
    if answer.get("netconf") is False and devices:
        app.out.note("odyssey-netconf is not connected to odysseyd.")


def _device(one: Mapping[str, Any]) -> dict[str, Any]:
    verified, drift = one.get("verified"), one.get("drift")
    names = (str(item).partition(":")[0] for item in one.get("capabilities") or [])
    return {
        **one, "drift": None if drift is None or verified is None else len(drift),
        "verified": f"{since(verified, datetime.now(UTC))} ago" if verified else None,
        "capabilities": list(dict.fromkeys(names)),
    }  # fmt: skip


@netconf.command(cls=PlanCommand)
@_switch
@click.option("--backup", metavar="BACKUP", help="Compare with a backup: what `netconf restore` would do.")
@output_option
@click.pass_context
def diff(context: click.Context, switch: str, backup: str | None) -> None:
    """Read SWITCH now and show what differs from what was decided.

    + is missing there, - should not be there, ~ is other than it should be. Changes nothing. Exits with 0 if nothing
    differs, with 1 if something does, with 255 after an error.
    """
    app: App = context.obj
    answer = _look(app, switch, backup)
    if app.out.json:
        app.out.data(answer)
    else:
        _show(app, answer)
        if backup is None and answer.get("restored"):
            app.out.note(f"{switch} was restored from {answer['restored']} and {_LEFT} {switch}).")
        if answer.get("transaction"):
            app.out.note(f"Transaction {answer['transaction']} is configuring {switch}.")
    context.exit(int(Exit.DONE if answer["equal"] else Exit.CHANGES))


@netconf.command()
@_switch
@output_option
@click.pass_obj
def backups(app: App, switch: str) -> None:
    """List the backups of SWITCH, oldest first; one is made before each change."""
    answer = app.ask("netconf.backups", {"switch": switch}, LOOK_TIMEOUT)
    if app.out.json:
        app.out.data(answer)
        return
    rows = [
        {**one, "note": ", ".join(
            text for text, true in (
                ("before the first change, never deleted", one.get("first")),
                ("restored, and left so", one["name"] == answer.get("restored")),
            ) if true
        )}
        for one in answer.get("backups", [])
    ]  # fmt: skip
    app.out.table(_BACKUPS, rows, f"there is no backup of {switch}: odyssey-netconf has not changed it yet")


@netconf.command()
@_switch
@click.argument("backup", metavar="BACKUP")
@_yes
@output_option
@click.pass_obj
def restore(app: App, switch: str, backup: str, yes: bool) -> None:
    """Make what is Odyssey's on SWITCH what BACKUP says (a name of `netconf backups`), and leave it so.

    Shows what will change and asks first, on a terminal. What others configured since stays. The switch is not brought
    back to what was decided until a transaction configures it, or `netconf mend` does.
    """
    preview = _look(app, switch, backup)
    _agreed(app, preview, f"Restore {switch} from {backup}", yes=yes)
    answer = _change(app, "netconf.restore", {"switch": switch, "backup": backup})
    if app.out.json:
        return
    app.out.line(f"{switch} is restored from {backup}: {_count(answer, 'change')} carried out")
    if answer.get("restored"):
        app.out.note(f"{switch} is apart from what was decided. It {_LEFT} {switch}).")


@netconf.command()
@_switch
@_yes
@output_option
@click.pass_obj
def mend(app: App, switch: str, yes: bool) -> None:
    """Make SWITCH what was decided: after a restore, or where odyssey-netconf mends nothing by itself.

    Shows what will change and asks first, on a terminal.
    """
    preview = _look(app, switch, None)
    _agreed(app, preview, f"Make {switch} what was decided", yes=yes)
    answer = _change(app, "netconf.mend", {"switch": switch})
    if not app.out.json:
        app.out.line(f"{switch} is as decided: {_count(answer, 'change')} carried out")


def _look(app: App, switch: str, backup: str | None) -> dict[str, Any]:
    params = {"switch": switch, **({} if backup is None else {"backup": backup})}
    return app.ask("netconf.diff", params, LOOK_TIMEOUT)


def _agreed(app: App, preview: Mapping[str, Any], question: str, *, yes: bool) -> None:
    """Show what will change, and ask a person. Raises Failure after a no."""
    if not app.out.json:
        _show(app, preview)
    asks = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    if asks and not click.confirm(f"{question}: {_count(preview, 'change')}?", err=True):
        raise Failure("nothing was changed", Exit.REFUSED)


def _change(app: App, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Give the order, and show its progress and what is not saved."""

    def told(message: Mapping[str, Any]) -> None:
        app.out.note(f"[{message.get('step')}/{message.get('of')}] {message.get('text', '')}")

    answer = app.ask(method, params, CHANGE_TIMEOUT, told)
    if app.out.json:
        app.out.data(answer)
    if answer.get("unsaved"):
        app.out.note(f"{params['switch']}: {answer['unsaved']}")
    return answer


def _show(app: App, answer: Mapping[str, Any]) -> None:
    """The differences, one to a line, and how many there are."""
    for change in answer["changes"]:
        app.out.line(setting_text(change), STYLES.get(change["op"]))
    against = f"backup {answer['backup']}" if answer.get("backup") else "what was decided"
    if answer["equal"]:
        app.out.line(f"{answer['switch']}: equal to {against}")
    else:
        app.out.line(f"{answer['switch']}: {_count(answer, 'difference')} from {against}")


def _count(answer: Mapping[str, Any], word: str) -> str:
    return plural(len(answer["changes"]) + int(answer.get("more") or 0), word)
