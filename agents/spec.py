# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an agent is told, as frozen values: node specifications and the operation of a transaction.

The documents are checked by the schemas `node-spec` and `agent-operation` first, so parsing them cannot fail.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import schemas

Phase = Literal["admitted", "standby"]
HealthKind = Literal["http", "tcp", "command"]
LinkMode = Literal["up", "admitted"]

DEFAULT_INTERVAL = 0.2  # seconds between two health checks
DEFAULT_TIMEOUT = 1.0  # seconds that one check may take
DEFAULT_DEADLINE = 20.0  # seconds within which a new node must become healthy
DEFAULT_ON_CHANGE_TIMEOUT = 5.0
DEFAULT_MTU = 1500
DEFAULT_GATEWAY6 = "fe80::1"


@dataclass(frozen=True, slots=True)
class Health:
    """A health check; times are in seconds."""

    kind: HealthKind
    port: int = 0
    path: str = "/"
    command: tuple[str, ...] = ()
    interval: float = DEFAULT_INTERVAL
    timeout: float = DEFAULT_TIMEOUT
    deadline: float = DEFAULT_DEADLINE


@dataclass(frozen=True, slots=True)
class OnChange:
    """A command that tells the workload that its neighbours file changed; `timeout` is in seconds."""

    command: tuple[str, ...]
    timeout: float = DEFAULT_ON_CHANGE_TIMEOUT


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume and where the container sees it."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """How a node hangs on the fabric: one macvlan on each of `nics`, in order of preference.

    IPv6 addresses are in the form of RFC 5952, as the kernel prints them. Where `link` is `admitted` the NICs stay down
    until the node is admitted.
    """

    address: str
    mac: str
    nics: tuple[str, ...]
    gateway: str
    fabric_mac: str
    mtu: int = DEFAULT_MTU
    address6: str | None = None
    gateway6: str = DEFAULT_GATEWAY6
    service_addresses: tuple[str, ...] = ()
    vlan: int | None = None
    tagged: frozenset[str] = frozenset()
    link: LinkMode = "up"

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Attachment:
        """Read the part of a node-spec that tells of the attachment."""
        address6 = document.get("address6")
        return cls(
            address=document["address"],
            mac=document["mac"],
            nics=tuple(document["nics"]),
            gateway=document["gateway"],
            fabric_mac=document["fabricMac"],
            mtu=document.get("mtu", DEFAULT_MTU),
            address6=None if address6 is None else _canonical(address6),
            gateway6=_canonical(document.get("gateway6", DEFAULT_GATEWAY6)),
            service_addresses=tuple(_canonical(text) for text in document.get("serviceAddresses", ())),
            vlan=document.get("vlan"),
            tagged=frozenset(document.get("taggedNics", ())),
            link=document.get("link", "up"),
        )

    def parent(self, number: int) -> str:
        """Return the host's interface below the node's NIC of that number: a NIC, or its VLAN interface."""
        nic = self.nics[number]
        return f"{nic}.{self.vlan}" if nic in self.tagged else nic

    @property
    def vlan_interfaces(self) -> frozenset[str]:
        """The VLAN interfaces of the host that the node needs."""
        return frozenset(self.parent(number) for number, nic in enumerate(self.nics) if nic in self.tagged)

    def stands_up(self, phase: Phase | None) -> bool:
        """Tell whether the NICs are to be up in a phase; None: not committed yet."""
        return self.link == "up" or phase == "admitted"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node of this host. `document` is the node-spec it was read from."""

    node: str
    image: str
    attachment: Attachment
    image_id: str | None = None
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    volume: Volume | None = None
    cpus: float | None = None
    memory_mib: int | None = None
    health: Health | None = None
    on_change: OnChange | None = None
    neighbours: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> NodeSpec:
        """Read a document that matches the schema `node-spec`."""
        resources = document.get("resources") or {}
        volume = document.get("volume")
        return cls(
            node=document["node"],
            image=document["image"],
            attachment=Attachment.parse(document),
            image_id=document.get("imageId"),
            command=_words(document.get("command")),
            environment=dict(document.get("environment") or {}),
            secrets=dict(document.get("secrets") or {}),
            volume=Volume(volume["name"], volume["path"]) if volume else None,
            cpus=resources.get("cpus"),
            memory_mib=resources.get("memoryMiB"),
            health=_health(document.get("health")),
            on_change=_on_change(document.get("onChange")),
            neighbours=document.get("neighbours") or _no_neighbours(document["node"]),
            document=document,
        )

    def with_neighbours(self, neighbours: Mapping[str, Any]) -> NodeSpec:
        """Return the same node with another neighbours document."""
        return NodeSpec.parse({**self.document, "neighbours": dict(neighbours)})


@dataclass(frozen=True, slots=True)
class Committed:
    """A node that a decision gave to this host; the state document `node/<name>`."""

    spec: NodeSpec
    phase: Phase
    tx: str

    def to_document(self) -> dict[str, Any]:
        """Return the state document."""
        return {"spec": dict(self.spec.document), "phase": self.phase, "tx": self.tx}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Committed:
        """Read a state document that this agent wrote. Raises schemas.SchemaError if its node-spec is not valid."""
        schemas.check("node-spec", document["spec"])
        return cls(NodeSpec.parse(document["spec"]), document["phase"], document["tx"])


@dataclass(frozen=True, slots=True)
class Operation:
    """What one transaction asks of this agent; `avoid` is None where it says nothing of the host's NICs."""

    start: tuple[NodeSpec, ...] = ()
    admit: Mapping[str, Phase] = field(default_factory=dict)
    neighbours: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    avoid: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Operation:
        """Check and read an operation. Raises schemas.SchemaError with every fault."""
        schemas.check("agent-operation", document)
        stages = document["stages"]
        admit = stages.get("admit") or {}
        phases: dict[str, Phase] = dict.fromkeys(admit.get("nodes", ()), "admitted")
        phases.update(dict.fromkeys(admit.get("standby", ()), "standby"))
        return cls(
            start=tuple(NodeSpec.parse(item) for item in (document["prepare"] or {}).get("start", ())),
            admit=phases,
            neighbours=dict((stages.get("neighbours") or {}).get("files", {})),
            stop=tuple((stages.get("stop") or {}).get("nodes", ())),
            avoid=tuple(stages["prefer"]["avoid"]) if "prefer" in stages else None,
        )

    @property
    def started(self) -> frozenset[str]:
        """The names of the nodes that prepare starts."""
        return frozenset(spec.node for spec in self.start)


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _words(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def _health(document: Mapping[str, Any] | None) -> Health | None:
    if document is None:
        return None
    return Health(
        kind=document["type"],
        port=document.get("port", 0),
        path=document.get("path", "/"),
        command=_words(document.get("command")) or (),
        interval=float(document.get("interval", DEFAULT_INTERVAL)),
        timeout=float(document.get("timeout", DEFAULT_TIMEOUT)),
        deadline=float(document.get("deadline", DEFAULT_DEADLINE)),
    )


def _on_change(document: Mapping[str, Any] | None) -> OnChange | None:
    if document is None:
        return None
    return OnChange(tuple(document["command"]), float(document.get("timeout", DEFAULT_ON_CHANGE_TIMEOUT)))


def _no_neighbours(node: str) -> Mapping[str, Any]:
    return {"node": node, "revision": 0, "dependencies": {}}
