# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kills a daemon with SIGKILL in the middle of an addNode, starts it again and counts what is half done.

The count is made twice, and each time from what engines, switches and containers show beside the records: when
everything has recovered, and after the caller has repeated the same call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from odyssey.demo.world import Note, World, WorldError, quiet, until
from rdmp.rpc import RpcError

MOMENT_TIMEOUT = 30.0  # s until the moment of the kill must have come
CALL_TIMEOUT = 120.0  # s until a call has ended
RUNNING = frozenset({"running"})


class Attempt:
    """One addNode on its way: odysseyctl runs, and its lines of progress are read as they come."""

    def __init__(self, world: World, network: str, before: frozenset[str]) -> None:
        self.world = world
        self.call = f"crash-{secrets.token_hex(4)}"
        self.arguments = ("node", "add", f"{world.platform}/{network}", "--id", self.call)
        self.before = before
        self.lines: list[str] = []
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the command."""
        self._process = await self.world.start_ctl(*self.arguments)
        self._reader = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            self.lines.append(line.decode("utf-8", "replace").strip())
            self._news.set()
        self._news.set()

    async def line(self, pattern: str) -> re.Match[str]:
        """Wait for a line of progress that matches. Raises `WorldError` with all lines if none comes."""
        try:
            async with asyncio.timeout(MOMENT_TIMEOUT):
                while True:
                    for line in self.lines:
                        if found := re.search(pattern, line):
                            return found
                    if self._reader is None or self._reader.done():
                        break
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        raise WorldError(f"odysseyctl said nothing like {pattern!r}, but:\n" + "\n".join(self.lines))

    async def new_container(self) -> str:
        """Wait for the first container of a new node; the host where it is."""
        end = time.monotonic() + MOMENT_TIMEOUT
        while time.monotonic() < end:
            for container in await self.world.containers():
                if container.node and container.node not in self.before:
                    return container.host
        raise WorldError(f"no container of a new node appeared within {MOMENT_TIMEOUT:g} s for call {self.call}")

    async def abandon(self) -> None:
        """The caller is gone as well: what counts is what it can find out by repeating the call."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader

    async def state(self) -> str:
        """How odysseyd says that the call stands; `unknown` if it has never heard of it."""
        try:
            return str((await self.world.ask("call.show", {"id": self.call}))["state"])
        except RpcError as error:
            if error.code != "not_found":
                raise
            return "unknown"

    async def decision(self) -> str:
        """The transactions of the call and how they were decided, for people."""
        records = (await self.world.records()).transactions
        found = [record for record in records if record["id"].startswith(f"{self.call}.")]
        return ", ".join(str(record["state"]) for record in found) or "no transaction yet"


Moment = Callable[[Attempt], Awaitable[str]]
"""Waits until it is time, and returns which daemon is to be killed."""


async def container_appears(attempt: Attempt) -> str:
    """The first container of the new node is there: its agent is in the middle of its prepare."""
    await attempt.new_container()
    return "odysseyd"


async def decided(attempt: Attempt) -> str:
    """The decision is made; not every participant has been told."""
    await attempt.line(r"\bcommitted\b")
    return "odysseyd"


@dataclass(frozen=True, slots=True)
class Strike:
    """One kill and what came of it.

    `decision` is how the transactions of the call stood after the recovery. `findings` are what no committed decision
    explains; `recovered_seconds` runs from the restart until every transaction was finished.
    """

    victim: str
    moment: str
    decision: str
    recovered_seconds: float
    findings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.victim} killed {self.moment}: {self.decision}"


async def strike(world: World, network: str, text: str, moment: Moment, *, note: Note = quiet) -> Strike:
    """Add a node to `network`, SIGKILL the daemon that `moment` names, restart it, and see that all is well.

    Raises `WorldError` if the platform does not recover or the repeated call does not succeed.
    """
    nodes = await world.nodes(network, "admitted")
    attempt = Attempt(world, network, frozenset(node["node"] for node in await world.nodes()))
    await attempt.start()
    try:
        victim = await moment(attempt)
        await world.kill(victim)
    finally:
        await attempt.abandon()
    note(f"{victim} is killed {text}")
    begun = time.monotonic()
    await world.start(victim)
    await world.settled()
    took = time.monotonic() - begun
    await _ended(attempt)
    decision, findings = await attempt.decision(), await world.half_done()
    note("the same call is repeated")
    await world.ctl(*attempt.arguments, note=note)
    await world.settled()
    findings += await world.half_done()
    findings += _once(nodes, await world.nodes(network, "admitted"))
    return Strike(victim, text, decision, took, findings)


async def _ended(attempt: Attempt) -> None:
    """Wait until odysseyd does no more for this call (it goes on when only an agent or the controller was killed)."""

    async def look() -> bool:
        return await attempt.state() not in RUNNING

    await until(look, CALL_TIMEOUT, lambda: f"call {attempt.call} has not ended")
    await attempt.world.settled()


def _once(before: list[Mapping[str, Any]], after: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """The repeated call must have added one node, not none and not two."""
    if len(after) == len(before) + 1:
        return ()
    return (f"one node was to be added: {len(before)} were admitted before, {len(after)} are after the repeated call",)


@contextlib.asynccontextmanager
async def frozen(world: World, daemon: str) -> AsyncIterator[None]:
    """SIGSTOP a daemon, so that what happens around it can be arranged; SIGCONT at the end unless it was killed."""
    pid = world.pid(daemon)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was the victim
            os.kill(pid, signal.SIGCONT)
