# SPDX-License-Identifier: AGPL-3.0-or-later
"""A platform as frozen values, parsed from a document that the schema ``platform`` accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from odyssey.model.inventory import Port, Resources, parse_ports

RESOURCES: Mapping[str, Any] = {"cpus": 0.5, "memoryMiB": 256}
"""What a node gets where the document names no resources."""

HEALTH: Mapping[str, float] = {"interval": 0.5, "timeout": 1.0, "deadline": 30.0}
"""Seconds between checks, for one check, and until a new node must be healthy."""

ON_CHANGE_TIMEOUT = 5.0
"""Seconds that an onChange command may take."""

DRAIN_TIMEOUT = 30.0
"""Seconds that a withdrawn node may take to finish its connections."""


SLOTS = 64
"""Parts in which new connections to a service address are divided where the document names no number."""


@dataclass(frozen=True, slots=True)
class Service:
    """One address for all nodes of a network; the switches spread new connections over them by `slots`."""

    address: IPv4Address
    address6: IPv6Address | None
    slots: int

    def addresses(self) -> dict[str, str]:
        """The addresses as documents name them."""
        six = {"address6": str(self.address6)} if self.address6 is not None else {}
        return {"address": str(self.address), **six}


@dataclass(frozen=True, slots=True)
class Scale:
    """How many nodes a network may have and has; `count` is None where the document leaves it open."""

    min: int
    max: int
    count: int | None
    standby: int

    def clamp(self, count: int) -> int:
        """The allowed count nearest to `count`."""
        return max(self.min, min(self.max, count))


@dataclass(frozen=True, slots=True)
class Network:
    """One tier of a platform. `health` and `on_change` are documents with every default filled in."""

    platform: str
    name: str
    subnet: IPv4Network
    vlan: int
    image: str
    scale: Scale
    depends_on: Mapping[str, tuple[Port, ...]]
    exposed_to: Mapping[str, tuple[Port, ...]]
    peers: tuple[Port, ...]
    health: Mapping[str, Any]
    on_change: Mapping[str, Any] | None
    resources: Resources
    labels: Mapping[str, str]
    drain_timeout: float
    volume: str | None
    secrets: Mapping[str, str]
    environment: Mapping[str, str]
    command: tuple[str, ...] | None
    subnet6: IPv6Network | None = None
    service: Service | None = None

    @property
    def reserved(self) -> frozenset[IPv4Address]:
        """Addresses that no node may have because the node, or its IPv6 address, would be the service address."""
        if self.service is None:
            return frozenset()
        found = {self.service.address}
        if self.service.address6 is not None and self.subnet6 is not None:
            distance = int(self.service.address6) - int(self.subnet6.network_address)
            if 0 <= distance < self.subnet.num_addresses:
                found.add(self.subnet.network_address + distance)
        return frozenset(found)

    @property
    def key(self) -> str:
        """The cluster-wide name, ``shop/app``."""
        return f"{self.platform}/{self.name}"

    @classmethod
    def parse(cls, platform: str, name: str, document: Mapping[str, Any]) -> Network:
        """Parse one entry of ``networks`` of a platform document."""
        scale = document["scale"]
        on_change = document.get("onChange")
        command = document.get("command")
        return cls(
            platform=platform,
            name=name,
            subnet=IPv4Network(document["subnet"], strict=False),
            vlan=document["vlan"],
            image=document["image"],
            scale=Scale(scale["min"], scale["max"], scale.get("count"), scale.get("standby", 0)),
            depends_on=_ports_by_name(document.get("dependsOn", {})),
            exposed_to=_ports_by_name(document.get("exposedTo", {})),
            peers=parse_ports(document["peers"]["ports"]) if "peers" in document else (),
            health={**HEALTH, **document["health"]},
            on_change={"timeout": ON_CHANGE_TIMEOUT, **on_change} if on_change else None,
            resources=Resources.parse({**RESOURCES, **document.get("resources", {})}),
            labels=document.get("placement", {}).get("labels", {}),
            drain_timeout=float(document.get("drain", {}).get("timeout", DRAIN_TIMEOUT)),
            volume=document["stateful"]["volume"] if document.get("stateful") else None,
            secrets=document.get("secrets", {}),
            environment=document.get("environment", {}),
            command=tuple(command) if command is not None else None,
            subnet6=IPv6Network(document["subnet6"], strict=False) if "subnet6" in document else None,
            service=_service(document["service"]) if "service" in document else None,
        )


@dataclass(frozen=True, slots=True)
class Platform:
    """A parsed platform; `document` is what it was parsed from."""

    document: Mapping[str, Any]
    name: str
    networks: Mapping[str, Network]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Platform:
        """Parse a document that the schema ``platform`` accepts."""
        name = document["platform"]
        networks = document["networks"].items()
        return cls(document, name, {key: Network.parse(name, key, value) for key, value in sorted(networks)})

    def partners(self, network: str) -> frozenset[str]:
        """Names of the networks with whose nodes a node of `network` may exchange packets; itself if it has peers."""
        own = self.networks[network]
        return frozenset((*own.depends_on, *self.dependents(network), *((network,) if own.peers else ())))

    def dependents(self, network: str) -> tuple[str, ...]:
        """Names of the networks that depend on `network`, sorted."""
        return tuple(name for name, other in self.networks.items() if network in other.depends_on)


def _service(document: Mapping[str, Any]) -> Service:
    six = document.get("address6")
    return Service(IPv4Address(document["address"]), IPv6Address(six) if six else None, document.get("slots", SLOTS))


def _ports_by_name(document: Mapping[str, Any]) -> dict[str, tuple[Port, ...]]:
    return {name: parse_ports(value["ports"]) for name, value in sorted(document.items())}
