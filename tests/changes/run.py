# SPDX-License-Identifier: AGPL-3.0-or-later
"""Carries out random changes under traffic and judges what arrived."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tests.changes.draw import ALWAYS, NEVER, NODES, SECOND_NIC, SERVICE, Draw, bound, start
from tests.changes.streams import Traffic
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import Lab, inside

DARK_EVERY = 5  # each so many changes a stranger is prepared in the dark and aborted


@dataclass(frozen=True)
class Verdict:
    """What came of it: datagrams lost on pairs that are always allowed, seen on pairs that never are."""

    changes: int
    sent: int
    lost: dict[str, list[int]]
    leaked: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes,
            "sent": self.sent,
            "lost": sum(map(len, self.lost.values())),
            "leaked": sum(self.leaked.values()),
            "lostUnderChange": self.lost,
            "leakedOn": self.leaked,
        }


def prepare_nodes(lab: Lab) -> None:
    """Attach the nodes, unless they are; let some send by their second NIC."""
    for node, (network, address, host) in NODES.items():
        if node not in lab.nodes:
            lab.add_node(node, host, address)
        if network == "shop/app":
            inside(node, "ip", "addr", "replace", f"{SERVICE}/32", "dev", "lo")
        if node in SECOND_NIC:
            route = ("default", "via", "169.254.1.1", "dev", "fab1", "onlink", "src", address, "metric", "5")
            inside(node, "ip", "route", "replace", *route)


def release_nodes(lab: Lab) -> None:
    """Let every node send by its first NIC again."""
    for node in SECOND_NIC:
        inside(node, "ip", "route", "del", "default", "dev", "fab1", "metric", "5")


async def run(controller: Controller, changes: int, seed: int) -> Verdict:
    """Make ``changes`` random changes under traffic."""
    draw = Draw(seed)
    await controller.carry_out(start())
    number = 0
    traffic = Traffic((*ALWAYS, *NEVER), lambda: number)
    traffic.start()
    try:
        await asyncio.sleep(0.5)
        for number in range(1, changes + 1):
            await controller.carry_out(draw.change())
            if number % DARK_EVERY == 0 and "binding/app-9" not in draw.now:
                await _in_the_dark(controller)
        await asyncio.sleep(0.2)
    finally:
        await asyncio.to_thread(traffic.stop)
    always, never = traffic.streams[: len(ALWAYS)], traffic.streams[len(ALWAYS) :]
    return Verdict(
        changes=changes,
        sent=sum(stream.sent for stream in traffic.streams),
        lost={str(stream.route): stream.lost for stream in always if stream.lost},
        leaked={str(stream.route): len(stream.seen) for stream in never if stream.seen},
    )


async def _in_the_dark(controller: Controller) -> None:
    dark = {"binding/app-9": bound("app-9", "dark")}
    tx = controller.transaction({"prepare": {"changes": {}, "dark": dark}, "stages": {}})
    await controller.participant.prepare(tx)
    await controller.participant.abort(tx)
