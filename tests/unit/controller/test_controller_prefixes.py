# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fewest aligned prefixes that tell labelled addresses apart."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.profiles.prefixes import Block, covers

WITHIN = IPv4Network("10.0.0.0/26")
BITS = 32


def exact(labels: Mapping[int, str | None]) -> list[Block[str | None]]:
    return [Block(address, BITS, label) for address, label in labels.items()]


def holds(block: Block[str], address: int) -> bool:
    value, mask = block.term(BITS)
    return address & mask == value


def fewest(labels: Mapping[int, str | None], within: IPv4Network) -> int:
    """Count by the definition: halve until no block holds two labels."""
    inside = {label for address, label in labels.items() if IPv4Address(address) in within}
    if len(inside) > 1:
        return sum(fewest(labels, half) for half in within.subnets())
    return len(inside - {None})


labelled = st.dictionaries(
    st.integers(0, WITHIN.num_addresses - 1).map(lambda one: int(WITHIN.network_address) + one),
    st.sampled_from(["a", "b", "c", None]),
)


@settings(max_examples=400, deadline=None)
@given(labelled)
def test_every_label_is_covered_by_its_own_and_by_the_fewest(labels: dict[int, str | None]) -> None:
    found = covers(exact(labels), WITHIN)
    for address, label in labels.items():
        assert [block.label for block in found if holds(block, address)] == ([] if label is None else [label])
    assert len(found) == fewest(labels, WITHIN)
    values = [block.value for block in found]
    assert values == sorted(set(values)), "in order and apart"


@settings(max_examples=200, deadline=None)
@given(labelled)
def test_what_was_covered_is_covered_again_by_the_same(labels: dict[int, str | None]) -> None:
    found = covers(exact(labels), WITHIN)
    if all(label is not None for label in labels.values()):
        assert covers(found, WITHIN) == found


def test_a_network_behind_one_trunk_is_one_prefix_however_many_nodes() -> None:
    nodes = {int(WITHIN[number]): "trunk" for number in range(2, 60)}
    assert covers(exact(nodes), WITHIN) == (Block(int(WITHIN.network_address), 26, "trunk"),)


def test_aligned_blocks_stay_prefixes_and_mixed_ones_do_not() -> None:
    halves = {int(WITHIN[number]): "near" if number < 32 else "far" for number in range(64)}
    assert [block.length for block in covers(exact(halves), WITHIN)] == [27, 27]
    in_turn = {int(WITHIN[number]): "near" if number % 2 else "far" for number in range(64)}
    assert len(covers(exact(in_turn), WITHIN)) == 64


def test_ipv6() -> None:
    within = IPv6Network("2001:db8::/64")
    nodes = [Block(int(within[2]), 128, "a"), Block(int(within[1 << 63]), 128, "b")]
    assert [(block.length, block.label) for block in covers(nodes, within)] == [(65, "a"), (65, "b")]
    assert covers((), within) == ()
