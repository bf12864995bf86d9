# SPDX-License-Identifier: AGPL-3.0-or-later
"""The coordinator of one transaction: a pure machine without clock, socket or disk.

Inputs are method calls (begin, recover, veto, written, received, connected, disconnected, timer); each returns the
outputs that the shell carries out in order: send a message, write to the decision log, set a timer, tell somebody.

Theory of operation.  The record is durable before the first prepare leaves.  Votes are only gathered; the decision is
one compare-and-set in the log, and from then on the machine follows whatever record the log gave back, its own wish or
another's.  After the decision the machine repeats one kind of request until everybody has answered: commit of the
current stage, or abort.  A request is repeated when its participant connects and at each ``repeat`` timer, so that no
message need arrive.  Phases only move forward, as TRANSITIONS says.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from rdmp.limits import Limits
from rdmp.messages import Abort, Aborted, Commit, Done, Error, Inquire, Message, Prepare, Vote
from rdmp.records import ABORT_STAGE, Decision, TxProgress, TxRecord
from rdmp.texts import clipped, named

Timer = Literal["deadline", "absent", "repeat", "answer"]


class Phase(Enum):
    """Where the transaction stands for its coordinator."""

    IDLE = "idle"
    CREATING = "creating"
    PREPARING = "preparing"
    DECIDING = "deciding"
    COMMITTING = "committing"
    ABORTING = "aborting"
    FINISHING = "finishing"
    FINISHED = "finished"


class Step(Enum):
    """What moves a transaction from phase to phase."""

    BEGIN = "begin"
    RECOVER = "recover a record that is not decided"
    CREATED = "record created"
    ALL_YES = "every participant voted yes"
    VETO = "a no, a deadline, an absent participant, an order to abort"
    COMMITTED = "the log says committed"
    ABORTED = "the log says aborted"
    CARRIED_OUT = "every participant answered"
    STORED = "the log says finished"


TRANSITIONS: Mapping[Phase, Mapping[Step, Phase]] = {
    Phase.IDLE: {
        Step.BEGIN: Phase.CREATING,
        Step.RECOVER: Phase.DECIDING,
        Step.COMMITTED: Phase.COMMITTING,
        Step.ABORTED: Phase.ABORTING,
    },
    Phase.CREATING: {Step.CREATED: Phase.PREPARING},
    Phase.PREPARING: {Step.ALL_YES: Phase.DECIDING, Step.VETO: Phase.DECIDING},
    Phase.DECIDING: {Step.COMMITTED: Phase.COMMITTING, Step.ABORTED: Phase.ABORTING},
    Phase.COMMITTING: {Step.CARRIED_OUT: Phase.FINISHING},
    Phase.ABORTING: {Step.CARRIED_OUT: Phase.FINISHING},
    Phase.FINISHING: {Step.STORED: Phase.FINISHED},
    Phase.FINISHED: {},
}

# Errors with which a participant answers a commit or an abort that it can never carry out. Repeating would not help;
# the transaction ends and, but for below_low_water (finished here, and forgotten), is reported as degraded.
_FINAL_ERRORS = frozenset({"below_low_water", "unknown_tx", "unknown_stage", "conflicting_decision"})


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to ``peer``; it may be lost."""

    peer: str
    message: Message


@dataclass(frozen=True, slots=True)
class Create:
    """Store the new record durably, then call ``written`` with what the log returned."""

    record: TxRecord


@dataclass(frozen=True, slots=True)
class Decide:
    """Compare-and-set the decision durably, then call ``written`` with what the log returned."""

    record: TxRecord
    decision: Decision
    reason: str | None


@dataclass(frozen=True, slots=True)
class Advance:
    """Note the progress that ``record`` holds (durable or not), then call ``written`` with what the log returned."""

    record: TxRecord


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call ``timer(name)`` after ``seconds``; a timer of the same name is replaced."""

    name: Timer
    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """News for whoever watches."""

    progress: TxProgress


@dataclass(frozen=True, slots=True)
class Answer:
    """Whoever began the transaction may have his answer: it is decided, and carried out as far as ``record`` says."""

    record: TxRecord


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is left to do; drop the machine and its timers."""

    record: TxRecord


Output = Send | Create | Decide | Advance | SetTimer | Tell | Answer | Finished


class Coordinator:
    """Drives one transaction; see the module's text.  ``now`` is a monotonic time in seconds."""

    def __init__(
        self, record: TxRecord, *, epoch: int, low_water: int, limits: Limits, connected: Container[str]
    ) -> None:
        self.record = record
        self.phase = Phase.IDLE
        self._epoch = epoch
        self._low_water = low_water
        self._limits = limits
        self._connected = {peer for peer in record.participants if peer in connected}
        # Who has not yet answered the request of this phase, in the order of the record.
        self._missing: dict[str, None] = {}
        self._yes: set[str] = set()
        self._touched: set[str] = set()  # to whom a prepare may have gone
        self._stage: str | None = None
        self._done: dict[str, set[str]] = {stage: set(names) for stage, names in record.done.items()}
        self._degraded: dict[str, str] = dict(record.degraded)
        self._advance_running = False
        self._advance_wanted = False
        self._answered = False
        self._wish: tuple[Decision, str | None] = ("aborted", None)
        self._end = 0.0
        self._now = 0.0
        self._out: list[Output] = []

    # Inputs

    def begin(self, now: float) -> list[Output]:
        """Begin a new transaction."""
        self._now = now
        self._move(Step.BEGIN)
        self._out.append(Create(self.record))
        return self._take()

    def recover(self, now: float) -> list[Output]:
        """Take up a record that another process left: undecided ones are aborted, decided ones carried out."""
        self._now = now
        self._touched = set(self.record.participants)
        if self.record.state == "preparing":
            self._move(Step.RECOVER)
            self._decide("aborted", "the coordinator restarted before the decision")
        else:
            self._follow()
        return self._take()

    def veto(self, reason: str, now: float) -> list[Output]:
        """Abort if it is not too late."""
        self._now = now
        self._veto(reason)
        return self._take()

    def awaited(self) -> tuple[str, ...]:
        """Return whom the decision waits for now."""
        return self._view().awaited()

    def give_up(self, peers: Iterable[str], reason: str, now: float) -> list[Output]:
        """Wait no longer for ``peers`` to carry out the decision: they count as answered, and as degraded."""
        self._now = now
        for peer in peers:
            if self.phase is Phase.COMMITTING:
                for stage in reversed(self.record.stages):  # the stage that is waited for comes last, and moves on
                    self._stage_done(peer, stage, reason)
            elif self.phase is Phase.ABORTING and peer in self.record.participants:
                self._degraded[peer] = reason
                self._aborted(peer)
        if self.phase is Phase.COMMITTING:
            self._advance()
        return self._take()

    def written(self, record: TxRecord, now: float) -> list[Output]:
        """The log carried out the last Create, Decide or Advance and holds ``record``."""
        self._now = now
        self.record = record
        if self.phase is Phase.CREATING:
            self._created()
        elif self.phase is Phase.DECIDING:
            if record.state == "preparing":
                # Somebody touched the record without deciding it: try again on the new revision.
                self._decide(*self._wish)
            else:
                self._follow()
        else:
            self._advance_running = False
            self._advance_stored()
        return self._take()

    def received(self, peer: str, message: Message, now: float) -> list[Output]:
        """``peer`` sent ``message`` about this transaction."""
        self._now = now
        if peer in self.record.participants:
            match message:
                case Vote():
                    self._voted(peer, message)
                case Done():
                    self._stage_done(peer, message.stage, message.degraded, message)
                case Aborted() if self.phase is Phase.ABORTING:
                    self._aborted(peer)
                case Inquire() if peer in self._missing:
                    self._request(peer)
                case Error():
                    self._refused(peer, message)
                case _:
                    pass  # late: the phase has passed
        return self._take()

    def connected(self, peer: str, now: float) -> list[Output]:
        """``peer`` is connected (again)."""
        self._now = now
        if peer in self.record.participants:
            self._connected.add(peer)
            if peer in self._missing:
                self._request(peer)
        return self._take()

    def disconnected(self, peer: str, now: float) -> list[Output]:
        """``peer`` is no longer connected."""
        self._now = now
        if peer in self._connected:
            self._connected.discard(peer)
            if peer in self._missing:
                self._wait_for([peer])
        return self._take()

    def timer(self, name: Timer, now: float) -> list[Output]:
        """The timer ``name`` ran out."""
        self._now = now
        missing = tuple(self._missing)
        match name:
            case "deadline":
                self._veto(f"no vote from {named(missing)} within {self.record.deadline:g} s")
            case "absent" if absent := [peer for peer in missing if peer not in self._connected]:
                self._veto(f"not connected for {self._limits.peer_wait:g} s: {named(absent)}")
            case "answer":
                self._answer()
            case "repeat" if self.phase not in (Phase.FINISHING, Phase.FINISHED):
                self._request_all()
            case _:
                pass
        return self._take()

    # Preparing and deciding

    def _created(self) -> None:
        self._move(Step.CREATED)
        self._await(self.record.participants)
        self._end = self._now + self.record.deadline
        self._tell("created")
        self._out.append(SetTimer("deadline", self.record.deadline))
        self._request_all()
        self._wait_for([peer for peer in self.record.participants if peer not in self._connected])

    def _voted(self, peer: str, vote: Vote) -> None:
        if self.phase is not Phase.PREPARING or peer in self._yes:
            return
        self._tell("vote", participant=peer, reason=vote.reason or vote.vote, detail=vote.detail)
        if vote.vote != "yes":
            self._veto(f"{peer} voted no: {vote.reason or 'no reason given'}")
            return
        self._yes.add(peer)
        del self._missing[peer]
        if not self._missing:
            self._tell("prepared")
            self._move(Step.ALL_YES)
            self._decide("committed", None)

    def _veto(self, reason: str) -> None:
        if self.phase is Phase.PREPARING:
            self._move(Step.VETO)
            self._decide("aborted", reason)

    def _decide(self, decision: Decision, reason: str | None) -> None:
        self._missing = {}
        self._wish = (decision, reason)
        self._out.append(Decide(self.record, decision, reason))

    # Carrying out

    def _follow(self) -> None:
        """Carry out what the record says, whoever decided it."""
        if self.phase is Phase.DECIDING:
            self._tell("decided", reason=self.record.reason)
        self._out.append(SetTimer("answer", self._limits.stage_wait))
        if self.record.state == "committed":
            self._move(Step.COMMITTED)
            self._next_stage()
            return
        self._move(Step.ABORTED)
        # Who was never sent a prepare has nothing to remove and need not be reachable.
        untouched = set(self.record.participants) - self._touched
        done = self._done.setdefault(ABORT_STAGE, set())
        done.update(untouched)
        self._await(peer for peer in self.record.participants if peer not in done)
        self._request_all()
        self._abort_progress()

    def _next_stage(self) -> None:
        for stage in self.record.stages:
            self._stage = stage
            done = self._done.get(stage, ())
            self._await(peer for peer in self.record.takers(stage) if peer not in done)
            if self._missing:
                self._out.append(SetTimer("answer", self._limits.stage_wait))
                self._request_all()
                self._wait_for([peer for peer in self._missing if peer not in self._connected])
                return
        self._carried_out()

    def _stage_done(self, peer: str, stage: str, degraded: str | None, message: Done | None = None) -> None:
        if self.phase is not Phase.COMMITTING or stage not in self.record.stages:
            return
        if stage not in self.record.participants[peer]["stages"]:
            return
        if peer in (done := self._done.setdefault(stage, set())):
            return
        done.add(peer)
        if degraded:
            self._degraded[peer] = degraded
        self._tell("done", participant=peer, stage=stage, reason=degraded, detail=message.detail if message else None)
        if stage == self._stage:
            self._missing.pop(peer, None)
        if stage == self._stage and not self._missing:
            self._tell("stage", stage=stage)
            self._next_stage()
            if self.phase is Phase.COMMITTING:
                self._advance()

    def _aborted(self, peer: str) -> None:
        if peer not in (done := self._done.setdefault(ABORT_STAGE, set())):
            done.add(peer)
            self._missing.pop(peer, None)
            self._tell("aborted", participant=peer)
            self._abort_progress()

    def _abort_progress(self) -> None:
        if not self._missing:
            self._carried_out()
        elif not any(peer in self._connected for peer in self._missing):
            self._answer()  # aborted everywhere reachable; the rest follows when it connects

    def _refused(self, peer: str, error: Error) -> None:
        """``peer`` cannot do what it was asked."""
        if self.phase is Phase.PREPARING and peer in self._missing:
            self._veto(f"{peer} refused: {error.message} ({error.code})")
        elif error.code in _FINAL_ERRORS and peer in self._missing:
            degraded = None if error.code == "below_low_water" else f"{error.message} ({error.code})"
            if self.phase is Phase.COMMITTING and self._stage is not None:
                self._stage_done(peer, self._stage, degraded)
            elif self.phase is Phase.ABORTING:
                if degraded:
                    self._degraded[peer] = degraded
                self._aborted(peer)

    def _carried_out(self) -> None:
        self._move(Step.CARRIED_OUT)
        self._advance()

    def _advance(self) -> None:
        """Note the progress; while one note is being written, a later one waits for its revision."""
        if self._advance_running:
            self._advance_wanted = True
            return
        self._advance_running, self._advance_wanted = True, False
        self._out.append(Advance(self._view()))

    def _advance_stored(self) -> None:
        if self.phase is not Phase.FINISHING:
            if self._advance_wanted:
                self._advance()
        elif self.record.finished:
            self._move(Step.STORED)
            self._tell("finished", reason=self.record.reason)
            self._answer()
            self._out.append(Finished(self.record))
        else:
            self._advance()

    # Helpers

    def _await(self, peers: Iterable[str]) -> None:
        """Begin to wait for the answers of ``peers``."""
        self._missing = dict.fromkeys(peers)

    def _request_all(self) -> None:
        for peer in self._missing:
            self._request(peer)
        self._out.append(SetTimer("repeat", self._limits.repeat_interval))

    def _request(self, peer: str) -> None:
        if peer not in self._connected:
            return
        record = self.record
        message: Message
        match self.phase:
            case Phase.PREPARING:
                self._touched.add(peer)
                remaining = min(max(self._end - self._now, 0.001), record.deadline)
                operation = record.participants[peer]
                message = Prepare(record.id, record.seq, self._epoch, self._low_water, remaining, operation)
            case Phase.COMMITTING:
                message = Commit(record.id, record.seq, self._epoch, self._stage or "")
            case _:
                message = Abort(record.id, record.seq, self._epoch, self._low_water, clipped(record.reason))
        self._out.append(Send(peer, message))

    def _wait_for(self, absent: list[str]) -> None:
        for peer in absent:
            self._tell("waiting", participant=peer, stage=self._stage, reason=f"{peer} is not connected")
        if absent and self.phase is Phase.PREPARING:
            self._out.append(SetTimer("absent", self._limits.peer_wait))
        if self.phase is Phase.ABORTING:
            self._abort_progress()

    def _view(self) -> TxRecord:
        """Return the record with the progress that the log may not have yet."""
        participants = self.record.participants
        done = {stage: tuple(name for name in participants if name in names) for stage, names in self._done.items()}
        finished = self.record.finished or self.phase is Phase.FINISHING
        return replace(self.record, done=done, degraded=dict(self._degraded), finished=finished)

    def _answer(self) -> None:
        if not self._answered:
            self._answered = True
            self._out.append(Answer(self.record if self.phase is Phase.FINISHED else self._view()))

    def _tell(
        self,
        kind: str,
        participant: str | None = None,
        stage: str | None = None,
        reason: str | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        record = self.record
        self._out.append(Tell(TxProgress(record.id, kind, record.state, participant, stage, reason, detail)))

    def _move(self, step: Step) -> None:
        self.phase = TRANSITIONS[self.phase][step]

    def _take(self) -> list[Output]:
        out, self._out = self._out, []
        return out


def answer_inquiry(record: TxRecord | None, inquiry: Inquire, peer: str, epoch: int, low_water: int) -> list[Message]:
    """Answer ``peer``, who is in doubt about a transaction that is finished or unknown here."""
    if record is not None and inquiry.seq not in (0, record.seq):
        record = None  # after the store was set back: another transaction took the id
    if record is None and inquiry.epoch >= epoch:
        text = f"transaction {inquiry.tx} of epoch {inquiry.epoch} is not known here"
        return [Error("unknown_tx", text, None, inquiry.tx)]
    if record is None or peer not in record.participants:
        return [Abort(inquiry.tx, inquiry.seq, epoch, low_water, "unknown to the decision log")]
    if record.state == "aborted":
        return [Abort(record.id, record.seq, epoch, low_water, clipped(record.reason))]
    stages = record.participants[peer]["stages"]
    return [Commit(record.id, record.seq, epoch, stage) for stage in record.stages if stage in stages]
