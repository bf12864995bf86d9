# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the switches have to make true: inventory, networks, policies, services and bindings as frozen values."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from controller.families import IPV4, Address, Family, Prefix

GATEWAY6 = IPv6Address("fe80::1")
"""The IPv6 next hop of nodes where the inventory names none."""


class Phase(enum.StrEnum):
    """What the switches do for a node (``docs/fabric.md``, "What a phase means")."""

    DARK = "dark"
    ADMITTED = "admitted"
    DRAINING = "draining"
    STANDBY = "standby"

    @property
    def serves(self) -> bool:
        """Tell whether others may reach the node."""
        return self in (Phase.ADMITTED, Phase.DRAINING)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an intent cannot be made true: ``subject`` is the document's key or the switch, ``reason`` is for people."""

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


class IntentRefused(Exception):
    """An intent with every reason why it is refused."""

    def __init__(self, refusals: Iterable[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("; ".join(str(refusal) for refusal in self.refusals))


@dataclass(frozen=True)
class Document:
    """An intent document and the sequence number of the transaction that last changed it.

    ``memo`` keeps what was read from it: of a large intent only what changed is read again.
    """

    value: Mapping[str, Any]
    seq: int
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def generation(self) -> int:
        """16 bits that tell its content, and nothing else: the same on every controller and after every restart."""
        text = json.dumps(self.value, sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest())


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of a switch, by its OpenFlow number."""

    switch: str
    number: int

    def __str__(self) -> str:
        return f"{self.switch}:{self.number}"


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch; ``capacity`` is the number of flow entries that it may hold.

    ``reflects`` is what a probe found, None where nobody looked; ``maintenance``: others do not use it; ``isolated``:
    its ports to hosts and borders are down too.
    """

    name: str
    datapath_id: int
    profile: str
    capacity: int
    reflects: bool | None = None
    owned_ports: tuple[range, ...] | None = None
    maintenance: bool = False
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A trunk: a cable between two switches."""

    a: Port
    b: Port


@dataclass(frozen=True, slots=True)
class Station:
    """Something that hangs on the fabric by ports of its own: a host or a border.

    Frames on the ports of ``tagged`` carry a VLAN; ``nics`` are the names of a host's NICs at ``ports``.
    """

    name: str
    ports: tuple[Port, ...]
    tagged: frozenset[Port] = frozenset()
    nics: tuple[str, ...] = ()

    def port_on(self, switch: str) -> int | None:
        """Return the number of its port on ``switch``, None where it has none."""
        return next((port.number for port in self.ports if port.switch == switch), None)

    def nic_at(self, port: Port) -> str:
        """Return the name of the NIC at a port, empty where there is none."""
        return dict(zip(self.ports, self.nics, strict=False)).get(port, "")

    @property
    def homes(self) -> tuple[str, ...]:
        """The switches on which it has a port, in the order of its ports."""
        return tuple(dict.fromkeys(port.switch for port in self.ports))


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """A port to which connections may be opened; ``protocol`` is ``tcp`` or ``udp``."""

    protocol: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Border(Station):
    """A way out of the fabric: the devices of its prefixes behind one peer.  MAC addresses are 48-bit integers.

    ``accepts`` bounds what may be exposed there, None: anything; ``vlan`` is the tag of its frames.
    """

    number: int
    prefix: IPv4Network
    gateway: IPv4Address
    peer_address: IPv4Address
    peer_mac: int
    prefix6: IPv6Network | None = None
    gateway6: IPv6Address | None = None
    peer_address6: IPv6Address | None = None
    vlan: int | None = None
    accepts: frozenset[Service] | None = None

    def prefix_of(self, family: Family) -> Prefix | None:
        """Return its prefix in a family."""
        return self.prefix if family is IPV4 else self.prefix6

    def gateway_of(self, family: Family) -> Address | None:
        """Return the address in a family for which the fabric answers."""
        return self.gateway if family is IPV4 else self.gateway6


@dataclass(frozen=True, slots=True)
class Inventory:
    """The fabric: its switches, links, borders and the ports of the hosts; ``owned_vlans`` None: every VLAN is ours."""

    mac: int
    gateway: IPv4Address
    transit_vlan: int
    switches: Mapping[str, Switch]
    links: tuple[Link, ...]
    borders: Mapping[str, Border]
    hosts: Mapping[str, Station]
    gateway6: IPv6Address = GATEWAY6
    mtu: int = 1500
    owned_vlans: tuple[range, ...] | None = None

    def trunks(self, switch: str) -> Mapping[int, Port]:
        """Return the far end of each trunk port of ``switch``."""
        ends = [(link.a, link.b) for link in self.links] + [(link.b, link.a) for link in self.links]
        return {near.number: far for near, far in sorted(ends) if near.switch == switch}

    @property
    def stations(self) -> Iterator[Station]:
        """All hosts and borders."""
        yield from self.hosts.values()
        yield from self.borders.values()

    def ports(self, switch: str) -> tuple[int, ...]:
        """Return the numbers of the ports of ``switch`` that the inventory names, sorted."""
        return tuple(sorted({*self.station_ports(switch), *self.trunks(switch)}))

    def station_ports(self, switch: str) -> tuple[int, ...]:
        """Return the numbers of the ports of ``switch`` to hosts and borders, sorted."""
        numbers = {port.number for station in self.stations for port in station.ports if port.switch == switch}
        return tuple(sorted(numbers))


@dataclass(frozen=True, slots=True)
class Network:
    """One tier: ``key`` is ``platform/network``; ``number`` is what register 0 carries."""

    key: str
    number: int
    subnet: IPv4Network
    vlan: int | None
    subnet6: IPv6Network | None = None

    def prefix_of(self, family: Family) -> Prefix | None:
        """Return its subnet in a family."""
        return self.subnet if family is IPV4 else self.subnet6


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may open connections to which ports; ``source`` is a network or, where ``from_border``, a border."""

    key: str
    source: str
    target: str
    services: tuple[Service, ...]
    from_border: bool


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """One address for the nodes of a network.

    ``slots`` names the node of each slot; ``pins`` the node for the clients of a prefix, on switches with one table.
    """

    key: str
    network: str
    address: IPv4Address
    address6: IPv6Address | None
    slots: tuple[str, ...]
    pins: Mapping[IPv4Network, str] = field(default_factory=dict)

    def address_of(self, family: Family) -> Address | None:
        """Return the address in a family."""
        return self.address if family is IPV4 else self.address6


@dataclass(frozen=True, slots=True)
class Binding:
    """A node at its place; ``mac`` is a 48-bit integer."""

    node: str
    network: str
    address: IPv4Address
    mac: int
    host: str
    phase: Phase
    address6: IPv6Address | None = None

    def address_of(self, family: Family) -> Address | None:
        """Return its address in a family."""
        return self.address if family is IPV4 else self.address6


@dataclass(frozen=True, slots=True)
class Intent:
    """Everything that the switches have to make true.

    ``services`` are by network key; ``generations`` are by document key.
    """

    inventory: Inventory | None = None
    networks: Mapping[str, Network] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    services: Mapping[str, ServiceAddress] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)


def parse_mac(text: str) -> int:
    """Return the 48-bit integer of a MAC address in colon notation."""
    return int(text.replace(":", ""), 16)


def format_mac(value: int) -> str:
    """Return a MAC address in colon notation."""
    return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))
