# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sandboxes made ahead, so that starting a node does not wait for its sandbox.

A sandbox in the pool has no node and no NIC. A node reserves one, notes that in its claim, and then the sandbox is
renamed to `<node>.sandbox`. The pool fills up again in the background while no node is being started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import deque
from dataclasses import dataclass

from agents.docker.containers import (
    POOL,
    POOL_PREFIX,
    SANDBOX,
    SANDBOX_IMAGE,
    Container,
    Listed,
    Owner,
    sandbox_config,
    sandbox_name,
)
from agents.docker.engine import Engine, EngineError
from agents.docker.image import CHANGES, ImageError, archive

IDLE_SECONDS = 0.3  # how long no node may have been started before the pool is filled
RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox container: its id and its first process on the host."""

    id: str
    pid: int


class Pool:
    """At most `size` sandboxes without a node; 0 makes each sandbox when it is needed."""

    def __init__(self, engine: Engine, owner: Owner, size: int) -> None:
        self._engine = engine
        self._owner = owner
        self._size = size
        self._ready: deque[Sandbox] = deque()
        self._reserved: set[str] = set()
        self._withdrawn: set[str] = set()
        self._wanted = asyncio.Event()
        self._users = 0
        self._image = asyncio.Lock()
        self._image_known = False
        self._ipv6 = os.path.exists("/proc/sys/net/ipv6")

    def __len__(self) -> int:
        return len(self._ready)

    def hold(self) -> None:
        """A node is being started: do not fill the pool now."""
        self._users += 1

    def release(self) -> None:
        """The node is started."""
        self._users -= 1
        self._wanted.set()

    async def _adopt_all(self) -> None:
        """Take over what an earlier run of the agent left, or a call that the engine carried out too late.

        Those that do not run are started again; what cannot be used, or is too much, is removed.
        """
        listed = [Listed.parse(item) for item in await self._engine.containers(self._owner.filters())]
        for item in listed:
            if item.role != POOL or self._knows(item.id):
                continue
            try:
                if len(self._ready) >= self._size or not await self._adopt(item.id):
                    await self._engine.remove(item.id)
            except EngineError as error:
                if error.unreachable:
                    raise
                _log.warning("sandbox %s of the pool cannot be removed: %s", item.name, error)

    def _knows(self, identity: str) -> bool:
        ours = {sandbox.id for sandbox in self._ready} | self._reserved | self._withdrawn
        return identity in ours

    async def _adopt(self, identity: str) -> bool:
        """Put a sandbox into the pool; False if it is of no use."""
        found = await self._inspect(identity)
        if found is not None and not found.running:
            try:
                await self._engine.start(identity)
            except EngineError as error:
                if error.unreachable:
                    raise
                _log.warning("sandbox %s of the pool does not start: %s", found.name, error)
                return False
            found = await self._inspect(identity)
        if found is None or not found.running:
            return False
        # Meanwhile a node may have got it: then it has a node's name, or gets it at this moment.
        if found.name.startswith(POOL_PREFIX) and not self._knows(identity):
            self._ready.append(Sandbox(found.id, found.pid))
        return True

    def reserve(self) -> Sandbox | None:
        """Take a sandbox out of the pool, None if it is empty; `name` gives it to its node."""
        if not self._ready:
            return None
        sandbox = self._ready.popleft()
        self._reserved.add(sandbox.id)
        return sandbox

    def give_back(self, sandbox: Sandbox) -> None:
        """Return a reserved sandbox that was not named."""
        self._reserved.discard(sandbox.id)
        self._ready.append(sandbox)

    def withdraw(self, identity: str) -> bool:
        """See to it that no node gets a sandbox from now on; False if one is getting it just now."""
        if identity in self._reserved:
            return False
        self._withdrawn.add(identity)
        self._ready = deque(sandbox for sandbox in self._ready if sandbox.id != identity)
        return True

    async def name(self, sandbox: Sandbox, node: str) -> Sandbox:
        """Give a reserved sandbox its node's name; returns it, started again if it has ended in the pool.

        Raises EngineError: `conflict` where the name is in use (the sandbox goes back), `missing` where it has gone.
        """
        try:
            await self._engine.rename(sandbox.id, sandbox_name(node))
        except EngineError as error:
            if not error.missing:
                self.give_back(sandbox)
            raise
        finally:
            self._reserved.discard(sandbox.id)
        return await self._revive(sandbox)

    async def make(self, node: str, tx: str) -> Sandbox:
        """Make a sandbox for a node, without the pool. Raises EngineError (`conflict`: the name is in use)."""
        return await self._make(sandbox_name(node), self._owner.labels(SANDBOX, node, tx))

    async def _revive(self, sandbox: Sandbox) -> Sandbox:
        """Return the sandbox as it is, or started again if it has ended in the pool."""
        if os.path.exists(f"/proc/{sandbox.pid}/ns/net"):
            return sandbox
        await self._engine.start(sandbox.id)
        return await self._running(sandbox.id)

    async def run(self) -> None:
        """Take over the pool that stands, then keep it full, for ever; run it as a task.

        After a failure what stands is looked at again: a call that timed out may have been carried out.
        """
        adopted = False
        while True:
            self._wanted.clear()
            try:
                if not adopted:
                    await self._adopt_all()
                    adopted = True
                await self._fill()
            except EngineError as error:
                adopted = False
                _log.warning("the pool of sandboxes cannot be filled: %s; next try in %g s", error, RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await self._wanted.wait()

    async def _fill(self) -> None:
        while len(self._ready) < self._size:
            await asyncio.sleep(IDLE_SECONDS)
            if self._users:
                return
            name = POOL_PREFIX + secrets.token_hex(4)
            try:
                self._ready.append(await self._make(name, self._owner.labels(POOL)))
            except EngineError:
                await self._engine.remove(name)  # made a moment ago, and of no use
                raise

    async def _make(self, name: str, labels: dict[str, str]) -> Sandbox:
        await self._ensure_image()
        try:
            identity = await self._engine.create(name, sandbox_config(labels, ipv6=self._ipv6))
        except EngineError as error:
            self._image_known = self._image_known and not error.missing
            raise
        await self._engine.start(identity)
        return await self._running(identity)

    async def _running(self, identity: str) -> Sandbox:
        found = await self._inspect(identity)
        if found is None or not found.running:
            why = "it has gone" if found is None else found.error or f"it is {found.status}"
            raise EngineError(f"sandbox {identity[:12]} does not run: {why}")
        return Sandbox(found.id, found.pid)

    async def _inspect(self, identity: str) -> Container | None:
        document = await self._engine.inspect(identity)
        return None if document is None else Container.parse(document)

    async def _ensure_image(self) -> None:
        async with self._image:
            if self._image_known:
                return
            if await self._engine.image(SANDBOX_IMAGE) is None:
                repository, _, tag = SANDBOX_IMAGE.partition(":")
                try:
                    data = await asyncio.to_thread(archive)
                except ImageError as error:
                    raise EngineError(str(error)) from error
                await self._engine.import_image(data, repository, tag, CHANGES)
            self._image_known = True
