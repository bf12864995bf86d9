# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl tx` and `odysseyctl call`: what was decided, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.exits import Exit
from odyssey.cli.faults import fault_lines
from odyssey.cli.output import Column
from odyssey.cli.submit import exit_code
from odyssey.cli.text import json_text

TX_COLUMNS = (
    Column("SEQ", "seq", right=True),
    Column("TRANSACTION", "id"),
    Column("STATE", "state"),
    Column("FINISHED", "finished"),
    Column("STAGES", "stages"),
    Column("PARTICIPANTS", "participants"),
    Column("CREATED", "created"),
    Column("REASON", "reason"),
)
_NODES = (
    Column("NODE", "node"), Column("HOST", "host"), Column("ADDRESS", "address"), Column("PHASE", "phase"),
)  # fmt: skip


@click.group()
def tx() -> None:
    """Transactions: each change as it was decided."""


@tx.command("ls")
@click.option(
    "--state", type=click.Choice(["preparing", "committed", "aborted"]), help="Only transactions in this state."
)
@output_option
@click.pass_obj
def list_transactions(app: App, state: str | None) -> None:
    """List the transactions, oldest first."""
    answer = app.ask("tx.list", {"state": state} if state else {})
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.table(TX_COLUMNS, [_row(item) for item in answer.get("transactions", [])], "there is no transaction")


@tx.command()
@click.argument("tx_id", metavar="ID")
@output_option
@click.pass_obj
def show(app: App, tx_id: str) -> None:
    """Show one transaction with everything that it decided."""
    answer = app.ask("tx.show", {"id": tx_id})
    if app.out.json:
        app.out.data(answer)
        return
    row = _row(answer)
    app.out.fields([(column.heading.capitalize(), row.get(column.key)) for column in TX_COLUMNS])
    for heading, key in (("Degraded", "degraded"), ("Done", "done"), ("Changes", "changes")):
        if answer.get(key):
            app.out.heading(heading)
            app.out.raw(json_text(answer[key]))


@tx.command()
@click.argument("tx_id", metavar="ID")
@click.option("--reason", help="Why; it becomes the reason of the abort.")
@output_option
@click.pass_obj
def abort(app: App, tx_id: str, reason: str | None) -> None:
    """Abort a transaction that is not decided yet. A decision is final: then this is refused."""
    answer = app.ask("tx.abort", {"id": tx_id, **({"reason": reason} if reason else {})})
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.line(f"{tx_id} is {answer.get('state')}: {answer.get('reason')}")


@tx.command()
@click.argument("tx_id", metavar="ID")
@click.option(
    "--heuristic", type=click.Choice(["commit", "abort"]), required=True, help="What was decided; it cannot be changed."
)
@click.option("--participant", "participants", multiple=True, help="Give up only this one; may be repeated.")
@click.option("--reason", required=True, help="Why; it is kept with your name.")
@output_option
@click.pass_obj
def resolve(app: App, tx_id: str, heuristic: str, participants: tuple[str, ...], reason: str) -> None:
    """The last resort: wait no longer for participants that never answer what was decided.

    The transaction ends degraded, and an event tx.heuristic says who did it and why. The decision stays what it is; a
    participant that comes back is told it.
    """
    params = {"id": tx_id, "heuristic": heuristic, "participants": list(participants), "reason": reason}
    answer = app.ask("tx.resolve", params)
    if app.out.json:
        app.out.data(answer)
        return
    for name, text in (answer.get("degraded") or {}).items():
        app.out.line(f"{name}: {text}")
    waits = ", ".join(answer.get("missing") or ())
    app.out.line(f"{tx_id} is {answer.get('state')}" + (f" and waits for {waits}" if waits else " and finished"))


@click.group()
def call() -> None:
    """Service calls: what somebody asked for."""


@call.command("show")
@click.argument("call_id", metavar="ID")
@output_option
@click.pass_obj
def show_call(app: App, call_id: str) -> None:
    """Show how a call stands. Exits as the call did: 0 done, 4 failed, 6 still at work."""
    answer = app.ask("call.show", {"id": call_id})
    if app.out.json:
        app.out.data(answer)
    else:
        _show_call(app, answer)
    code = exit_code(answer)
    if code is not Exit.DONE:
        click.get_current_context().exit(int(code))


def _show_call(app: App, answer: Mapping[str, Any]) -> None:
    error: Mapping[str, Any] = answer.get("error") or {}
    app.out.fields(
        [
            ("Call", answer.get("id")),
            ("Service", answer.get("service")),
            ("State", answer.get("state")),
            ("Index", answer.get("index")),
            *([("Error", error.get("message"))] if error else []),
        ]
    )
    for fault in fault_lines(error.get("faults") or ()):
        app.out.line(f"  {fault.text()}")
    app.out.heading("Transactions")
    app.out.table(TX_COLUMNS, [_row(item) for item in answer.get("transactions") or []], "none")
    if answer.get("nodes"):
        app.out.heading("Nodes")
        app.out.table(_NODES, answer["nodes"], "none")
    if answer.get("state") == "interrupted":
        app.out.note("odysseyd restarted during this call; repeat the command with the same --id to take it up again.")


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    participants = item.get("participants") or []
    return {**item, "participants": sorted(participants)}
