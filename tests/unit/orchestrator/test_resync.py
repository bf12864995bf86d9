# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a controller lacks, what explains it, and how it is brought up to date."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from odyssey.orchestrator import resync
from odyssey.orchestrator.resync import Difference, batches, differ, explained, left_out
from rdmp.records import TxRecord

KEYS = ("inventory", "network/shop/a", "network/shop/b", "policy/shop/a/b", "expose/shop/a/edge", "binding/shop-a-1")


def marks(documents: dict[str, Any]) -> dict[str, str]:
    return {key: schemas.mark(value) for key, value in documents.items()}


def record(state: Any, **participants: Any) -> TxRecord:
    named = {name.replace("_", "-"): operation for name, operation in participants.items()}
    return TxRecord("tx", 1, 1, 1, state, named, ("admit",))


def sets(*keys: str) -> dict[str, Any]:
    return {"prepare": None, "stages": {"admit": {"changes": {key: {} for key in keys}}}}


def test_a_mark_follows_from_the_content_alone() -> None:
    assert schemas.mark({"a": 1, "b": [1, 2]}) == schemas.mark({"b": [1, 2], "a": 1})
    assert schemas.mark({"a": 1}) != schemas.mark({"a": 2})
    assert schemas.digest({"x": "1", "y": "2"}) == schemas.digest({"y": "2", "x": "1"})
    assert schemas.digest({"x": "1", "y": "2"}) != schemas.digest({"x": "2", "y": "1"})
    assert schemas.digest({"x": "1"}) != schemas.digest({})


def test_what_an_open_transaction_may_still_change_is_no_difference() -> None:
    held, expected = marks({"inventory": 1, "network/shop/a": 1, "binding/gone": 1}), marks({"inventory": 2, "x/y": 1})
    all_of_it = differ(held, expected, frozenset())
    assert all_of_it == Difference(frozenset({"inventory", "x/y"}), frozenset({"network/shop/a", "binding/gone"}))
    assert differ(held, expected, frozenset({"inventory", "binding/gone"})) == Difference(
        frozenset({"x/y"}), frozenset({"network/shop/a"})
    )
    assert not differ(held, held, frozenset())


def test_only_its_own_part_explains_what_a_controller_lacks() -> None:
    both = record("committed", controller=sets("inventory"), controller_2=sets("inventory"))
    one = record("preparing", controller=sets("binding/shop-a-1"), h1={"prepare": None, "stages": {"admit": {}}})
    assert explained("controller", [both, one]) == {"inventory", "binding/shop-a-1"}
    assert explained("controller-2", [both, one]) == {"inventory"}
    assert left_out("controller-2", [both, one]) and not left_out("controller", [both, one])
    agents = record("preparing", h1={"prepare": None, "stages": {"admit": {}}})
    assert not left_out("controller-2", [agents]), "a transaction without controllers is nothing to them"


@given(
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2)),
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2)),
    st.integers(1, 7),
)
def test_batches_lead_to_what_is_expected_in_an_order_that_stands(
    held: dict[str, int], wanted: dict[str, int], size: int
) -> None:
    before, expected = ({key: {"v": value} for key, value in one.items()} for one in (held, wanted))
    difference = differ(marks(before), marks(expected), frozenset())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resync, "BATCH", size)
        pieces = batches(difference, marks(before), expected)
    now: dict[str, Any] = dict(before)
    for piece in pieces:
        assert len(piece) <= size
        for key, value in piece.items():
            now[key] = value
            if value is None:
                del now[key]
    assert now == expected
    if len(pieces) > 1:
        kinds = [key.partition("/")[0] for piece in pieces for key, value in piece.items() if value is not None]
        assert kinds == sorted(kinds, key=resync._ORDER.index), "what is named comes before what names it"
        gone = [key.partition("/")[0] for piece in pieces for key, value in piece.items() if value is None]
        assert gone == sorted(gone, key=resync._ORDER.index, reverse=True)
