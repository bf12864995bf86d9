# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is wrong with a fabric, one line for each fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from odyssey.cli.fabricview import attached_word
from odyssey.cli.text import plural

FULL_SHARE = 0.9
"""Of its entries, from which on a switch counts as nearly full."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`where` names what is marked: `switch sw1`, `port sw1:3` or `host h1`; `grave` says whether something is down."""

    where: str
    text: str
    grave: bool = True


def faults_of(fabric: Mapping[str, Any]) -> list[Fault]:
    """Everything that an operator should look at: first switches, then ports, then hosts."""
    found: list[Fault] = []
    for name, switch in fabric["switches"].items():
        found += _of_switch(name, switch)
    for name, switch in fabric["switches"].items():
        found += _of_ports(name, switch)
    for name, host in fabric["hosts"].items():
        if host.get("connected") is False:
            found.append(Fault(f"host {name}", f"{name}: its agent is not connected"))
        found += [Fault(f"host {name}", f"cabling: {text}") for text in host.get("wrongCables", [])]
    return found


def _of_switch(name: str, switch: Mapping[str, Any]) -> Iterator[Fault]:
    where = f"switch {name}"
    if not switch.get("connected"):
        yield Fault(where, f"{name}: not connected to the controller")
    if switch.get("isolated"):
        yield Fault(where, f"{name}: isolated, its ports to hosts and borders are down", grave=False)
    elif switch.get("maintenance"):
        yield Fault(where, f"{name}: in maintenance, others do not use it", grave=False)
    if switch.get("drift"):
        yield Fault(where, f"{name}: {plural(switch['drift'], 'difference')} from what was decided (drift)")
    entries, capacity = switch.get("entries") or 0, switch.get("capacity") or 0
    if capacity and entries >= FULL_SHARE * capacity:
        yield Fault(where, f"{name}: {entries} of {capacity} entries are used", grave=False)


def _of_ports(name: str, switch: Mapping[str, Any]) -> Iterator[Fault]:
    for port in switch["ports"]:
        where, what = f"port {name}:{port['port']}", f"{name} port {port['port']} ({attached_word(port['attached'])})"
        if port["up"] is False:
            reason = "the switch has no such port" if not port.get("exists", True) else "down"
            yield Fault(where, f"{what}: {reason}", grave=not switch.get("isolated"))
        if port.get("wrongCable"):
            yield Fault(where, f"cabling: {port['wrongCable']}")
