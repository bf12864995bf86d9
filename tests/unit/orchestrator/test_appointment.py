# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who is appointed to lead: cases in words, and what must hold for any history."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey.orchestrator.appointment import (
    EPOCH_BITS,
    MAX_GENERATION,
    Candidate,
    Leader,
    appoint,
    cut_off,
    orders,
)

NAMES = ("controller", "controller-2", "controller-3")
FLOOR = 7 << EPOCH_BITS
A = Candidate("controller", ready=True, leads=False, generation=0, reach=2)
B = replace(A, name="controller-2")
LEADER = Leader("controller", FLOOR + 3)
LEADING = replace(A, leads=True, generation=LEADER.generation)
MANY = settings(max_examples=2000, deadline=None)


def test_the_first_that_is_ready_is_appointed_at_once_under_the_epoch() -> None:
    assert appoint(None, [A], epoch=7, missed=False) == Leader("controller", FLOOR)
    assert appoint(None, [replace(A, ready=False), B], epoch=7, missed=False) == Leader("controller-2", FLOOR)
    assert appoint(None, [replace(A, ready=False)], epoch=7, missed=True) is None
    assert appoint(None, [], epoch=7, missed=True) is None


def test_a_leader_stays_while_it_is_ready_and_a_moment_longer() -> None:
    assert appoint(LEADER, [LEADING, replace(B, reach=9)], epoch=7, missed=True) is None
    assert appoint(LEADER, [B], epoch=7, missed=False) is None
    assert appoint(LEADER, [B], epoch=7, missed=True) == Leader("controller-2", FLOOR + 4)
    behind = replace(LEADING, ready=False)
    assert appoint(LEADER, [behind, B], epoch=7, missed=False) is None
    assert appoint(LEADER, [behind, B], epoch=7, missed=True) == Leader("controller-2", FLOOR + 4)
    assert appoint(LEADER, [behind], epoch=7, missed=True) is None, "nobody leads with an intent that is not known"


def test_a_leader_without_switches_gives_way_to_one_that_has_some() -> None:
    alone = replace(LEADING, reach=0)
    assert appoint(LEADER, [alone, B], epoch=7, missed=False) is None
    assert appoint(LEADER, [alone, B], epoch=7, missed=True) == Leader("controller-2", FLOOR + 4)
    assert appoint(LEADER, [alone, replace(B, reach=0)], epoch=7, missed=True) is None


def test_a_generation_above_that_of_the_leader_is_outbid() -> None:
    superseded = replace(LEADING, leads=False, generation=FLOOR + 90)
    assert appoint(LEADER, [superseded], epoch=7, missed=False) == Leader("controller", FLOOR + 91)
    heard = replace(B, generation=FLOOR + 50)
    assert appoint(LEADER, [LEADING, heard], epoch=7, missed=False) == Leader("controller", FLOOR + 51)
    assert appoint(LEADER, [replace(A, generation=MAX_GENERATION)], epoch=7, missed=False) is None


def test_a_new_epoch_appoints_the_same_leader_anew() -> None:
    assert appoint(LEADER, [LEADING, B], epoch=8, missed=False) == Leader("controller", 8 << EPOCH_BITS)


def test_only_those_who_do_not_know_are_told() -> None:
    knows = replace(B, generation=LEADER.generation)
    assert orders(LEADER, [LEADING, knows]) == {}
    assert orders(LEADER, [A, B]) == {"controller": "lead", "controller-2": "follow"}
    assert orders(LEADER, [LEADING, replace(knows, leads=True)]) == {"controller-2": "follow"}
    assert orders(LEADER, [replace(A, ready=False), knows]) == {}, "who is not ready is not told to lead"


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    generation = st.integers(0, 9 << EPOCH_BITS)
    return [
        Candidate(name, draw(st.booleans()), draw(st.booleans()), draw(generation), draw(st.integers(0, 3)))
        for name in names
    ]


leaders = st.none() | st.builds(Leader, st.sampled_from(NAMES), st.integers(1, 9 << EPOCH_BITS))


@MANY
@given(leaders, candidates(), st.integers(1, 9), st.booleans())
def test_whatever_is_known(leader: Leader | None, seen: list[Candidate], epoch: int, missed: bool) -> None:
    new = appoint(leader, seen, epoch=epoch, missed=missed)
    ready = {one.name: one for one in seen if one.ready}
    usable = leader is not None and leader.name in ready and not cut_off(ready[leader.name], list(ready.values()))
    if new is not None:
        assert new.name in ready
        assert new.generation >= epoch << EPOCH_BITS
        assert all(new.generation > one.generation for one in seen)
        assert leader is None or new.generation > leader.generation
        assert leader is None or new.name == leader.name or (missed and not usable)
        told = {one.name: replace(one, leads=one.name == new.name, generation=new.generation) for one in seen}
        assert appoint(new, list(told.values()), epoch=epoch, missed=False) is None, "an appointment that stands"
        assert orders(new, list(told.values())) == {}
    elif ready and (missed or leader is None):
        assert usable, "somebody is ready, and nobody leads"
    if leader is not None and usable and new is None:
        assert leader.generation >= epoch << EPOCH_BITS


@MANY
@given(st.lists(st.tuples(candidates(), st.booleans(), st.booleans()), max_size=12))
def test_generations_rise_through_any_history_and_orders_name_one_leader(
    history: list[tuple[list[Candidate], bool, bool]],
) -> None:
    leader, epoch, highest = None, 1, 0
    for seen, missed, restarted in history:
        epoch += restarted
        new = appoint(leader, seen, epoch=epoch, missed=missed)
        if new is not None:
            assert new.generation > highest
            leader, highest = new, new.generation
        if leader is not None:
            told = orders(leader, seen)
            assert {name for name, order in told.items() if order == "lead"} <= {leader.name}
            others = {one.name for one in seen if one.leads and one.name != leader.name}
            assert others <= {name for name, order in told.items() if order == "follow"}
