# SPDX-License-Identifier: AGPL-3.0-or-later
"""The agent as a participant: nodes are started in the dark, kept after the decision, and removed without a trace."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agents.driver import HostDriver, NodeError, NodeFacts, NodeHeld
from agents.health import Unhealthy, until_healthy
from agents.restore import Publish, Restorer
from agents.spec import Committed, NodeSpec, Operation
from agents.table import NODE_PREFIX, REVISION_KEY, NodeTable
from rdmp.participant import Effect, Participant, Refused, Transaction
from rdmp.rpc import RpcError
from schemas import Fault, SchemaError

Json = Mapping[str, Any]
NAME_WAIT = 10.0  # seconds that a node waits until an aborted transaction has let go of its name
NAME_POLL = 0.1
PREFER_KEY = "agent/prefer"  # state document: the NICs that nodes leave alone
ABORTED_PREFIX = "aborted/"  # state documents: the operations of those transactions
ABORTED_KEPT = 64  # aborted transactions whose late traces are looked for
LOG_LINES = 20  # of a node that did not start, shown with the reason
METHODS = ("connections", "images", "logs", "observe", "status")
TAIL_LIMIT = 1000  # lines of log that one call may ask for

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """Bounds of the agent's work; times are in seconds."""

    parallel_starts: int = 4
    parallel_restores: int = 4
    parallel_commands: int = 8
    restore_interval: float = 10.0
    stop_grace: float = 10.0


class AgentParticipant(Participant):
    """The participant of one host."""

    def __init__(self, driver: HostDriver, host: str, publish: Publish, limits: AgentLimits | None = None) -> None:
        self._driver = driver
        self._host = host
        self._limits = limits or AgentLimits()
        self._table = NodeTable()
        self.restored = asyncio.Event()
        self._aborted: OrderedDict[str, Operation] = OrderedDict()
        self._avoided: tuple[str, ...] = ()
        self._starts = asyncio.Semaphore(self._limits.parallel_starts)
        self._commands = asyncio.Semaphore(self._limits.parallel_commands)
        self.restorer = Restorer(
            driver,
            self._table,
            host,
            publish,
            self._sweep,
            interval=self._limits.restore_interval,
            parallel=self._limits.parallel_restores,
        )

    async def restore(self, state: Mapping[str, Json], in_doubt: Sequence[Transaction]) -> None:
        self._table.load(state)
        for key, document in state.items():
            if key.startswith(ABORTED_PREFIX):
                self._aborted[key.removeprefix(ABORTED_PREFIX)] = Operation.parse(document)
        for tx in in_doubt:
            if tx.stage == "stop":  # it has begun: nobody brings back what is already gone until it is repeated
                self._table.stopping(Operation.parse(tx.operation).stop)
        self._avoided = tuple(state.get(PREFER_KEY, {}).get("avoid", ()))
        await self._driver.prefer(self._avoided)
        self.restored.set()
        _log.info("%d committed nodes, %d transactions in doubt", len(self._table.names()), len(in_doubt))

    async def background(self) -> None:
        """Keep what is committed, for as long as the agent runs; begins once the journal was read. Run it as a task."""
        await self.restored.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.restorer.run(), name="restoring loop")
            group.create_task(self.restorer.follow(), name="host events")
            group.create_task(self._driver.background(), name="host background")

    # Transactions

    async def prepare(self, tx: Transaction) -> Effect:
        try:
            operation = Operation.parse(tx.operation)
        except SchemaError as error:
            faults = [fault.to_json() for fault in error.faults]
            raise Refused(f"host {self._host}: {error}", {"faults": faults}) from error
        if reasons := self._conflicts(tx.id, operation):
            raise Refused("; ".join(reasons))
        if not operation.start:
            return Effect()
        try:
            unfit = await self._driver.check(operation.start)
        except NodeError as error:
            raise Refused(f"host {self._host}: {error.reason}", error.detail) from error
        if unfit:
            raise Refused(f"host {self._host}: " + "; ".join(unfit))
        return Effect(detail={"nodes": await self._start_all(operation, tx.id)})

    def _conflicts(self, tx: str, operation: Operation) -> list[str]:
        """Tell which nodes another transaction holds."""
        reasons = []
        for name in sorted(operation.started):
            if (node := self._table.committed(name)) is not None and node.tx != tx:
                reasons.append(f"node {name} runs on host {self._host} already, from transaction {node.tx}")
        return reasons

    async def _start_all(self, operation: Operation, tx: str) -> dict[str, Any]:
        """Start all nodes in parallel; the first that fails ends the others, because the vote is no anyhow."""
        tasks = {spec.node: asyncio.create_task(self._start(spec, tx)) for spec in operation.start}
        try:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        failed = {name: task.exception() for name, task in tasks.items() if not task.cancelled() and task.exception()}
        if failed:
            raise self._refusal(failed)
        return {name: task.result() for name, task in tasks.items()}

    def _refusal(self, failed: Mapping[str, BaseException | None]) -> BaseException:
        unexpected = [error for error in failed.values() if not isinstance(error, NodeError)]
        if unexpected and unexpected[0] is not None:
            return unexpected[0]
        reasons = [f"node {name} on host {self._host}: {error}" for name, error in failed.items()]
        detail = {name: error.detail for name, error in failed.items() if isinstance(error, NodeError)}
        return Refused("; ".join(reasons), {"nodes": detail})

    async def _start(self, spec: NodeSpec, tx: str) -> Json:
        """Start a node; while an aborted transaction is still letting go of its name, wait for that."""
        loop = asyncio.get_running_loop()
        end = loop.time() + NAME_WAIT
        while True:
            try:
                async with self._table.locked(spec.node), self._starts:
                    return await self._start_now(spec, tx)
            except NodeHeld:
                if loop.time() > end:
                    raise
            await asyncio.sleep(NAME_POLL)

    async def _start_now(self, spec: NodeSpec, tx: str) -> Json:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        facts = await self._driver.start(spec, tx)
        started = loop.time()
        answer = await self._healthy(spec)
        return {
            "container": facts.container,
            "sandbox": facts.sandbox,
            "health": answer,
            "seconds": {"start": round(started - begun, 4), "health": round(loop.time() - started, 4)},
        }

    async def _healthy(self, spec: NodeSpec) -> str:
        """Wait until the node is healthy; returns what the check answered."""
        if spec.health is None:
            probe = await self._driver.probe(spec)
            if probe.ok:
                return probe.answer
            why = probe.answer
        else:
            try:
                return (
                    await until_healthy(
                        spec.health, lambda: self._driver.probe(spec), lambda: self._driver.ended(spec.node)
                    )
                ).answer
            except Unhealthy as error:
                why = str(error)
        log = await self._driver.logs(spec.node, LOG_LINES)
        shown = f"; its last log lines:\n{log.rstrip()}" if log.strip() else "; it printed nothing"
        raise NodeError(why + shown, {"reason": why, "log": log.splitlines()})

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        operation = Operation.parse(tx.operation)
        match stage:
            case "admit":
                effect = await self._admit(operation, tx.id)
            case "neighbours":
                effect = await self._neighbours(operation)
            case "prefer":
                effect = await self._prefer(operation)
            case "stop":
                effect = await self._stop(operation)
            case _:
                raise ValueError(f"an agent has no stage {stage!r}; it has admit, neighbours, prefer and stop")
        self._table.revision = max(self._table.revision, tx.seq)
        return replace(effect, state={**effect.state, REVISION_KEY: {"seq": self._table.revision}})

    async def _admit(self, operation: Operation, tx: str) -> Effect:
        specs = {spec.node: spec for spec in operation.start}
        done = await asyncio.gather(
            *(self._admit_node(name, specs.get(name), operation, tx) for name in sorted(operation.admit))
        )
        return _effect(done)

    async def _admit_node(self, name: str, spec: NodeSpec | None, operation: Operation, tx: str) -> _Done:
        async with self._table.locked(name):
            standing = self._table.committed(name)
            if standing is not None:
                node = replace(standing, phase=operation.admit[name])
            elif spec is not None:
                node = Committed(spec, operation.admit[name], tx)
            else:
                return _Done(degraded=f"node {name} is not on host {self._host}")
            new = standing is None or standing.tx == tx
            # One that ran before changes only its phase: the switches' affair, unless its NICs wait for it.
            degraded = await self._keep(node, new=new) if new or node.spec.attachment.link == "admitted" else None
            self._table.commit(node)
        return _Done({NODE_PREFIX + name: node.to_document()}, degraded)

    async def _keep(self, node: Committed, *, new: bool) -> str | None:
        """Keep a node from now on; returns what is not as it has to be."""
        name = node.spec.node
        try:
            async with self._starts:
                actions = await self._driver.keep(node.spec, node.tx, node.phase)
        except NodeError as error:
            self.restorer.wake(name)
            return f"node {name}: {error.reason}"
        if actions and new:
            return f"node {name} did not stand as it was prepared: {'; '.join(actions)}"
        return None

    async def _prefer(self, operation: Operation) -> Effect:
        if operation.avoid is None:
            return Effect()
        try:
            failed = await self._driver.prefer(operation.avoid)
        except NodeError as error:
            failed = {"": error.reason}
        self._avoided = operation.avoid
        if failed:
            self.restorer.wake()
        told = "; ".join(f"node {name}: {why}" if name else why for name, why in sorted(failed.items()))
        return Effect(degraded=told or None, state={PREFER_KEY: {"avoid": list(operation.avoid)}})

    async def _neighbours(self, operation: Operation) -> Effect:
        files = operation.neighbours
        return _effect(await asyncio.gather(*(self._tell(name, files[name]) for name in sorted(files))))

    async def _tell(self, name: str, document: Json) -> _Done:
        async with self._table.locked(name), self._commands:
            node = self._table.committed(name)
            if node is None:
                return _Done(degraded=f"node {name} is not on host {self._host}")
            if int(document["revision"]) < int(node.spec.neighbours["revision"]):
                return _Done()  # a late repeat; what stands is newer
            node = replace(node, spec=node.spec.with_neighbours(document))
            degraded = None
            try:
                await self._driver.neighbours(node.spec)
            except NodeError as error:
                degraded = error.reason
            self._table.commit(node)
        return _Done({NODE_PREFIX + name: node.to_document()}, degraded)

    async def _stop(self, operation: Operation) -> Effect:
        self._table.stopping(operation.stop)
        return _effect(await asyncio.gather(*(self._stop_node(name) for name in operation.stop)))

    async def _stop_node(self, name: str) -> _Done:
        async with self._table.locked(name), self._commands:
            await self._driver.stop(name)
            self._table.forget(name)
        return _Done({NODE_PREFIX + name: None})

    async def abort(self, tx: Transaction) -> Effect:
        try:
            operation = Operation.parse(tx.operation)
        except SchemaError:
            return Effect()  # it was refused before anything was done
        await asyncio.gather(*(self._discard(spec, tx.id) for spec in operation.start))
        if not operation.start:
            return Effect()
        # Kept in the journal too: a call that outlives this agent may also outlive the next one.
        self._aborted[tx.id] = operation
        state: dict[str, Json | None] = {ABORTED_PREFIX + tx.id: tx.operation}
        while len(self._aborted) > ABORTED_KEPT:
            oldest, _ = self._aborted.popitem(last=False)
            state[ABORTED_PREFIX + oldest] = None
        return Effect(state=state)

    async def _sweep(self) -> None:
        """Remove what nodes left on the host, and what came of an aborted transaction after its abort.

        When the agent is killed in the middle of a call, the engine carries that call out all the same, and it may
        be slower than the agent's next start.
        """
        await self._driver.tidy()
        if not self._aborted:
            return
        for name, facts in (await self._driver.nodes()).items():
            operation = self._aborted.get(facts.tx or "")
            for spec in operation.start if operation else ():
                if spec.node == name and facts.tx is not None:
                    _log.warning("node %s of the aborted transaction %s came late; removing it", name, facts.tx)
                    await self._discard(spec, facts.tx)

    async def _discard(self, spec: NodeSpec, tx: str) -> None:
        async with self._table.locked(spec.node), self._starts:
            if self._table.committed(spec.node) is None:
                await self._driver.discard(spec, tx)

    # Questions

    async def status(self, tx_id: str) -> Json:
        nodes = await self._driver.nodes()
        mine = {name: facts.state for name, facts in nodes.items() if facts.tx == tx_id}
        committed = [name for name in mine if self._table.committed(name) is not None]
        return {"tx": tx_id, "nodes": mine, "committed": committed}

    async def observe(self) -> Json:
        facts = await self._driver.nodes()
        host = await self._driver.describe()
        return {
            "host": self._host,
            "revision": self._table.revision,
            "nodes": {
                name: self._observed(name, facts.get(name, NodeFacts()))
                for name in sorted({*facts, *self._table.names()})
            },
            "images": dict(host.images),
            "pool": host.pool,
            "docker": dict(host.engine),
            "nics": dict(host.nics),
            "avoid": list(self._avoided),
        }

    def _observed(self, name: str, facts: NodeFacts) -> Json:
        node = self._table.committed(name)
        seen = self._table.seen(name)
        return {
            "state": facts.state,
            "healthy": seen.healthy,
            "container": facts.container,
            "sandbox": facts.sandbox,
            "imageId": facts.image_id,
            "tx": facts.tx or (node.tx if node else None),
            "committed": node is not None,
            "phase": node.phase if node else None,
            "address": node.spec.attachment.address if node else None,
            "faults": list(seen.faults),
        }

    async def call(self, method: str, params: Json, progress: Callable[[Json], Awaitable[None]]) -> Json:
        try:
            match method:
                case "connections":
                    return await self._connections(_texts(params, "nodes"))
                case "logs":
                    return {"text": await self._driver.logs(_text(params, "node"), _tail(params))}
                case "images":
                    return await self._driver.images(_texts(params, "references"))
                case "observe":
                    return await self.observe()
                case "status":
                    return await self.status(_text(params, "tx"))
        except NodeError as error:
            raise RpcError("failed", f"host {self._host}: {error.reason}") from error
        raise RpcError("unknown_method", f"an agent has no method {method!r}; it has {', '.join(METHODS)}")

    async def _connections(self, names: Sequence[str]) -> Json:
        async def one(name: str) -> Json:
            async with self._commands:
                found = await self._driver.connections(name)
            return {"inbound": found.inbound, "outbound": found.outbound}

        counted = await asyncio.gather(*(one(name) for name in names))
        return dict(zip(names, counted, strict=True))


@dataclass(frozen=True, slots=True)
class _Done:
    """What one node adds to the effect of a stage."""

    state: Mapping[str, Json | None] = field(default_factory=dict)
    degraded: str | None = None


def _effect(done: Sequence[_Done]) -> Effect:
    degraded = "; ".join(one.degraded for one in done if one.degraded)
    return Effect(
        degraded=degraded or None, state={key: document for one in done for key, document in one.state.items()}
    )


def _text(params: Json, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, "a text")
    return value


def _texts(params: Json, name: str) -> tuple[str, ...]:
    value = params.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _wrong(name, value, "a list of texts")
    return tuple(value)


def _tail(params: Json) -> int:
    value = params.get("tail", LOG_LINES)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TAIL_LIMIT:
        raise _wrong("tail", value, f"a whole number from 1 to {TAIL_LIMIT}")
    return value


def _wrong(name: str, found: Any, expected: str) -> RpcError:
    path = f"$.{name}"
    fault = Fault(path, found, expected, f"{path}: found {found!r}, expected {expected}")
    return RpcError("invalid_params", "the parameters are not valid", (fault,))
