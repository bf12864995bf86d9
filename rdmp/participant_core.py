# SPDX-License-Identifier: AGPL-3.0-or-later
"""The participant's side of the protocol: a pure machine without clock, socket or disk, for all its transactions.

Inputs are method calls (start, welcomed, disconnected, received, ran, written, timer); each returns the outputs that
the shell carries out in order: write to the journal, run or cancel an effect, send a message, set a timer, publish.

Theory of operation.  Each transaction is a journal entry whose phase moves only as TRANSITIONS says.  A move is written
first and acted upon when it is durable (``written``): intent, then the effect, then its result, then the answer.  The
entry in memory is always the newest one written, so that a decision that overtakes an effect simply writes the next
phase; what then comes back of the older one (a result, a finished write) carries an older version and is ignored.
Repeated messages are answered from the entry.  At most one effect of a transaction runs at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rdmp.limits import Limits
from rdmp.messages import Abort, Aborted, Commit, Done, Error, Inquire, Message, Prepare, Vote
from rdmp.participant import Effect, Transaction
from rdmp.participant_table import (
    BOUND,
    FINAL,
    TRANSITIONS,
    Announce,
    CancelRun,
    Denied,
    EffectKind,
    Entry,
    Failed,
    Meta,
    Output,
    Phase,
    Result,
    Run,
    Send,
    SetTimer,
    Step,
    Write,
)
from rdmp.texts import clip, clipped

Json = Mapping[str, Any]
INQUIRE = "inquire"  # the timer that is not of one transaction
INTERRUPTED = "interrupted by a restart of the participant"


@dataclass(slots=True)
class _Live:
    """A transaction in memory: the newest entry, and what is going on with it."""

    entry: Entry
    version: int = 0  # rises with every move and every run; what returns with another one is late
    busy: bool = False  # a write or an effect is under way, or waits for its next try
    owes_no: bool = False  # gave up by itself: the coordinator is told when that is durable
    peer: str = ""  # the orchestrator that spoke last of it
    tries: int = 0
    ticks: int = 0  # inquiries without an answer


class ParticipantCore:
    """All transactions of one participant; see the module's text."""

    def __init__(self, entries: Iterable[Entry], meta: Meta, limits: Limits) -> None:
        self.meta = meta
        self._limits = limits
        self._live = {entry.id: _Live(_kept(entry)) for entry in entries}
        self._doubt = {live.entry.id for live in self._live.values() if live.entry.phase in BOUND}
        # Carried out and not yet forgotten: a heap, the lowest seq first.  It may be much longer than what is open, for
        # a transaction that is open anywhere holds the low-water mark: nothing walks it.
        self._final = [(live.entry.seq, live.entry.id) for live in self._live.values() if live.entry.phase in FINAL]
        heapq.heapify(self._final)
        self._waiting: dict[int, tuple[str, int]] = {}  # token of a write -> transaction, version
        self._held: list[tuple[str, Message]] = []  # messages that wait until a higher epoch is durable
        self._epoch_token = 0
        self._token = 0
        self._peers: set[str] = set()
        self._inquiry_set = False
        self._out: list[Output] = []

    # Inputs

    def start(self) -> list[Output]:
        """Take up what the journal holds: what was being prepared is aborted, what was being aborted goes on."""
        for live in list(self._live.values()):
            if live.entry.phase is Phase.PREPARING:
                self._give_up(live, INTERRUPTED)
            elif live.entry.phase is Phase.ABORTING:
                self._run(live, "abort")
        self._set_inquiry()
        return self._take()

    def welcomed(self, peer: str, epoch: int, incarnation: str) -> list[Output]:
        """The orchestrator ``peer`` is connected; ask it about everything in doubt."""
        self._peers.add(peer)
        if epoch >= self.meta.epoch and incarnation != self.meta.incarnation:
            # Another history of the store counts its transactions anew.
            self._write_meta(replace(self.meta, epoch=epoch, incarnation=incarnation, low_water=0))
        elif epoch > self.meta.epoch:
            self._write_meta(replace(self.meta, epoch=epoch))
        if epoch >= self.meta.epoch:
            for live in self._bound():
                self._inquire(peer, live)
        return self._take()

    def disconnected(self, peer: str) -> list[Output]:
        """The orchestrator ``peer`` is no longer connected."""
        self._peers.discard(peer)
        return self._take()

    def received(self, peer: str, message: Message) -> list[Output]:
        """``peer`` sent a message."""
        if isinstance(message, Prepare | Commit | Abort):
            if message.epoch > self.meta.epoch:
                self._write_meta(replace(self.meta, epoch=message.epoch))
            if self._epoch_token:
                self._held.append((peer, message))
            else:
                self._obey(peer, message)
        return self._take()

    def written(self, token: int) -> list[Output]:
        """The write ``token`` is durable."""
        if token == self._epoch_token:
            self._epoch_token = 0
            held, self._held = self._held, []
            for peer, message in held:
                if isinstance(message, Prepare | Commit | Abort):
                    self._obey(peer, message)
        if (waiting := self._waiting.pop(token, None)) is not None:
            live = self._live.get(waiting[0])
            if live is not None and live.version == waiting[1]:
                live.busy = False
                self._act(live)
        return self._take()

    def ran(self, tx: str, version: int, result: Result) -> list[Output]:
        """The effect that ``Run`` with this version asked for has ended."""
        live = self._live.get(tx)
        if live is not None and live.version == version:
            self._ended(live, result)
        return self._take()

    def timer(self, name: str, version: int) -> list[Output]:
        """The timer ``name`` ran out."""
        if name == INQUIRE:
            self._inquire_all()
        elif (live := self._live.get(name)) is not None and live.version == version:
            if live.entry.phase is Phase.PREPARING:
                self._give_up(live, f"prepare took longer than the {live.entry.deadline:g} s that remained")
            else:
                self._act(live)
        return self._take()

    def in_doubt(self) -> tuple[Transaction, ...]:
        """Return the transactions that were voted yes and are not yet carried out, oldest first."""
        return tuple(_in_doubt(live.entry) for live in self._bound())

    def status(self, tx: str) -> Json:
        """Return what is known of one transaction."""
        if (live := self._live.get(tx)) is None:
            return {"tx": tx, "phase": Phase.UNKNOWN.value}
        entry = live.entry
        return {
            "tx": tx,
            "seq": entry.seq,
            "phase": entry.phase.value,
            "reason": entry.reason,
            "done": sorted(entry.done),
        }

    # Messages

    def _obey(self, peer: str, message: Prepare | Commit | Abort) -> None:
        if message.epoch < self.meta.epoch:
            text = f"epoch {message.epoch} is older than {self.meta.epoch}, which was seen already"
            self._error(peer, "stale_epoch", message.tx, text)
            return
        live = self._live.get(message.tx)
        if live is None:
            self._unknown(peer, message)
            return
        if live.entry.seq != message.seq:
            self._namesake(peer, live, message)
            return
        live.peer = peer
        live.ticks = 0
        match message:
            case Prepare():
                self._prepare_again(live)
            case Commit():
                self._commit(live, message)
            case Abort():
                self._abort(live, message)

    def _unknown(self, peer: str, message: Prepare | Commit | Abort) -> None:
        """A message of a transaction that the journal does not hold."""
        if message.seq < self.meta.low_water:
            text = f"seq {message.seq} is below {self.meta.low_water}: finished and forgotten"
            self._error(peer, "below_low_water", message.tx, text)
        elif isinstance(message, Commit):
            self._error(peer, "unknown_tx", message.tx, "the journal does not hold this transaction: was it replaced?")
        elif isinstance(message, Abort):
            entry = Entry(message.tx, message.seq, message.epoch, Phase.UNKNOWN)
            self._begin(peer, entry, Step.ABORT, message.low_water, message.reason)
        elif len(self._live) - len(self._final) >= self._limits.participant_transactions:
            limit = self._limits.participant_transactions
            self._send(
                peer, Vote(message.tx, "no", f"{limit} transactions are open here ([rdmp] participant_transactions)")
            )
        else:
            entry = Entry(message.tx, message.seq, message.epoch, Phase.UNKNOWN, message.operation, message.deadline)
            self._begin(peer, entry, Step.PREPARE, message.low_water)

    def _namesake(self, peer: str, live: _Live, message: Prepare | Commit | Abort) -> None:
        """A message of another transaction with the same id, which can only be after the store was set back."""
        text = f"the id is taken here by a transaction with seq {live.entry.seq}, not {message.seq}"
        match message:
            case Prepare():
                self._send(peer, Vote(message.tx, "no", text))
            case Commit():
                self._error(peer, "conflicting_decision", message.tx, text)
            case Abort():
                self._send(peer, Aborted(message.tx))  # nothing was done for it

    def _begin(self, peer: str, entry: Entry, step: Step, low_water: int, reason: str | None = None) -> None:
        forget = self._raise_low_water(low_water)
        live = self._live[entry.id] = _Live(entry, peer=peer)
        self._move(live, step, forget=forget, reason=reason)

    def _prepare_again(self, live: _Live) -> None:
        entry = live.entry
        if entry.phase in (Phase.ABORTING, Phase.ABORTED):
            self._send(live.peer, Vote(entry.id, "no", clip(entry.reason or "aborted before"), entry.detail))
        elif entry.phase is not Phase.PREPARING and not live.busy:
            self._vote_yes(live)

    def _commit(self, live: _Live, message: Commit) -> None:
        entry = live.entry
        stages = entry.operation.get("stages", {})
        if entry.phase in (Phase.PREPARING, Phase.ABORTING, Phase.ABORTED):
            text = f"commit arrived, but the transaction is {entry.phase.value} here"
            self._error(live.peer, "conflicting_decision", entry.id, text)
        elif message.stage not in stages:
            text = f"the operation has no stage {message.stage!r}; it has {', '.join(stages)}"
            self._error(live.peer, "unknown_stage", entry.id, text)
        elif message.stage in entry.done and not (live.busy and entry.stage == message.stage):
            self._send_done(live, message.stage)
        elif live.busy:
            return  # its end answers; another stage is repeated by the coordinator
        elif entry.phase is Phase.COMMITTING:
            self._run(live, "commit")  # interrupted by a restart, and now repeated
        else:
            self._move(live, Step.COMMIT, stage=message.stage)

    def _abort(self, live: _Live, message: Abort) -> None:
        entry = live.entry
        if entry.phase in (Phase.COMMITTING, Phase.STAGED, Phase.COMMITTED):
            text = f"abort arrived, but the transaction is {entry.phase.value} here"
            self._error(live.peer, "conflicting_decision", entry.id, text)
        elif entry.phase is Phase.ABORTED:
            if not live.busy:
                self._send(live.peer, Aborted(entry.id))
        elif entry.phase in (Phase.PREPARING, Phase.PREPARED):
            self._out.append(CancelRun(entry.id))
            self._move(live, Step.ABORT, reason=message.reason or "aborted by the coordinator")

    # Effects and writes

    def _ended(self, live: _Live, result: Result) -> None:
        """An effect has ended."""
        entry = live.entry
        live.busy = False
        match entry.phase, result:
            case Phase.PREPARING, Effect():
                detail = dict(result.detail) or None
                self._move(live, Step.PREPARE_OK, state=result.state, detail=detail)
            case Phase.PREPARING, Denied():
                self._give_up(live, result.reason, result.detail)
            case Phase.PREPARING, Failed():
                self._failed_event(live, "prepare", result.reason)
                self._give_up(live, f"prepare failed: {result.reason}")
            case Phase.COMMITTING, Effect() if entry.stage is not None:
                fields = {"degraded": result.degraded, "detail": dict(result.detail) or None}
                done = {**entry.done, entry.stage: {key: value for key, value in fields.items() if value is not None}}
                last = set(entry.operation.get("stages", ())) <= set(done)
                self._move(live, Step.LAST_STAGE_OK if last else Step.STAGE_OK, state=result.state, done=done)
            case Phase.ABORTING, Effect():
                self._move(live, Step.ABORT_OK, state=result.state)
            case ((Phase.COMMITTING | Phase.ABORTING), (Denied() | Failed())):
                self._retry(live, result.reason)
            case _:
                raise AssertionError(f"an effect of {entry.id} ended in phase {entry.phase}")

    def _act(self, live: _Live) -> None:
        """The phase of ``live`` is durable: do what it calls for."""
        entry = live.entry
        match entry.phase:
            case Phase.PREPARING:
                self._run(live, "prepare")
                self._out.append(SetTimer(entry.id, live.version, entry.deadline))
            case Phase.PREPARED:
                self._vote_yes(live)
                self._set_inquiry()
            case Phase.COMMITTING:
                self._run(live, "commit")
            case Phase.STAGED | Phase.COMMITTED if entry.stage is not None:
                self._send_done(live, entry.stage)
            case Phase.ABORTING:
                if live.owes_no:
                    # A no is final from here on; the coordinator need not wait until the traces are gone.
                    live.owes_no = False
                    self._send(live.peer, Vote(entry.id, "no", clipped(entry.reason), entry.detail))
                self._run(live, "abort")
            case Phase.ABORTED:
                self._send(live.peer, Aborted(entry.id))
            case _:
                pass

    def _give_up(self, live: _Live, reason: str, detail: Json | None = None) -> None:
        live.owes_no = True
        self._out.append(CancelRun(live.entry.id))
        self._move(live, Step.PREPARE_FAILED, reason=reason, detail=detail)

    def _retry(self, live: _Live, reason: str) -> None:
        kind = "abort" if live.entry.phase is Phase.ABORTING else f"stage {live.entry.stage}"
        self._failed_event(live, kind, reason)
        seconds = min(self._limits.effect_retry_min * 2 ** min(live.tries, 30), self._limits.effect_retry_max)
        live.tries += 1
        live.busy = True
        live.version += 1
        self._out.append(SetTimer(live.entry.id, live.version, seconds))

    def _failed_event(self, live: _Live, what: str, reason: str) -> None:
        data = {"tx": live.entry.id, "effect": what, "reason": reason, "tries": live.tries + 1}
        self._out.append(Announce("participant.effect_failed", data))

    def _run(self, live: _Live, kind: EffectKind) -> None:
        live.busy = True
        live.version += 1
        stage = live.entry.stage if kind == "commit" else None
        self._out.append(Run(live.version, kind, live.entry.transaction(), stage))

    def _move(
        self,
        live: _Live,
        step: Step,
        *,
        state: Mapping[str, Json | None] | None = None,
        forget: tuple[str, ...] = (),
        **changes: Any,
    ) -> None:
        """Take ``step`` and write it; ``_act`` follows when it is durable."""
        entry = live.entry = _kept(replace(live.entry, phase=TRANSITIONS[live.entry.phase][step], **changes))
        if entry.phase in BOUND:
            self._doubt.add(entry.id)
        else:
            self._doubt.discard(entry.id)
        if entry.phase in FINAL:
            heapq.heappush(self._final, (entry.seq, entry.id))
        live.version += 1
        live.busy = True
        live.tries = 0
        self._token += 1
        self._waiting[self._token] = (live.entry.id, live.version)
        self._out.append(Write(self._token, live.entry, state or {}, self.meta if forget else None, forget))

    def _write_meta(self, meta: Meta) -> None:
        self.meta = meta
        self._token += 1
        self._epoch_token = self._token
        self._out.append(Write(self._token, meta=meta))

    def _raise_low_water(self, low_water: int) -> tuple[str, ...]:
        """Forget what is finished everywhere; returns the transactions to delete from the journal."""
        if low_water <= self.meta.low_water:
            return ()
        self.meta = replace(self.meta, low_water=low_water)
        forget = []
        busy = []
        while self._final and self._final[0][0] < low_water:
            seq, tx = heapq.heappop(self._final)
            if self._live[tx].busy:
                busy.append((seq, tx))
            else:
                del self._live[tx]
                forget.append(tx)
        for item in busy:
            heapq.heappush(self._final, item)
        return tuple(forget)

    # Doubt and answers

    def _bound(self) -> list[_Live]:
        return sorted((self._live[tx] for tx in self._doubt), key=lambda one: one.entry.seq)

    def _inquire(self, peer: str, live: _Live) -> None:
        self._send(peer, Inquire(live.entry.id, live.entry.seq, live.entry.epoch))

    def _inquire_all(self) -> None:
        self._inquiry_set = False
        alarm = max(1, round(self._limits.in_doubt_alarm / self._limits.inquire_interval))
        for live in self._bound():
            if live.busy:
                continue
            live.ticks += 1
            for peer in sorted(self._peers):
                self._inquire(peer, live)
            if live.ticks == alarm and live.entry.phase is Phase.PREPARED:
                seconds = alarm * self._limits.inquire_interval
                self._out.append(Announce("participant.in_doubt", {"tx": live.entry.id, "seconds": seconds}))
        self._set_inquiry()

    def _set_inquiry(self) -> None:
        """Inquire after a while if anything is in doubt."""
        if not self._inquiry_set and self._doubt:
            self._inquiry_set = True
            self._out.append(SetTimer(INQUIRE, 0, self._limits.inquire_interval))

    def _vote_yes(self, live: _Live) -> None:
        self._send(live.peer, Vote(live.entry.id, "yes", None, live.entry.detail))

    def _send_done(self, live: _Live, stage: str) -> None:
        fields = live.entry.done[stage]
        self._send(live.peer, Done(live.entry.id, stage, clipped(fields.get("degraded")), fields.get("detail")))

    def _error(self, peer: str, code: str, tx: str, text: str) -> None:
        self._send(peer, Error(code, clip(text), None, tx))

    def _send(self, peer: str, message: Message) -> None:
        if peer:
            self._out.append(Send(peer, message))

    def _take(self) -> list[Output]:
        out, self._out = self._out, []
        return out


def _kept(entry: Entry) -> Entry:
    """Return what is still needed of a transaction: of an ended one no operation, only the names of its stages."""
    if entry.phase not in FINAL:
        return entry
    stages: dict[str, Json] = {name: {} for name in entry.operation.get("stages", ())}
    return replace(entry, operation={"prepare": None, "stages": stages})


def _in_doubt(entry: Entry) -> Transaction:
    stage = entry.stage if entry.phase is Phase.COMMITTING else None
    return replace(entry.transaction(), stage=stage)
