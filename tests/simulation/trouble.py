# SPDX-License-Identifier: AGPL-3.0-or-later
"""What goes wrong, one method for each kind of fault, and how everything is made well in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tests.simulation.callers import PARTIES
from tests.simulation.kernel import Process
from tests.simulation.plan import TROUBLE

if TYPE_CHECKING:
    from tests.simulation.orchestrator import Orchestrator
    from tests.simulation.party import Party
    from tests.simulation.store import Backup
    from tests.simulation.world import World


class Trouble:
    """Makes things go wrong."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel
        self._backup: Backup | None = None
        self._kinds: Mapping[str, Callable[[], None]] = {
            "kill participant": lambda: self._kill(self._party()),
            "kill orchestrator": lambda: self._kill(self._orchestrator()),
            "take over": self._take_over,
            "pause": self._pause,
            "cut": self._cut,
            "break session": self._break_session,
            "store loses power": self._store_loses_power,
            "store full": self._store_full,
            "disk full": self._disk_full,
            "participant leaves": self._leave,
            "caller dies": self._caller_dies,
            "cancel": self._cancel,
            "calls fail": self._calls_fail,
            "lose journal": self._lose_journal,
            "restore backup": self._restore_backup,
        }
        if any(kind == "restore backup" for _, kind in world.plan.faults):
            world.kernel.after(world.kernel.rng.random() * TROUBLE, self._take_backup)

    def happens(self, kind: str) -> None:
        """One thing goes wrong."""
        self.kernel.note(f"-- {kind}")
        self.world.counts[kind] += 1
        self._kinds[kind]()

    def end(self) -> None:
        """Everything is well again: links heal, who is down starts, and one orchestrator leads."""
        self.kernel.note("-- all is well again")
        world, kernel = self.world, self.kernel
        world.network.heal()
        world.plan.loss = world.plan.repeat = world.plan.stray = 0.0
        world.store.failing_until = 0.0
        for party in world.parties.values():
            party.paused_until = party.disk.full_until = 0.0
            self._well(party)
            party.start()
        leader = world.leader()
        for process in (*world.parties.values(), *world.orchestrators):
            process.doom = ""
        for orchestrator in world.orchestrators:
            orchestrator.paused_until = 0.0
            if orchestrator is not leader or not world.store.fenced or orchestrator.epoch < world.store.epoch:
                # Who was deposed stops. Where the store did not know its leader, the next one looks again.
                orchestrator.kill(restart=False)
        kernel.after(0.0, leader.start)
        kernel.after(5.0, self._still_led, leader)

    def _still_led(self, leader: Orchestrator) -> None:
        """Whoever was about to be started again when all became well does not lead."""
        for orchestrator in self.world.orchestrators:
            if orchestrator is not leader:
                orchestrator.kill(restart=False)
        if leader.epoch < self.world.store.epoch:
            leader.kill(restart=False)
        leader.start()

    def _well(self, party: Party) -> None:
        party.behaviour.world.failing = 0

    # Choices

    def _party(self) -> Party:
        return self.world.parties[self.kernel.rng.choice(PARTIES)]

    def _orchestrator(self) -> Orchestrator:
        leader = self.world.leader()
        return leader if self.kernel.chance(0.8) else self.kernel.rng.choice(self.world.orchestrators)

    # Faults

    def _kill(self, process: Process) -> None:
        """Kill a process now, or in the midst of one of its next writes or calls."""
        how = self.kernel.rng.choice(("", "write", "write" if process in self.world.orchestrators else "call"))
        process.doom_in = self.kernel.rng.randint(0, 6)
        if how == "" or not process.up:
            process.kill()
        else:
            process.doom = how

    def _take_over(self) -> None:
        """The other orchestrator takes the lease; the one that leads is not told."""
        deposed = self.world.leader()
        for orchestrator in self.world.orchestrators:
            if orchestrator is not deposed:
                orchestrator.kill(restart=False)
                orchestrator.start()
        if self.kernel.chance(0.5):
            deposed.paused_until = self.kernel.now + self.kernel.around(5.0)

    def _pause(self) -> None:
        process: Process = self._orchestrator() if self.kernel.chance(0.5) else self._party()
        process.paused_until = self.kernel.now + self.kernel.around(5.0)

    def _cut(self) -> None:
        self.world.counts["cuts"] += 1
        leader, party = self._orchestrator().name, self._party().name
        ends = (leader, party) if self.kernel.chance(0.5) else (party, leader)
        self.world.network.cut_off(*ends, both=self.kernel.chance(0.5), seconds=self.kernel.around(6.0))

    def _break_session(self) -> None:
        if sessions := self.world.network.sessions():
            self.world.network.break_off(self.kernel.rng.choice(sessions))

    def _store_loses_power(self) -> None:
        self.world.store.power_cut()
        self.world.store.failing_until = self.kernel.now + self.kernel.around(2.0)
        self.world.leader().kill()  # an embedded store is part of its process; any other takes the lease with it

    def _store_full(self) -> None:
        self.world.store.failing_until = self.kernel.now + self.kernel.around(4.0)

    def _disk_full(self) -> None:
        self._party().disk.full_until = self.kernel.now + self.kernel.around(4.0)

    def _leave(self) -> None:
        """A participant goes for a long time, until all is well again at the latest."""
        party = self._party()
        party.kill(restart=False)
        self.kernel.after(self.kernel.around(15.0), party.start)

    def _caller_dies(self) -> None:
        self.kernel.rng.choice(self.world.plan.callers).dead = True

    def _cancel(self) -> None:
        self._orchestrator().cancel(self.kernel.rng.choice(self.world.plan.callers).id)

    def _calls_fail(self) -> None:
        self._party().behaviour.world.failing += self.kernel.rng.randint(1, 3)

    def _lose_journal(self) -> None:
        """A participant's journal is gone; what it held of open and ended transactions is uncertain."""
        party = self._party()
        party.kill()
        held = {record.id for record in self.world.records() if party.name in record.participants}
        self.world.checks.lost.setdefault(party.name, set()).update(held)
        party.disk.lose()
        # Its connections ended with it. Nothing in its memory could tell a straggler of one of them from news.
        party.deaf_before = self.kernel.now
        self.world.checks.journal_lost(party)

    def _take_backup(self) -> None:
        self._backup = self.world.backup()

    def _restore_backup(self) -> None:
        """The store is set back: orchestrators stop, the backup is put in place, they start again."""
        if self._backup is None:
            return
        for orchestrator in self.world.orchestrators:
            orchestrator.kill(restart=False)
        self.world.store.restore(self._backup)
        self.kernel.after(self.kernel.around(1.0), self.world.orchestrators[0].start)
