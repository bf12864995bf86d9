# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hypothesis strategies for any entry and group that our values can say."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from controller.flows import (
    FIELDS,
    OUR_TAG,
    Action,
    Bucket,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Learn,
    Match,
    Metered,
    Move,
    Multipath,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
    match,
)

MAX_PORT = 0xFFFFFF00  # the numbers above are reserved
OF_REGISTERS = ("reg0", "reg1", "reg2", "reg3", "reg4", "reg5")
TABLES = st.integers(0, 254)
NUMBERS = st.integers(0, 0xFFFF)
OUR_COOKIES = st.integers(OUR_TAG << 56, (OUR_TAG + 1 << 56) - 1)


def values(name: str) -> SearchStrategy[int]:
    return st.integers(0, (1 << FIELDS[name]) - 1)


@st.composite
def matches(draw: st.DrawFn, fields: frozenset[str]) -> Match:
    names = draw(st.sets(st.sampled_from(sorted(fields)), max_size=8))
    return match(
        **{name: draw(st.one_of(values(name), st.tuples(values(name), values(name)))) for name in sorted(names)}
    )


def moves(nicira: frozenset[str]) -> SearchStrategy[Move]:
    pairs = [
        (source, target) for source in sorted(nicira) for target in sorted(nicira) if FIELDS[source] == FIELDS[target]
    ]
    return st.builds(lambda pair: Move(*pair), st.sampled_from(pairs))


def learns(nicira: frozenset[str], limits: SearchStrategy[int]) -> SearchStrategy[Learn]:
    names = st.sampled_from(sorted(nicira))
    terms = st.lists(names.flatmap(lambda name: st.tuples(st.just(name), values(name))), max_size=4).map(tuple)
    return st.builds(
        Learn,
        table=TABLES,
        priority=NUMBERS,
        cookie=st.integers(0, (1 << 64) - 1),
        idle_timeout=NUMBERS,
        fin_idle_timeout=NUMBERS,
        limit=limits,
        terms=terms,
        fields=st.lists(names, max_size=4).map(tuple),
        keeps=st.lists(st.sampled_from(OF_REGISTERS), max_size=2).map(tuple),
    )


def actions(
    fields: frozenset[str], nicira: frozenset[str], limits: SearchStrategy[int] | None
) -> SearchStrategy[Action]:
    """Return actions that may stand in a list; ``fields`` may be set, ``nicira`` may be named by Nicira's actions.

    Without ``limits`` nothing is learned.
    """
    return st.one_of(
        st.sampled_from(sorted(fields)).flatmap(lambda name: st.builds(SetField, st.just(name), values(name))),
        moves(nicira),
        *([] if limits is None else [learns(nicira, limits)]),
        st.builds(Output, st.integers(1, MAX_PORT - 1)),
        st.builds(ToGroup, st.integers(0, 0xFFFFFF00)),
        st.builds(Resubmit, TABLES),
        st.builds(Multipath, st.integers(1, 0x10000), st.sampled_from(OF_REGISTERS), NUMBERS),
        st.sampled_from((ClearInPort(), PushVlan(), PopVlan(), OutputInPort(), ToController())),
    )


@st.composite
def entries(draw: st.DrawFn, fields: frozenset[str], nicira: frozenset[str], limits: SearchStrategy[int]) -> FlowEntry:
    found: list[Action] = draw(st.lists(actions(fields, nicira, limits), max_size=5))
    if draw(st.booleans()):
        found.insert(0, Metered(draw(st.integers(1, 0xFFFF0000))))
    if draw(st.booleans()):
        found.append(Goto(draw(TABLES)))
    return FlowEntry(draw(TABLES), draw(NUMBERS), draw(matches(fields)), tuple(found), draw(OUR_COOKIES))


@st.composite
def groups(draw: st.DrawFn, fields: frozenset[str], nicira: frozenset[str]) -> GroupEntry:
    inner = st.lists(actions(fields, nicira, None), max_size=4).map(tuple)
    buckets = draw(st.lists(st.builds(Bucket, st.integers(0, MAX_PORT), inner), max_size=4))
    return GroupEntry(OUR_TAG << 24 | draw(st.integers(0, 0xFFFFFF)), tuple(buckets))
