# SPDX-License-Identifier: AGPL-3.0-or-later
"""Questions to the participants that change nothing: what they see, which images they hold, what would be compiled."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import Any

from odyssey.model.naming import CONTROLLER, NETCONF
from rdmp.hub import Hub
from rdmp.rpc import RpcError

_log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.05


class Questions:
    """RPC to participants, each bounded by `timeout` seconds; an absent participant is an answer too (None)."""

    def __init__(self, hub: Hub, timeout: float, spokesman: Callable[[], str]) -> None:
        """`spokesman` names the controller to ask."""
        self._hub = hub
        self._spokesman = spokesman
        self._timeout = timeout

    def present(self) -> frozenset[str]:
        """Names of the participants that are connected now; `controller` if any controller is."""
        controller = {CONTROLLER} if self._hub.connected(CONTROLLER) else set()
        return frozenset(controller.union(self._hub.connected("agent"), self._hub.connected(NETCONF)))

    async def wait_for(self, names: Set[str], until: float) -> None:
        """Wait until all of `names` are connected, at the longest until that time of the event loop's clock."""
        loop = asyncio.get_running_loop()
        while not names <= self.present() and loop.time() < until:
            await asyncio.sleep(_LOOK_AGAIN)

    async def ask(
        self, name: str, method: str, params: Mapping[str, Any], seconds: float | None = None,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Ask one participant; `controller` is the leading one.

        `seconds` is for what takes longer than the usual limit. Raises RpcError.
        """
        if name == CONTROLLER:
            name = self._spokesman()
        return await self._hub.call(name, method, params, seconds or self._timeout, on_progress)

    async def try_ask(self, name: str, method: str, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Ask one participant; None, and a line in the log, if it does not answer."""
        try:
            return await self.ask(name, method, params)
        except RpcError as error:
            _log.info("%s does not answer %s: %s", name, method, error)
            return None

    async def observe(self, names: Iterable[str]) -> dict[str, Mapping[str, Any] | None]:
        """The full state of each participant, in parallel."""
        wanted = sorted(set(names))
        answers = await asyncio.gather(*(self.try_ask(name, "observe", {}) for name in wanted))
        return dict(zip(wanted, answers, strict=True))

    async def images(self, references: Collection[str]) -> dict[str, dict[str, str]]:
        """Image ids by host and reference, as far as the hosts have them."""
        if not references:
            return {}
        hosts = sorted(self._hub.connected("agent"))
        params = {"references": sorted(references)}
        answers = await asyncio.gather(*(self.try_ask(host, "images", params) for host in hosts))
        return {
            host: {reference: image for reference, image in answer.items() if image}
            for host, answer in zip(hosts, answers, strict=True)
            if answer is not None
        }

    async def connections(self, nodes: Sequence[tuple[str, str]]) -> dict[str, int | None]:
        """Open inbound TCP connections of each (node, host); None where the host does not answer."""
        by_host: dict[str, list[str]] = defaultdict(list)
        for node, host in nodes:
            by_host[host].append(node)
        answers = await asyncio.gather(
            *(self.try_ask(host, "connections", {"nodes": names}) for host, names in by_host.items())
        )
        counts: dict[str, int | None] = {}
        for names, answer in zip(by_host.values(), answers, strict=True):
            for node in names:
                counts[node] = None if answer is None else int(answer.get(node, {}).get("inbound", 0))
        return counts

    async def switches(self) -> frozenset[str]:
        """Names of the switches that are connected to the controller; none if it does not answer."""
        answer = await self.try_ask(CONTROLLER, "switches", {})
        seen = (answer or {}).get("switches", {})
        return frozenset(name for name, switch in seen.items() if switch.get("connected"))

    async def packets(self, switch: str, ports: Collection[int]) -> dict[int, int] | None:
        """Packets that each port of a switch has received and sent so far; None if nobody can tell."""
        answer = await self.try_ask(CONTROLLER, "switch_ports", {"switch": switch})
        seen = (answer or {}).get("ports", {})
        if any(str(port) not in seen for port in ports):
            return None
        return {port: int(seen[str(port)]["rxPackets"]) + int(seen[str(port)]["txPackets"]) for port in ports}

    async def compiled(self, participant: str, changes: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the controller would program, or NETCONF would set, for `changes`; None if it does not answer."""
        return await self.try_ask(participant, "compile", {"changes": changes}) if changes else {}
