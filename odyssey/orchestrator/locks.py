# SPDX-License-Identifier: AGPL-3.0-or-later
"""Named locks taken all at once: two calls that touch different networks never wait for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Set


class LockTable:
    """Which call holds which objects.

    Objects of unfinished transactions count as held too (`also_held`), so a restart loses no lock: it follows from the
    store. All locks of a call are taken in one step, hence no deadlock.
    """

    def __init__(self, also_held: Callable[[], Set[str]]) -> None:
        self._holders: dict[str, str] = {}
        self._also_held = also_held
        self._freed = asyncio.Condition()

    def conflict(self, names: Collection[str]) -> str | None:
        """The first of `names` that somebody holds, with its holder, as text for people; None if all are free."""
        elsewhere = self._also_held()
        for name in sorted(names):
            if name in self._holders:
                return f"{name} (held by call {self._holders[name]})"
            if name in elsewhere:
                return f"{name} (held by a transaction that is not finished)"
        return None

    def take(self, names: Collection[str], holder: str) -> bool:
        """Take all of `names` for `holder`, or none."""
        if self.conflict(names) is not None:
            return False
        self._holders.update(dict.fromkeys(names, holder))
        return True

    async def release(self, holder: str) -> None:
        """Free everything that `holder` has and wake those that wait."""
        self._holders = {name: other for name, other in self._holders.items() if other != holder}
        await self.changed()

    async def changed(self) -> None:
        """Wake those that wait: something may be free now."""
        async with self._freed:
            self._freed.notify_all()

    async def wait(self, seconds: float) -> None:
        """Wait until something was freed, at most `seconds`. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._freed:
            await self._freed.wait()
