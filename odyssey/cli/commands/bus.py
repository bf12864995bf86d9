# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl bus`: connections and queues, transactions in doubt, the course of one, publishing and subscribing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from odyssey.cli.app import QUESTION_TIMEOUT, App, output_option
from odyssey.cli.commands.events import Reader
from odyssey.cli.connection import Session
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.output import Column
from odyssey.cli.text import cell, seconds, since
from rdmp.client import Client

_PEERS = (
    Column("PEER", "name"), Column("ROLE", "role"), Column("SINCE", "since"), Column("QUEUE", "queue", right=True),
    Column("ADDRESS", "address"),
)  # fmt: skip
_OPEN = (
    Column("SEQ", "seq", right=True), Column("TRANSACTION", "id"), Column("STATE", "state"),
    Column("WAITS FOR", "awaited"), Column("ABSENT", "absent"), Column("SINCE", "since"),
)  # fmt: skip
_HOPS = (
    Column("AT", "since", right=True), Column("TOOK", "took", right=True), Column("STEP", "event"),
    Column("STAGE", "stage"), Column("PARTICIPANT", "participant"), Column("REASON", "reason"),
)  # fmt: skip
_LETTERS = (
    Column("LETTER", "id"), Column("GROUP", "group"), Column("METHOD", "method"), Column("CALLER", "caller"),
    Column("TRIES", "tries", right=True), Column("SINCE", "since"), Column("REASON", "reason"),
)  # fmt: skip
_NUMBERS = (
    ("Peers", "peers"), ("Connections", "connections"), ("Messages queued", "queued"),
    ("Subscriptions", "subscriptions"), ("Events waiting", "eventsWaiting"), ("Events dropped", "eventsDropped"),
    ("Dead letters", "deadletters"),
)  # fmt: skip


@click.group()
def bus() -> None:
    """The message bus: who is connected, what waits, what is in doubt."""


@bus.command()
@output_option
@click.pass_obj
def status(app: App) -> None:
    """Show connections, queues and transactions as numbers."""
    answer = app.ask("bus.status")
    if app.out.json:
        app.out.data(answer)
        return
    counts: Mapping[str, Any] = answer.get("transactions") or {}
    app.out.fields(
        [
            ("Epoch", answer.get("epoch")),
            *((label, answer.get(key)) for label, key in _NUMBERS),
            ("Transactions", ", ".join(f"{count} {name}" for name, count in counts.items())),
        ]
    )


@bus.command()
@output_option
@click.pass_obj
def peers(app: App) -> None:
    """List who is connected, and how many messages wait to be sent to each."""
    answer = app.ask("bus.peers")
    if app.out.json:
        app.out.data(answer)
        return
    now = datetime.now(UTC)
    rows = [{**peer, "since": since(peer.get("since"), now)} for peer in answer.get("peers", [])]
    app.out.table(_PEERS, rows, "nobody is connected")


@bus.command("tx")
@output_option
@click.pass_obj
def transactions(app: App) -> None:
    """List the transactions that are not finished, with the participants that they wait for."""
    answer = app.ask("bus.tx")
    if app.out.json:
        app.out.data(answer)
        return
    now = datetime.now(UTC)
    rows = [{**item, "since": since(item.get("created"), now)} for item in answer.get("transactions", [])]
    app.out.table(_OPEN, rows, "every transaction is finished")


@bus.command()
@click.argument("tx_id", metavar="ID")
@output_option
@click.pass_obj
def trace(app: App, tx_id: str) -> None:
    """Show the steps of one transaction with the time of each: since it was created, and since the step before."""
    answer = app.ask("bus.trace", {"id": tx_id})
    if app.out.json:
        app.out.data(answer)
        return
    rows = [{**hop, "since": seconds(hop["since"]), "took": seconds(hop["took"])} for hop in answer.get("hops", [])]
    app.out.table(_HOPS, rows, "nothing was noted")
    if not answer.get("finished"):
        app.out.note(f"It is not finished; it waits for {cell(answer.get('missing'))}.")


@bus.command()
@click.argument("topic")
@click.argument("data", default="{}", metavar="[JSON]")
@output_option
@click.pass_obj
def publish(app: App, topic: str, data: str) -> None:
    """Publish an event, with a JSON object as its data (`-`: read it from stdin).

    Prints its index once it is stored. After a lost connection it is published again, so it may be there twice.
    """
    document = _document(sys.stdin.read() if data == "-" else data)

    async def send(client: Client) -> int:
        return await client.publish(topic, document)

    async def work() -> int:
        async with Session(app.connection.target(), app.out.note) as session:
            return await session.repeating(send)

    index = asyncio.run(work())
    if app.out.json:
        app.out.data({"index": index})
    else:
        app.out.line(str(index))


def _document(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Failure(f"the data of an event must be a JSON object: {error}", Exit.USAGE) from error
    if not isinstance(value, dict):
        raise Failure(f"the data of an event must be a JSON object; found {text[:60]}", Exit.USAGE)
    return value


@bus.command()
@click.argument("topics", nargs=-1, metavar="[PATTERN]...")
@click.option("--from", "start", type=click.IntRange(min=1), help="Begin at this index instead of what is new.")
@output_option
@click.pass_context
def subscribe(context: click.Context, topics: tuple[str, ...], start: int | None) -> None:
    """Print events as they come until Ctrl-C, of all topics or of some patterns (node.*, tx.>).

    A lost connection is made again, and no event is left out or told twice.
    """
    app = context.find_object(App) or App()
    try:
        asyncio.run(Reader(app, True, topics or (">",), start).run())
    except KeyboardInterrupt:
        context.exit(int(Exit.INTERRUPTED))


@bus.command("call")
@click.argument("group")
@click.argument("method")
@click.argument("params", default="{}", metavar="[JSON]")
@click.option("--timeout", type=click.FloatRange(min=0.001, max=3600), default=20.0, help="Seconds for all attempts.")
@click.option("--attempts", type=click.IntRange(min=1, max=100), default=3, help="How many members are tried.")
@click.option("--durable", is_flag=True, help="Keep the call as a dead letter if nobody answers.")
@output_option
@click.pass_obj
def call_group(
    app: App, group: str, method: str, params: str, timeout: float, attempts: int, durable: bool
) -> None:
    """Call any one member of a group, another one if it dies before it answers; prints the answer as JSON.

    A member may have carried out the call although it did not answer (at least once).
    """
    request = {
        "group": group, "method": method, "params": _document(params), "timeout": timeout, "attempts": attempts,
        "durable": durable,
    }  # fmt: skip

    async def work() -> Mapping[str, Any]:
        async with Session(app.connection.target(), app.out.note) as session:
            return await session.call("bus.call", request, timeout=timeout + QUESTION_TIMEOUT)

    app.out.data(asyncio.run(work()))


@bus.group()
def deadletter() -> None:
    """Durable calls to a group that nobody answered. A decision of a transaction never becomes one."""


@deadletter.command("ls")
@output_option
@click.pass_obj
def list_letters(app: App) -> None:
    """List the dead letters, oldest first."""
    answer = app.ask("bus.deadletter.list")
    if app.out.json:
        app.out.data(answer)
        return
    now = datetime.now(UTC)
    rows = [
        {**letter, **letter["request"], "since": since(letter.get("created"), now)} for letter in answer["letters"]
    ]
    app.out.table(_LETTERS, rows, "there is no dead letter")


@deadletter.command("retry")
@click.argument("letter", metavar="LETTER")
@output_option
@click.pass_obj
def retry_letter(app: App, letter: str) -> None:
    """Make the call again; the letter goes once a member has answered, with an error too."""
    answer = app.ask("bus.deadletter.retry", {"id": letter})
    if app.out.json:
        app.out.data(answer)
    elif "error" in answer:
        app.out.line(f"{letter} was answered with an error: {answer['error'].get('message')}")
    else:
        app.out.line(f"{letter} was answered: {cell(answer.get('result'))}")


@deadletter.command("drop")
@click.argument("letter", metavar="LETTER")
@output_option
@click.pass_obj
def drop_letter(app: App, letter: str) -> None:
    """Forget a dead letter; prints it for the last time."""
    answer = app.ask("bus.deadletter.drop", {"id": letter})
    if app.out.json:
        app.out.data(answer)
    else:
        app.out.line(f"{letter} is dropped: {cell(answer.get('request'))}")
