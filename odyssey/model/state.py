# SPDX-License-Identifier: AGPL-3.0-or-later
"""What transactions have decided about networks and nodes, as frozen values with their stored documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from odyssey.model.naming import network_key

ADMITTED = "admitted"
STANDBY = "standby"
DRAINING = "draining"

WEIGHT = 100
"""Weight of a node that nobody gave another one."""


@dataclass(frozen=True, slots=True)
class NetworkState:
    """A network that exists.

    `id` names it in the switches (1..32767), `count` is how many admitted nodes are wanted, and `homes` tells on which
    host the volume of each stateful node lies, also while that node does not exist. Where it has a service address,
    `slots` names the node of each slot and `pins` that of each client prefix, for switches that need it.
    """

    key: str
    id: int
    count: int
    homes: Mapping[str, str] = field(default_factory=dict)
    slots: tuple[str, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, key: str, document: Mapping[str, Any]) -> NetworkState:
        """Parse the document ``network/<key>``."""
        slots, pins = tuple(document.get("slots", ())), document.get("pins", {})
        return cls(key, document["id"], document["count"], document.get("homes", {}), slots, pins)

    def document(self) -> dict[str, Any]:
        """The document ``network/<key>``."""
        document: dict[str, Any] = {"id": self.id, "count": self.count}
        if self.homes:
            document["homes"] = dict(self.homes)
        if self.slots:
            document["slots"] = list(self.slots)
        if self.pins:
            document["pins"] = dict(self.pins)
        return document


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node that a transaction has decided on; `phase` is admitted, standby or draining.

    `weight` is its share of the new connections to the network's service address, beside the weights of the others.
    """

    name: str
    platform: str
    network: str
    ordinal: int
    host: str
    address: IPv4Address
    mac: str
    phase: str
    image: str
    image_id: str | None
    tx: str = ""
    address6: IPv6Address | None = None
    weight: int = WEIGHT

    @property
    def key(self) -> str:
        """The cluster-wide name of its network, ``shop/app``."""
        return network_key(self.platform, self.network)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> NodeState:
        """Parse the document ``node/<name>``."""
        return cls(
            name=document["node"],
            platform=document["platform"],
            network=document["network"],
            ordinal=document["ordinal"],
            host=document["host"],
            address=IPv4Address(document["address"]),
            mac=document["mac"],
            phase=document["phase"],
            image=document["image"],
            image_id=document.get("imageId"),
            tx=document.get("tx", ""),
            address6=IPv6Address(document["address6"]) if "address6" in document else None,
            weight=document.get("weight", WEIGHT),
        )

    def document(self) -> dict[str, Any]:
        """The document ``node/<name>``."""
        return {
            "node": self.name,
            "platform": self.platform,
            "network": self.network,
            "ordinal": self.ordinal,
            "host": self.host,
            "address": str(self.address),
            "mac": self.mac,
            "phase": self.phase,
            "image": self.image,
            "imageId": self.image_id,
            "tx": self.tx,
            **({"address6": str(self.address6)} if self.address6 is not None else {}),
            **({"weight": self.weight} if self.weight != WEIGHT else {}),
        }
