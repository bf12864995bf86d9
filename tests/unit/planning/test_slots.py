# SPDX-License-Identifier: AGPL-3.0-or-later
"""Slots and pins: who serves whom, and how little moves."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from odyssey.planning.slots import BORDER_PARTS, assign, parts, pin

MANY = settings(max_examples=300, deadline=None)
SIZES = st.sampled_from([2, 4, 8, 16, 32, 64, 128, 256])


def names(count: int) -> list[str]:
    """Names of nodes."""
    return [f"n-{number}" for number in range(count)]


def moves(before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """How many slots got another node."""
    return sum(old != new for old, new in zip(before, after, strict=True))


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, dict[str, int], tuple[str, ...]]:
    """A number of slots, weights, and an assignment that some changes of nodes led to."""
    size = draw(SIZES)
    known = names(min(size, 40))
    weight = st.integers(1, 1000) if draw(st.booleans()) else st.just(100)
    slots: tuple[str, ...] = ()
    weights: dict[str, int] = {}
    for _ in range(draw(st.integers(1, 4))):
        weights = draw(st.dictionaries(st.sampled_from(known), weight, min_size=1, max_size=len(known)))
        slots = assign(slots, weights, size)
    return size, weights, slots


@MANY
@given(SIZES.flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size - 1))))
def test_one_of_n_equal_nodes_takes_at_most_its_share(case: tuple[int, int]) -> None:
    """Adding one node moves at most ceil(S/n) slots, n counted after it came; and all of them to the new one."""
    size, count = case
    weights = dict.fromkeys(names(count), 100)
    before = assign((), weights, size)
    after = assign(before, {**weights, "new": 100}, size)
    assert moves(before, after) == after.count("new") <= ceil(size / (count + 1))


@MANY
@given(histories(), st.integers(1, 1000))
def test_whatever_came_before_a_new_node_is_all_that_moves(
    history: tuple[int, dict[str, int], tuple[str, ...]], weight: int
) -> None:
    size, weights, before = history
    if len(weights) == size:
        return
    after = assign(before, {**weights, "new": weight}, size)
    assert moves(before, after) == after.count("new") >= 1


@MANY
@given(histories())
def test_equal_weights_after_any_history(history: tuple[int, dict[str, int], tuple[str, ...]]) -> None:
    """The bound of one share holds after any changes too, and shares differ by one at most."""
    size, weights, before = history
    even = dict.fromkeys(weights, 7)
    before = assign(before, even, size)
    assert max(Counter(before).values()) - min(Counter(before).values()) <= 1
    if len(even) < size:
        assert moves(before, assign(before, {**even, "new": 7}, size)) <= ceil(size / (len(even) + 1))


@MANY
@given(histories(), st.data())
def test_only_the_slots_of_a_node_that_goes_move(
    history: tuple[int, dict[str, int], tuple[str, ...]], data: st.DataObject
) -> None:
    size, weights, before = history
    gone = data.draw(st.sampled_from(sorted(weights)))
    left = {node: weight for node, weight in weights.items() if node != gone}
    after = assign(before, left, size)
    if not left:
        assert after == ()
        return
    assert all(old == new for old, new in zip(before, after, strict=True) if old != gone)
    assert assign(before, {**weights, gone: 0}, size) == after, "a weight of 0 is as being away"


@MANY
@given(histories())
def test_every_node_with_a_weight_has_about_its_share(history: tuple[int, dict[str, int], tuple[str, ...]]) -> None:
    """Nobody is left out; nobody has a slot that another one has a better claim to."""
    size, weights, slots = history
    counts = Counter(slots)
    assert len(slots) == size and set(counts) == set(weights)
    for rich in weights:
        for poor in weights:
            if counts[rich] > 1:
                assert weights[rich] * (2 * counts[poor] + 1) >= weights[poor] * (2 * counts[rich] - 1)


@MANY
@given(histories())
def test_the_same_again_moves_nothing(history: tuple[int, dict[str, int], tuple[str, ...]]) -> None:
    size, weights, slots = history
    assert assign(slots, weights, size) == slots


def test_of_equal_claims_that_of_the_holder_counts() -> None:
    """One of three equal nodes has two of four slots: the one that has them already, whatever it is called."""
    before = assign((), {"a": 100, "b": 100, "c": 130}, 4)
    assert Counter(before)["c"] == 2
    assert assign(before, {"a": 100, "b": 100, "c": 100}, 4) == before


def test_slots_of_one_node_do_not_lie_side_by_side() -> None:
    slots = assign((), dict.fromkeys(names(4), 100), 64)
    assert slots == tuple(names(4)) * 16


def test_more_slots_keep_the_low_bits_of_a_connection() -> None:
    """Slot i of 8 becomes the slots i and i + 8 of 16."""
    few = assign((), {"a": 100, "b": 50, "c": 50}, 8)
    many = assign(few, {"a": 100, "b": 50, "c": 50}, 16)
    assert many == few * 2


def test_with_fewer_slots_than_nodes_the_heaviest_serve() -> None:
    assert set(assign((), {"a": 1, "b": 5, "c": 5}, 2)) == {"b", "c"}


CLIENTS = [f"10.0.{high}.{low}/32" for high in range(2) for low in range(1, 12)]


@MANY
@given(
    st.sets(st.sampled_from(CLIENTS)), st.sets(st.sampled_from(CLIENTS)),
    st.dictionaries(st.sampled_from(names(5)), st.integers(0, 300)),
    st.dictionaries(st.sampled_from(names(5)), st.integers(0, 300)), st.sets(st.sampled_from(names(5))),
)  # fmt: skip
def test_a_client_moves_only_when_its_node_is_gone(
    before: set[str], after: set[str], weights: dict[str, int], later: dict[str, int], draining: set[str]
) -> None:
    old = pin({}, before, weights, set(weights))
    staying = {*later, *draining}
    new = pin(old, after, later, staying)
    for client in before & after:
        if old.get(client) in staying:
            assert new[client] == old[client]
    serving = {node for node, weight in later.items() if weight}
    assert set(new) <= after
    assert all(new[client] in serving for client in new if new[client] != old.get(client))
    assert not serving or set(new) == after, "somebody serves, so everybody is served"


def test_new_clients_go_to_the_node_with_the_fewest() -> None:
    old = {f"10.0.0.{number}/32": "n-0" for number in range(1, 4)}
    clients = [*old, *(f"10.0.1.{number}/32" for number in range(1, 4))]
    assert Counter(pin(old, clients, {"n-0": 100, "n-1": 100}, {"n-0", "n-1"}).values()) == {"n-0": 3, "n-1": 3}
    assert Counter(pin({}, CLIENTS[:9], {"n-0": 200, "n-1": 100}, {"n-0", "n-1"}).values()) == {"n-0": 6, "n-1": 3}


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_a_border_is_divided_into_aligned_parts(address: int, length: int) -> None:
    prefix = IPv4Network((address >> (32 - length) << (32 - length), length))
    found = [IPv4Network(part) for part in parts(prefix)]
    assert len(found) == min(BORDER_PARTS, prefix.num_addresses)
    assert sum(part.num_addresses for part in found) == prefix.num_addresses
    assert all(part.subnet_of(prefix) for part in found)
