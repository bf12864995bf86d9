# SPDX-License-Identifier: AGPL-3.0-or-later
"""A host in memory, for the participant's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from agents.connections import Connections
from agents.driver import HostDriver, HostFacts, HostUnreachable, NodeError, NodeEvent, NodeFacts, NodeHeld
from agents.health import Probe
from agents.spec import NodeSpec, Phase


class FakeDriver(HostDriver):
    """Keeps nodes in a dictionary; the fields make calls fail or wait."""

    def __init__(self) -> None:
        self.standing: dict[str, NodeFacts] = {}
        self.kept: set[str] = set()
        self.phases: dict[str, Phase] = {}
        self.avoided: list[tuple[str, ...]] = []
        self.not_rerouted: dict[str, str] = {}
        self.neighbours_told: list[tuple[str, int]] = []
        self.reasons: list[str] = []
        self.fails: dict[str, str] = {}
        self.unreachable = False
        self.unhealthy: set[str] = set()
        self.mends: dict[str, list[str]] = {}
        self.gate: asyncio.Event | None = None
        self.running_at_once = 0
        self.most_at_once = 0
        self.queue: asyncio.Queue[NodeEvent] = asyncio.Queue()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def background(self) -> None:
        await asyncio.Event().wait()

    async def check(self, specs: Sequence[NodeSpec]) -> Sequence[str]:
        return self.reasons

    async def start(self, spec: NodeSpec, tx: str) -> NodeFacts:
        self.running_at_once += 1
        self.most_at_once = max(self.most_at_once, self.running_at_once)
        try:
            if (held := self.standing.get(spec.node)) is not None and held.tx != tx:
                raise NodeHeld(f"the name belongs to transaction {held.tx}")
            self.standing[spec.node] = NodeFacts("running", f"c-{spec.node}", f"s-{spec.node}", "sha256:1", tx)
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
            if spec.node in self.fails:
                raise NodeError(self.fails[spec.node])
            return self.standing[spec.node]
        finally:
            self.running_at_once -= 1

    async def keep(self, spec: NodeSpec, tx: str, phase: Phase) -> Sequence[str]:
        if self.unreachable:
            raise HostUnreachable("no engine")
        if spec.node in self.fails:
            raise NodeError(self.fails[spec.node])
        self.kept.add(spec.node)
        self.phases[spec.node] = phase
        self.standing.setdefault(spec.node, NodeFacts("running", "c", "s", "sha256:1", tx))
        return self.mends.pop(spec.node, [])

    async def ended(self, node: str) -> str | None:
        return None if node in self.standing else "its container has gone"

    async def probe(self, spec: NodeSpec) -> Probe:
        return Probe(spec.node not in self.unhealthy, "checked")

    async def discard(self, spec: NodeSpec, tx: str) -> None:
        if spec.node in self.standing and self.standing[spec.node].tx == tx:
            del self.standing[spec.node]

    async def stop(self, node: str) -> None:
        if node in self.fails:
            raise NodeError(self.fails[node])
        self.standing.pop(node, None)

    async def prefer(self, avoid: Sequence[str]) -> Mapping[str, str]:
        self.avoided.append(tuple(avoid))
        return dict(self.not_rerouted)

    async def tidy(self) -> None: ...

    async def neighbours(self, spec: NodeSpec) -> None:
        if spec.node in self.fails:
            raise NodeError(self.fails[spec.node])
        self.neighbours_told.append((spec.node, spec.neighbours["revision"]))

    async def nodes(self) -> Mapping[str, NodeFacts]:
        return dict(self.standing)

    async def connections(self, node: str) -> Connections:
        return Connections(2, 1)

    async def logs(self, node: str, tail: int) -> str:
        return "a line\n"

    async def images(self, references: Sequence[str]) -> Mapping[str, str | None]:
        return dict.fromkeys(references)

    async def describe(self) -> HostFacts:
        return HostFacts(engine={"version": "1"})

    async def events(self) -> AsyncGenerator[NodeEvent, None]:
        while True:
            yield await self.queue.get()
