# SPDX-License-Identifier: AGPL-3.0-or-later
"""The loop that ends what a restart or a failure left half-way: nodes that were withdrawn and not yet retired."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from odyssey.orchestrator.engine import Engine
from rdmp.rpc import RpcError

_log = logging.getLogger(__name__)


class Settler:
    """Looks every `interval` seconds whether draining nodes are left that no call works on."""

    def __init__(self, engine: Engine, interval: float) -> None:
        self._engine = engine
        self._interval = interval

    async def run(self) -> None:
        """Loop until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.once()
            except Exception:  # the loop must outlive whatever one round meets
                _log.exception("looking for nodes to settle failed; trying again in %g s", self._interval)

    async def once(self) -> None:
        """Retire left-over nodes of networks that are free, on hosts that are there."""
        left = self._engine.unsettled()
        if not left:
            return
        names = ", ".join(sorted(name for nodes in left.values() for name in nodes))
        _log.info("settling nodes that were withdrawn and not retired: %s", names)
        try:
            answer = await self._engine.settle(f"settle-{uuid.uuid4().hex[:12]}", left, _told)
        except RpcError as error:
            _log.warning("settling %s failed and is tried again: %s", names, error)
            return
        _log.info("settled %s: %s", names, answer["state"])


async def _told(message: Mapping[str, Any]) -> None:
    _log.debug("settle: %s", message)
