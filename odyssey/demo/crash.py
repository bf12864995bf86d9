# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kills odysseyd with SIGKILL in the middle of an addNode, starts it again and counts what is half done.

The count is made twice, and each time from what engines, switches and containers show beside the records: when
odysseyd has recovered, and after the caller has repeated the same call.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from odyssey.demo.world import Note, World, WorldError, finish_ctl, quiet
from rdmp.rpc import RpcError

MOMENT_TIMEOUT = 30.0  # s until the moment of the kill must have come
ENDED = frozenset({"done", "failed"})

Moment = Callable[[World, str, frozenset[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Strike:
    """One kill and what came of it.

    `decision` is how the transaction that was hit ended, or `none` if there was none yet. `findings` are what no
    committed decision explains; `recovered_seconds` runs from the restart until every transaction was finished.
    """

    moment: str
    decision: str
    recovered_seconds: float
    findings: tuple[str, ...]

    def __str__(self) -> str:
        return f"killed {self.moment}: {self.decision}, then completed by a repeated call"


async def container_appears(world: World, call: str, before: frozenset[str]) -> None:
    """The first container of a new node is there: an agent is in the middle of its prepare."""
    await _soon(lambda: _new_container(world, before), f"no container of a new node appeared for call {call}")


async def decided(world: World, call: str, before: frozenset[str]) -> None:
    """The decision has been made; some participants may not have been told."""

    async def look() -> bool:
        records = await world.ask("tx.list")
        return any(
            record["id"].startswith(f"{call}.") and record["state"] == "committed" for record in records["transactions"]
        )

    await _soon(look, f"call {call} was not decided")


async def accepted(world: World, call: str, before: frozenset[str]) -> None:
    """odysseyd knows the call."""

    async def look() -> bool:
        try:
            await world.ask("call.show", {"id": call})
        except RpcError:
            return False
        return True

    await _soon(look, f"call {call} was not accepted")


async def _new_container(world: World, before: frozenset[str]) -> bool:
    return any(container.node not in before for container in await world.containers())


async def _soon(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Like `world.until`, with no pause between two looks: the moment is short."""
    end = time.monotonic() + MOMENT_TIMEOUT
    while not await condition():
        if time.monotonic() > end:
            raise WorldError(f"within {MOMENT_TIMEOUT:g} s {what}")
        await asyncio.sleep(0.005)


async def strike(
    world: World,
    network: str,
    text: str,
    moment: Moment,
    *,
    victim: str = "odysseyd",
    note: Note = quiet,
) -> Strike:
    """Add a node to `network`, SIGKILL `victim` when `moment` has come, restart it, and see that all is well.

    Raises `WorldError` if the platform does not recover or the repeated call does not succeed.
    """
    call = f"crash-{secrets.token_hex(4)}"
    nodes = await world.nodes(network)
    before = frozenset(node["node"] for node in await world.nodes())
    arguments = ("node", "add", f"{world.platform}/{network}", "--count", "1", "--id", call, "-o", "json")
    process = await world.start_ctl(*arguments)
    try:
        await moment(world, call, before)
        await world.kill(victim)
        note(f"{victim} is killed {text}")
        await world.start(victim)
        took = await world.settled()
        findings = await world.half_done()
        decision = await _decision(world, call)
    finally:
        # The caller is gone as well: what counts is what it can find out by repeating the call.
        if process.returncode is None:
            process.kill()
        await finish_ctl(process, arguments)
    note("the same call is repeated")
    await world.ctl(*arguments, note=note)
    await world.settled()
    findings += await world.half_done()
    findings += _once(nodes, await world.nodes(network))
    return Strike(text, decision, took, findings)


async def _decision(world: World, call: str) -> str:
    found = [record for record in (await world.records()).transactions if record["id"].startswith(f"{call}.")]
    return ", ".join(f"{record['id'].rpartition('.')[2]} {record['state']}" for record in found) or "no transaction yet"


def _once(before: list[Mapping[str, Any]], after: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """The repeated call must have added one node, not none and not two."""

    def count(nodes: list[Mapping[str, Any]]) -> int:
        return sum(node["phase"] == "admitted" for node in nodes)

    if count(after) == count(before) + 1:
        return ()
    return (f"one node was to be added: {count(before)} admitted nodes before, {count(after)} after the repeated call",)
