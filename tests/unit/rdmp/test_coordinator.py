# SPDX-License-Identifier: AGPL-3.0-or-later
"""The coordinator's machine, input by input."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from rdmp.coordinator import (
    TRANSITIONS,
    Advance,
    Answer,
    Coordinator,
    Create,
    Decide,
    Finished,
    Output,
    Phase,
    Send,
    SetTimer,
    answer_inquiry,
)
from rdmp.limits import Limits
from rdmp.messages import Abort, Aborted, Commit, Done, Error, Inquire, Message, Prepare, Vote
from rdmp.records import State, TxRecord

T = TypeVar("T")
LIMITS = Limits(peer_wait=2.0, stage_wait=30.0)
OPERATIONS: dict[str, dict[str, Any]] = {
    "a": {"prepare": {}, "stages": {"admit": {}, "names": {}}},
    "b": {"prepare": {}, "stages": {"names": {}}},
}
NEW = TxRecord("t.1", 0, 1, 0, "preparing", OPERATIONS, ("admit", "names"), deadline=10.0)


def machine(record: TxRecord = NEW, connected: Collection[str] = ("a", "b")) -> Coordinator:
    return Coordinator(record, epoch=3, low_water=5, limits=LIMITS, connected=connected)


def created(connected: Collection[str] = ("a", "b")) -> tuple[Coordinator, list[Output]]:
    """Return a machine that prepares, and what it did first."""
    coordinator = machine(connected=connected)
    assert coordinator.begin(100.0) == [Create(NEW)]
    return coordinator, coordinator.written(replace(NEW, seq=7, revision=1), 100.0)


def decided(state: State, connected: Collection[str] = ("a", "b")) -> tuple[Coordinator, list[Output]]:
    """Return a machine that carries out a decision, and what it did first."""
    coordinator, _ = created(connected)
    if state == "committed":
        coordinator.received("a", Vote("t.1", "yes"), 101.0)
        coordinator.received("b", Vote("t.1", "yes"), 101.0)
    else:
        coordinator.veto("by order", 101.0)
    return coordinator, coordinator.written(replace(coordinator.record, state=state, revision=2), 102.0)


def of(kind: type[T], outputs: list[Output]) -> list[T]:
    return [output for output in outputs if isinstance(output, kind)]


def sent(outputs: list[Output]) -> list[tuple[str, Message]]:
    return [(output.peer, output.message) for output in of(Send, outputs)]


def test_every_phase_has_its_row_and_leads_forward() -> None:
    order = list(Phase)
    assert set(TRANSITIONS) == set(Phase)
    for phase, row in TRANSITIONS.items():
        assert all(order.index(target) > order.index(phase) for target in row.values())


def test_nothing_leaves_before_the_record_is_durable() -> None:
    coordinator, outputs = created()
    expected = Prepare("t.1", 7, 3, 5, 10.0, OPERATIONS["a"])
    assert sent(outputs)[0] == ("a", expected)
    assert [peer for peer, _ in sent(outputs)] == ["a", "b"]
    assert {timer.name for timer in of(SetTimer, outputs)} == {"deadline", "repeat"}
    assert coordinator.phase is Phase.PREPARING


def test_the_decision_needs_every_yes_and_is_durable_before_commit_leaves() -> None:
    coordinator, _ = created()
    assert not of(Decide, coordinator.received("a", Vote("t.1", "yes"), 101.0))
    assert not of(Decide, coordinator.received("a", Vote("t.1", "yes"), 101.0))
    assert not of(Decide, coordinator.received("x", Vote("t.1", "yes"), 101.0))
    outputs = coordinator.received("b", Vote("t.1", "yes"), 101.0)
    (decide,) = of(Decide, outputs)
    assert (decide.decision, decide.record.revision) == ("committed", 1)
    assert not sent(outputs)
    outputs = coordinator.written(replace(coordinator.record, state="committed", revision=2), 102.0)
    assert sent(outputs) == [("a", Commit("t.1", 7, 3, "admit"))]


def test_stages_go_one_after_the_other_and_notes_wait_for_each_other() -> None:
    coordinator, _ = decided("committed")
    outputs = coordinator.received("a", Done("t.1", "admit"), 103.0)
    assert sent(outputs) == [("a", Commit("t.1", 7, 3, "names")), ("b", Commit("t.1", 7, 3, "names"))]
    (first,) = of(Advance, outputs)
    assert first.record.done == {"admit": ("a",)} and not first.record.finished
    coordinator.received("b", Done("t.1", "names", degraded="slow"), 104.0)
    outputs = coordinator.received("a", Done("t.1", "names"), 104.0)
    assert not of(Advance, outputs), "the note before it is still being written"
    outputs = coordinator.written(replace(first.record, revision=3), 105.0)
    (last,) = of(Advance, outputs)
    assert last.record.finished and last.record.degraded == {"b": "slow"} and last.record.revision == 3
    outputs = coordinator.written(replace(last.record, revision=4), 106.0)
    assert {Answer, Finished} <= {type(output) for output in outputs} and coordinator.phase is Phase.FINISHED


def test_a_note_that_lost_its_compare_and_set_is_written_again() -> None:
    coordinator, _ = decided("aborted", connected=())
    coordinator = machine(replace(NEW, seq=7, revision=2, state="aborted"))
    coordinator.recover(100.0)
    coordinator.received("a", Aborted("t.1"), 101.0)
    (note,) = of(Advance, coordinator.received("b", Aborted("t.1"), 101.0))
    outputs = coordinator.written(replace(note.record, revision=9, finished=False), 102.0)
    assert of(Advance, outputs)[0].record.revision == 9


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (lambda one: one.received("b", Vote("t.1", "no", "no room"), 101.0), "b voted no: no room"),
        (
            lambda one: one.received("b", Error("stale_epoch", "old", None, "t.1"), 101.0),
            "b refused: old (stale_epoch)",
        ),
        (lambda one: one.timer("deadline", 110.0), "no vote from a, b within 10 s"),
        (lambda one: one.veto("by order", 101.0), "by order"),
    ],
)
def test_what_aborts(event: object, reason: str) -> None:
    coordinator, _ = created()
    assert callable(event)
    (decide,) = of(Decide, event(coordinator))
    assert (decide.decision, decide.reason) == ("aborted", reason)
    assert not coordinator.veto("too late", 102.0)


def test_whoever_loses_the_decision_follows_the_winner() -> None:
    coordinator, _ = created()
    coordinator.timer("deadline", 110.0)
    outputs = coordinator.written(replace(coordinator.record, state="committed", revision=2), 111.0)
    assert sent(outputs) == [("a", Commit("t.1", 7, 3, "admit"))]


def test_a_touched_record_that_is_still_open_is_decided_again() -> None:
    coordinator, _ = created()
    coordinator.veto("by order", 101.0)
    outputs = coordinator.written(replace(coordinator.record, revision=5), 102.0)
    assert outputs == [Decide(coordinator.record, "aborted", "by order")] and coordinator.record.revision == 5


def test_absent_participants_are_waited_for_and_then_named() -> None:
    coordinator, outputs = created(connected=("a",))
    assert [peer for peer, _ in sent(outputs)] == ["a"]
    assert SetTimer("absent", 2.0) in outputs
    (decide,) = of(Decide, coordinator.timer("absent", 102.0))
    assert decide.reason == "not connected for 2 s: b"
    outputs = coordinator.written(replace(coordinator.record, state="aborted", revision=2), 102.0)
    assert sent(outputs) == [("a", Abort("t.1", 7, 3, 5, None))], "nothing was sent to b, nothing is to be undone"
    (note,) = of(Advance, coordinator.received("a", Aborted("t.1"), 103.0))
    assert note.record.finished


def test_one_that_comes_in_time_is_asked_with_the_time_that_remains() -> None:
    coordinator, _ = created(connected=("a",))
    ((peer, message),) = sent(coordinator.connected("b", 101.5))
    assert peer == "b" and isinstance(message, Prepare) and message.deadline == pytest.approx(8.5)
    assert not of(Decide, coordinator.timer("absent", 102.0))


def test_requests_are_repeated_to_who_has_not_answered() -> None:
    coordinator, _ = created()
    coordinator.received("a", Vote("t.1", "yes"), 101.0)
    outputs = coordinator.timer("repeat", 102.0)
    assert [peer for peer, _ in sent(outputs)] == ["b"] and of(SetTimer, outputs)
    coordinator.disconnected("b", 103.0)
    assert not sent(coordinator.timer("repeat", 104.0))
    assert [peer for peer, _ in sent(coordinator.connected("b", 105.0))] == ["b"]
    assert [peer for peer, _ in sent(coordinator.received("b", Inquire("t.1"), 106.0))] == ["b"]


def test_the_caller_is_answered_when_a_stage_waits_too_long() -> None:
    coordinator, outputs = decided("committed")
    assert SetTimer("answer", 30.0) in outputs
    (answer,) = of(Answer, coordinator.timer("answer", 132.0))
    assert (answer.record.state, answer.record.finished, answer.record.missing()) == ("committed", False, ("a", "b"))
    assert not coordinator.timer("answer", 162.0), "answered once"


def test_an_abort_is_answered_when_everyone_reachable_has_undone_it() -> None:
    coordinator, _ = decided("aborted")
    assert not of(Answer, coordinator.received("a", Aborted("t.1"), 103.0))
    (answer,) = of(Answer, coordinator.disconnected("b", 104.0))
    assert answer.record.missing() == ("b",)
    assert sent(coordinator.connected("b", 200.0)) == [("b", Abort("t.1", 7, 3, 5, None))]


@pytest.mark.parametrize(
    ("code", "degraded"), [("unknown_tx", True), ("conflicting_decision", True), ("below_low_water", False)]
)
@pytest.mark.parametrize("state", ["committed", "aborted"])
def test_who_can_never_carry_it_out_does_not_hold_it_up(code: str, degraded: bool, state: State) -> None:
    coordinator, _ = decided(state)
    outputs = coordinator.received("a", Error(code, "gone", None, "t.1"), 103.0)
    outputs += coordinator.received("a", Error(code, "gone", None, "t.1"), 103.0)
    answer = Aborted("t.1") if state == "aborted" else Done("t.1", "names")
    outputs += coordinator.received("b", answer, 103.0)
    while notes := of(Advance, outputs):
        outputs = coordinator.written(replace(notes[-1].record, revision=notes[-1].record.revision + 1), 104.0)
    assert coordinator.phase is Phase.FINISHED
    assert coordinator.record.degraded == ({"a": f"gone ({code})"} if degraded else {})


def test_other_errors_after_the_decision_change_nothing() -> None:
    coordinator, _ = decided("committed")
    assert not coordinator.received("a", Error("stale_epoch", "old", None, "t.1"), 103.0)


def test_recovery_aborts_what_is_open_and_carries_on_what_is_decided() -> None:
    open_one = machine(replace(NEW, seq=7, revision=1))
    (decide,) = open_one.recover(100.0)
    assert isinstance(decide, Decide) and decide.decision == "aborted"
    outputs = open_one.written(replace(NEW, seq=7, revision=2, state="aborted"), 101.0)
    assert [peer for peer, _ in sent(outputs)] == ["a", "b"], "a prepare may have gone to anybody"
    half = replace(NEW, seq=7, revision=3, state="committed", done={"admit": ("a",), "names": ("a",)})
    assert sent(machine(half).recover(100.0)) == [("b", Commit("t.1", 7, 3, "names"))]


def test_a_decided_record_that_is_all_done_is_closed() -> None:
    done = replace(NEW, seq=7, revision=3, state="committed", done={"admit": ("a",), "names": ("a", "b")})
    (note,) = of(Advance, machine(done).recover(100.0))
    assert note.record.finished


def test_inquiries_about_what_nobody_drives() -> None:
    old, new = Inquire("t.1", 7, 2), Inquire("t.1", 7, 3)
    assert answer_inquiry(None, old, "a", 3, 5) == [Abort("t.1", 7, 3, 5, "unknown to the decision log")]
    (error,) = answer_inquiry(None, new, "a", 3, 5)
    assert isinstance(error, Error) and error.code == "unknown_tx"
    finished = replace(NEW, seq=7, finished=True)
    assert isinstance(answer_inquiry(replace(finished, state="aborted"), new, "a", 3, 5)[0], Abort)
    assert answer_inquiry(replace(finished, state="committed"), new, "a", 3, 5) == [
        Commit("t.1", 7, 3, "admit"),
        Commit("t.1", 7, 3, "names"),
    ]
    assert isinstance(answer_inquiry(replace(finished, state="committed"), new, "stranger", 3, 5)[0], Abort)


def test_a_participant_that_is_given_up_counts_as_done_in_every_stage_and_as_degraded() -> None:
    coordinator, _ = decided("committed")
    assert coordinator.awaited() == ("a",)
    outputs = coordinator.give_up(["a"], "gone", 103.0)
    assert sent(outputs) == [("b", Commit("t.1", 7, 3, "names"))]
    assert coordinator.awaited() == ("b",)
    (note,) = of(Advance, outputs)
    assert of(Advance, coordinator.received("b", Done("t.1", "names"), 104.0)) == []
    (last,) = of(Advance, coordinator.written(replace(note.record, revision=3), 104.0))
    assert last.record.done == {"admit": ("a",), "names": ("a", "b")}
    assert (last.record.degraded, last.record.finished) == ({"a": "gone"}, True)


def test_who_is_given_up_in_an_abort_is_not_waited_for() -> None:
    coordinator, _ = decided("aborted")
    assert coordinator.awaited() == ("a", "b")
    assert of(Advance, coordinator.give_up(["a", "stranger"], "gone", 103.0)) == []
    (advance,) = of(Advance, coordinator.received("b", Aborted("t.1"), 104.0))
    assert (advance.record.finished, advance.record.degraded) == (True, {"a": "gone"})


def test_nobody_is_given_up_before_the_decision() -> None:
    coordinator, _ = created()
    assert coordinator.give_up(["a"], "gone", 101.0) == []
    assert coordinator.phase is Phase.PREPARING and coordinator.awaited() == ("a", "b")


def test_an_inquiry_about_the_namesake_that_a_restored_store_does_not_know() -> None:
    """A store was set back, and a new transaction took the id: whoever is in doubt about the old one must not wait."""
    namesake = replace(NEW, seq=4, state="committed", finished=True)
    assert answer_inquiry(namesake, Inquire("t.1", 7, 2), "a", 103, 5) == [
        Abort("t.1", 7, 103, 5, "unknown to the decision log")
    ]
