# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results that the journal or a message could not hold as the participant made them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rdmp.participant import Effect
from rdmp.participant_table import Denied, Failed
from rdmp.results import storable

NOW = datetime.now(UTC)
DEEP: dict[str, Any] = {}
for _ in range(70):
    DEEP = {"a": DEEP}


def test_what_can_be_stored_is_as_it_was() -> None:
    for result in (Effect({"n": 2.0, "ü": ["\\u"]}, "slow", {"node/a": {"x": 1}, "b": None}), Effect()):
        assert storable(result, "it") == result
    assert storable(Denied("no", {"free": 1}), "it") == Denied("no", {"free": 1})
    assert storable(Denied("no"), "it") == Denied("no")
    assert storable(Failed("why"), "it") == Failed("why")


@pytest.mark.parametrize("detail", [{"at": NOW}, {"n": float("nan")}, DEEP, ["a"], {NOW: 1}])
def test_a_detail_that_no_message_can_hold_is_left_out_and_logged(
    detail: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert storable(Effect(detail, "slow"), "stage admit of transaction t.1") == Effect({}, "slow")
    assert storable(Denied("no", detail), "prepare") == Denied("no")
    assert caplog.messages[0].startswith("stage admit of transaction t.1: its detail is left out: ")


def test_lone_surrogates_become_text() -> None:
    detail = {"file\udcff": ["a\udcff", 'quote " and \\']}
    kept = {"file\\udcff": ["a\\udcff", 'quote " and \\']}
    assert storable(Effect(detail, "bad \udcff"), "it") == Effect(kept, "bad \\udcff")
    assert storable(Denied("no \udcff", detail), "it") == Denied("no \\udcff", kept)
    assert storable(Failed("no such file: \udcff"), "it") == Failed("no such file: \\udcff")


@pytest.mark.parametrize("state", [{"a": NOW}, {"a": {"x": "\udcff"}}, {"a\udcff": {}}, 5])
def test_a_state_that_cannot_be_stored_is_a_failure(state: Any) -> None:
    failed = storable(Effect(state=state), "it")
    assert isinstance(failed, Failed) and "state documents" in failed.reason
    failed.reason.encode()


def test_no_result_is_a_failure() -> None:
    assert storable(None, "it") == Failed("the participant returned NoneType, not an Effect")
