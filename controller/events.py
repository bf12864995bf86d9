# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events on their way to RDMP, in order and bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from rdmp.runner import ParticipantRunner

MAX_EVENTS = 256  # that wait to be handed to RDMP; the oldest is dropped then
_log = logging.getLogger(__name__)


class Events:
    """Takes events from anywhere in the event loop and publishes them; ``common`` is added to the data of each."""

    def __init__(self, **common: str) -> None:
        self._common = common
        self._waiting: asyncio.Queue[tuple[str, Mapping[str, Any]]] = asyncio.Queue(MAX_EVENTS)

    def put(self, topic: str, data: Mapping[str, Any]) -> None:
        """Publish an event as soon as that is possible."""
        if self._waiting.full():
            dropped, _ = self._waiting.get_nowait()
            _log.warning("event %s dropped: %d wait already", dropped, MAX_EVENTS)
        self._waiting.put_nowait((topic, {**self._common, **data}))

    async def forward(self, runner: ParticipantRunner) -> None:
        """Hand events to RDMP until cancelled."""
        while True:
            await runner.publish(*await self._waiting.get())
