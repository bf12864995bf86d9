# SPDX-License-Identifier: AGPL-3.0-or-later
"""Switches that are out of use, as frozen values with their stored documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A switch that is out of use, by its state document ``maintenance/<switch>``.

    The hosts in `avoid` were told to leave these NICs alone. Once `isolated`, its ports towards hosts are down. When it
    is `over` the switch is in use again, and the hosts that are left were away and are still to be told.
    """

    switch: str
    isolated: bool = False
    over: bool = False
    avoid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """The phase in one word: unused, isolated or over."""
        return "over" if self.over else "isolated" if self.isolated else "unused"

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Maintenance:
        """Parse the state document."""
        phase = document["phase"]
        avoid = {host: tuple(nics) for host, nics in sorted(document["avoid"].items())}
        return cls(document["switch"], phase == "isolated", phase == "over", avoid)

    def document(self) -> dict[str, Any]:
        """The state document."""
        avoid = {host: list(nics) for host, nics in sorted(self.avoid.items())}
        return {"switch": self.switch, "phase": self.phase, "avoid": avoid}

    def for_controller(self) -> dict[str, bool]:
        """What the controller's inventory says of the switch."""
        if self.over:
            return {}
        return {"maintenance": True, **({"isolated": True} if self.isolated else {})}
