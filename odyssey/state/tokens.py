# SPDX-License-Identifier: AGPL-3.0-or-later
"""Join tokens in the store: one document for each, used up by compare-and-set."""

from __future__ import annotations

from odyssey.security.tokens import TokenRecord, TokenStore
from odyssey.state.store import Conflict, Set, Store

PREFIX = "token/"


class StoredTokens(TokenStore):
    """`TokenStore` over any `Store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, record: TokenRecord) -> None:
        await self._store.commit(Set(PREFIX + record.id, record.to_json(), expect=0))

    async def find(self, token_id: str) -> TokenRecord | None:
        found = await self._store.get(PREFIX + token_id)
        return TokenRecord.from_json(found.value) if found else None

    async def mark_used(self, token_id: str, used: float, used_by: str) -> bool:
        found = await self._store.get(PREFIX + token_id)
        if found is None or found.value["used"] is not None:
            return False
        value = {**found.value, "used": used, "usedBy": used_by}
        try:
            await self._store.commit(Set(found.key, value, expect=found.revision))
        except Conflict:
            return False
        return True

    async def purge(self, expired_before: float) -> int:
        old = [item for item in await self._store.list(PREFIX) if item.value["expires"] < expired_before]
        for item in old:
            await self._store.commit(Set(item.key, None))
        return len(old)
