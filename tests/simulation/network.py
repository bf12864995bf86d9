# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated network: messages that are lost, repeated, delayed and overtaken, links cut one way or both.

A session is what both ends believe of their connection; each end learns of its loss in its own time.  It is meaner
than TCP: messages inside a session are lost and reordered too, and one of an earlier session may still arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmp.messages import Message
from tests.simulation.kernel import Kernel, Process

if TYPE_CHECKING:
    from tests.simulation.orchestrator import Orchestrator
    from tests.simulation.party import Party
    from tests.simulation.plan import Plan

_ECHO = 5.0  # mean seconds that a repeated message may travel
_NOTICE = 1.0  # mean seconds until an end sees that its connection is lost
_REDIAL = 1.0  # mean seconds between attempts to connect


class Session:
    """One connection of a participant to an orchestrator."""

    __slots__ = ("broken", "leader", "party")

    def __init__(self, leader: Orchestrator, party: Party) -> None:
        self.leader = leader
        self.party = party
        self.broken = False


class Network:
    """Everything between the processes."""

    def __init__(self, kernel: Kernel, plan: Plan) -> None:
        self.kernel = kernel
        self.plan = plan
        self.cut: dict[tuple[str, str], float] = {}  # (from, to) -> when it heals
        self._sessions: dict[Session, None] = {}  # a dict keeps its order: a run must be the same each time

    def send(self, sender: str, to: Process, message: Message) -> None:
        """Send a message; it arrives once, not at all, or several times."""
        copies = 1
        if self.plan.loss and self.kernel.rng.random() < self.plan.loss:
            copies = 0
        elif self.plan.repeat and self.kernel.rng.random() < self.plan.repeat:
            copies = 2
        for copy in range(copies):
            # A repeat may come when everybody has long forgotten what it was about.
            seconds = self.kernel.around(_ECHO) if copy and self.kernel.chance(0.3) else self.delay()
            self.kernel.after(seconds, self._arrive, sender, to, message, self.kernel.now)

    def delay(self) -> float:
        """Return how long a message travels; some take much longer than those that follow."""
        slow = 20.0 if self.kernel.rng.random() < self.plan.stray else 1.0
        return self.kernel.around(self.plan.delay) * slow

    def is_cut(self, sender: str, to: str) -> bool:
        """Tell whether nothing gets from one to the other now."""
        return bool(self.cut) and self.cut.get((sender, to), 0.0) > self.kernel.now

    def _arrive(self, sender: str, to: Process, message: Message, sent: float) -> None:
        if to.up and sent >= to.deaf_before and not self.is_cut(sender, to.name):
            to.later(0.0, to.received, sender, message)  # type: ignore[attr-defined]

    # Sessions

    def dial(self, party: Party, leader: Orchestrator) -> None:
        """Try to connect, and again until it succeeds."""
        cut = self.is_cut(party.name, leader.name) or self.is_cut(leader.name, party.name)
        if cut or not leader.up or self.kernel.now < leader.paused_until or party.core.meta.epoch > leader.epoch:
            # The last: the orchestrator refuses whoever has seen a newer one (stale_epoch).
            party.later(self.kernel.around(_REDIAL), self.dial, party, leader)
            return
        session = Session(leader, party)
        self._sessions[session] = None
        leader.took(session)
        party.later(self.delay(), party.welcomed, session, leader.epoch, leader.incarnation)

    def cut_off(self, one: str, other: str, both: bool, seconds: float) -> None:
        """Cut a link for a while; sessions over it break if it stays cut long enough for that to be seen."""
        until = self.kernel.now + seconds
        self.cut[one, other] = until
        if both:
            self.cut[other, one] = until
        names = {one, other}
        for session in list(self._sessions):
            if {session.leader.name, session.party.name} == names and self.kernel.around(3.0) < seconds:
                self.break_off(session)

    def left(self, process: Process) -> None:
        """A process died: its connections end."""
        for session in list(self._sessions):
            if process in (session.leader, session.party):
                self.break_off(session)

    def break_off(self, session: Session) -> None:
        """End a session; each end that lives learns of it after a while."""
        self._sessions.pop(session, None)
        session.broken = True
        for end in (session.leader, session.party):
            if end.up:
                end.later(self.kernel.around(_NOTICE), end.lost, session)

    def heal(self) -> None:
        """Let every message arrive from now on."""
        self.cut.clear()

    def sessions(self) -> list[Session]:
        """Return the sessions that stand."""
        return list(self._sessions)
