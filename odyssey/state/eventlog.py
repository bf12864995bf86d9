# SPDX-License-Identifier: AGPL-3.0-or-later
"""RDMP's event log over a Store."""

from __future__ import annotations

from collections.abc import Sequence

from odyssey.state.store import Append, Store
from rdmp.events import Event, EventLog, NewEvent


class StoreEventLog(EventLog):
    """Events of the store, in one order with those that decisions append."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, events: Sequence[NewEvent]) -> int:
        # News of a step is told again by the state it led to, so it need not wait for the disk.
        written = await self._store.commit(
            None, [Append(event.topic, event.time, event.data) for event in events], durable=False
        )
        return written.events[-1].index

    async def read(self, from_index: int, limit: int) -> Sequence[Event]:
        return [
            Event(event.index, event.time, event.topic, event.data)
            for event in await self._store.read(from_index - 1, limit)
        ]

    async def last_index(self) -> int:
        return await self._store.last_event()
