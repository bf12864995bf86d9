# SPDX-License-Identifier: AGPL-3.0-or-later
"""Forgetting old events: by number and by age, while odysseyd runs."""

from __future__ import annotations

import asyncio
import logging
import time

from odyssey.state.store import Store
from rdmp.moment import rfc3339

_log = logging.getLogger(__name__)
INTERVAL = 60.0
"""Seconds between two looks at the event log."""
_BATCH = 5000


class Retention:
    """Keeps the event log within its limits."""

    def __init__(self, store: Store, kept: int, max_age: float) -> None:
        """`kept` is a number of events, `max_age` seconds."""
        self._store = store
        self._kept = kept
        self._max_age = max_age

    async def trim(self) -> int:
        """Forget what is beyond the limits now; returns how many events that were."""
        before = rfc3339(max(0.0, time.time() - self._max_age))
        forgotten = 0
        while (count := await self._store.trim(self._kept, before, limit=_BATCH)) > 0:
            forgotten += count
        return forgotten

    async def run(self) -> None:
        """Trim again and again until cancelled."""
        while True:
            try:
                if count := await self.trim():
                    _log.info("%d old events were forgotten ([limits] events_kept, events_max_age)", count)
            except Exception:
                _log.exception("old events could not be forgotten; trying again in %g s", INTERVAL)
            await asyncio.sleep(INTERVAL)
