# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a switch shall be configured with, parsed from a document of ``netconf-operation``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

Json = Mapping[str, Any]
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Management:
    """How a switch is reached; the files lie on this machine."""

    address: str
    port: int
    username: str
    host_key: str
    key_file: str | None = None
    password_file: str | None = None

    @classmethod
    def parse(cls, document: Json) -> Management:
        """Parse a document that the schema accepts."""
        return cls(
            document["address"], document.get("port", 830), document["username"], document["hostKey"],
            document.get("keyFile"), document.get("passwordFile"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """An interface: ``vlans`` with ``tagged`` are a trunk's, else there is one, the access VLAN.

    ``acl`` names the access list for what comes in, ``mtu`` is in bytes (None: left as it is).
    """

    description: str
    vlans: frozenset[int]
    tagged: bool
    enabled: bool = True
    mtu: int | None = None
    acl: str | None = None

    @classmethod
    def parse(cls, document: Json) -> Port:
        """Parse a document that the schema accepts."""
        tagged = "trunk" in document
        vlans = document["trunk"] if tagged else ([document["access"]] if "access" in document else [])
        return cls(
            document["description"], frozenset(vlans), tagged, document.get("enabled", True), document.get("mtu"),
            document.get("acl"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A link aggregation (LACP, active): its number on the device, the interfaces in it, and what it carries."""

    number: int
    members: frozenset[str]
    port: Port


@dataclass(frozen=True, slots=True)
class Controller:
    """Where the OpenFlow agent connects to, with TLS."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Owned:
    """What may be touched: ranges of VLANs, and interfaces by name."""

    vlans: tuple[Range, ...]
    ports: frozenset[str]

    def vlan(self, number: int) -> bool:
        """Tell whether a VLAN is ours."""
        return any(low <= number <= high for low, high in self.vlans)

    def __or__(self, other: Owned) -> Owned:
        return Owned(tuple(sorted({*self.vlans, *other.vlans})), self.ports | other.ports)


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """All that a switch shall be configured with.  ``acls`` maps a name to the prefixes that may send."""

    profile: str
    management: Management
    owned: Owned
    vlans: Mapping[int, str] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    aggregates: Mapping[int, Aggregate] = field(default_factory=dict)
    acls: Mapping[str, tuple[IPv4Network | IPv6Network, ...]] = field(default_factory=dict)
    controllers: tuple[Controller, ...] = ()
    openflow_ports: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, document: Json) -> DeviceConfig:
        """Parse a document that the schema accepts."""
        owned = document["owned"]
        return cls(
            profile=document["profile"],
            management=Management.parse(document["management"]),
            owned=Owned(_ranges(owned["vlans"]), frozenset(owned["ports"])),
            vlans={int(number): name for number, name in document["vlans"].items()},
            ports={name: Port.parse(port) for name, port in document["ports"].items()},
            aggregates={
                int(number): Aggregate(int(number), frozenset(item["members"]), Port.parse(item["port"]))
                for number, item in document.get("aggregates", {}).items()
            },
            acls={name: tuple(map(ip_network, prefixes)) for name, prefixes in document.get("acls", {}).items()},
            controllers=tuple(Controller(item["address"], item["port"]) for item in document.get("controllers", [])),
            openflow_ports=frozenset(document.get("openflowPorts", [])),
        )

    def faults(self) -> list[str]:
        """What the document names that is not owned or not there."""
        aggregates = self.aggregates.values()
        interfaces = {*self.ports, *self.openflow_ports, *(name for one in aggregates for name in one.members)}
        found = [f"VLAN {number} is not among the owned VLANs" for number in self.vlans if not self.owned.vlan(number)]
        found += [f"interface {name} is not owned" for name in sorted(interfaces - self.owned.ports)]
        for name, port in [*self.ports.items(), *((f"aggregation {one.number}", one.port) for one in aggregates)]:
            found += [f"{name}: VLAN {number} is not there" for number in sorted(port.vlans - self.vlans.keys())]
            if port.acl is not None and port.acl not in self.acls:
                found.append(f"{name}: there is no access list {port.acl}")
            if port.enabled and not port.vlans:
                found.append(f"{name}: an interface that carries no VLAN has to be disabled")
        return found


def released(before: DeviceConfig, after: DeviceConfig | None) -> dict[str, Port]:
    """The interfaces that ``after`` no longer names: shut, so that nobody gets into a foreign VLAN by them."""
    kept: Iterable[str] = () if after is None else after.ports
    return {
        name: Port("released by odyssey", frozenset(), tagged=False, enabled=False)
        for name in before.ports.keys() - set(kept)
    }


def _ranges(documents: Iterable[Json]) -> tuple[Range, ...]:
    return tuple((item["from"], item["to"]) for item in documents)
