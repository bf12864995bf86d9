# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to any one member of a group: choosing, and delivering again when the chosen one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdmp.limits import Limits
from rdmp.rpc import RpcError, RpcTimeout
from rdmp.session import Session

Json = Mapping[str, Any]
_BUSY = frozenset({"too_many_calls", "overloaded"})
"""Answers that say: not me, not now."""


@dataclass(slots=True)
class _Member:
    name: str
    groups: tuple[str, ...]
    last: int = 0  # when it was chosen last, counted in calls


class Groups:
    """Who is in which group.  A member that connects, and only while it is connected, may be chosen."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._members: dict[Session, _Member] = {}
        self._arrival = asyncio.Event()
        self._calls = 0

    def joined(self, session: Session, name: str, groups: tuple[str, ...]) -> None:
        """A participant has connected."""
        if groups:
            self._members[session] = _Member(name, groups)
            self._arrival.set()

    def left(self, session: Session) -> None:
        """A connection has ended."""
        self._members.pop(session, None)

    def of(self, session: Session) -> tuple[str, ...]:
        """Return the groups of a peer."""
        member = self._members.get(session)
        return member.groups if member is not None else ()

    async def call(self, group: str, method: str, params: Json, seconds: float, attempts: int) -> Json:
        """Call any one member; see ``Hub.call_any``."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        tried: dict[str, int] = {}
        failures: list[str] = []
        while len(failures) < attempts:
            session = await self._choose(group, tried, end)
            if session is None:
                failures.append(f"no member is connected for {self._limits.peer_wait:g} s")
                break
            name = self._members[session].name
            tried[name] = tried.get(name, 0) + 1
            try:
                return await session.call(method, params, max(end - loop.time(), 0.001))
            except RpcTimeout:
                raise
            except RpcError as error:
                if not session.closing and error.code not in _BUSY:
                    raise
                failures.append(f"{name}: {error.message}")
        text = f"no member of the group {group} answered {method}: " + "; ".join(failures)
        raise RpcError("undelivered", text)

    async def _choose(self, group: str, tried: Mapping[str, int], end: float) -> Session | None:
        """Return the member that was tried least, has least to do and waited longest; None if nobody comes in time."""
        loop = asyncio.get_running_loop()
        until = min(end, loop.time() + self._limits.peer_wait)
        while True:
            self._arrival.clear()
            found = [
                (tried.get(member.name, 0), session.calling, member.last, session)
                for session, member in self._members.items()
                if group in member.groups and not session.closing
            ]
            if found:
                session = min(found, key=lambda item: item[:3])[3]
                self._calls += 1
                self._members[session].last = self._calls
                return session
            try:
                async with asyncio.timeout_at(until):
                    await self._arrival.wait()
            except TimeoutError:
                return None
