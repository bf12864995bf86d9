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
