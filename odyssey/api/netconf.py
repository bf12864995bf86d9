# SPDX-License-Identifier: AGPL-3.0-or-later
"""Questions about switches that are configured by NETCONF, and orders to them: odysseyd asks odyssey-netconf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from odyssey.api.parameters import text
from odyssey.api.watching import Progress, watched
from odyssey.model.naming import NETCONF
from odyssey.orchestrator.questions import Questions
from odyssey.state.view import StateView
from rdmp.rpc import PeerAbsent

Params = Mapping[str, Any]
Answer = Mapping[str, Any]

#: A session may have to be made, and the switch read, before the answer.
READ_SECONDS = 120.0
#: A change is read back several times and saved; a switch may have to be connected to more than once.
CHANGE_SECONDS = 600.0


class NetconfQueries:
    """One method for each RPC."""

    def __init__(self, view: StateView, questions: Questions) -> None:
        self._view = view
        self._questions = questions

    async def list(self, _params: Params) -> Answer:
        """The switches with `management` in the inventory, each with what odyssey-netconf saw of it last."""
        switches = self._view.documents.get("inventory", {}).get("fabric", {}).get("switches", {})
        answer = await self._questions.try_ask(NETCONF, "devices", {})
        seen = (answer or {}).get("switches", {})
        return {
            "netconf": answer is not None,
            "switches": [
                {"switch": name, "profile": item["profile"], "address": _address(item["management"]), **_UNSEEN,
                 **seen.get(name, {})}
                for name, item in switches.items()
                if "management" in item
            ],
        }  # fmt: skip

    async def diff(self, params: Params) -> Answer:
        """What differs on `switch` from what was decided, or from what is ours of a `backup`; read now."""
        return await self._ask("diff", params, READ_SECONDS)

    async def backups(self, params: Params) -> Answer:
        """The backups of `switch`, oldest first."""
        return await self._ask("backups", params, READ_SECONDS)

    async def restore(self, progress: Progress, params: Params) -> Answer:
        """Make what is ours of `switch` what `backup` says."""
        text(params, "backup")
        return await watched(progress, lambda told: self._ask("restore", params, CHANGE_SECONDS, told))

    async def mend(self, progress: Progress, params: Params) -> Answer:
        """Make `switch` what was decided."""
        return await watched(progress, lambda told: self._ask("mend", params, CHANGE_SECONDS, told))

    async def _ask(
        self, method: str, params: Params, seconds: float, on_progress: Callable[[Params], None] | None = None
    ) -> Answer:
        text(params, "switch")
        if NETCONF not in self._questions.present():
            raise PeerAbsent("peer_absent", "odyssey-netconf is not connected to odysseyd; it alone reaches switches")
        return await self._questions.ask(NETCONF, method, params, seconds, on_progress)


_UNSEEN: Answer = {
    "connected": None, "reachable": None, "problem": None, "capabilities": [], "verified": None, "drift": None,
    "restored": None, "transaction": None, "held": None,
}  # fmt: skip
"""What is known of a switch of which odyssey-netconf told nothing."""


def _address(management: Mapping[str, Any]) -> str:
    """Where a switch is reached."""
    address = management["address"]
    return f"{f'[{address}]' if ':' in address else address}:{management.get('port', 830)}"
