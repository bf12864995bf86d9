# SPDX-License-Identifier: AGPL-3.0-or-later
"""Moments as text are what datetime would write."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from rdmp.moment import rfc3339


@given(st.integers(0, 4_000_000_000), st.integers(0, 1023))
def test_moments_are_those_of_datetime(seconds: int, part: int) -> None:
    moment = datetime.fromtimestamp(seconds + part / 1024, UTC)  # such fractions are exact in binary
    assert rfc3339(seconds + part / 1024, 3) == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    cut = moment.replace(microsecond=part * 1_000_000 // 1024)
    assert rfc3339(seconds + part / 1024) == cut.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_moments_sort_as_text() -> None:
    moments = [1.0, 1.5, 1.999999, 2.0, 10.0, 1_000_000_000.25]
    assert [rfc3339(moment) for moment in moments] == sorted(rfc3339(moment) for moment in moments)
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000000Z"
