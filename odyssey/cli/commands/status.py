# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl status`: the cluster at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.output import Column
from odyssey.cli.text import since

_PEERS = (Column("PEER", "name"), Column("ROLE", "role"), Column("SINCE", "since"), Column("ADDRESS", "address"))
_CONTROLLERS = (
    Column("CONTROLLER", "name"),
    Column("ROLE", "role"),
    Column("IN STEP", "inStep"),
    Column("SWITCHES", "reach"),
)
_COUNTS = (("open", "open"), ("committed", "committed"), ("aborted", "aborted"), ("in doubt", "inDoubt"))


@click.command()
@output_option
@click.pass_obj
def status(app: App) -> None:
    """Show who leads, who is connected and how transactions stand."""
    answer = app.ask("status")
    if app.out.json:
        app.out.data(answer)
        return
    counts: Mapping[str, Any] = answer.get("transactions") or {}
    app.out.fields(
        [
            ("Cluster", answer.get("cluster")),
            ("Epoch", answer.get("epoch")),
            ("Incarnation", answer.get("incarnation")),
            ("Index", answer.get("index")),
            ("Leader", _leader(answer)),
            ("Transactions", ", ".join(f"{counts[key]} {label}" for label, key in _COUNTS if key in counts)),
        ]
    )
    if rows := answer.get("controllers"):
        app.out.heading("Controllers")
        app.out.table(_CONTROLLERS, [{**row, "role": "leads" if row["leads"] else "follows"} for row in rows], "none")
    app.out.heading("Connected")
    now = datetime.now(UTC)
    rows = [
        {**peer, "since": since(peer["since"], now) if peer.get("since") else None} for peer in answer.get("peers", [])
    ]
    app.out.table(_PEERS, rows, "nobody")


def _leader(answer: Mapping[str, Any]) -> str:
    """Which controller was appointed to write to the switches."""
    leader = answer.get("leader")
    return f"{leader['name']}, generation {leader['generation']}" if leader else "none"
