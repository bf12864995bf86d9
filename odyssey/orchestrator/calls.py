# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service calls as durable documents: a caller that lost its answer repeats the id and gets the same work, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from odyssey.state.decisions import utc_now
from odyssey.state.store import Conflict, Set, Store
from rdmp.rpc import RpcError

PREFIX = "call/"
FINAL = frozenset({"done"})
"""States that a repeated call is answered from. A failed or interrupted call is taken up again."""
_ENDED = FINAL | {"failed", "interrupted", "pending"}
_TRIM_EVERY = 50


@dataclass(frozen=True, slots=True)
class Call:
    """One service call.

    `goal` is absolute and is fixed before the first transaction, so repeating the call cannot do the work twice.
    `state` is running, done, failed, pending (decided, a participant still away) or interrupted (by a restart).
    """

    id: str
    digest: str
    subject: str
    request: Mapping[str, Any]
    state: str = "running"
    goal: Mapping[str, Any] | None = None
    transactions: tuple[str, ...] = ()
    answer: Mapping[str, Any] | None = None
    created: str = ""
    revision: int = 0

    def document(self) -> dict[str, Any]:
        """The stored form."""
        return {
            "id": self.id, "digest": self.digest, "subject": self.subject, "request": self.request,
            "state": self.state, "goal": self.goal, "transactions": list(self.transactions), "answer": self.answer,
            "created": self.created,
        }  # fmt: skip


def digest(request: Mapping[str, Any]) -> str:
    """SHA-256 of what the call asks for (its options and its id left out)."""
    asked = {key: request[key] for key in ("SYSServiceID", "data")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class CallBook:
    """The calls in the store. Of those that ended, the newest `kept` stay to be asked for."""

    def __init__(self, store: Store, *, kept: int = 1000, clock: Callable[[], str] = utc_now) -> None:
        self._store = store
        self._kept = kept
        self._clock = clock
        self._ended = 0

    async def find(self, call_id: str) -> Call | None:
        """The call with this id, or None."""
        found = await self._store.get(PREFIX + call_id)
        return _parse(found.value, found.revision) if found else None

    async def open(self, request: Mapping[str, Any], subject: str) -> Call:
        """Find or create the call that `request` names.

        Raises RpcError `call_id_reused` if the id stands for something else.
        """
        call = Call(request["id"], digest(request), subject, request, created=self._clock())
        found = await self.find(call.id)
        if found is None:
            try:
                return await self.save(call)
            except Conflict:
                found = await self.find(call.id)
        if found is None or found.digest != call.digest:
            raise RpcError(
                "call_id_reused",
                f"call id {call.id} was used before for something else; choose another id "
                f"(odysseyctl call show {call.id} tells what it was)",
            )
        return found

    async def save(self, call: Call) -> Call:
        """Store `call` durably over the revision it was read at. Raises Conflict."""
        written = await self._store.commit(Set(PREFIX + call.id, call.document(), expect=call.revision))
        return replace(call, revision=written.document.revision if written.document else 0)

    async def end(self, call: Call, state: str, answer: Mapping[str, Any]) -> None:
        """Store how a call ended, and forget the oldest ones beyond what is kept."""
        await self.save(replace(call, state=state, answer=answer))
        self._ended += 1
        if self._ended % _TRIM_EVERY == 0:
            await self._trim()

    async def _trim(self) -> None:
        done = [item for item in await self._store.list(PREFIX) if item.value["state"] in _ENDED]
        done.sort(key=lambda item: str(item.value["created"]))
        for item in done[: max(0, len(done) - self._kept)]:
            await self._store.commit(Set(item.key, None), durable=False)

    async def forget(self, call: Call) -> None:
        """Remove a call that was refused before anything began."""
        await self._store.commit(Set(PREFIX + call.id, None))

    async def interrupt(self) -> list[str]:
        """At start: nothing runs yet, so calls that say so were cut off. Returns their ids."""
        cut = [
            _parse(item.value, item.revision)
            for item in await self._store.list(PREFIX)
            if item.value["state"] == "running"
        ]
        for call in cut:
            await self.save(replace(call, state="interrupted"))
        return [call.id for call in cut]


def _parse(value: Mapping[str, Any], revision: int) -> Call:
    return Call(
        id=value["id"], digest=value["digest"], subject=value["subject"], request=value["request"],
        state=value["state"], goal=value["goal"], transactions=tuple(value["transactions"]), answer=value["answer"],
        created=value["created"], revision=revision,
    )  # fmt: skip
