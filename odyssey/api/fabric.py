# SPDX-License-Identifier: AGPL-3.0-or-later
"""Questions about the fabric: odysseyd passes them to the controller, which knows the switches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odyssey.api.cabling import Cabling
from odyssey.api.parameters import text
from odyssey.api.watching import Progress, watched
from odyssey.model.naming import CONTROLLER
from odyssey.orchestrator.questions import Questions
from rdmp.hub import Hub

Params = Mapping[str, Any]
Answer = Mapping[str, Any]

#: States of a cable that an operator must look at.
CABLE_FAULTS = frozenset({"wrong", "narrow", "unexpected"})
#: Every switch may have to be read before the answer.
READ_SECONDS = 60.0
#: A probe adds and deletes as many entries as were asked for.
PROBE_SECONDS = 900.0


class FabricQueries:
    """One method for each RPC."""

    def __init__(self, questions: Questions, hub: Hub, cabling: Cabling) -> None:
        self._questions = questions
        self._hub = hub
        self._cabling = cabling

    async def path(self, params: Params) -> Answer:
        """The way from `from` to `to` (`port`, `protocol`), hop by hop, or where and why it stops."""
        text(params, "from")
        text(params, "to")
        return await self._ask("path", params)

    async def show(self, params: Params) -> Answer:
        """Switches, ports, links, hosts and nodes as they are now; `interval` seconds long the load is measured."""
        answer = dict(await self._ask("fabric", params))
        agents = {peer.name for peer in self._hub.peers() if peer.role == "agent"}
        cables = (await self._cabling.cabling({}))["cables"]
        wrong = [cable for cable in cables if cable["state"] in CABLE_FAULTS]
        answer["hosts"] = {
            name: {
                **host,
                "connected": name in agents,
                "wrongCables": [cable["text"] for cable in wrong if cable["at"].startswith(f"{name} ")],
            }
            for name, host in dict(answer.get("hosts", {})).items()
        }
        return answer

    async def verify(self, params: Params) -> Answer:
        """Every switch, or `switch`, read now and compared with what was decided."""
        return await self._ask("verify", params)

    async def capacity(self, params: Params) -> Answer:
        """For whom the entries of each switch are, and how many more nodes fit."""
        return await self._ask("capacity", params)

    async def counters(self, params: Params) -> Answer:
        """What nodes, dependencies, networks, borders and ports have counted."""
        return await self._ask("counters", params)

    async def ports(self, params: Params) -> Answer:
        """The ports of `switch`, with state and counters."""
        text(params, "switch")
        return await self._ask("switch_ports", params)

    async def probe(self, progress: Progress, params: Params) -> Answer:
        """What `switch` really does, tried on it."""
        text(params, "switch")
        return await watched(
            progress, lambda told: self._questions.ask(CONTROLLER, "probe", params, PROBE_SECONDS, told)
        )

    async def _ask(self, method: str, params: Params) -> Answer:
        return await self._questions.ask(CONTROLLER, method, params, READ_SECONDS)
