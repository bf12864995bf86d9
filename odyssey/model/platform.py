# SPDX-License-Identifier: AGPL-3.0-or-later
"""A platform as frozen values, parsed from a document that the schema ``platform`` accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from odyssey.model.inventory import Resources

RESOURCES: Mapping[str, Any] = {"cpus": 0.5, "memoryMiB": 256}
"""What a node gets where the document names no resources."""

HEALTH: Mapping[str, float] = {"interval": 0.5, "timeout": 1.0, "deadline": 30.0}
"""Seconds between checks, for one check, and until a new node must be healthy."""

ON_CHANGE_TIMEOUT = 5.0
"""Seconds that an onChange command may take."""

DRAIN_TIMEOUT = 30.0
"""Seconds that a withdrawn node may take to finish its connections."""


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A transport port, as policy opens it."""

    protocol: str
    port: int

    def document(self) -> dict[str, Any]:
        """The port as JSON."""
        return {"protocol": self.protocol, "port": self.port}

    def __str__(self) -> str:
        return f"{self.protocol} {self.port}"


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
            peers=_ports(document["peers"]) if "peers" in document else (),
            health={**HEALTH, **document["health"]},
            on_change={"timeout": ON_CHANGE_TIMEOUT, **on_change} if on_change else None,
            resources=Resources.parse({**RESOURCES, **document.get("resources", {})}),
            labels=document.get("placement", {}).get("labels", {}),
            drain_timeout=float(document.get("drain", {}).get("timeout", DRAIN_TIMEOUT)),
            volume=document["stateful"]["volume"] if document.get("stateful") else None,
            secrets=document.get("secrets", {}),
            environment=document.get("environment", {}),
            command=tuple(command) if command is not None else None,
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

    def dependents(self, network: str) -> tuple[str, ...]:
        """Names of the networks that depend on `network`, sorted."""
        return tuple(name for name, other in self.networks.items() if network in other.depends_on)


def _ports(document: Mapping[str, Any]) -> tuple[Port, ...]:
    return tuple(sorted({Port(item["protocol"], item["port"]) for item in document["ports"]}))


def _ports_by_name(document: Mapping[str, Any]) -> dict[str, tuple[Port, ...]]:
    return {name: _ports(value) for name, value in sorted(document.items())}
