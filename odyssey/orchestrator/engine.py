# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a checked service call to its answer: wish, goal, plan, locks, steps.

The engine holds no truth of its own. What a call wants stands in its document before the first transaction; what came
of it stands in the decisions. A call that was cut off is planned again from its goal and the state as it is then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from odyssey.config import OrchestratorLimits
from odyssey.model.naming import CONTROLLER, NETCONF, network_document, network_key
from odyssey.model.snapshot import Snapshot
from odyssey.orchestrator.calls import FINAL, Call, CallBook
from odyssey.orchestrator.locks import LockTable
from odyssey.orchestrator.questions import Questions
from odyssey.orchestrator.steps import StepRunner
from odyssey.planning import (
    DrainStep,
    Goal,
    Plan,
    PlanOptions,
    PlanRefused,
    QuietStep,
    Settle,
    TransactionStep,
    plan,
    resolve,
    undo,
)
from odyssey.services import ServiceCallError, handle
from odyssey.services.wish import Wish
from odyssey.state.view import StateView
from rdmp.records import TxRecord
from rdmp.rpc import RpcError

_log = logging.getLogger(__name__)
Listener = Callable[[Mapping[str, Any]], Awaitable[None]]
_PROGRESS_QUEUE = 1000
_LAST_PROGRESS = 2.0
"""Seconds that a watcher gets to read what is left once the work has ended."""


@dataclass(slots=True)
class _Work:
    """A call that runs in this process, and who watches it."""

    task: asyncio.Task[Mapping[str, Any]] | None = None
    placements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Nodes that the plan will start: they take room on their hosts before they exist."""
    watchers: list[asyncio.Queue[Mapping[str, Any] | None]] = field(default_factory=list)
    history: list[Mapping[str, Any]] = field(default_factory=list)

    def tell(self, message: Mapping[str, Any]) -> None:
        if len(self.history) < _PROGRESS_QUEUE:
            self.history.append(message)
        for queue in self.watchers:
            if queue.qsize() < queue.maxsize - 1:  # progress may be thinned for a slow screen; the answer is never
                queue.put_nowait(message)


class Engine:
    """Runs service calls, many at a time where they touch different networks."""

    def __init__(
        self, view: StateView, calls: CallBook, questions: Questions, runner: StepRunner, limits: OrchestratorLimits
    ) -> None:
        self._view = view
        self._calls = calls
        self._questions = questions
        self._runner = runner
        self._limits = limits
        self._running: dict[str, _Work] = {}
        self._started = asyncio.get_running_loop().time()
        self.locks = LockTable(view.held)

    async def submit(self, request: Mapping[str, Any], subject: str, listener: Listener) -> Mapping[str, Any]:
        """Carry out `request` (schema and role already checked) and return its answer.

        A repeat of a finished call is answered from its document, a repeat of a running one joins it, one that failed
        or was cut off is taken up again. Raises RpcError if it is refused before anything was done.
        """
        wish = _wish(request)
        if request.get("options", {}).get("dryRun"):
            return await self._planned(request, wish)
        await self._require_unused(request["id"])
        call = await self._calls.open(request, subject)
        if call.state in FINAL and call.answer is not None:
            return call.answer
        try:
            work = self._start(call, wish)
        except RpcError:
            if call.goal is None:  # nothing of it was begun: whoever repeats it says it all again
                await self._calls.forget(call)
            raise
        return await self._watch(work, listener)

    async def _require_unused(self, call_id: str) -> None:
        """See that a new call has transactions of its own: those of one that is no longer kept may still stand."""
        if f"{call_id}.1" in self._view.entries and await self._calls.find(call_id) is None:
            raise RpcError(
                "call_id_reused",
                f"call id {call_id} was used before, and its answer is no longer kept; choose another id"
                f" (odysseyctl tx show {call_id}.1 tells what it did)",
            )

    def unsettled(self) -> dict[str, list[str]]:
        """Nodes that were withdrawn, by the networks whose nodes can be retired now.

        Their host has to be there, and nobody may be working on the network.
        """
        present = self._questions.present()
        found: dict[str, list[str]] = {}
        for node in self._view.values("node/"):
            if node["phase"] == "draining" and node["host"] in present:
                found.setdefault(network_key(node["platform"], node["network"]), []).append(node["node"])
        return {key: nodes for key, nodes in found.items() if self.locks.conflict({network_document(key)}) is None}

    async def settle(self, call_id: str, networks: Iterable[str], listener: Listener) -> Mapping[str, Any]:
        """Retire the nodes of `networks` that were withdrawn."""
        request = {"id": call_id, "SYSServiceID": "settle", "data": []}
        call = await self._calls.open(request, "odysseyd")
        call = await self._calls.save(replace(call, goal=Settle(tuple(sorted(networks))).to_json()))
        # Nobody asks for it or repeats it, and it would drive out calls of people. Cancelled, its work still goes on.
        try:
            answer = await self._watch(self._start(call, None), listener)
        except Exception:
            await self._calls.forget(call)
            raise
        await self._calls.forget(call)
        return answer

    def _start(self, call: Call, wish: Wish | None) -> _Work:
        work = self._running.get(call.id)
        if work is None:
            if len(self._running) >= self._limits.calls:
                raise RpcError(
                    "too_many_calls", f"{self._limits.calls} calls are in work ([limits] calls); repeat later"
                )
            work = self._running[call.id] = _Work()
            work.task = asyncio.create_task(self._work(call, wish, work), name=f"call {call.id}")
        return work

    async def _watch(self, work: _Work, listener: Listener) -> Mapping[str, Any]:
        """Pass progress on until the work ends; a watcher that leaves does not stop the work."""
        queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue(2 * _PROGRESS_QUEUE + 1)
        for message in work.history:
            queue.put_nowait(message)
        work.watchers.append(queue)
        assert work.task is not None
        sender = asyncio.create_task(_forward(queue, listener))
        try:
            return await asyncio.shield(work.task)
        finally:
            work.watchers.remove(queue)
            queue.put_nowait(None)
            await asyncio.wait([sender], timeout=_LAST_PROGRESS)
            sender.cancel()

    async def _planned(self, request: Mapping[str, Any], wish: Wish) -> Mapping[str, Any]:
        snapshot = await self._snapshot(wish)
        planned = _plan(snapshot, lambda: resolve(wish, snapshot), request)
        entries, settings = await asyncio.gather(
            *(self._questions.compiled(name, planned.document_changes(name)) for name in (CONTROLLER, NETCONF))
        )
        flows, values = entries or {}, settings or {}
        return {
            "id": request["id"], "state": "planned", "index": planned.index, "plan": planned.to_json(),
            "switches": flows.get("switches", {}), "notes": flows.get("notes", {}), "controller": entries is not None,
            "settings": values.get("switches", {}), "netconf": settings is not None,
            "refusals": [*flows.get("refusals", []), *values.get("refusals", [])],
        }  # fmt: skip

    async def _snapshot(self, wish: Wish | None) -> Snapshot:
        await self._questions.wait_for(self._view.participants(), self._started + self._limits.start_grace)
        references = (wish.images() if wish else frozenset()) | self._view.images()
        images = await self._questions.images(references)
        # Without a wish the call leads back, from whatever it was.
        switches = await self._questions.switches() if wish is None or wish.asks_switches() else frozenset()
        placed = {key: node for work in self._running.values() for key, node in work.placements.items()}
        return self._view.snapshot(images, self._questions.present(), placed, switches)

    async def _work(self, call: Call, wish: Wish | None, work: _Work) -> Mapping[str, Any]:
        try:
            goal, planned, before = await self._begin(call, wish, work)
            call = await self._calls.save(replace(call, state="running", goal=goal.to_json()))
            return await self._carry_out(call, goal, planned, before, work)
        except RpcError as error:
            _log.info("call %s refused: %s", call.id, error)
            if call.goal is None:  # nothing was begun, so the id may be used again with better input
                await self._calls.forget(call)
            elif error.code != "stopping":  # the next odysseyd finds it running and knows that it was cut off
                await self._broke_off(call.id, error.code, str(error))
            raise
        except Exception as error:
            _log.exception("call %s failed inside; repeat it with the same id to take it up again", call.id)
            told = f"a fault of odysseyd, see its log: {type(error).__name__}: {error}"
            await self._broke_off(call.id, "internal", told)
            raise
        finally:
            self._running.pop(call.id, None)
            await self.locks.release(call.id)

    async def _broke_off(self, call_id: str, code: str, message: str) -> None:
        """Store that nobody works on a call any more, which ended otherwise than by an answer."""
        call = await self._calls.find(call_id)
        if call is not None and call.state == "running":
            error = {"code": code, "message": message}
            answer = {
                "id": call.id, "state": "failed", "index": self._view.index, "nodes": [], "error": error,
                "transactions": self._view.summaries(call.transactions),
            }  # fmt: skip
            await self._calls.end(call, "failed", answer)

    async def _carry_out(
        self, call: Call, goal: Goal, planned: Plan, before: Snapshot, work: _Work
    ) -> Mapping[str, Any]:
        call, error, state = await self._steps(call, planned, work)
        if state == "failed" and call.request.get("options", {}).get("atomic"):
            call, undone = await self._undo(call, undo(goal, before), work)
            error = {**(error or {}), "undone": undone is None, "undo": undone}
        answer = self._answer(call, planned, state, error)
        await self._calls.end(call, state, answer)
        return answer

    async def _undo(self, call: Call, goal: Goal | None, work: _Work) -> tuple[Call, Mapping[str, Any] | None]:
        """Lead back by compensating transactions; the second value tells what failed, None if nothing did."""
        if goal is None:
            return call, {"code": "no_way_back", "message": "nothing leads back from this change"}
        work.tell({"kind": "message", "text": "undoing what was committed"})
        work.placements = {}  # of nodes that are gone again, and whose names, addresses and room it needs
        try:
            compensation = plan(await self._snapshot(None), goal, PlanOptions())
        except PlanRefused as refused:
            return call, {"code": "refused", "message": str(refused)}
        work.placements = compensation.placements()
        call, error, _ = await self._steps(call, compensation, work)
        return call, error

    async def _begin(self, call: Call, wish: Wish | None, work: _Work) -> tuple[Goal, Plan, Snapshot]:
        """Plan on the newest state and take the plan's locks in the same step of the event loop."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._limits.lock_wait
        while True:
            snapshot = await self._snapshot(wish)
            goal = self._goal(call, wish, snapshot)
            planned = _plan(snapshot, goal, call.request if call.goal is None else {})
            if self.locks.take(planned.locks, call.id):
                work.placements = planned.placements()
                work.tell({
                    "kind": "plan", "index": planned.index, "changes": planned.to_json()["changes"],
                    "steps": [{"step": number, "title": step.title} for number, step in enumerate(planned.steps, 1)],
                })  # fmt: skip
                return goal(), planned, snapshot
            conflict = self.locks.conflict(planned.locks)
            work.tell({"kind": "message", "text": f"waiting for {conflict}"})
            try:
                await self.locks.wait(max(0.0, min(end - loop.time(), self._limits.settle_interval)))
            except TimeoutError:
                if loop.time() >= end:
                    raise RpcError(
                        "busy", f"{conflict} is still being changed after {self._limits.lock_wait:g} s; repeat later"
                    ) from None

    @staticmethod
    def _goal(call: Call, wish: Wish | None, snapshot: Snapshot) -> Callable[[], Goal]:
        if call.goal is not None:
            goal = Goal.from_json(call.goal)
            return lambda: goal
        assert wish is not None, "a call without a goal comes with its wish"
        return lambda: resolve(wish, snapshot)

    async def _steps(self, call: Call, planned: Plan, work: _Work) -> tuple[Call, Mapping[str, Any] | None, str]:
        for number, step in enumerate(planned.steps, 1):
            if isinstance(step, DrainStep):
                await self._runner.drain(step, work.tell)
                continue
            if isinstance(step, QuietStep):
                loud = await self._runner.quiet(step, work.tell)
                if loud is not None and step.required:
                    return call, {"code": "not_quiet", "message": f"{step.title}: {loud}"}, "failed"
                continue
            call, record = await self._transact(call, number, step, work)
            if await self._runner.may_succeed(record):
                work.tell({"kind": "message", "text": f"a controller was lost; once more: {step.title}"})
                call, record = await self._transact(call, number, step, work)
            tx_id = record.id
            if record.state != "committed":
                return call, _error("aborted", f"{step.title}: {record.reason}", tx_id), "failed"
            if not record.finished:
                missing = ", ".join(record.missing())
                text = f"{step.title}: decided, but {missing} did not confirm yet; it is repeated until done"
                return call, _error("pending", text, tx_id), "pending"
        return call, None, "done"

    async def _transact(
        self, call: Call, number: int, step: TransactionStep, work: _Work
    ) -> tuple[Call, TxRecord]:
        tx_id = f"{call.id}.{len(call.transactions) + 1}"
        call = await self._calls.save(replace(call, transactions=(*call.transactions, tx_id)))
        return call, await self._runner.transact(tx_id, number, step.with_tx(tx_id), work.tell)

    def _answer(
        self, call: Call, planned: Plan, state: str, error: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        touched = {node for step in planned.steps if isinstance(step, TransactionStep) for node in step.nodes}
        standing = (self._view.documents.get(f"node/{name}") for name in sorted(touched))
        answer: dict[str, Any] = {
            "id": call.id, "state": state, "index": self._view.index, "plan": planned.to_json(),
            "nodes": [node for node in standing if node is not None],
            "transactions": self._view.summaries(call.transactions),
        }  # fmt: skip
        if error is not None:
            answer["error"] = error
        return answer


async def _forward(queue: asyncio.Queue[Mapping[str, Any] | None], listener: Listener) -> None:
    while (message := await queue.get()) is not None:
        await listener(message)


def _wish(request: Mapping[str, Any]) -> Wish:
    try:
        return handle(request)
    except ServiceCallError as error:
        raise RpcError("invalid", "the service call is refused", error.faults) from error


def _plan(snapshot: Snapshot, goal: Callable[[], Goal], request: Mapping[str, Any]) -> Plan:
    expected = request.get("options", {}).get("index")
    if expected is not None and expected != snapshot.index:
        raise RpcError(
            "index_changed",
            f"$.options.index: the state moved from {expected} to {snapshot.index} since that plan; look at a new plan",
        )
    try:
        return plan(snapshot, goal(), PlanOptions())
    except PlanRefused as refused:
        raise RpcError("refused", "the plan is refused", refused.faults) from refused


def _error(code: str, message: str, tx_id: str) -> Mapping[str, Any]:
    return {"code": code, "message": message, "transaction": tx_id}
