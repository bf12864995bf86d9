# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an operator asks of the switches that are configured by NETCONF, and orders outside of transactions."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import schemas
from controller.netconf.changes import OpenChange, earlier
from controller.netconf.devices import DRIVERS, refusals
from controller.netconf.keeper import STEPS, Done, Told
from controller.netconf.session import NetconfError
from controller.netconf.tree import Change
from rdmp.rpc import RpcError

if TYPE_CHECKING:
    from controller.netconf.participant import NetconfParticipant

Json = Mapping[str, Any]
Progress = Callable[[Json], Awaitable[None]]
MAX_CHANGES = 5000  # in an answer, which has to fit into a message
COUNTS = {"add": "+", "change": "~", "remove": "-"}
METHODS = ("backups", "compile", "devices", "diff", "mend", "restore")


class Questions:
    """Answers the calls of one participant."""

    def __init__(self, participant: NetconfParticipant) -> None:
        self._participant = participant

    async def answer(self, method: str, params: Json, progress: Progress) -> Json:
        """``devices``; ``compile`` what ``changes`` would do; ``diff`` and ``backups`` of a ``switch``; ``restore`` and
        ``mend`` it.  Raises RpcError.
        """
        if method == "devices":
            return await self._participant.observe()
        if method == "compile":
            return self._compile(params)
        if method not in METHODS:
            raise RpcError("unknown_method", f"no method {method!r}; there are {', '.join(METHODS)}")
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

    def _compile(self, params: Json) -> Json:
        """What a transaction would change of what was decided; no switch is asked, so it may well be away."""
        operation = {"stages": {"admit": {"changes": params.get("changes")}}}
        if faults := schemas.validate("netconf-operation", operation):
            raise RpcError("invalid", "the changes do not match their schema", tuple(faults))
        change = OpenChange.of("compile", 0, operation, self._participant.decided)
        refused = [
            {"switch": switch, "reason": reason}
            for switch, target in change.targets.items()
            for reason in refusals(target.config)
        ]
        if refused:
            return {"switches": {}, "refusals": refused}
        limit = max(1, MAX_CHANGES // len(change.documents))
        return {"switches": {name: self._foreseen(name, change, limit) for name in change.documents}, "refusals": []}

    def _foreseen(self, switch: str, change: OpenChange, limit: int) -> Json:
        if (target := change.targets.get(switch)) is None:
            return {**_counts([]), **_changes([]), "notes": ["is no longer configured, and left as it is"]}
        before = earlier(switch, target.config, self._participant.decided)
        found = DRIVERS[target.config.profile].model.planned(before, target.config).changes()
        return {**_counts(found), **_changes(found, limit), "notes": list(self._hindrances(switch))}

    def _hindrances(self, switch: str) -> Iterator[str]:
        """What makes a change of a switch another one than it looks."""
        if tx := self._participant.busy(switch):
            yield f"the open transaction {tx} holds it"
        if self._participant.device(switch).reachable is False:
            yield f"was not reachable: {self._participant.device(switch).problem}"
        if lines := self._participant.keeper.drift.get(switch):
            number = f"{len(lines)} setting{'s' if len(lines) > 1 else ''}"
            yield f"differs from what was decided in {number}, which is put right too: odysseyctl netconf diff {switch}"

    async def _diff(self, switch: str, params: Json) -> Json:
        backup = _backup(params) if params.get("backup") is not None else None
        found = await self._participant.keeper.compare(switch, backup)
        return {
            "switch": switch, "backup": backup, "equal": not found, **_changes(found.changes()),
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


def _changes(found: Sequence[Change], limit: int = MAX_CHANGES) -> dict[str, Any]:
    return {"changes": [change.to_json() for change in found[:limit]], "more": max(0, len(found) - limit)}


def _counts(found: Sequence[Change]) -> dict[str, int]:
    return {name: sum(change.op == op for change in found) for name, op in COUNTS.items()}


def _done(done: Done) -> dict[str, Any]:
    return {**_changes(done.change.changes()), "saved": done.unsaved is None, "unsaved": done.unsaved}


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
