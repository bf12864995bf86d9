# SPDX-License-Identifier: AGPL-3.0-or-later
"""A controller in the test process over the switches of ``controller_support``."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.openflow.terminator import Terminator
from controller.participant import ControllerParticipant
from controller.tenure import Tenure
from rdmp.participant import Effect, Transaction
from tests.integration import controller_support as support
from tests.integration.controller_support import Lab, Pki, can_connect
from tests.unit.controller import samples

NODES = {
    "lb-1": ("shop/lb", "172.16.10.2", "h1"),
    "app-1": ("shop/app", "172.16.20.2", "h1"),
    "app-2": ("shop/app", "172.16.20.3", "h2"),
    "db-1": ("shop/db", "172.16.30.2", "h3"),
}


class Controller:
    """A controller in this process, without RDMP: transactions are called by hand."""

    def __init__(self, lab: Lab, pki: Pki, state: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.lab = lab
        self.pki = pki
        self.state: dict[str, Any] = dict(state or {})
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.seq = 0
        settings = {"allow_absent": False, "verify_seconds": 60.0, "wait_seconds": 0.3, "lldp_seconds": 5.0} | options
        self.tenure = Tenure(Path(tempfile.mkdtemp(prefix="controller-", dir=lab.directory)) / "tenure.json")
        self.participant = ControllerParticipant(self._publish, self.tenure, **settings)
        switches = self.participant.switches
        context = pki.issue("controller", "controller").server_context()
        self.terminator = Terminator("lab", context, switches.connected, switches.refused)
        self.port = 0

    def _publish(self, topic: str, data: Mapping[str, Any]) -> None:
        self.events.append((topic, data))

    async def start(self, port: int = 0, generation: int | None = 1, in_doubt: Sequence[Transaction] = ()) -> None:
        """Restore, lead under a generation unless it is None, and listen."""
        await self.participant.restore(self.state, in_doubt)
        if generation is not None:
            await self.ask("lead", generation=generation)
        self.port = await self.terminator.start("0.0.0.0", port)

    async def ask(self, method: str, **params: Any) -> Mapping[str, Any]:
        async def nothing(_: Mapping[str, Any]) -> None: ...

        return await self.participant.call(method, params, nothing)

    async def attach(self, *names: str) -> None:
        for name in names or support.SWITCHES:
            switch = self.lab.switches[name]
            await asyncio.to_thread(switch.set_controller, self.pki.issue("switch", name), self.port)
        await self.until(lambda: len(self.topics("switch.connected")) >= len(names or support.SWITCHES), "connected")

    async def stop(self) -> None:
        await self.terminator.stop()

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        await asyncio.sleep(0)
        deadline = asyncio.get_running_loop().time() + seconds
        while not (value := condition()):
            assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}; {self.events}"
            await asyncio.sleep(0.02)
        return value

    def topics(self, topic: str) -> list[Mapping[str, Any]]:
        return [data for name, data in self.events if name == topic]

    def transaction(self, operation: Mapping[str, Any]) -> Transaction:
        self.seq += 1
        return Transaction(f"tx-{self.seq}", self.seq, 1, operation, 30.0)

    async def carry_out(self, changes: Mapping[str, Any], stage: str = "admit", **dark: Any) -> Transaction:
        """Prepare and commit one stage."""
        operation = {"prepare": {"changes": changes, "dark": dark}, "stages": {stage: {"changes": changes}}}
        tx = self.transaction(operation)
        await self.participant.prepare(tx)
        self.keep(await self.participant.commit(tx, stage))
        return tx

    def keep(self, effect: Effect) -> Effect:
        for key, document in effect.state.items():
            if document is None:
                self.state.pop(key, None)
            else:
                self.state[key] = document
        return effect

    async def phase(self, node: str, phase: str | None) -> None:
        """Commit one node in a phase; None removes it."""
        net, address, host = NODES[node]
        value = samples.binding(node, net, address, host, phase) if phase else None
        await self.carry_out({f"binding/{node}": value})


def intent(**phases: str) -> dict[str, Any]:
    """The three tiers with the nodes of this lab."""
    documents = {key: value for key, value in samples.shop().items() if not key.startswith("binding/")}
    for node, (net, address, host) in NODES.items():
        phase = phases.get(node.replace("-", "_"), "admitted")
        documents[f"binding/{node}"] = samples.binding(node, net, address, host, phase)
    return documents


def address(node: str) -> str:
    return NODES[node][1]


async def reaches(source: str, target: str, port: int, *, seconds: float = 10.0, **options: Any) -> bool:
    """Tell whether a connection can be opened, at last after ``seconds``: a switch's caches follow its tables late."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await asyncio.to_thread(can_connect, source, address(target), port, **options):
        if asyncio.get_running_loop().time() > deadline:
            return False
    return True


async def closed(source: str, target: str, port: int, **options: Any) -> bool:
    """Tell whether a connection cannot be opened."""
    return not await asyncio.to_thread(can_connect, source, address(target), port, **options)
