# SPDX-License-Identifier: AGPL-3.0-or-later
"""The restoring loop: keep what is committed true, without any transaction and also without an orchestrator.

It runs at the start, every `interval` seconds, and for one node whenever a container of it ended. It looks at committed
nodes, and at what came of an aborted transaction after its abort; nodes of undecided transactions are left as they are,
and nothing is ever removed for being unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agents.driver import HostDriver, HostUnreachable, NodeError, NodeEvent
from agents.table import NodeTable, Seen

_ALL = ""
SETTLE_SECONDS = 1.0  # after a container ended: the engine's own restart comes first

Publish = Callable[[str, Mapping[str, Any]], Awaitable[None]]

_log = logging.getLogger(__name__)


class Restorer:
    """Runs the loop and tells what happens to committed nodes as events."""

    def __init__(
        self,
        driver: HostDriver,
        table: NodeTable,
        host: str,
        publish: Publish,
        sweep: Callable[[], Awaitable[None]],
        *,
        interval: float,
        parallel: int,
    ) -> None:
        """`sweep` removes what former nodes left; `parallel` nodes are looked at at once."""
        self._driver = driver
        self._table = table
        self._host = host
        self._publish = publish
        self._sweep = sweep
        self._interval = interval
        self._parallel = asyncio.Semaphore(parallel)
        self._wake = asyncio.Event()
        self._due: set[str] = set()

    async def run(self) -> None:
        """Restore for ever; run it as a task."""
        loop = asyncio.get_running_loop()
        full = loop.time()  # when all are to be looked at next
        while True:
            self._wake.clear()
            due, self._due = self._due, set()
            if _ALL in due or loop.time() >= full:
                await self.restore()
                full = loop.time() + self._interval
            else:
                await self._each(sorted(due))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(full):
                    await self._wake.wait()
                    await asyncio.sleep(SETTLE_SECONDS)

    def wake(self, node: str | None = None) -> None:
        """Have one node, or all, looked at now."""
        self._due.add(_ALL if node is None else node)
        self._wake.set()

    async def restore(self) -> None:
        """Bring every committed node into order once."""
        try:
            await self._sweep()
        except NodeError as error:
            _log.warning("what former nodes left on this host cannot be looked for: %s", error.reason)
        await self._each(self._table.names())

    async def _each(self, names: Sequence[str]) -> None:
        await asyncio.gather(*(self._node(name) for name in names))

    async def _node(self, name: str) -> None:
        async with self._parallel, self._table.locked(name):
            node = self._table.wanted(name)
            if node is None:
                return
            before = self._table.seen(name)
            try:
                actions = await self._driver.keep(node.spec, node.tx, node.phase)
                probe = await self._driver.probe(node.spec)
            except HostUnreachable as error:
                self._table.saw(name, Seen(faults=(error.reason,)))
                _log.warning("node %s cannot be looked at: %s", name, error.reason)
                return
            except NodeError as error:
                self._table.saw(name, Seen(healthy=False, faults=(error.reason,)))
                if before.faults != (error.reason,):
                    _log.error("node %s cannot be kept running: %s", name, error.reason)
                    await self._publish("node.failed", {"node": name, "host": self._host, "reason": error.reason})
                return
            self._table.saw(name, Seen(healthy=probe.ok, faults=() if probe.ok else (probe.answer,)))
        if actions:
            _log.warning("node %s was brought back: %s", name, "; ".join(actions))
            await self._publish("node.restored", {"node": name, "host": self._host, "actions": list(actions)})

    async def follow(self) -> None:
        """Follow the host's events for ever; run it as a task."""
        died: set[str] = set()
        async with contextlib.aclosing(self._driver.events()) as events:
            async for event in events:
                if event.kind == "lost-sight":
                    self.wake()
                elif self._table.wanted(event.node) is not None:
                    await self._happened(event, died)

    async def _happened(self, event: NodeEvent, died: set[str]) -> None:
        data = {"node": event.node, "host": self._host}
        if event.kind == "died":
            self.wake(event.node)
            if not event.sandbox:
                died.add(event.node)
                _log.warning("node %s ended with exit code %d", event.node, event.exit_code)
                await self._publish("node.died", {**data, "exitCode": event.exit_code})
        elif not event.sandbox and event.node in died:
            died.discard(event.node)
            await self._publish("node.restarted", data)
