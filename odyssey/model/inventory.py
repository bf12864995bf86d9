# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hosts and fabric as frozen values, parsed from a document that the schema ``inventory`` accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from odyssey.model.maintenance import Maintenance
from odyssey.model.profiles import PROFILES, ProfileFacts

GATEWAY6 = "fe80::1"
"""The IPv6 next hop of nodes where the document names none."""


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """A port of a switch, by the switch's name and the OpenFlow port number."""

    switch: str
    port: int

    def __str__(self) -> str:
        return f"{self.switch}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A transport port, as policy opens it and as a border accepts it."""

    protocol: str
    port: int

    def document(self) -> dict[str, Any]:
        """The port as JSON."""
        return {"protocol": self.protocol, "port": self.port}

    def __str__(self) -> str:
        return f"{self.protocol} {self.port}"


def parse_ports(items: Iterable[Mapping[str, Any]]) -> tuple[Port, ...]:
    """Parse ``[{"protocol": "tcp", "port": 80}]``: sorted, each once."""
    return tuple(sorted({Port(item["protocol"], item["port"]) for item in items}))


@dataclass(frozen=True, slots=True)
class Ranges:
    """Whole numbers that are owned, as inclusive ranges (low, high)."""

    parts: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, items: Iterable[Mapping[str, int]]) -> Ranges:
        """Parse ``[{"from": 100, "to": 199}]``."""
        return cls(tuple((item["from"], item["to"]) for item in items))

    def __contains__(self, number: int) -> bool:
        return any(low <= number <= high for low, high in self.parts)

    def __str__(self) -> str:
        return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in self.parts)


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
    """A NIC of a host and the switch port on which it hangs; `tagged`: frames of nodes carry their VLAN there."""

    nic: str
    at: SwitchPort
    tagged: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with a Docker engine and an agent; `nodes` is how many nodes it may hold."""

    name: str
    labels: Mapping[str, str]
    capacity: Resources
    nodes: int
    attachments: tuple[Attachment, ...]

    def ports_on(self, switch: str) -> tuple[int, ...]:
        """The ports of a switch on which the host hangs."""
        return tuple(item.at.port for item in self.attachments if item.at.switch == switch)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the host carries all of `labels`."""
        return all(self.labels.get(name) == value for name, value in labels.items())


@dataclass(frozen=True, slots=True)
class Border:
    """Where the fabric ends: ports, the prefixes behind them, who is there and what may come in (None: anything)."""

    name: str
    ports: tuple[SwitchPort, ...]
    prefix: IPv4Network
    gateway: IPv4Address
    peer: IPv4Address
    prefix6: IPv6Network | None = None
    gateway6: IPv6Address | None = None
    peer6: IPv6Address | None = None
    vlan: int | None = None
    accepts: tuple[Port, ...] | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch. `reflects` is what a probe found (yes, no), None where its profile is to be believed."""

    name: str
    datapath_id: str
    profile: str
    reflects: str | None = None
    owned_ports: Ranges | None = None

    @property
    def facts(self) -> ProfileFacts:
        """What its profile can do."""
        return PROFILES[self.profile]

    @property
    def reflecting(self) -> bool:
        """Tell whether it is known to send a frame out of the port on which it came in."""
        return (self.reflects or self.facts.reflects) == "yes"


@dataclass(frozen=True, slots=True)
class Fabric:
    """The switches, what joins them, and the constants that every node is configured with."""

    mac: str
    gateway: IPv4Address
    transit_vlan: int
    mtu: int
    switches: Mapping[str, Switch]
    links: tuple[tuple[SwitchPort, SwitchPort], ...]
    borders: Mapping[str, Border]
    gateway6: IPv6Address
    owned_vlans: Ranges | None

    @property
    def one_table(self) -> bool:
        """Tell whether some switch balances by the client's address."""
        return any(switch.facts.one_table for switch in self.switches.values())


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

    def switches_of(self, host: str) -> tuple[Switch, ...]:
        """The switches on which a host hangs; names that the fabric does not have are a fault told elsewhere."""
        names = (item.at.switch for item in self.hosts[host].attachments)
        return tuple(self.fabric.switches[name] for name in names if name in self.fabric.switches)

    def reflecting(self, host: str) -> bool:
        """Tell whether two nodes of this host reach each other, by a switch that sends frames back."""
        return all(switch.reflecting for switch in self.switches_of(host))

    def keeps_dark(self, host: str) -> bool:
        """Tell whether the switches of a host can keep a node dark whose link is up."""
        return all(switch.facts.keeps_dark for switch in self.switches_of(host))

    def for_controller(self, maintenance: Mapping[str, Maintenance]) -> dict[str, Any]:
        """The controller's document ``inventory``: the fabric, where each host is attached, what is out of use."""
        hosts = {name: {"attachments": host["attachments"]} for name, host in self.document["hosts"].items()}
        fabric = dict(self.document["fabric"])
        if maintenance:  # else the document stands as it is: it may be large
            fabric["switches"] = {
                name: {**switch, **(maintenance[name].for_controller() if name in maintenance else {})}
                for name, switch in fabric["switches"].items()
            }
        return {"fabric": fabric, "hosts": hosts}


def _port(document: Mapping[str, Any]) -> SwitchPort:
    return SwitchPort(document["switch"], document["port"])


def _host(name: str, document: Mapping[str, Any]) -> Host:
    return Host(
        name=name,
        labels=document.get("labels", {}),
        capacity=Resources.parse(document["capacity"]),
        nodes=document["capacity"]["nodes"],
        attachments=tuple(
            Attachment(item["nic"], _port(item), item.get("tagged", False)) for item in document["attachments"]
        ),
    )


def _border(name: str, document: Mapping[str, Any]) -> Border:
    return Border(
        name=name,
        ports=tuple(_port(port) for port in document["ports"]),
        prefix=IPv4Network(document["prefix"]),
        gateway=IPv4Address(document["gateway"]),
        peer=IPv4Address(document["peer"]["address"]),
        prefix6=IPv6Network(document["prefix6"]) if "prefix6" in document else None,
        gateway6=IPv6Address(document["gateway6"]) if "gateway6" in document else None,
        peer6=IPv6Address(document["peer"]["address6"]) if "address6" in document["peer"] else None,
        vlan=document.get("vlan"),
        accepts=parse_ports(document["accepts"]) if "accepts" in document else None,
    )


def _switch(name: str, document: Mapping[str, Any]) -> Switch:
    return Switch(
        name=name,
        datapath_id=document["datapathId"],
        profile=document["profile"],
        reflects=document.get("reflects"),
        owned_ports=Ranges.parse(document["ownedPorts"]) if "ownedPorts" in document else None,
    )


def _fabric(document: Mapping[str, Any]) -> Fabric:
    return Fabric(
        mac=document["mac"],
        gateway=IPv4Address(document["gateway"]),
        transit_vlan=document["transitVlan"],
        mtu=document["mtu"],
        switches={name: _switch(name, switch) for name, switch in document["switches"].items()},
        links=tuple((_port(link["a"]), _port(link["b"])) for link in document.get("links", [])),
        borders={name: _border(name, border) for name, border in document.get("borders", {}).items()},
        gateway6=IPv6Address(document.get("gateway6", GATEWAY6)),
        owned_vlans=Ranges.parse(document["owned"]["vlans"]) if "owned" in document else None,
    )
