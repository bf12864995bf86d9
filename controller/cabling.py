# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compares what ports hear of each other with the inventory and names each wrong cable.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from controller.fabric import Inventory, Port

State = Literal["right", "wrong", "narrow", "silent", "unexpected", "down"]
FAULTS: frozenset[State] = frozenset({"wrong", "narrow", "unexpected"})


@dataclass(frozen=True, slots=True, order=True)
class Nic:
    """A NIC of a host."""

    host: str
    name: str

    def __str__(self) -> str:
        return f"{self.host} {self.name}"


@dataclass(frozen=True, slots=True)
class Heard:
    """The switch port that speaks at the other end; ``full``: frames as large as the fabric's MTU arrive too."""

    port: Port
    full: bool = True


@dataclass(frozen=True, slots=True)
class Cable:
    """One end of a cable as the inventory has it and as it is.

    ``expected`` is what should be at the other end, ``heard`` the switch port that speaks there, None where none does.
    """

    at: Port | Nic
    state: State
    expected: str
    heard: Port | None
    mtu: int = 0

    @property
    def text(self) -> str:
        """What is the matter, in words for people."""
        match self.state:
            case "narrow":
                return f"{self.at} hears {self.heard}, but no frames of the fabric's MTU of {self.mtu} bytes arrive"
            case "right":
                return f"{self.at}: {self.expected}"
            case "wrong":
                return f"{self.at} is cabled to {self.heard}; the inventory says {self.expected}"
            case "silent":
                return f"{self.at} hears nothing; the inventory says {self.expected}"
            case "unexpected":
                return f"{self.at} is cabled to {self.heard}; the inventory has nothing there"
            case "down":
                return f"{self.at} is down; the inventory says {self.expected}"


def judge(
    inventory: Inventory,
    heard: Mapping[Port, Heard],
    nics: Mapping[Nic, Heard | None],
    attachments: Mapping[Nic, Port],
    down: frozenset[Port],
) -> tuple[Cable, ...]:
    """Judge every end of a cable that something is known of.

    ``heard`` is what switch ports hear, ``nics`` what the NICs of hosts hear (hosts that nobody asked are left out),
    ``attachments`` where each NIC should hang, ``down`` the ports without carrier.
    """
    mtu = inventory.mtu
    cables = [*_links(inventory, heard, down), *_stations(inventory, heard), *_nics(nics, attachments, down, mtu)]
    return tuple(sorted(cables, key=lambda cable: (isinstance(cable.at, Nic), str(cable.at))))


def _links(inventory: Inventory, heard: Mapping[Port, Heard], down: frozenset[Port]) -> Iterator[Cable]:
    for link in inventory.links:
        for near, far in ((link.a, link.b), (link.b, link.a)):
            yield _judged(near, far, heard.get(near), near in down, inventory.mtu)


def _judged(at: Port | Nic, expected: Port, heard: Heard | None, is_down: bool, mtu: int) -> Cable:
    if heard is not None and heard.port == expected:
        return Cable(at, "right" if heard.full else "narrow", str(expected), heard.port, mtu)
    if heard is not None:
        return Cable(at, "wrong", str(expected), heard.port)
    return Cable(at, "down" if is_down else "silent", str(expected), None)


def _stations(inventory: Inventory, heard: Mapping[Port, Heard]) -> Iterator[Cable]:
    """A switch port of ours that is heard where a host, a border or nothing should be."""
    owners = {port: f"host {host.name}" for host in inventory.hosts.values() for port in host.ports}
    owners |= {port: f"border {border.name}" for border in inventory.borders.values() for port in border.ports}
    trunks = {port for link in inventory.links for port in (link.a, link.b)}
    for port, other in heard.items():
        if port in owners:
            yield Cable(port, "wrong", owners[port], other.port)
        elif port not in trunks:
            yield Cable(port, "unexpected", "nothing", other.port)


def _nics(
    nics: Mapping[Nic, Heard | None], attachments: Mapping[Nic, Port], down: frozenset[Port], mtu: int
) -> Iterator[Cable]:
    for nic, other in nics.items():
        expected = attachments.get(nic)
        if expected is not None:
            yield _judged(nic, expected, other, expected in down, mtu)
        elif other is not None:
            yield Cable(nic, "unexpected", "nothing", other.port)
