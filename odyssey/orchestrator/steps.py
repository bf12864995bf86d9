# SPDX-License-Identifier: AGPL-3.0-or-later
"""Carries out the steps of one plan: transactions by RDMP, drains by counting connections or packets."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from odyssey.model.naming import CONTROLLER
from odyssey.orchestrator.leadership import Leadership
from odyssey.orchestrator.questions import Questions
from odyssey.planning import DrainStep, QuietStep, TransactionStep
from rdmp.hub import Hub
from rdmp.records import TxProgress, TxRecord
from rdmp.rpc import RpcError

Progress = Callable[[Mapping[str, Any]], None]
_Packets = Mapping[int, int] | None
_ALL = "all"
"""Stands for the ports of a switch whose counters cannot be read."""
_RATE_SECONDS = 1.0
"""Over how many seconds the packets of a port are counted."""


class StepRunner:
    """Acts; decides nothing. One instance serves all calls."""

    def __init__(
        self, hub: Hub, questions: Questions, leadership: Leadership, epoch: int, drain_poll: float
    ) -> None:
        self._hub = hub
        self._leadership = leadership
        self._questions = questions
        self._epoch = epoch
        self._drain_poll = drain_poll

    async def transact(self, tx_id: str, number: int, step: TransactionStep, progress: Progress) -> TxRecord:
        """Run one transaction to its end; the record tells how it ended.

        Each controller that is in step takes the part of `controller`.
        """
        record = TxRecord(
            id=tx_id, seq=0, epoch=self._epoch, revision=0, state="preparing", participants=step.participants,
            stages=step.stages, changes=step.changes, events=step.events, objects=step.objects, done={}, degraded={},
            reason=None, finished=False, deadline=step.deadline,
        )  # fmt: skip
        told = {"id": tx_id, "step": number, "title": step.title}
        if CONTROLLER in step.participants:
            try:
                record = _for_each(record, await self._leadership.members())
            except RpcError as error:
                return dataclasses.replace(record, state="aborted", reason=error.message, finished=True)
        waiting = dict.fromkeys(record.participants, "waiting")
        progress({"kind": "tx", **told, "state": "preparing", "participants": waiting})
        with self._leadership.beginning(record):
            ended = await self._hub.execute(record, lambda news: _tell(news, told, progress))
        if CONTROLLER in step.participants:
            await self._leadership.settled()
        state = "finished" if ended.finished and ended.state == "committed" else ended.state
        progress({"kind": "tx", **told, "state": state, "reason": ended.reason})
        return ended

    async def may_succeed(self, record: TxRecord) -> bool:
        """Tell whether an aborted transaction may succeed once more, because a controller in it was lost."""
        return record.state == "aborted" and record.seq > 0 and await self._leadership.may_succeed(record)

    async def drain(self, step: DrainStep, progress: Progress) -> None:
        """Wait until no draining node has an inbound connection, at most `step.timeout` seconds.

        A host that does not answer is waited for until the limit: its nodes may still serve.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + step.timeout
        while (remaining := end - loop.time()) > 0:
            counts = await self._questions.connections(step.nodes)
            progress({"kind": "drain", "nodes": counts, "remaining": round(remaining, 1)})
            if all(count == 0 for count in counts.values()):
                return
            await asyncio.sleep(min(self._drain_poll, remaining))


    async def quiet(self, step: QuietStep, progress: Progress) -> str | None:
        """Wait until the ports of a switch carry next to nothing; returns what they still carry if they do not."""
        loop = asyncio.get_running_loop()
        end = loop.time() + step.timeout
        then, before = loop.time(), await self._questions.packets(step.switch, step.ports)
        while True:
            await asyncio.sleep(_RATE_SECONDS)
            now, counts = loop.time(), await self._questions.packets(step.switch, step.ports)
            rates = _rates(before, counts, now - then)
            then, before = now, counts
            progress({
                "kind": "quiet", "switch": step.switch, "ports": rates, "remaining": round(max(0.0, end - now), 1),
            })  # fmt: skip
            loud = {port: rate for port, rate in rates.items() if rate is None or rate > step.packets}
            if not loud:
                return None
            if now >= end:
                return _loud(step.switch, loud)


def _rates(before: _Packets, after: _Packets, seconds: float) -> dict[str, float | None]:
    """Packets a second of each port; None where the counters could not be read or began anew."""
    if before is None or after is None:
        return {_ALL: None}
    return {
        str(port): round((count - before[port]) / seconds, 1) if count >= before[port] else None
        for port, count in after.items()
    }


def _loud(switch: str, rates: Mapping[str, float | None]) -> str:
    if _ALL in rates:
        return f"the controller cannot read the port counters of {switch}, so nobody knows what still uses it"
    told = ", ".join(
        f"port {port}: {'unknown' if rate is None else f'{rate:g} packets/s'}" for port, rate in rates.items()
    )
    return f"{switch} still carries traffic of hosts ({told})"


def _for_each(record: TxRecord, controllers: tuple[str, ...]) -> TxRecord:
    """Give the part of `controller` to each of these."""
    others = {name: operation for name, operation in record.participants.items() if name != CONTROLLER}
    theirs = dict.fromkeys(controllers, record.participants[CONTROLLER])
    return dataclasses.replace(record, participants={**others, **theirs})


def _tell(news: TxProgress, told: Mapping[str, Any], progress: Progress) -> None:
    """Put the coordinator's news into the words of a call's progress."""
    match news.kind:
        case "vote" | "aborted" | "waiting":
            vote = "yes" if news.reason == "yes" else "no"
            state = vote if news.kind == "vote" else news.kind
            participants = {news.participant: state} if news.participant else {}
            progress({"kind": "tx", **told, "state": news.state, "participants": participants})
        case "decided":
            progress({"kind": "tx", **told, "state": news.state, "reason": news.reason})
        case "done":
            progress({
                "kind": "stage", **told, "stage": news.stage, "participant": news.participant, "state": "done",
            })  # fmt: skip
