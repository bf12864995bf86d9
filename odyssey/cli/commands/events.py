# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl events`: what happened, and what happens now."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass

import click

from odyssey.cli.app import App, output_option
from odyssey.cli.connection import Session
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.text import cell
from rdmp.client import Client
from rdmp.events import Event, matches
from rdmp.rpc import RpcError

SHOWN = 50
"""Events that are shown when neither --from nor --follow is given."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--from", "start", type=click.IntRange(min=1), help="Begin at this index.")
@click.option("--topic", "topics", multiple=True, help="Only topics of this pattern (node.*, tx.>); may be repeated.")
@output_option
@click.pass_context
def events(context: click.Context, follow: bool, start: int | None, topics: tuple[str, ...]) -> None:
    """Print events, one to a line: the last 50, or from an index on, or new ones as they come.

    A lost connection is made again, and no event is left out or told twice.
    """
    app = context.find_object(App) or App()
    try:
        asyncio.run(Reader(app, follow, topics or (">",), start).run())
    except KeyboardInterrupt:
        context.exit(int(Exit.INTERRUPTED))


@dataclass(slots=True)
class Reader:
    """Reads the event log from `place` on; `place` survives a lost connection."""

    app: App
    follow: bool
    topics: tuple[str, ...]
    place: int | None

    async def run(self) -> None:
        async with Session(self.app.connection.target(), self.app.out.note) as session:
            await session.repeating(self._read)

    async def _read(self, client: Client) -> None:
        if self.place is None:
            newest = await client.subscribe(self.topics)
            newest.close()
            self.place = newest.index + 1 if self.follow else max(1, newest.index + 1 - SHOWN)
        # To end at the newest index it must be seen, whatever its topic: then all are asked for and chosen here.
        found = await client.subscribe(self.topics if self.follow else (">",), self.place)
        found.on_lost = self.app.out.note
        found.until = None if self.follow else found.index
        try:
            async for event in found:
                self.place = event.index + 1
                if any(matches(pattern, event.topic) for pattern in self.topics):
                    self._print(event)
        except RpcError as error:
            self.place = found.next_index
            if error.code != "slow_subscriber":
                raise
            text = f"odysseyd ended the subscription: events were read too slowly ({error.message})"
            raise Failure(text, Exit.FAILED, advice=f"Go on with --from {self.place}") from error

    def _print(self, event: Event) -> None:
        if self.app.out.json:
            click.echo(json.dumps(asdict(event), ensure_ascii=False))
        else:
            self.app.out.line(f"{event.index:>6}  {event.time}  {event.topic:<18}  {cell(event.data)}")
