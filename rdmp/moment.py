# SPDX-License-Identifier: AGPL-3.0-or-later
"""Moments as text: RFC 3339 in UTC.  A transaction notes ten of them, so the whole second is formatted once."""

from __future__ import annotations

import functools
from datetime import UTC, datetime


def rfc3339(seconds: float, digits: int = 6) -> str:
    """Return the moment ``seconds`` after the epoch with ``digits`` of its fraction, which is cut off, not rounded."""
    whole, fraction = divmod(seconds, 1)
    return f"{_second(int(whole))}.{int(fraction * 10**digits):0{digits}d}Z"


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
