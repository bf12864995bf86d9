# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the cables lead: what switches hear of each other, and the hosts' NICs of switches, beside the inventory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odyssey.model.naming import CONTROLLER
from odyssey.orchestrator.questions import Questions
from odyssey.state.view import StateView


class Cabling:
    """Answers `switch.cabling`."""

    def __init__(self, view: StateView, questions: Questions) -> None:
        self._view = view
        self._questions = questions

    async def cabling(self, _params: Mapping[str, Any]) -> dict[str, Any]:
        """Every end of a cable with what is expected there and what is heard.

        Only the controller can check who speaks, so it judges; a host whose agent is away is left out.
        """
        hosts = self._view.documents.get("inventory", {}).get("hosts", {})
        seen = await self._questions.observe(hosts)
        told = {
            name: nics_of(hosts[name]["attachments"], observation)
            for name, observation in seen.items()
            if observation is not None
        }
        answer = await self._questions.ask(CONTROLLER, "cabling", {"hosts": told})
        return {**answer, "absent": sorted(name for name, observation in seen.items() if observation is None)}


def nics_of(attachments: list[Mapping[str, Any]], observation: Mapping[str, Any]) -> dict[str, Any]:
    """What a host's NICs hear, by name, each with the switch port where the inventory has it."""
    places = {item["nic"]: {"switch": item["switch"], "port": item["port"]} for item in attachments}
    nics: Mapping[str, Mapping[str, Any]] = observation.get("nics", {})
    return {
        name: {"lldp": nic.get("lldp"), "attachment": places.get(name)}
        for name, nic in nics.items()
        if name in places or nic.get("lldp") is not None
    }
