# SPDX-License-Identifier: AGPL-3.0-or-later
"""The nodes that decisions gave to this host, and one lock for each, shared by transactions and the restoring loop."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.spec import Committed

NODE_PREFIX = "node/"
REVISION_KEY = "agent/revision"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the restoring loop found last of a node; `healthy` is None while no check was made."""

    healthy: bool | None = None
    faults: tuple[str, ...] = ()


class NodeTable:
    """Committed nodes by name. A node that is being stopped is still committed, but nobody brings it back."""

    def __init__(self) -> None:
        self._committed: dict[str, Committed] = {}
        self._stopping: set[str] = set()
        self._seen: dict[str, Seen] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.revision = 0

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the state documents of the journal. Raises schemas.SchemaError for one that cannot be understood."""
        self.revision = int(state.get(REVISION_KEY, {}).get("seq", 0))
        for key, document in state.items():
            if key.startswith(NODE_PREFIX):
                self._committed[key.removeprefix(NODE_PREFIX)] = Committed.parse(document)

    @contextlib.asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[None]:
        """Hold the lock of a node."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield

    def committed(self, name: str) -> Committed | None:
        """Return a committed node, None if there is none of that name."""
        return self._committed.get(name)

    def names(self) -> tuple[str, ...]:
        """Return the names of all committed nodes."""
        return tuple(sorted(self._committed))

    def wanted(self, name: str) -> Committed | None:
        """Return a node that must run; ask with its lock held."""
        return None if name in self._stopping else self._committed.get(name)

    def commit(self, node: Committed) -> None:
        """Note that a node is committed, or changed."""
        self._committed[node.spec.node] = node

    def stopping(self, names: Iterable[str]) -> None:
        """Note that nobody may bring these nodes back."""
        self._stopping.update(names)

    def forget(self, name: str) -> None:
        """Note that a node has gone."""
        self._committed.pop(name, None)
        self._stopping.discard(name)
        self._seen.pop(name, None)

    def seen(self, name: str) -> Seen:
        """Return what was found last of a node."""
        return self._seen.get(name, Seen())

    def saw(self, name: str, seen: Seen) -> None:
        """Note what was found of a committed node."""
        if name in self._committed:
            self._seen[name] = seen
