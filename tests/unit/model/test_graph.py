# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cycles and tiers of dependency graphs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odyssey.model.graph import cycles, tiers

NAMES = "abcdef"
GRAPHS = st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES)), max_size=6)


def test_tiers_put_what_is_depended_on_first() -> None:
    assert tiers({"lb": ["app"], "app": ["db", "cache"], "db": [], "cache": []}) == (("cache", "db"), ("app",), ("lb",))


def test_a_cycle_cannot_be_ordered() -> None:
    with pytest.raises(ValueError, match="a -> b -> a"):
        tiers({"a": ["b"], "b": ["a"]})


def test_a_network_that_leads_to_a_cycle_is_not_in_it() -> None:
    assert cycles({"a": ["b"], "b": ["c"], "c": ["b"]}) == (("b", "c", "b"),)


@given(GRAPHS)
def test_a_named_cycle_is_one(graph: dict[str, set[str]]) -> None:
    for cycle in cycles(graph):
        assert cycle[0] == cycle[-1] == min(cycle)
        assert len(set(cycle)) == len(cycle) - 1
        assert all(after in graph[before] for before, after in pairwise(cycle))


@given(GRAPHS)
def test_a_graph_has_tiers_or_a_cycle(graph: dict[str, set[str]]) -> None:
    if cycles(graph):
        return
    done: set[str] = set()
    for tier in tiers(graph):
        assert all(graph[name] & graph.keys() <= done for name in tier)
        done.update(tier)
    assert done == set(graph)
