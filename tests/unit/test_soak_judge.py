# SPDX-License-Identifier: AGPL-3.0-or-later
"""The judgement of a soak finds what grows and only that."""

from __future__ import annotations

import os

from tests.soak.judge import Sample, judge, sample


def course(count: int = 40, *, threads: float = 0, descriptors: float = 0, rss: float = 0) -> list[Sample]:
    """Samples with so much more of each at every one."""
    return [
        Sample(
            float(number), 100 * number, 5 + int(threads * number), 12 + int(descriptors * number),
            80000 + int(rss * number) + number % 3,
        )
        for number in range(count)
    ]  # fmt: skip


def test_a_process_that_stays_as_it_is_passes() -> None:
    assert judge(course()) == []


def test_what_grows_is_named() -> None:
    assert ["threads grew" in fault for fault in judge(course(threads=0.2))] == [True]
    assert ["descriptors grew" in fault for fault in judge(course(descriptors=1))] == [True]
    assert ["memory grew" in fault for fault in judge(course(rss=200))] == [True]
    assert len(judge(course(threads=1, descriptors=1, rss=200))) == 3


def test_the_warm_up_is_not_judged_and_too_little_is_no_verdict() -> None:
    warm = [Sample(0.0, 0, 90, 90, 999) for _ in range(10)]
    assert judge([*warm, *course(30)]) == []
    assert judge(course(2)) != []


def test_a_process_is_looked_at() -> None:
    read, write = os.pipe()
    before = sample(os.getpid(), 0.0, 0)
    more = [os.dup(read) for _ in range(7)]
    after = sample(os.getpid(), 1.0, 1)
    for descriptor in (read, write, *more):
        os.close(descriptor)
    assert after.descriptors == before.descriptors + 7 and after.rss > 0 and after.threads >= 1
