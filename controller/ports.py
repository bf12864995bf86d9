# SPDX-License-Identifier: AGPL-3.0-or-later
"""The ports of switches as values: which are up, what they counted, and what hangs there by the inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.fabric import Inventory


@dataclass(frozen=True, slots=True)
class PortState:
    """A port as its switch describes it (OpenFlow 1.3.5, 7.2.1).

    ``up``: it is not shut down and has a carrier.  ``speed`` is in kbit/s, 0 where the switch does not say; ``mac`` is
    a 48-bit integer.
    """

    number: int
    name: str
    up: bool
    speed: int
    mac: int


@dataclass(frozen=True, slots=True)
class PortChange:
    """A port that came, changed, or (``gone``) was taken out of its switch."""

    state: PortState
    gone: bool


@dataclass(frozen=True, slots=True)
class PortCounters:
    """What a port has counted since it exists (OpenFlow 1.3.5, 7.3.5.6); ``seconds`` is how long that is."""

    number: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Attached:
    """What hangs on a port: ``kind`` is ``host``, ``border`` or ``switch``, ``at`` the NIC or the far port."""

    kind: str
    name: str
    at: str = ""

    def __str__(self) -> str:
        return " ".join(word for word in (self.kind, self.name, self.at) if word)

    def to_json(self) -> dict[str, str]:
        """Return it as an answer carries it."""
        return {"kind": self.kind, "name": self.name, "at": self.at}


def attached(inventory: Inventory, switch: str) -> Mapping[int, Attached]:
    """Return what the inventory hangs on each port of a switch, in the order of the ports' numbers."""
    found = {}
    for name, host in inventory.hosts.items():
        for port in host.ports:
            if port.switch == switch:
                found[port.number] = Attached("host", name, host.nic_at(port))
    for name, border in inventory.borders.items():
        found.update({port.number: Attached("border", name) for port in border.ports if port.switch == switch})
    for number, far in inventory.trunks(switch).items():
        found[number] = Attached("switch", far.switch, f"port {far.number}")
    return dict(sorted(found.items()))


def port_json(state: PortState | None, counters: PortCounters | None) -> dict[str, Any]:
    """Return a port as answers carry it; a port that the switch does not have is down and has no name."""
    found: dict[str, Any] = {"name": None, "up": False, "exists": state is not None, "speed": 0}
    if state is not None:
        found |= {"name": state.name, "up": state.up, "speed": state.speed}
    if counters is not None:
        found |= {
            "rxPackets": counters.rx_packets,
            "txPackets": counters.tx_packets,
            "rxBytes": counters.rx_bytes,
            "txBytes": counters.tx_bytes,
            "rxDropped": counters.rx_dropped,
            "txDropped": counters.tx_dropped,
            "rxErrors": counters.rx_errors,
            "txErrors": counters.tx_errors,
        }
    return found
