# SPDX-License-Identifier: AGPL-3.0-or-later
"""Passes on what a participant tells while it works, to whoever asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Message = Mapping[str, Any]
Progress = Callable[[Message], Awaitable[None]]
Asking = Callable[[Callable[[Message], None]], Awaitable[Message]]
"""Asks, with what is to be called for each message, and returns the answer."""


async def watched(progress: Progress, asking: Asking) -> Message:
    """The answer, after everything that was told before it."""
    told: asyncio.Queue[Message | None] = asyncio.Queue()

    async def forward() -> None:
        while (message := await told.get()) is not None:
            await progress(message)

    forwarding = asyncio.create_task(forward(), name="progress of a question")
    try:
        return await asking(told.put_nowait)
    finally:
        told.put_nowait(None)
        await forwarding
