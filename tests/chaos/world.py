# SPDX-License-Identifier: AGPL-3.0-or-later
"""The effects of one participant: an append-only file that outlives its process, and the participant that writes it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdmp.participant import Effect, Participant, Refused, Transaction

PREPARED = "prepared"
REMOVED = "removed"
_PAUSE = 0.01  # seconds, at most, before and after each effect, so that faults also hit inside
_SLOTS = 50  # state documents that are written in turn


class World:
    """Lines ``<tx> <thing>`` in the order in which things were made; ``removed`` takes all of a transaction away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._things: dict[str, list[str]] = {}
        for tx, thing in read(path):
            self._note(tx, thing)

    def things(self, tx: str) -> list[str]:
        """Return what there is of a transaction now."""
        return self._things.get(tx, [])

    def make(self, tx: str, thing: str) -> None:
        """Make a thing unless it is there.  Raises OSError when the disk is full; then it was not made."""
        if thing not in self.things(tx):
            self._append(tx, thing)

    def remove(self, tx: str) -> None:
        """Remove all things of a transaction.  Raises OSError."""
        if self.things(tx):
            self._append(tx, REMOVED)

    def _append(self, tx: str, thing: str) -> None:
        line = f"{tx} {thing}\n".encode()
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            before = os.fstat(handle).st_size
            if os.write(handle, line) != len(line):
                os.ftruncate(handle, before)
                raise OSError(f"{self._path}: the disk is full")
        finally:
            os.close(handle)
        self._note(tx, thing)

    def _note(self, tx: str, thing: str) -> None:
        if thing == REMOVED:
            self._things.pop(tx, None)
        else:
            self._things.setdefault(tx, []).append(thing)


def read(path: Path) -> list[tuple[str, str]]:
    """Return every line of a world; a last line that is not complete was never made."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [(tx, thing) for tx, _, thing in (line.partition(" ") for line in whole.splitlines())]


class WorldParticipant(Participant):
    """Makes ``prepared`` and then one thing for each stage; votes no when its operation says so."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def prepare(self, tx: Transaction) -> Effect:
        await _pause()
        if (tx.operation["prepare"] or {}).get("refuse"):
            raise Refused("told to refuse")
        self._world.make(tx.id, PREPARED)
        await _pause()
        return Effect()

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        await _pause()
        self._world.make(tx.id, stage)
        await _pause()
        return Effect(state={f"slot/{tx.seq % _SLOTS}": {"tx": tx.id, "stage": stage}})

    async def abort(self, tx: Transaction) -> Effect:
        await _pause()
        self._world.remove(tx.id)
        return Effect()

    async def status(self, tx_id: str) -> Mapping[str, Any]:
        return {"things": self._world.things(tx_id)}

    async def observe(self) -> Mapping[str, Any]:
        return {"revision": 0}

    async def call(
        self, method: str, params: Mapping[str, Any], progress: Callable[[Mapping[str, Any]], Awaitable[None]]
    ) -> Mapping[str, Any]:
        return params

    async def restore(self, state: Mapping[str, Mapping[str, Any]], in_doubt: Sequence[Transaction]) -> None:
        """The world is where it was."""


async def _pause() -> None:
    await asyncio.sleep(random.uniform(0.0, _PAUSE))
