# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to a group that nobody answered, kept until somebody retries or drops them.

Only a call whose caller asked for it (`durable`) comes here, and only when its attempts are used up or its time is over
without an answer. An answer of a member is final, an error too. A decision of a transaction never comes here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from odyssey.state.decisions import utc_now
from odyssey.state.store import Conflict, Document, Set, Store
from rdmp.hub import Hub
from rdmp.rpc import RpcError

PREFIX = "deadletter/"
KEPT = 1000
"""Letters that are kept; a durable call is refused when there are as many."""
_UNANSWERED = frozenset({"undelivered", "timeout"})
Json = Mapping[str, Any]


class DeadLetters:
    """Durable calls to groups over the hub, and the list of those that failed."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub

    async def call(self, request: Json, caller: str) -> Json:
        """Make the call that `request` describes ({group, method, params, timeout, attempts, durable}).

        Raises RpcError; when it is `undelivered` or `timeout` and the call is durable, it is in the list by then, and
        the message names it.
        """
        if request.get("durable") and len(await self._store.list(PREFIX)) >= KEPT:
            raise RpcError("overloaded", f"{KEPT} dead letters are kept; drop some (odysseyctl bus deadletter)")
        try:
            return await self._deliver(request)
        except RpcError as error:
            if error.code not in _UNANSWERED or not request.get("durable"):
                raise
            letter = "dl-" + secrets.token_hex(6)
            value = {
                "id": letter, "caller": caller, "created": utc_now(), "tries": 1, "reason": error.message,
                "request": dict(request),
            }  # fmt: skip
            await self._store.commit(Set(PREFIX + letter, value, expect=0))
            raise RpcError(error.code, f"{error.message} (kept as dead letter {letter})") from error

    async def list(self) -> list[Json]:
        """All letters, oldest first."""
        return sorted((item.value for item in await self._store.list(PREFIX)), key=lambda value: str(value["created"]))

    async def retry(self, letter: str) -> Json:
        """Make the call again; the letter goes when a member answered, with an error too. Raises RpcError."""
        found = await self._find(letter)
        try:
            answer: Json = {"id": letter, "result": await self._deliver(found.value["request"])}
        except RpcError as error:
            if error.code in _UNANSWERED:
                value = {**found.value, "tries": found.value["tries"] + 1, "reason": error.message}
                await self._write(found, value)
                raise
            answer = {"id": letter, "error": error.to_json()}
        await self._write(found, None)
        return answer

    async def drop(self, letter: str) -> Json:
        """Forget a letter; it is returned for the last time. Raises RpcError `not_found`."""
        found = await self._find(letter)
        await self._write(found, None)
        return found.value

    async def _deliver(self, request: Json) -> Json:
        return await self._hub.call_any(
            str(request["group"]), str(request["method"]), request.get("params") or {},
            float(request.get("timeout") or 0) or None, int(request.get("attempts") or 3),
        )  # fmt: skip

    async def _find(self, letter: str) -> Document:
        found = await self._store.get(PREFIX + letter)
        if found is None:
            raise RpcError("not_found", f"there is no dead letter {letter} (odysseyctl bus deadletter ls)")
        return found

    async def _write(self, found: Document, value: Json | None) -> None:
        try:
            await self._store.commit(Set(found.key, value, expect=found.revision))
        except Conflict as error:
            raise RpcError("conflict", f"{found.value['id']} is being retried or dropped by somebody else") from error
