# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an operator asks of the switches that are configured by NETCONF, and orders outside of transactions."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from controller.netconf.keeper import STEPS, Done, Told
from controller.netconf.session import NetconfError
from controller.netconf.tree import Difference
from rdmp.rpc import RpcError

if TYPE_CHECKING:
    from controller.netconf.participant import NetconfParticipant

Json = Mapping[str, Any]
Progress = Callable[[Json], Awaitable[None]]
MAX_CHANGES = 5000  # of a difference in an answer, which has to fit into a message


class Questions:
    """Answers the calls of one participant."""

    def __init__(self, participant: NetconfParticipant) -> None:
        self._participant = participant

    async def answer(self, method: str, params: Json, progress: Progress) -> Json:
        """``devices``; ``diff`` and ``backups`` of a ``switch``; ``restore`` and ``mend`` it.  Raises RpcError."""
        if method == "devices":
            return await self._participant.observe()
        if method not in ("diff", "backups", "restore", "mend"):
            raise RpcError("unknown_method", f"no method {method!r}; there are devices, diff, backups, restore, mend")
        switch = self._switch(params)
        try:
            match method:
                case "diff":
                    return await self._diff(switch, params)
                case "backups":
                    return await asyncio.to_thread(self._backups, switch)
                case "restore":
                    return await self._restore(switch, params, progress)
            return await self._mend(switch, progress)
        except NetconfError as error:
            code = {"not-found": "not_found", "in-use": "busy"}.get(error.tag, "failed")
            raise RpcError(code, f"{switch}: {error}") from error
        except OSError as error:
            raise RpcError("failed", f"{switch}: its backups cannot be used: {error}") from error

    def _switch(self, params: Json) -> str:
        switch, decided = params.get("switch"), self._participant.decided
        if not isinstance(switch, str) or switch not in decided:
            known = ", ".join(sorted(decided)) or "none"
            raise RpcError("not_found", f"{switch!r} is not configured by NETCONF; switches that are: {known}")
        return switch

    async def _diff(self, switch: str, params: Json) -> Json:
        backup = _backup(params) if params.get("backup") is not None else None
        found = await self._participant.keeper.compare(switch, backup)
        return {
            "switch": switch, "backup": backup, "equal": not found, **_changes(found),
            "restored": self._participant.backups.restored.get(switch), "transaction": self._participant.busy(switch),
        }  # fmt: skip

    def _backups(self, switch: str) -> Json:
        backups = self._participant.backups
        listed = [dataclasses.asdict(backup) for backup in backups.listed(switch)]
        return {"switch": switch, "restored": backups.restored.get(switch), "backups": listed}

    async def _restore(self, switch: str, params: Json, progress: Progress) -> Json:
        backup = _backup(params)
        async with _watched(progress) as told:
            done = await self._participant.keeper.restore(switch, backup, told)
        left = self._participant.backups.restored.get(switch)
        return {"switch": switch, "backup": backup, "restored": left, **_done(done)}

    async def _mend(self, switch: str, progress: Progress) -> Json:
        async with _watched(progress) as told:
            done = await self._participant.keeper.mend(switch, told)
        return {"switch": switch, **_done(done)}


def _backup(params: Json) -> str:
    backup = params.get("backup")
    if not isinstance(backup, str):
        raise RpcError("invalid", f"$.backup: found {backup!r}, must be the name of a backup")
    return backup


def _changes(found: Difference) -> dict[str, Any]:
    changes = found.changes()
    return {
        "changes": [change.to_json() for change in changes[:MAX_CHANGES]], "more": max(0, len(changes) - MAX_CHANGES)
    }  # fmt: skip


def _done(done: Done) -> dict[str, Any]:
    return {**_changes(done.change), "saved": done.unsaved is None, "unsaved": done.unsaved}


@asynccontextmanager
async def _watched(progress: Progress) -> AsyncIterator[Told]:
    """Pass the steps of a change on, from the thread in which it is made; all of them before this ends."""
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[str | None] = asyncio.Queue()

    async def forward() -> None:
        while (step := await steps.get()) is not None:
            await progress({"kind": "netconf", "step": STEPS.index(step) + 1, "of": len(STEPS), "text": step})

    def told(step: str) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    forwarding = asyncio.create_task(forward(), name="progress of a change by NETCONF")
    try:
        yield told
    finally:
        steps.put_nowait(None)
        await forwarding
