# SPDX-License-Identifier: AGPL-3.0-or-later
"""The controller's part in transactions: it holds what it promised in a ledger and keeps the switches to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import schemas
from controller.channel import ChannelError
from controller.compiler import Compilation
from controller.discovery import Discovery
from controller.fabric import IntentRefused
from controller.ledger import Ledger, OpenTransaction
from controller.queries import Queries
from controller.switches import Publish, Switches
from controller.tenure import MAX_GENERATION, Tenure
from rdmp.participant import Effect, Participant, Refused, Transaction
from rdmp.rpc import RpcError

Json = Mapping[str, Any]
_log = logging.getLogger(__name__)


class ControllerParticipant(Participant):
    """Admits and withdraws nodes in the switches.

    Of several controllers each takes part in every transaction and holds the whole intent; only the one that leads
    (``tenure``) writes to the switches and waits for them.

    ``allow_absent``: a switch that is not connected neither refuses a prepare nor holds up a commit (which is then
    reported as degraded); it is brought to the intent when it connects.  Else a prepare waits ``wait_seconds`` for it:
    after a start of the controller the switches need a moment to connect again.
    """

    def __init__(
        self,
        publish: Publish,
        tenure: Tenure,
        *,
        allow_absent: bool,
        verify_seconds: float,
        wait_seconds: float,
        lldp_seconds: float,
    ) -> None:
        self.restored = asyncio.Event()
        """Set once the committed intent is known: before, no switch may be compared with it."""
        self._ledger = Ledger()
        self._tenure = tenure
        self._allow_absent = allow_absent
        self._wait_seconds = wait_seconds
        self.switches = Switches(lambda: self._ledger.compilation, publish, tenure, verify_seconds=verify_seconds)
        inventory = lambda: self._ledger.compilation.intent.inventory  # noqa: E731  # of the ledger as it is then
        self.discovery = Discovery(inventory, tenure.leads, publish, lldp_seconds)
        self.switches.companions.append(self.discovery.serve)
        self._queries = Queries(lambda: self._ledger, self.switches, self.discovery, tenure)
        self.views = self._queries.views

    async def prepare(self, tx: Transaction) -> Effect:
        if faults := schemas.validate("controller-operation", tx.operation):
            reason = "the operation does not match its schema: " + "; ".join(fault.message for fault in faults)
            raise Refused(reason, {"faults": [fault.to_json() for fault in faults]})
        one = OpenTransaction.of(tx.id, tx.seq, tx.operation)
        try:
            before = self._ledger
            after, outcome = before.prepared(one)
            if outcome.intent.inventory is None:
                raise Refused("the controller has no inventory: set it first, or was its journal lost?")
            if self._tenure.leads() and not self._allow_absent:
                await self._require_switches(outcome)
            if self._ledger is not before:  # another one was prepared or committed during the wait
                after, _ = self._ledger.prepared(one)
            self._ledger = after
        except IntentRefused as refused:
            raise Refused("; ".join(map(str, refused.refusals))) from refused
        if one.dark and (failed := self._that_matter(await self.switches.bring_all())):
            raise Refused("; ".join(failed.values()))
        return Effect(detail={"entries": self._counts()})

    async def _require_switches(self, outcome: Compilation) -> None:
        if missing := await self.switches.wait_for(outcome, self._wait_seconds):
            raise Refused("; ".join(missing.values()) + "; connect it, or set allow_absent_switches")

    def _that_matter(self, failed: Mapping[str, str]) -> dict[str, str]:
        """Leave out the switches that may be absent."""
        if not self._allow_absent:
            return dict(failed)
        return {name: reason for name, reason in failed.items() if self.switches.connection(name) is not None}

    def _counts(self) -> dict[str, int]:
        return {name: len(tables.entries) for name, tables in self._ledger.compilation.tables.items()}

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        one = self._ledger.open.get(tx.id) or OpenTransaction.of(tx.id, tx.seq, tx.operation)
        after = self._ledger.with_stage(one, stage)
        after.compilation  # noqa: B018  # an intent that cannot be compiled must not become ours
        # The stage is decided: from now on every switch is brought to it, also one that connects later.
        self._ledger = after
        failed = await self.switches.bring_all()
        if matter := self._that_matter(failed):
            raise ChannelError("; ".join(matter.values()))
        state = self._ledger.changed_state(one, stage)
        if self._ledger.finished(tx.id):
            self._ledger = self._ledger.without(tx.id)
        degraded = "; ".join(failed.values()) or None
        return Effect(detail={"entries": self._counts()}, degraded=degraded, state=state)

    async def abort(self, tx: Transaction) -> Effect:
        self._ledger = self._ledger.without(tx.id)
        # Asked of the operation and not of the ledger: a repeat after a failure finds it gone from there.
        if schemas.validate("controller-operation", tx.operation):
            return Effect()  # it was refused before anything was done
        if not OpenTransaction.of(tx.id, tx.seq, tx.operation).dark:
            return Effect()
        failed = await self.switches.bring_all()
        # A switch that is away loses the entries when it connects; only one that is here can fail to.
        here = {name: why for name, why in failed.items() if self.switches.connection(name) is not None}
        if here:
            raise ChannelError("; ".join(here.values()))
        return Effect()

    async def status(self, tx_id: str) -> Json:
        one = self._ledger.open.get(tx_id)
        return {"open": False} if one is None else {"open": True, "dark": sorted(one.dark), "done": sorted(one.done)}

    async def observe(self) -> Json:
        return self._queries.observe()

    async def call(self, method: str, params: Json, progress: Callable[[Json], Awaitable[None]]) -> Json:
        match method:
            case "lead":
                return await self._lead(_generation(params))
            case "follow":
                return await self._follow(_generation(params))
        return await self._queries.call(method, params, progress)

    async def _lead(self, generation: int) -> Json:
        """Take every switch and bring it to the intent; returns what failed, by switch."""
        if not await self._tenure.lead(generation):
            raise self._stale(generation)
        _log.info("appointed under generation %d", generation)
        failed = await self.switches.bring_all()
        if not self._tenure.leads():
            raise self._stale(generation)
        return {"generation": generation, "failed": failed}

    async def _follow(self, generation: int) -> Json:
        """Write no more; the switches are told, as far as they answer."""
        if not await self._tenure.follow(generation):
            raise self._stale(generation)
        _log.info("following under generation %d", generation)
        await self.switches.stand_all()
        return {"generation": generation}

    def _stale(self, generation: int) -> RpcError:
        return RpcError("stale_generation", f"generation {generation} is older than {self._tenure.generation}")

    async def restore(self, state: Mapping[str, Json], in_doubt: Sequence[Transaction]) -> None:
        opened = [OpenTransaction.of(tx.id, tx.seq, tx.operation) for tx in in_doubt]
        self._ledger = Ledger.restored(state, opened)
        for tx, one in zip(in_doubt, opened, strict=True):
            if tx.stage is not None:
                # Decided, and perhaps in the switches already: a node that was admitted must not be dark again.
                self._ledger = self._ledger.with_stage(one, tx.stage)
        if self._tenure.leads() and "inventory" not in self._ledger.committed:
            _log.warning("the journal holds no inventory: following until the orchestrator has restored it")
            await self._tenure.resign()
        counts = self._counts()
        _log.info("restored: revision %d, %d open transactions, entries %s", self._ledger.revision, len(opened), counts)
        self.restored.set()


def _generation(params: Json) -> int:
    value = params.get("generation")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_GENERATION:
        raise RpcError("invalid", f"$.generation: found {value!r}, must be an integer from 1 to {MAX_GENERATION}")
    return value
