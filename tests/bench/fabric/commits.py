# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long after the call of commit the first packet reaches a node that was admitted."""

from __future__ import annotations

import asyncio
import time

from tests.bench.fabric.support import Json, Rig, Sizes, folder, rig
from tests.bench.rdmp.support import BenchError, say, spread

PAUSE = 0.0002  # between two datagrams, seconds
STAGE = "admit"


def measure(sizes: Sizes) -> list[Json]:
    """One row for each size of the fabric."""
    return [asyncio.run(_with(nodes, sizes.commits)) for nodes in sizes.commit_nodes]


async def _with(nodes: int, commits: int) -> Json:
    with folder() as where:
        async with rig(where, nodes, PAUSE) as made:
            reached, answered = [], []
            for number in range(commits):
                first, end = await _once(made)
                reached.append(first)
                answered.append(end)
                if number % 100 == 99:
                    say(f"  {nodes} nodes: {number + 1} of {commits} commits")
            entries = {name: one["entries"] for name, one in made.controller.participant.switches.report().items()}
    return {"nodes": nodes, "entries": entries, "first_packet": spread(reached), "confirmed": spread(answered)}


async def _once(made: Rig) -> tuple[float, float]:
    """Admit a node that was not there; returns seconds to the first packet and to the end of the commit."""
    controller, key = made.controller, made.asked
    await controller.carry_out({key: None})
    await _is_closed(made)
    changes = {key: made.documents[key]}
    dark = {key: {**made.documents[key], "phase": "dark"}}
    prepare = {"changes": changes, "dark": dark}
    tx = controller.transaction({"prepare": prepare, "stages": {STAGE: {"changes": changes}}})
    await controller.participant.prepare(tx)
    begun = time.monotonic_ns()
    effect = await controller.participant.commit(tx, STAGE)
    end = time.monotonic_ns()
    controller.keep(effect)
    first = await made.first_arrival(begun)
    return (first - begun) / 1e9, (end - begun) / 1e9


async def _is_closed(made: Rig) -> None:
    """Check that nothing arrives, else the next commit would seem to take no time."""
    await asyncio.to_thread(made.probe.ask, "forget")
    now = time.monotonic_ns()
    answer = await asyncio.to_thread(made.probe.ask, "first", 5.0, after=now, seconds=0.005)
    if answer["arrived"] is not None:
        raise BenchError("a datagram reached a node that had been removed")
