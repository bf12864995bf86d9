# SPDX-License-Identifier: AGPL-3.0-or-later
"""One simulated cluster: two orchestrators over one store, two agents, a controller, and their callers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from rdmp.limits import Limits
from rdmp.records import TxRecord
from tests.simulation.callers import CONTROLLER, HOSTS, Caller
from tests.simulation.checks import Checks
from tests.simulation.effects import INVENTORY, Agent, Controller, Docker, Switch, Watched
from tests.simulation.kernel import Kernel, Violation, require
from tests.simulation.network import Network
from tests.simulation.orchestrator import Orchestrator
from tests.simulation.party import Party
from tests.simulation.plan import TROUBLE, draw
from tests.simulation.store import Backup, Store
from tests.simulation.trouble import Trouble

LIMITS = Limits(participant_transactions=3, stage_wait=5.0, in_doubt_alarm=6.0)
STEPS = 10_000  # of a run that does not come to rest
HEALED = 120.0  # seconds in which everything must come to rest once nothing goes wrong any more
_LOOK = 16  # steps between looks whether everything is at rest
_SETTLE = 8.0  # seconds that the restoring loops get after the last late call
_ASK = 4.0  # seconds after which a caller asks again


class World:
    """Everything; ``run`` lets it live.  Tests replace the types to plant faults."""

    orchestrator_type: type[Orchestrator] = Orchestrator
    party_type: type[Party] = Party
    store_type: type[Store] = Store
    agent_type: type[Agent] = Agent

    def __init__(self, seed: int, tracing: bool = False) -> None:
        self.kernel = kernel = Kernel(seed, tracing)
        rng = kernel.rng
        self.plan = draw(rng)
        self.counts: Counter[str] = Counter()
        self.network = Network(kernel, self.plan)
        self.store = self.store_type(kernel, self.plan.fenced)
        self.checks = Checks(self)
        self.orchestrators = [self.orchestrator_type(self, kernel, name, LIMITS) for name in ("o1", "o2")]
        self.switch = Switch(self.checks.may_admit)
        self.dockers = {
            name: Docker(self.checks.reachable, functools.partial(self.checks.may_remove, name)) for name in HOSTS
        }
        self.parties = {name: self._party(name, self.agent_type(self.dockers[name])) for name in HOSTS}
        self.parties[CONTROLLER] = self._party(CONTROLLER, Controller(self.switch))
        self.parties[CONTROLLER].disk.state[INVENTORY] = {"seq": 0, "document": {}}
        for process in (*self.orchestrators, *self.parties.values()):
            process.rate = rng.choice((0.7, 1.0, 1.0, 1.5))
        self.last_late_call = 0.0
        self.trouble = Trouble(self)

    def _party(self, name: str, behaviour: Any) -> Party:
        return self.party_type(self, self.kernel, name, behaviour, LIMITS)

    def run(self) -> None:
        """Let the trouble come and go, wait until everything is at rest, and judge.  Raises Violation."""
        try:
            self._begin()
            kernel = self.kernel
            while kernel.now < TROUBLE and kernel.step():
                require(kernel.steps < STEPS, "the protocol does not come to rest")
            self.trouble.end()
            end = kernel.now + HEALED
            while not self._at_rest():
                for _ in range(_LOOK):
                    kernel.step()
                if kernel.now > end or kernel.steps > STEPS:
                    raise Violation(f"still open after everything was well again: {self.checks.open_things()}")
            self.checks.end()
        except Violation:
            raise
        except (AssertionError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise Violation(f"{type(error).__name__}: {error}") from error

    def _begin(self) -> None:
        kernel, plan = self.kernel, self.plan
        self.orchestrators[0].start()
        for name, party in self.parties.items():
            kernel.after(plan.joins.get(name, 0.0), party.start)
        for name, tx in plan.refusals:
            self.watched(name).refusing.add(tx)
        for caller in plan.callers:
            kernel.after(caller.begins, self._ask, caller)
        for when, kind in plan.faults:
            kernel.after(when, self.trouble.happens, kind)

    def _at_rest(self) -> bool:
        if self.last_late_call and self.kernel.now < max(self.last_late_call, TROUBLE) + _SETTLE:
            return False
        return self.checks.at_rest()

    # Callers

    def leader(self) -> Orchestrator:
        """Return the orchestrator with the highest epoch that is up, the first one if none is."""
        return max(self.orchestrators, key=lambda one: one.epoch if one.up else 0)

    def _ask(self, caller: Caller) -> None:
        if caller.answer is not None or caller.dead:
            return
        caller.asked += 1
        leader = self.leader() if self.kernel.chance(0.8) else self.kernel.rng.choice(self.orchestrators)
        if leader.up and not self.kernel.chance(self.plan.loss):
            self.kernel.note(f"caller {caller.id} asks {leader.name}")
            leader.later(self.network.delay(), leader.asked, caller)
        self.kernel.after(self.kernel.around(_ASK) + 0.1, self._ask, caller)

    def reply(self, caller: Caller, answer: str) -> None:
        """Send a caller its answer; it may be lost."""
        if not self.kernel.chance(self.plan.loss):
            self.kernel.after(self.network.delay(), self._answered, caller, answer)

    def _answered(self, caller: Caller, answer: str) -> None:
        if caller.dead or answer == "again":
            return
        self.kernel.note(f"caller {caller.id} is answered {answer}")
        before = caller.answer
        if before in ("committed", "aborted") and answer in ("committed", "aborted"):
            same = before == answer or caller.id in self.store.set_back
            require(same, f"caller {caller.id} was told {before} and then {answer}")
        caller.answer = answer

    # Helpers

    def watched(self, name: str) -> Watched:
        """Return a participant's part of the world."""
        return self.parties[name].behaviour.world

    def late_call(self, party: Party, call: Callable[[], Any]) -> None:
        """An engine carries out a call of a process that has died since."""
        self.kernel.note(f"{party.name}: a call of its earlier life is carried out")
        self.last_late_call = self.kernel.now
        call()

    def backup(self) -> Backup:
        """Take a backup of the store."""
        return self.store.backup()

    def records(self) -> list[TxRecord]:
        """Return every record of the store."""
        return list(self.store.records.values())
