# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was refused, counted by reason and logged without letting whoever is refused fill the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 10.0  # between two lines about the same reason
_TEXT = 300  # characters of a line that a peer may have written


class Refusals:
    """Counters by reason.  Reasons are words of ours, so there are few; texts may hold what a peer sent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    def add(self, reason: str, text: str) -> None:
        """Count one refusal; log it unless one for the same reason was logged a short time ago."""
        self._counts[reason] += 1
        now, count = self._clock(), self._counts[reason]
        when, before = self._told.get(reason, (now - _PAUSE_SECONDS, 0))
        if now - when >= _PAUSE_SECONDS:
            self._told[reason] = (now, count)
            # repr: a peer must not write lines of its own into the log
            more = f" ({count - before} since the last such line)" if count - before > 1 else ""
            _log.warning("refused (%s): %s%s", reason, repr(text[:_TEXT])[1:-1], more)

    def counts(self) -> Mapping[str, int]:
        """Return how often each reason was given since the start."""
        return dict(self._counts)
