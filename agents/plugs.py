# SPDX-License-Identifier: AGPL-3.0-or-later
"""The attachments of this host's nodes as they are to stand now: which NICs to avoid, which nodes wait in the dark."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from agents.attachment import Standing
from agents.facts import HostNic
from agents.namespace import Namespace, NamespaceGone
from agents.network import Network, NetworkError
from agents.spec import Attachment

PARALLEL = 4  # attachments that are brought into order at once

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Plug:
    """A node's attachment and the container that holds its namespace; the lock orders all work on it."""

    attachment: Attachment
    up: bool
    pid: int
    container: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Plugs:
    """All attachments that this run of the agent made or looked at."""

    def __init__(self, network: Network, vlans_in_use: Callable[[], Awaitable[Set[str] | None]]) -> None:
        """`vlans_in_use` tells which VLAN interfaces nodes need, those of unfinished starts too; None: not known."""
        self._network = network
        self._vlans_in_use = vlans_in_use
        self._plugs: dict[str, _Plug] = {}
        self._avoided: frozenset[str] = frozenset()
        # Between looking who needs a VLAN interface and removing it, nobody may come to need it.
        self._vlans = asyncio.Lock()

    async def host_nics(self) -> Mapping[str, HostNic]:
        """Return the host's interfaces by name. Raises NetworkError."""
        return await self._network.host_nics()

    async def attach(
        self,
        node: str,
        attachment: Attachment,
        up: bool,
        holder: tuple[int, str],
        namespace: Namespace,
        nics: Mapping[str, HostNic],
    ) -> None:
        """Attach a node whose namespace is new; `holder` is the process and id of its container. Raises NetworkError.

        A node with tagged NICs must be counted by `vlans_in_use` before.
        """
        plug = self._know(node, attachment, up, holder)
        async with plug.lock, self._with_vlans(attachment):
            nics = await self._network.make_vlans(attachment, nics)
            await self._network.attach(attachment, self._standing(plug), namespace, nics)

    async def mend(
        self, node: str, attachment: Attachment, up: bool, holder: tuple[int, str], namespace: Namespace
    ) -> tuple[str, ...]:
        """Bring an attachment into order; returns what was wrong. Raises NetworkError."""
        plug = self._know(node, attachment, up, holder)
        async with plug.lock:
            return await self._mend(plug, namespace, await self._network.host_nics())

    async def detach(self, node: str, namespace: Namespace) -> None:
        """Remove the NICs of a node that is going. Raises NetworkError."""
        plug = self._plugs.pop(node, None)
        async with plug.lock if plug is not None else asyncio.Lock():
            await self._network.detach(namespace)

    def forget(self, node: str) -> None:
        """Note that a node has gone."""
        self._plugs.pop(node, None)

    async def prefer(self, avoided: Iterable[str]) -> Mapping[str, str]:
        """Have nodes send through these NICs of the host only while no other has a carrier; returns what failed.

        New nodes follow it too. Raises NetworkError.
        """
        self._avoided = frozenset(avoided)
        return await self.reroute()

    async def reroute(self) -> Mapping[str, str]:
        """Bring every known attachment into order, because NICs or preferences changed; returns what failed, by node.

        Raises NetworkError.
        """
        if not self._plugs:
            return {}
        nics = await self._network.host_nics()
        parallel = asyncio.Semaphore(PARALLEL)

        async def one(node: str, plug: _Plug) -> str | None:
            try:
                with Namespace.of_container(plug.pid, plug.container) as namespace:
                    async with parallel, plug.lock:
                        if self._plugs.get(node) is plug:
                            await self._mend(plug, namespace, nics)
            except NamespaceGone:
                return None  # its container ended: whoever brings it back attaches it as it has to be by then
            except (NetworkError, OSError) as error:
                return str(error)
            return None

        known = dict(self._plugs)
        failed = await asyncio.gather(*(one(node, plug) for node, plug in known.items()))
        return {node: why for node, why in zip(known, failed, strict=True) if why is not None}

    async def drop_vlans(self) -> None:
        """Remove the VLAN interfaces that no node needs. Raises NetworkError and what `vlans_in_use` raises."""
        async with self._vlans:
            if not await self._network.has_vlans() or (needed := await self._vlans_in_use()) is None:
                return
            for line in await self._network.drop_vlans(needed):
                _log.info("no node needs it any more: ip %s", line)

    async def _mend(self, plug: _Plug, namespace: Namespace, nics: Mapping[str, HostNic]) -> tuple[str, ...]:
        async with self._with_vlans(plug.attachment):
            nics = await self._network.make_vlans(plug.attachment, nics)
            return await self._network.mend(plug.attachment, self._standing(plug), namespace, nics)

    def _with_vlans(self, attachment: Attachment) -> asyncio.Lock:
        return self._vlans if attachment.tagged else asyncio.Lock()

    def _standing(self, plug: _Plug) -> Standing:
        return Standing(plug.up, self._avoided)

    def _know(self, node: str, attachment: Attachment, up: bool, holder: tuple[int, str]) -> _Plug:
        plug = self._plugs.get(node)
        if plug is None:
            plug = self._plugs[node] = _Plug(attachment, up, *holder)
        plug.attachment, plug.up = attachment, up
        plug.pid, plug.container = holder
        return plug
