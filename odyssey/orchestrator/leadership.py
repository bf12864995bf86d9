# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps one controller leading and all of them in step: looks, appoints, tells, brings up to date, waits for nobody.

What is decided is decided by values (`appointment.py`, `resync.py`). A controller takes part in transactions while it
is *in step*: it holds what the state says, but for what open transactions explain. It may be appointed when it owes
nothing to a decision either, for who leads makes the switches what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from odyssey.config import OrchestratorLimits
from odyssey.model.naming import CONTROLLER, is_controller
from odyssey.orchestrator.appointment import Candidate, Leader, appoint, cut_off, orders
from odyssey.orchestrator.resync import Changes, Difference, Expected, batches, differ, explained, left_out
from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.store import Conflict, Set, Store
from odyssey.state.view import StateView
from rdmp.hub import Hub
from rdmp.records import TxRecord
from rdmp.rpc import RpcError

_log = logging.getLogger(__name__)
KEY = "controller/leader"
OPERATOR = "odysseyd"
"""Who stands in the record of a transaction that no longer waits for a controller."""
SYNC_SECONDS = 60.0
"""How long a controller has to check the documents that bring it up to date."""
_LOOK_AGAIN = 0.05


@dataclass(frozen=True, slots=True)
class Standing:
    """What a controller said of itself when it was last asked, and what that means."""

    connection: str
    """A mark of the connection on which it said so."""
    candidate: Candidate
    in_step: bool


class Leadership:
    """The controllers of this orchestrator."""

    def __init__(
        self, hub: Hub, store: Store, view: StateView, decisions: StoreDecisionLog, limits: OrchestratorLimits,
        epoch: int,
    ) -> None:  # fmt: skip
        """Must be called in the event loop."""
        self._hub = hub
        self._store = store
        self._view = view
        self._decisions = decisions
        self._limits = limits
        self._epoch = epoch
        self._expected = Expected(view)
        self._leader: Leader | None = None
        self._revision = 0
        self._incarnation = store.incarnation  # under which a leader was first appointed
        self._standings: dict[str, Standing] = {}
        self._judged: dict[str, tuple[Any, bool]] = {}
        self._beginning: dict[int, TxRecord] = {}  # expanded, and perhaps not yet in the view
        self._syncing: dict[str, asyncio.Task[None]] = {}
        self._sync_again: dict[str, float] = {}
        self._clock = asyncio.get_running_loop().time
        # After a start everybody needs a moment to connect again; the leader goes on by itself meanwhile.
        self._usable_at = self._clock() + limits.start_grace - limits.leader_wait
        self._present_at: dict[str, float] = {}
        self._started = self._usable_at

    # For others

    def spokesman(self) -> str:
        """The controller to ask: the leader, else any that is connected."""
        present = self._present()
        if self._leader is not None and self._leader.name in present:
            return self._leader.name
        return min(present, default=CONTROLLER)

    def status(self) -> dict[str, Any]:
        """The appointment, and how each connected controller stands."""
        leader = asdict(self._leader) if self._leader is not None else None
        in_step = self._in_step()
        controllers = [
            {"name": name, "leads": self._leads(name), "inStep": name in in_step, "reach": standing.candidate.reach}
            for name, standing in sorted(self._known().items())
        ]
        return {"leader": leader, "controllers": controllers}

    async def members(self) -> tuple[str, ...]:
        """The controllers that take part in a transaction that begins now; waits at most `leader_timeout`.

        Raises RpcError `peer_absent` if none leads by then.
        """
        await self._wait_for_leader()
        if not self._has_leader():
            seconds = f"{self._limits.leader_timeout:g} s ([limits] leader_timeout)"
            names = ", ".join(sorted(self._present())) or "none"
            raise RpcError("peer_absent", f"no controller leads within {seconds}; connected are: {names}")
        return tuple(sorted(self._in_step()))

    @contextlib.contextmanager
    def beginning(self, record: TxRecord) -> Iterator[None]:
        """Hold a transaction in mind from the choice of its controllers on, until the view has it."""
        self._beginning[id(record)] = record
        try:
            yield
        finally:
            del self._beginning[id(record)]

    async def settled(self) -> None:
        """Wait until somebody leads, at most `leader_timeout`: who took over meanwhile has filled the switches then."""
        await self._wait_for_leader()

    async def may_succeed(self, record: TxRecord) -> bool:
        """Tell whether an aborted transaction may succeed once more: it had a controller that is away or behind now.

        Waits at most `leader_timeout` until nothing of it is left that a second one would meet.
        """
        if not any(is_controller(name) and name not in self._in_step() for name in record.participants):
            return False
        end = self._clock() + self._limits.leader_timeout
        while record.id in {one.id for one in self._view.unfinished()} and self._clock() < end:
            await asyncio.sleep(_LOOK_AGAIN)
        return self._clock() < end

    # What is known

    def _present(self) -> Mapping[str, str]:
        return self._hub.connected(CONTROLLER)

    def _known(self) -> dict[str, Standing]:
        """What those said who are connected now, on this connection."""
        present = self._present()
        return {name: one for name, one in self._standings.items() if present.get(name) == one.connection}

    def _in_step(self) -> set[str]:
        return {name for name, one in self._known().items() if one.in_step and name not in self._syncing}

    def _leads(self, name: str) -> bool:
        standing, leader = self._known().get(name), self._leader
        if standing is None or leader is None or leader.name != name:
            return False
        return standing.candidate.leads and standing.candidate.generation == leader.generation

    def _has_leader(self) -> bool:
        leader = self._leader
        return leader is not None and leader.name in self._in_step() and self._leads(leader.name)

    async def _wait_for_leader(self) -> None:
        end = self._clock() + self._limits.leader_timeout
        while not self._has_leader() and self._clock() < end:
            await asyncio.sleep(_LOOK_AGAIN)

    def _open(self) -> list[TxRecord]:
        begin = (record for record in self._beginning.values() if record.id not in self._view.entries)
        return [*self._view.unfinished(), *begin]

    # The loop

    async def load(self) -> None:
        """Read who was appointed before. Raises StoreError."""
        found = await self._store.get(KEY)
        if found is not None:
            self._leader, self._revision = Leader.parse(found.value), found.revision
            self._incarnation = found.value["incarnation"]

    async def run(self) -> None:
        """Look again and again until cancelled."""
        try:
            while True:
                try:
                    await self.once()
                except Exception:  # the loop must outlive whatever one round meets
                    _log.exception("looking after the controllers failed; again in %g s", self._limits.leader_interval)
                await self._pause()
        finally:
            for task in self._syncing.values():
                task.cancel()

    async def _pause(self) -> None:
        """Wait for the next round; a controller that comes or goes is looked at at once."""
        before, end = self._present(), self._clock() + self._limits.leader_interval
        while self._clock() < end and self._present() == before:
            await asyncio.sleep(min(_LOOK_AGAIN, self._limits.leader_interval))

    async def once(self) -> None:
        """One round."""
        present = self._present()
        self._expected.refresh()
        looks = await asyncio.gather(*(self._look(name, mark) for name, mark in present.items()))
        now = self._clock()
        self._present_at.update(dict.fromkeys(self._present(), now))
        self._standings = {standing.candidate.name: standing for standing in looks if standing is not None}
        seen = [standing.candidate for standing in self._standings.values()]
        await self._appoint(seen, now)
        await self._tell(seen)
        await self._wait_no_longer(now)

    async def _look(self, name: str, connection: str) -> Standing | None:
        try:
            said = await self._hub.call(name, "standing", {}, self._limits.leader_wait)
            digest, work = str(said["intentDigest"]), frozenset(map(str, said["open"]))
            reach, generation, leads = int(said["reach"]), int(said["generation"]), said["leads"] is True
            in_step = await self._judge(name, digest, work)
        except RpcError as error:
            _log.info("%s does not say how it stands: %s", name, error)
            return None
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("%s does not say how it stands as this release does: %r", name, error)
            return None
        leading = self._leader is not None and self._leader.name == name
        # Who leads may wait for switches; who shall lead must have heard of every decision.
        ready = in_step and name not in self._syncing and (leading or not self._owes(name))
        return Standing(connection, Candidate(name, ready, leads, generation, reach), in_step)

    def _owes(self, name: str) -> bool:
        records = self._open()
        awaited = (record.id for record in records if record.state != "preparing" and name in record.participants)
        return left_out(name, records) or any(name in self._hub.awaited(tx) for tx in awaited)

    # In step

    async def _judge(self, name: str, digest: str, work: frozenset[str]) -> bool:
        """Tell whether a controller holds what it should; begins to bring it up to date if not."""
        self._expected.refresh()
        if digest == self._expected.digest:
            return True
        records = [record for record in self._open() if name in record.participants]
        basis = (digest, self._expected.digest, frozenset(record.id for record in records))
        judged, in_step = self._judged.get(name, (None, False))
        if basis != judged or not in_step:
            in_step = await self._compare(name, work)
            self._judged[name] = basis, in_step
        return in_step

    async def _compare(self, name: str, work: frozenset[str]) -> bool:
        said = await self._hub.call(name, "intent", {}, self._limits.agent_timeout)
        # From here to the choice of what is sent nothing else runs: no transaction can begin in between.
        self._expected.refresh()
        records = [record for record in self._open() if name in record.participants]
        held: Mapping[str, str] = said["marks"]
        difference = self._may_be_undone(name, differ(held, self._expected.marks, explained(name, records)))
        if not difference:
            return True
        # What it is in doubt about it asks for, and is told; only then it is known what it lacks.
        in_doubt = (work | frozenset(said["open"])) - {record.id for record in records}
        if not in_doubt and name not in self._syncing and self._clock() >= self._sync_again.get(name, 0.0):
            changes = batches(difference, held, self._expected.documents)
            self._syncing[name] = asyncio.create_task(self._sync(name, changes, difference), name=f"sync {name}")
        return False

    def _may_be_undone(self, name: str, difference: Difference) -> Difference:
        """After the store was restored from a backup nothing is deleted that it does not know: it may be in use."""
        if difference.extra and self._store.incarnation != self._incarnation:
            _log.warning("%s holds %d documents that the restored store does not know", name, len(difference.extra))
            return replace(difference, extra=frozenset())
        return difference

    async def _sync(self, name: str, changes: list[Changes], difference: Difference) -> None:
        """Bring one controller up to date by transactions for it alone."""
        _log.warning(
            "%s lacks %d documents and has %d too many: bringing it up to date", name, len(difference.wrong),
            len(difference.extra),
        )  # fmt: skip
        self._sync_again[name] = self._clock() + self._limits.settle_interval
        try:
            for batch in changes:
                record = await self._hub.execute(self._sync_record(name, batch))
                if record.state != "committed" or not record.finished:
                    _log.warning("%s is not up to date: %s", name, record.reason or "it does not confirm")
                    return
            data = {"name": name, "set": len(difference.wrong), "deleted": len(difference.extra)}
            self._hub.announce("controller.synced", data)
            self._sync_again.pop(name, None)
        except RpcError as error:
            _log.warning("bringing %s up to date failed: %s", name, error)
        except Exception:
            _log.exception("bringing %s up to date failed; trying again", name)
        finally:
            del self._syncing[name]

    def _sync_record(self, name: str, changes: Changes) -> TxRecord:
        operation = {"prepare": None, "stages": {"admit": {"changes": dict(changes)}}}
        return TxRecord(
            id=f"sync-{name}-{uuid.uuid4().hex[:12]}", seq=0, epoch=self._epoch, revision=0, state="preparing",
            participants={name: operation}, stages=("admit",), deadline=SYNC_SECONDS,
        )  # fmt: skip

    # Leading

    async def _appoint(self, seen: Collection[Candidate], now: float) -> None:
        ready = [one for one in seen if one.ready]
        if any(self._leader is not None and one.name == self._leader.name and not cut_off(one, ready) for one in ready):
            self._usable_at = now
        missed = now - self._usable_at >= self._limits.leader_wait
        new = appoint(self._leader, seen, epoch=self._epoch, missed=missed)
        if new is None:
            return
        value = {**asdict(new), "incarnation": self._incarnation}
        try:
            written = await self._store.commit(Set(KEY, value, expect=self._revision))
        except Conflict:
            _log.warning("another orchestrator appointed a leader meanwhile")
            await self.load()
            return
        before, self._leader = self._leader, new
        self._revision = written.document.revision if written.document else 0
        self._usable_at = now
        _log.info("%s leads under generation %d (before: %s)", new.name, new.generation, before)
        self._hub.announce("controller.appointed", {**asdict(new), "before": before.name if before else None})

    async def _tell(self, seen: Collection[Candidate]) -> None:
        if self._leader is not None:
            told = orders(self._leader, seen)
            await asyncio.gather(*(self._order(name, order, self._leader) for name, order in told.items()))

    async def _order(self, name: str, order: str, leader: Leader) -> None:
        """Give an order; it is given again in the next round if it is not confirmed."""
        seconds = self._limits.leader_timeout if order == "lead" else self._limits.leader_wait
        try:
            answer = await self._hub.call(name, order, asdict(leader), seconds)
        except RpcError as error:
            _log.warning("%s does not %s: %s", name, order, error)
            return
        if order == "lead" and answer.get("failed"):
            _log.warning("%s leads, and could not reach every switch: %s", name, answer["failed"])
        if (standing := self._standings.get(name)) is not None:
            candidate = replace(standing.candidate, leads=order == "lead", generation=leader.generation)
            self._standings[name] = replace(standing, candidate=candidate)

    # Waiting

    async def _wait_no_longer(self, now: float) -> None:
        """End the wait of decided transactions for controllers that are away, once another one leads."""
        if not self._has_leader():
            return
        for record in self._view.unfinished():
            if record.state == "preparing":
                continue
            names = [name for name in self._hub.awaited(record.id) if is_controller(name) and self._away(name, now)]
            if names:
                text = f"away while {self._leader_name()} leads; it is brought up to date when it is back"
                _log.warning("transaction %s waits no longer for %s: %s", record.id, ", ".join(names), text)
                await self._decisions.give_up(record.id, OPERATOR, names, text)
                self._hub.events_grown()
                self._hub.give_up(record.id, names, text)

    def _away(self, name: str, now: float) -> bool:
        if name in self._present() or (self._leader is not None and name == self._leader.name):
            return False
        return now - self._present_at.get(name, self._started) >= self._limits.leader_wait

    def _leader_name(self) -> str:
        return self._leader.name if self._leader is not None else "nobody"
