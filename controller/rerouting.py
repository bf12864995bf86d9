# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ways around ports that are down, for switches that cannot fail over by themselves.

What such switches have to hold depends on the ports that are up, besides the committed intent.  It is compiled anew
whenever a port of the inventory goes up or down, and brought to all switches like any other update.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from controller.compiler import Compilation, rerouted
from controller.fabric import Port

_log = logging.getLogger(__name__)

#: How long is waited for other ports that change at the same time, as both ends of a cable do.
SETTLE_SECONDS = 0.02
#: How long until the next try, if a switch could not be brought to its new ways.
RETRY_SECONDS = 2.0


class Rerouting:
    """What the switches have to hold now; call ``changed`` when a port went up or down."""

    def __init__(
        self,
        intended: Callable[[], Compilation],
        down: Callable[[], frozenset[Port]],
        bring: Callable[[], Awaitable[Mapping[str, str]]],
    ) -> None:
        self._intended = intended
        self._down = down
        self._bring = bring
        self._known: tuple[Compilation, frozenset[Port], Compilation] | None = None
        self._work: asyncio.Task[None] | None = None
        self._again = False

    def target(self) -> Compilation:
        """Return the committed intent, compiled for the ports that are up."""
        intended = self._intended()
        down = self._down() if intended.needs_rerouting else frozenset()
        if not down:
            return intended
        known = self._known
        if known is None or known[0] is not intended or known[1] != down:
            known = self._known = (intended, down, rerouted(intended, down))
        return known[2]

    def changed(self) -> None:
        """Bring the switches to their new ways, unless all of them see to that themselves."""
        if not self._intended().needs_rerouting:
            return
        self._again = True
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run(), name="rerouting")

    async def _run(self) -> None:
        told = ""
        while self._again:
            await asyncio.sleep(SETTLE_SECONDS)
            self._again = False
            failure = await self._tried()
            if failure and failure != told:
                _log.warning("ways around ports that are down: %s", failure)
            told = failure
            if failure:
                self._again = True
                await asyncio.sleep(RETRY_SECONDS)

    async def _tried(self) -> str:
        """Bring the switches to their new ways; returns what failed."""
        try:
            return "; ".join((await self._bring()).values())
        except Exception as error:  # whatever it was, packets must not stay on a way that is down
            _log.exception("ways around ports that are down")
            return f"{type(error).__name__}: {error}"
