# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long after the call of commit the first packet reaches a node that was admitted."""

from __future__ import annotations

import asyncio
import time

from tests.bench.fabric.support import Fabric, Json, Probe, Sizes, fabric, folder, probing
from tests.bench.rdmp.support import BenchError, say, spread

PAUSE = 0.0002  # between two datagrams, seconds
QUIET = 0.02  # seconds without a datagram, after which a node counts as cut off
CLOSED_TRIES = 100
STAGE = "admit"


def measure(sizes: Sizes) -> list[Json]:
    """One row for each size of the fabric."""
    return [asyncio.run(_with(nodes, sizes.commits)) for nodes in sizes.commit_nodes]


async def _with(nodes: int, commits: int) -> Json:
    with folder() as where:
        async with fabric(where, nodes) as made, probing(made, PAUSE) as probe:
            reached, answered = [], []
            for number in range(commits):
                first, end = await _once(made, probe)
                reached.append(first)
                answered.append(end)
                if number % 100 == 99:
                    say(f"  {nodes} nodes: {number + 1} of {commits} commits")
            entries = {name: one["entries"] for name, one in made.controller.participant.switches.report().items()}
    return {"nodes": nodes, "entries": entries, "first_packet": spread(reached), "confirmed": spread(answered)}


async def _once(made: Fabric, probe: Probe) -> tuple[float, float]:
    """Admit a node that was not there; returns seconds to the first packet and to the end of the commit."""
    controller, binding = made.controller, made.asked
    key = f"binding/{binding['node']}"
    await controller.carry_out({key: None})
    await _closes(probe)
    changes = {key: binding}
    dark = {key: {**binding, "phase": "dark"}}
    prepare = {"changes": changes, "dark": dark}
    tx = controller.transaction({"prepare": prepare, "stages": {STAGE: {"changes": changes}}})
    await controller.participant.prepare(tx)
    begun = time.monotonic_ns()
    effect = await controller.participant.commit(tx, STAGE)
    end = time.monotonic_ns()
    controller.keep(effect)
    first = await probe.first_arrival(begun)
    return (first - begun) / 1e9, (end - begun) / 1e9


async def _closes(probe: Probe) -> None:
    """Wait until nothing arrives any more, else the next commit would seem to take no time.

    Open vSwitch's datapath forwards for some milliseconds by what it remembers of entries that are gone.
    """
    for _ in range(CLOSED_TRIES):
        await probe.forget()
        if await probe.arrival(time.monotonic_ns(), QUIET) is None:
            return
    raise BenchError("datagrams go on to reach a node that was removed")
