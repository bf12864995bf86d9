# SPDX-License-Identifier: AGPL-3.0-or-later
"""The participant's machine, input by input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from rdmp.limits import Limits
from rdmp.messages import Abort, Aborted, Commit, Done, Error, Inquire, Message, Prepare, Vote
from rdmp.participant import Effect
from rdmp.participant_core import INQUIRE, INTERRUPTED, ParticipantCore
from rdmp.participant_table import (
    BOUND,
    FINAL,
    TRANSITIONS,
    Announce,
    CancelRun,
    Denied,
    Entry,
    Failed,
    Meta,
    Output,
    Phase,
    Run,
    Send,
    SetTimer,
    Write,
)

T = TypeVar("T")
LIMITS = Limits(
    inquire_interval=2.0, in_doubt_alarm=6.0, effect_retry_min=1.0, effect_retry_max=4.0, participant_transactions=2
)
OPERATION: dict[str, Any] = {"prepare": {}, "stages": {"admit": {}, "names": {}}}
PREPARE = Prepare("t.1", 7, 1, 5, 10.0, OPERATION)


def core(*entries: Entry, meta: Meta | None = None) -> ParticipantCore:
    return ParticipantCore(entries, meta or Meta(epoch=1), LIMITS)


def entry(phase: Phase, **more: object) -> Entry:
    return replace(Entry("t.1", 7, 1, phase, OPERATION, 10.0), **more)  # type: ignore[arg-type]


def of(kind: type[T], outputs: list[Output]) -> list[T]:
    return [output for output in outputs if isinstance(output, kind)]


def sent(outputs: list[Output]) -> list[Message]:
    return [output.message for output in of(Send, outputs)]


def durable(one: ParticipantCore, outputs: list[Output]) -> list[Output]:
    """Make what was written durable; returns what follows."""
    return [output for write in of(Write, outputs) for output in one.written(write.token)]


def ended(one: ParticipantCore, outputs: list[Output], result: Effect | Denied | Failed) -> list[Output]:
    """End the effect that was asked for; returns what follows."""
    (run,) = of(Run, outputs)
    return one.ran(run.transaction.id, run.version, result)


def prepared() -> ParticipantCore:
    """Return a participant that has voted yes on t.1."""
    one = core()
    outputs = durable(one, one.received("o1", PREPARE))
    assert sent(durable(one, ended(one, outputs, Effect(detail={"ok": 1})))) == [Vote("t.1", "yes", None, {"ok": 1})]
    return one


def test_every_phase_has_its_row_and_nothing_leaves_an_end() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert all(not TRANSITIONS[phase] for phase in FINAL)


def test_intent_effect_result_answer() -> None:
    one = core()
    outputs = one.received("o1", PREPARE)
    (write,) = of(Write, outputs)
    assert write.entry is not None and write.entry.phase is Phase.PREPARING and outputs == [write]
    outputs = one.written(write.token)
    (run,) = of(Run, outputs)
    assert (run.kind, run.transaction.operation) == ("prepare", OPERATION) and not sent(outputs)
    outputs = one.ran("t.1", run.version, Effect(state={"node/x": {"a": 1}}))
    (write,) = of(Write, outputs)
    assert write.entry is not None and write.entry.phase is Phase.PREPARED and not sent(outputs)
    assert write.state == {"node/x": {"a": 1}}
    assert sent(one.written(write.token)) == [Vote("t.1", "yes")]


def test_stages_are_carried_out_one_by_one() -> None:
    one = prepared()
    outputs = one.received("o1", Commit("t.1", 7, 1, "admit"))
    assert one.status("t.1")["phase"] == "committing"
    outputs = durable(one, outputs)
    (run,) = of(Run, outputs)
    assert (run.kind, run.stage) == ("commit", "admit")
    outputs = durable(one, one.ran("t.1", run.version, Effect(degraded="slow", detail={"n": 1})))
    assert sent(outputs) == [Done("t.1", "admit", "slow", {"n": 1})]
    assert one.status("t.1")["phase"] == "staged"
    outputs = durable(one, one.received("o1", Commit("t.1", 7, 1, "names")))
    assert sent(durable(one, ended(one, outputs, Effect()))) == [Done("t.1", "names")]
    assert one.status("t.1") == {
        "tx": "t.1",
        "seq": 7,
        "phase": "committed",
        "reason": None,
        "done": ["admit", "names"],
    }
    assert sent(one.received("o1", Commit("t.1", 7, 1, "admit"))) == [Done("t.1", "admit", "slow", {"n": 1})]


def test_repeats_are_answered_from_the_journal_or_wait() -> None:
    one = core()
    first = one.received("o1", PREPARE)
    assert not one.received("o1", PREPARE), "the write is under way"
    running = durable(one, first)
    assert not one.received("o1", PREPARE), "the effect is under way"
    done = ended(one, running, Effect())
    assert not one.received("o1", PREPARE), "the yes is not durable yet"
    durable(one, done)
    assert sent(one.received("o1", PREPARE)) == [Vote("t.1", "yes")]


def test_a_refusal_is_durable_then_told_then_undone() -> None:
    one = core()
    outputs = ended(one, durable(one, one.received("o1", PREPARE)), Denied("no room", {"free": 1}))
    assert not sent(outputs)
    outputs = durable(one, outputs)
    assert sent(outputs) == [Vote("t.1", "no", "no room", {"free": 1})]
    assert of(Run, outputs)[0].kind == "abort"
    assert sent(one.received("o1", PREPARE)) == [Vote("t.1", "no", "no room", {"free": 1})]
    assert not one.received("o1", Abort("t.1", 7, 1, 5)), "answered when it is undone"
    assert sent(durable(one, ended(one, outputs, Effect()))) == [Aborted("t.1")]
    assert sent(one.received("o1", Abort("t.1", 7, 1, 5))) == [Aborted("t.1")]


def test_a_prepare_that_raises_votes_no() -> None:
    one = core()
    outputs = ended(one, durable(one, one.received("o1", PREPARE)), Failed("OSError: disk"))
    assert of(Announce, outputs)[0].topic == "participant.effect_failed"
    assert sent(durable(one, outputs)) == [Vote("t.1", "no", "prepare failed: OSError: disk")]


def test_a_prepare_that_takes_too_long_is_given_up() -> None:
    one = core()
    outputs = durable(one, one.received("o1", PREPARE))
    (timer,) = of(SetTimer, outputs)
    assert (timer.name, timer.seconds) == ("t.1", 10.0)
    late = one.timer(timer.name, timer.version)
    assert CancelRun("t.1") in late
    assert not ended(one, outputs, Effect()), "its result comes too late"
    (vote,) = sent(durable(one, late))
    assert isinstance(vote, Vote) and vote.vote == "no" and "10 s" in (vote.reason or "")


@pytest.mark.parametrize("when", ["writing the intent", "in the effect", "writing the yes", "prepared"])
def test_an_abort_overtakes_prepare(when: str) -> None:
    one = core()
    first = one.received("o1", PREPARE)
    running = durable(one, first) if when != "writing the intent" else []
    yes = ended(one, running, Effect()) if when in ("writing the yes", "prepared") else []
    if when == "prepared":
        durable(one, yes)
    outputs = one.received("o1", Abort("t.1", 7, 1, 5, "b voted no"))
    assert CancelRun("t.1") in outputs
    if when == "writing the intent":
        assert not durable(one, first), "the effect must not begin any more"
    if when == "in the effect":
        assert not ended(one, running, Effect())
    if when == "writing the yes":
        assert not durable(one, yes), "the yes must not be told any more"
    outputs = durable(one, outputs)
    assert [run.kind for run in of(Run, outputs)] == ["abort"] and not sent(outputs)
    assert sent(durable(one, ended(one, outputs, Effect()))) == [Aborted("t.1")]


def test_an_abort_of_an_unknown_transaction_is_remembered() -> None:
    one = core()
    outputs = one.received("o1", Abort("t.1", 7, 1, 5, "b voted no"))
    assert not sent(outputs) and sent(durable(one, outputs)) == [Aborted("t.1")]
    (vote,) = sent(one.received("o1", PREPARE))
    assert vote == Vote("t.1", "no", "b voted no")


def test_a_stage_that_fails_is_tried_again_for_ever() -> None:
    one = prepared()
    outputs = durable(one, one.received("o1", Commit("t.1", 7, 1, "admit")))
    waits = []
    for _ in range(5):
        outputs = ended(one, outputs, Failed("busy"))
        assert of(Announce, outputs)[0].data["effect"] == "stage admit"
        assert not one.received("o1", Commit("t.1", 7, 1, "admit")), "its own time comes"
        (timer,) = of(SetTimer, outputs)
        waits.append(timer.seconds)
        outputs = one.timer(timer.name, timer.version)
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert sent(durable(one, ended(one, outputs, Effect()))) == [Done("t.1", "admit")]


def test_contradictions_are_refused() -> None:
    one = prepared()
    answers = [one.received("o1", Commit("t.9", 9, 1, "admit")), one.received("o1", Commit("t.1", 7, 1, "other"))]
    durable(one, one.received("o1", Commit("t.1", 7, 1, "admit")))
    answers.append(one.received("o1", Abort("t.1", 7, 1, 5)))
    answers.append(core(entry(Phase.ABORTED)).received("o1", Commit("t.1", 7, 1, "admit")))
    codes = [error.code for outputs in answers for error in sent(outputs) if isinstance(error, Error)]
    assert codes == ["unknown_tx", "unknown_stage", "conflicting_decision", "conflicting_decision"]


def test_a_higher_epoch_is_durable_before_it_is_obeyed_and_a_lower_one_refused() -> None:
    one = core()
    outputs = one.received("o2", replace(PREPARE, epoch=4))
    (write,) = of(Write, outputs)
    assert write.meta == Meta(epoch=4) and write.entry is None
    assert not one.received("o2", Commit("t.8", 8, 4, "admit"))
    outputs = one.written(write.token)
    assert [entry.id for entry in (item.entry for item in of(Write, outputs)) if entry] == ["t.1"]
    assert [error.code for error in sent(outputs) if isinstance(error, Error)] == ["unknown_tx"]
    (error,) = sent(one.received("o1", replace(PREPARE, tx="t.2", epoch=3)))
    assert isinstance(error, Error) and (error.code, error.ref) == ("stale_epoch", "t.2")


def test_what_is_finished_everywhere_is_forgotten_and_never_done_again() -> None:
    one = core(entry(Phase.COMMITTED), replace(entry(Phase.PREPARED), id="t.2", seq=8))
    (write,) = of(Write, one.received("o1", replace(PREPARE, tx="t.3", seq=20, low_water=9)))
    assert write.forget == ("t.1",), "what is in doubt is kept"
    assert write.meta is not None and write.meta.low_water == 9
    (error,) = sent(one.received("o1", replace(PREPARE, low_water=3)))
    assert isinstance(error, Error) and (error.code, error.ref) == ("below_low_water", "t.1")


def test_another_history_of_the_store_counts_anew() -> None:
    one = core(meta=Meta(1, "i1", 50))
    (write,) = of(Write, one.welcomed("o1", 2, "i2"))
    assert write.meta == Meta(2, "i2", 0)
    assert not of(Write, one.welcomed("o1", 2, "i2"))


def test_open_transactions_are_limited() -> None:
    one = core()
    for number in range(2):
        assert not sent(one.received("o1", replace(PREPARE, tx=f"t.{number}")))
    (vote,) = sent(one.received("o1", replace(PREPARE, tx="t.2")))
    assert isinstance(vote, Vote) and vote.vote == "no" and "participant_transactions" in (vote.reason or "")


def test_after_a_restart() -> None:
    interrupted = core(entry(Phase.PREPARING))
    outputs = durable(interrupted, interrupted.start())
    assert of(Run, outputs)[0].kind == "abort"
    assert sent(interrupted.received("o1", PREPARE)) == [Vote("t.1", "no", INTERRUPTED)]
    undoing = core(entry(Phase.ABORTING))
    assert of(Run, undoing.start())[0].kind == "abort"
    for phase in BOUND:
        bound = core(entry(phase, stage="admit"))
        assert of(SetTimer, bound.start()) == [SetTimer(INQUIRE, 0, 2.0)]
        assert sent(bound.welcomed("o1", 1, "")) == [Inquire("t.1", 7, 1)]
        begun = "admit" if phase is Phase.COMMITTING else None
        assert [(tx.id, tx.stage) for tx in bound.in_doubt()] == [("t.1", begun)]
    half = core(entry(Phase.COMMITTING, stage="admit"))
    outputs = half.received("o1", Commit("t.1", 7, 1, "admit"))
    assert of(Run, outputs)[0].stage == "admit"
    assert sent(core(entry(Phase.COMMITTED, done={"admit": {}})).received("o1", Commit("t.1", 7, 1, "admit"))) == [
        Done("t.1", "admit")
    ]
    assert not core(entry(Phase.ABORTED), entry(Phase.COMMITTED)).start()


def test_doubt_is_told_but_decides_nothing() -> None:
    one = prepared()
    one.welcomed("o1", 1, "")
    told = []
    for _ in range(5):
        outputs = one.timer(INQUIRE, 0)
        assert sent(outputs) == [Inquire("t.1", 7, 1)] and of(SetTimer, outputs)
        told += of(Announce, outputs)
    assert [(one.topic, one.data) for one in told] == [("participant.in_doubt", {"tx": "t.1", "seconds": 6.0})]
    assert one.status("t.1")["phase"] == "prepared"
    one.disconnected("o1")
    assert not sent(one.timer(INQUIRE, 0))
    durable(one, one.received("o1", Abort("t.1", 7, 1, 5)))
    assert not one.timer(INQUIRE, 0), "nothing is in doubt any more"


def test_a_namesake_is_never_taken_for_what_it_is_not() -> None:
    """After the store was set back an id may come again with another seq."""
    one = core(entry(Phase.COMMITTED, done={"admit": {}, "names": {}}))
    (vote,) = sent(one.received("o1", replace(PREPARE, seq=8)))
    assert isinstance(vote, Vote) and vote.vote == "no" and "seq 7, not 8" in (vote.reason or "")
    (error,) = sent(one.received("o1", Commit("t.1", 8, 1, "admit")))
    assert isinstance(error, Error) and error.code == "conflicting_decision"
    assert sent(one.received("o1", Abort("t.1", 8, 1, 5))) == [Aborted("t.1")]
    assert one.status("t.1")["phase"] == "committed"


@pytest.mark.parametrize("decision", ["committed", "aborted"])
def test_of_what_has_ended_no_operation_is_kept(decision: str) -> None:
    """They wait for the low-water mark, which the oldest open transaction of all participants holds."""
    one = prepared()
    large = {"prepare": {"image": "x" * 1000}, "stages": {"admit": {"node": "y" * 1000}}}
    stored = core(entry(Phase(decision), operation=large, done={"admit": {}}))
    for machine in (one, stored):
        if decision == "committed":
            for stage in ("admit", "names") if machine is one else ():
                outputs = durable(machine, machine.received("o1", Commit("t.1", 7, 1, stage)))
                outputs = ended(machine, outputs, Effect())
                durable(machine, outputs)
            answers = sent(machine.received("o1", Commit("t.1", 7, 1, "admit")))
            assert answers == [Done("t.1", "admit")]
        elif machine is one:
            outputs = ended(machine, durable(machine, machine.received("o1", Abort("t.1", 7, 1, 5))), Effect())
            durable(machine, outputs)
        assert machine.status("t.1")["phase"] == decision
        kept = machine._live["t.1"].entry.operation
        assert kept["prepare"] is None and all(not value for value in kept["stages"].values())
    (write,) = of(Write, outputs)
    assert write.entry is not None and write.entry.operation["prepare"] is None
    assert not one._doubt and not one.in_doubt()
