# SPDX-License-Identifier: AGPL-3.0-or-later
"""NETCONF's part in transactions: stages changes on switches, carries them out on all or none, and keeps them so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import schemas
from controller.netconf.backups import Backups
from controller.netconf.changes import (
    DEVICE,
    REVISION,
    CommitError,
    Json,
    OpenChange,
    before_key,
    decided,
    tree_from_json,
    tree_to_json,
)
from controller.netconf.datamodel import Target
from controller.netconf.devices import Device, Reconnect, refusals
from controller.netconf.driver import DeviceDriver, Staged, Tuning, problem
from controller.netconf.keeper import Keeper
from controller.netconf.questions import Questions
from controller.netconf.session import NetconfError
from controller.netconf.ssh import Connect
from rdmp.participant import Effect, Participant, Refused, Transaction

T = TypeVar("T")
Publish = Callable[[str, Json], None]
_log = logging.getLogger(__name__)


class NetconfParticipant(Participant):
    """Configures switches.  A yes holds what each device can hold, and is held again when a session is lost."""

    def __init__(
        self,
        publish: Publish,
        connect: Connect,
        backups: Backups,
        *,
        tuning: Tuning | None = None,
        reconnect: Reconnect | None = None,
    ) -> None:
        self.restored = asyncio.Event()
        """Set once what was decided is known."""
        self.decided: dict[str, Json] = {}
        self.open: dict[str, OpenChange] = {}
        self.keeper = Keeper(self, publish)
        self.backups = backups
        self._questions = Questions(self)
        self._connect = connect
        self._tuning = tuning or Tuning()
        self._reconnect = reconnect or Reconnect()
        self._devices: dict[str, Device] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}  # switches that are forgotten and whose session still ends
        self._unsaved: set[str] = set()
        self._committing: dict[str, asyncio.Event] = {}  # set when the attempt has ended
        self._unfinished: dict[str, str] = {}  # decided changes, with the reason for which they are not carried out
        self._seqs: dict[str, int] = {}  # of the transaction that configured each switch last
        self._revision = 0

    def device(self, switch: str) -> Device:
        """The switch with this name."""
        if switch not in self._devices:
            self._devices[switch] = Device(switch, self._connect, self._tuning, self._reconnect)
        return self._devices[switch]

    def busy(self, switch: str) -> str | None:
        """The open transaction that configures a switch; threads of switches ask too, hence the copy."""
        return next((tx for tx, change in list(self.open.items()) if switch in change.documents), None)

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(*self._leaving.values(), *(device.close() for device in self._devices.values()))

    def _forget(self, switch: str) -> None:
        """End the session with a switch that is no longer configured: a device has only a few.  Nobody waits for it."""
        if (device := self._devices.pop(switch, None)) is None:
            return

        def gone(task: asyncio.Task[None]) -> None:
            if self._leaving.get(switch) is task:
                del self._leaving[switch]

        closing = asyncio.create_task(device.close(), name=f"end the session with {switch}")
        self._leaving[switch] = closing
        closing.add_done_callback(gone)

    # Transactions

    async def prepare(self, tx: Transaction) -> Effect:
        if faults := schemas.validate("netconf-operation", tx.operation):
            reason = "the operation does not match its schema: " + "; ".join(fault.message for fault in faults)
            raise Refused(reason, {"faults": [fault.to_json() for fault in faults]})
        change = OpenChange.of(tx.id, tx.seq, tx.operation, self.decided)
        if reasons := [*self._held_by_others(change), *_refusals(change)]:
            raise Refused("; ".join(reasons))
        self.open[tx.id] = change
        if older := [self._committing[tx] for tx in self._older(change) if tx in self._committing]:
            await asyncio.gather(*(attempt.wait() for attempt in older))
            self.open[tx.id] = change = OpenChange.of(tx.id, tx.seq, tx.operation, self.decided)
        if leaving := [self._leaving[switch] for switch in change.targets if switch in self._leaving]:
            await asyncio.wait(leaving)  # the old session may still hold locks
        results = await self._each(change, self._staged)
        if failed := _failures(results):
            raise Refused("; ".join(f"{switch}: {error}" for switch, error in failed.items()))
        staged = {switch: result for switch, result in results.items() if isinstance(result, Staged)}
        self.open[tx.id] = replace(change, before={switch: one.before for switch, one in staged.items()})
        kept = {switch: tree_to_json(one.before) for switch, one in staged.items()}
        counts = {switch: len(one.change.lines()) for switch, one in staged.items()}
        return Effect(detail={"switches": counts}, state={before_key(tx.id): kept})

    def _held_by_others(self, change: OpenChange) -> list[str]:
        yielding = self._older(change)
        return [
            f"{switch} is held by the open transaction {other.id}"
            for switch in change.documents
            for other in self.open.values()
            if switch in other.documents and other.id not in yielding
        ]

    def _older(self, change: OpenChange) -> list[str]:
        """Changes of the same switches that are decided and cannot be carried out.

        Their switches are reserved until they are finished, so whoever begins another one has given them up
        (``Hub.give_up``).  A wish is the whole configuration, so the newer one takes their place.
        """
        others = (self.open[tx] for tx in self._unfinished)
        return [other.id for other in others if other.seq < change.seq and other.meets(change)]

    def _newer(self, change: OpenChange) -> str | None:
        """The open transaction that takes the place of a change."""
        return next((tx for tx, other in self.open.items() if other.seq > change.seq and other.meets(change)), None)

    def _rest(self, change: OpenChange) -> OpenChange:
        """A change without the switches that a newer one has configured."""
        return change.without({switch for switch in change.documents if self._seqs.get(switch, 0) > change.seq})

    def _staged(self, switch: str, driver: DeviceDriver, target: Target) -> Staged:
        staged = driver.stage(target)
        if staged.change:
            self.backups.keep(switch, driver.backup())
        return staged

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        change = self.open.get(tx.id) or OpenChange.of(tx.id, tx.seq, tx.operation, self.decided)
        self.open[tx.id] = change
        if newer := self._newer(change):
            raise CommitError(f"the open transaction {newer} takes its place")
        self._committing[tx.id] = asyncio.Event()
        try:
            effect = await self._carry_out(self._rest(change))
        except Exception as error:
            # Whatever it is: only an unfinished change is told, and can be given up for a newer one.
            reason = str(error) if isinstance(error, CommitError) else f"{type(error).__name__}: {error}"
            self._unfinished[tx.id] = reason
            self.keeper.unfinished(tx.id, reason)
            raise
        finally:
            self._committing.pop(tx.id).set()
        self._unfinished.pop(tx.id, None)
        self.keeper.unfinished(tx.id, None)
        return effect

    async def _carry_out(self, change: OpenChange) -> Effect:
        await self._hold(change, lambda: True)
        applied = await self._each(change, lambda switch, driver, target: driver.apply(target, change.token))
        self._unsaved |= {switch for switch, done in applied.items() if done is True}
        if failed := _failures(applied):
            others = [switch for switch in applied if switch not in failed]
            reverted = await self._each(change, lambda _, driver, target: driver.revert(target, change.token), others)
            raise CommitError(_told({**failed, **_failures(reverted)}))
        # From here on it only goes forward: a switch that fails now is brought there by the repeat.
        if failed := _failures(await self._each(change, lambda _, driver, target: _final(driver, target, change))):
            raise CommitError(_told(failed))
        unsaved = await self._save(change)
        state = self._decide(change)
        return Effect(state=state, degraded=_told(unsaved) if unsaved else None)

    async def hold(self, change: OpenChange) -> None:
        """Stage again what a lost session lost, for a change that waits for its decision; raises CommitError."""

        def wanted() -> bool:
            return change.id in self.open and change.id not in self._committing and self._newer(change) is None

        await self._hold(self._rest(change), wanted)

    async def _hold(self, change: OpenChange, wanted: Callable[[], bool]) -> None:
        """Let all switches hold a change, as long as that is ``wanted``, before any is changed."""

        def held(switch: str, driver: DeviceDriver, target: Target) -> None:
            if wanted() and not driver.held:
                driver.settle(change.token)
                driver.stage(target, change.before.get(switch))

        if failed := _failures(await self._each(change, held)):
            raise CommitError(_told(failed))

    async def _save(self, change: OpenChange) -> dict[str, Any]:
        """Save what was changed to startup; returns why that was not possible, by switch."""
        names = sorted(self._unsaved & change.targets.keys())
        saved = await self._each(change, lambda _, driver, target: driver.save(), names)
        self._unsaved.difference_update(names)
        return {switch: why for switch, why in saved.items() if why is not None}

    def _decide(self, change: OpenChange) -> dict[str, Json | None]:
        """Take over what is carried out; returns the state documents that keep it."""
        for switch, document in change.documents.items():
            if document is None:
                self.decided.pop(switch, None)
                self._forget(switch)
            else:
                self.decided[switch] = document
            self._seqs[switch] = change.seq
            self.keeper.resume(switch)
        self._revision = max(self._revision, change.seq)
        del self.open[change.id]
        documents = {f"{DEVICE}{switch}": document for switch, document in change.documents.items()}
        revision = {"seq": self._revision, "switches": dict(self._seqs)}
        return {**documents, REVISION: revision, before_key(change.id): None}

    async def abort(self, tx: Transaction) -> Effect:
        change = self.open.pop(tx.id, None)
        if change is not None:
            # A session that is lost took its locks and the candidate's edits with it (RFC 6241, sections 7.5 and 8.3).
            await asyncio.gather(*(self.device(switch).release() for switch in change.targets))
        return Effect(state={before_key(tx.id): None})

    async def restore(self, state: Mapping[str, Json], in_doubt: Sequence[Transaction]) -> None:
        self.decided = decided(state)
        revision = state.get(REVISION, {})
        self._revision, self._seqs = revision.get("seq", 0), dict(revision.get("switches", {}))
        for tx in in_doubt:
            before = state.get(before_key(tx.id), {})
            trees = {switch: tree_from_json(items) for switch, items in before.items()}
            change = replace(OpenChange.of(tx.id, tx.seq, tx.operation, self.decided), before=trees)
            self.open[tx.id] = change
            if tx.stage is not None:
                self._unfinished[tx.id] = "the process ended before it was carried out"
                self._unsaved |= change.targets.keys()
        self.restored.set()

    # Questions

    async def status(self, tx_id: str) -> Json:
        change = self.open.get(tx_id)
        if change is None:
            return {"open": False}
        return {"open": True, "switches": {switch: self.device(switch).held for switch in change.targets}}

    async def observe(self) -> Json:
        known = self.decided.keys() | {switch for change in self.open.values() for switch in change.targets}
        return {
            "revision": self._revision, "open": sorted(self.open),
            "switches": {switch: self._observed(switch) for switch in sorted(known)},
        }  # fmt: skip

    def _observed(self, switch: str) -> Json:
        device, tx = self.device(switch), self.busy(switch)
        return {
            "connected": device.connected, "reachable": device.reachable,
            "problem": self._unfinished.get(tx or "") or device.problem,
            "capabilities": list(device.capabilities), "verified": self.keeper.verified.get(switch),
            "drift": self.keeper.drift.get(switch, []), "restored": self.backups.restored.get(switch),
            "transaction": tx, "held": device.held,
        }  # fmt: skip

    async def call(self, method: str, params: Json, progress: Callable[[Json], Awaitable[None]]) -> Json:
        return await self._questions.answer(method, params, progress)

    async def _each(
        self,
        change: OpenChange,
        work: Callable[[str, DeviceDriver, Target], T],
        switches: Sequence[str] | None = None,
    ) -> dict[str, T | NetconfError]:
        """Do the same on several switches at once; returns each one's result or failure."""
        names = list(change.targets if switches is None else switches)

        async def one(switch: str) -> T | NetconfError:
            target = change.targets[switch]
            try:
                return await self.device(switch).run(target.config, lambda driver: work(switch, driver, target))
            except NetconfError as error:
                return error

        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


def _final(driver: DeviceDriver, target: Target, change: OpenChange) -> None:
    driver.confirm(change.token)
    if left := driver.look(target):
        raise problem(left)


def _failures(results: Mapping[str, Any]) -> dict[str, NetconfError]:
    return {switch: result for switch, result in results.items() if isinstance(result, NetconfError)}


def _told(reasons: Mapping[str, Any]) -> str:
    return "; ".join(f"{switch}: {reason}" for switch, reason in reasons.items())


def _refusals(change: OpenChange) -> list[str]:
    return [f"{switch}: {reason}" for switch, target in change.targets.items() for reason in refusals(target.config)]
