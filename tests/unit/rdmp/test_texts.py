# SPDX-License-Identifier: AGPL-3.0-or-later
"""Texts that are too long: a message that the peer refuses would be repeated for ever."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rdmp import coordinator, participant_table
from rdmp.coordinator import Coordinator, Decide, answer_inquiry
from rdmp.limits import Limits
from rdmp.messages import Abort, Commit, Done, Error, Inquire, Message, Prepare, Vote, parse
from rdmp.participant_core import ParticipantCore
from rdmp.participant_table import Entry, Meta, Phase
from rdmp.records import TxRecord
from rdmp.texts import MAX_TEXT, clip, named

OPERATION: dict[str, Any] = {"prepare": {}, "stages": {"admit": {}}}
LONG = "x" * 5000


def sent(outputs: Iterable[object]) -> list[Message]:
    """Return what is sent, each message as its receiver reads it."""
    sends = (coordinator.Send, participant_table.Send)
    return [parse(output.message.to_json()) for output in outputs if isinstance(output, sends)]


def begun(names: Iterable[str]) -> Coordinator:
    record = TxRecord("t.1", 7, 1, 1, "preparing", dict.fromkeys(names, OPERATION), ("admit",), deadline=10.0)
    machine = Coordinator(record, epoch=1, low_water=1, limits=Limits(), connected=set(names))
    machine.begin(0.0)
    machine.written(record, 0.0)
    return machine


def test_a_cut_text_says_so_and_a_short_one_is_as_it_was() -> None:
    assert clip("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert len(clip(LONG)) == MAX_TEXT and clip(LONG).endswith("... (cut)")


def test_a_no_of_the_greatest_length_aborts_and_the_abort_can_be_read() -> None:
    machine = begun(["a", "b"])
    no = Vote("t.1", "no", "x" * MAX_TEXT)
    (decide,) = (one for one in machine.received("b", no, 1.0) if isinstance(one, Decide))
    outputs = machine.written(replace(machine.record, state="aborted", reason=decide.reason, revision=2), 1.0)
    assert [message.to_json()["reason"][:12] for message in sent(outputs)] == ["b voted no: "] * 2


def test_a_long_reason_that_is_stored_already_is_cut_when_it_is_sent() -> None:
    record = replace(begun(["a"]).record, state="aborted", reason=LONG, finished=True)
    (abort,) = (parse(one.to_json()) for one in answer_inquiry(record, Inquire("t.1", 7, 1), "a", 1, 1))
    assert isinstance(abort, Abort)


def test_of_many_who_are_missing_some_are_named() -> None:
    assert named(["a", "b"]) == "a, b"
    machine = begun([f"h{number}" for number in range(200)])
    (decide,) = (one for one in machine.timer("deadline", 10.0) if isinstance(one, Decide))
    assert decide.reason == "no vote from h0, h1, h2, h3, h4, h5, h6, h7, h8, h9 and 190 more within 10 s"


def test_a_participant_cuts_what_it_stored() -> None:
    entries = [
        Entry("t.1", 1, 1, Phase.ABORTED, OPERATION, reason=LONG),
        Entry("t.2", 2, 1, Phase.COMMITTED, OPERATION, stage="admit", done={"admit": {"degraded": LONG}}),
        Entry("t.3", 3, 1, Phase.PREPARED, {"prepare": {}, "stages": {f"s{number}": {} for number in range(2000)}}),
    ]
    core = ParticipantCore(entries, Meta(epoch=1), Limits())
    (vote,) = sent(core.received("o1", Prepare("t.1", 1, 1, 1, 5.0, OPERATION)))
    (done,) = sent(core.received("o1", Commit("t.2", 2, 1, "admit")))
    (error,) = sent(core.received("o1", Commit("t.3", 3, 1, "other")))
    assert isinstance(vote, Vote) and isinstance(done, Done) and isinstance(error, Error)


def test_a_participant_cuts_the_no_of_an_effect() -> None:
    core = ParticipantCore((), Meta(epoch=1), Limits())
    pending = core.received("o1", Prepare("t.1", 1, 1, 1, 5.0, OPERATION))
    told: list[Message] = []
    while pending:
        output = pending.pop(0)
        told += sent([output])
        if isinstance(output, participant_table.Write):
            pending += core.written(output.token)
        elif isinstance(output, participant_table.Run) and output.kind == "prepare":
            pending += core.ran("t.1", output.version, participant_table.Denied(LONG))
    assert [type(message) for message in told] == [Vote]
