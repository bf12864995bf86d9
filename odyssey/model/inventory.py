# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hosts and fabric as frozen values, parsed from a document that the schema ``inventory`` accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A port of a switch, by the switch's name and the OpenFlow port number."""

    switch: str
    port: int

    def __str__(self) -> str:
        return f"{self.switch}:{self.port}"


@dataclass(frozen=True, slots=True)
class Resources:
    """Amounts of a host or needs of a node: thousandths of a CPU, and MiB of memory."""

    millicpus: int
    memory: int

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Resources:
        """Parse ``{"cpus": 0.5, "memoryMiB": 128}``; whole thousandths keep sums exact."""
        return cls(round(document["cpus"] * 1000), document["memoryMiB"])

    @property
    def cpus(self) -> float:
        """CPUs."""
        return self.millicpus / 1000


@dataclass(frozen=True, slots=True)
class Attachment:
    """A NIC of a host and the switch port on which it hangs."""

    nic: str
    at: SwitchPort


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with a Docker engine and an agent; `nodes` is how many nodes it may hold."""

    name: str
    labels: Mapping[str, str]
    capacity: Resources
    nodes: int
    attachments: tuple[Attachment, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the host carries all of `labels`."""
        return all(self.labels.get(name) == value for name, value in labels.items())


@dataclass(frozen=True, slots=True)
class Border:
    """Where the fabric ends: ports, the prefix behind them and who is there."""

    name: str
    ports: tuple[SwitchPort, ...]
    prefix: IPv4Network
    gateway: IPv4Address
    peer: IPv4Address


@dataclass(frozen=True, slots=True)
class Fabric:
    """The switches, what joins them, and the constants that every node is configured with."""

    mac: str
    gateway: IPv4Address
    transit_vlan: int
    mtu: int
    switches: Mapping[str, str]  # name -> datapath id
    links: tuple[tuple[SwitchPort, SwitchPort], ...]
    borders: Mapping[str, Border]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The parsed inventory; `document` is what it was parsed from."""

    document: Mapping[str, Any]
    cluster: str
    fabric: Fabric
    hosts: Mapping[str, Host]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Inventory:
        """Parse a document that the schema ``inventory`` accepts."""
        hosts = {name: _host(name, host) for name, host in sorted(document["hosts"].items())}
        return cls(document, document["cluster"], _fabric(document["fabric"]), hosts)

    def for_controller(self) -> dict[str, Any]:
        """The controller's document ``inventory``: the fabric, and where each host is attached."""
        hosts = {name: {"attachments": host["attachments"]} for name, host in self.document["hosts"].items()}
        return {"fabric": self.document["fabric"], "hosts": hosts}


def _port(document: Mapping[str, Any]) -> SwitchPort:
    return SwitchPort(document["switch"], document["port"])


def _host(name: str, document: Mapping[str, Any]) -> Host:
    return Host(
        name=name,
        labels=document.get("labels", {}),
        capacity=Resources.parse(document["capacity"]),
        nodes=document["capacity"]["nodes"],
        attachments=tuple(Attachment(item["nic"], _port(item)) for item in document["attachments"]),
    )


def _border(name: str, document: Mapping[str, Any]) -> Border:
    return Border(
        name=name,
        ports=tuple(_port(port) for port in document["ports"]),
        prefix=IPv4Network(document["prefix"]),
        gateway=IPv4Address(document["gateway"]),
        peer=IPv4Address(document["peer"]["address"]),
    )


def _fabric(document: Mapping[str, Any]) -> Fabric:
    return Fabric(
        mac=document["mac"],
        gateway=IPv4Address(document["gateway"]),
        transit_vlan=document["transitVlan"],
        mtu=document["mtu"],
        switches={name: switch["datapathId"] for name, switch in document["switches"].items()},
        links=tuple((_port(link["a"]), _port(link["b"])) for link in document.get("links", [])),
        borders={name: _border(name, border) for name, border in document.get("borders", {}).items()},
    )
