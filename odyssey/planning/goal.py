# SPDX-License-Identifier: AGPL-3.0-or-later
"""Goals: what shall be true at the end. A goal is absolute, so reaching it twice is reaching it once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


class Goal(ABC):
    """Base of all goals."""

    __slots__ = ()
    kind: ClassVar[str]

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """What the goal holds, as JSON."""

    @classmethod
    @abstractmethod
    def parse(cls, document: Mapping[str, Any]) -> Goal:
        """Read a goal of this kind from what `to_json` gave."""

    def to_json(self) -> dict[str, Any]:
        """The goal as a document that `from_json` reads, also in a later process."""
        return {"kind": self.kind, **self.fields()}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Goal:
        """Read a goal of any kind. Raises ValueError if the kind is unknown."""
        kinds: tuple[type[Goal], ...] = (
            InventoryGoal, ApplyGoal, RemovePlatformGoal, ScaleGoal, EnsureNodes, EnsureAbsent, WeighGoal,
            MaintenanceGoal, Settle,
        )  # fmt: skip
        for kind in kinds:
            if kind.kind == document.get("kind"):
                return kind.parse(document)
        known = ", ".join(kind.kind for kind in kinds)
        raise ValueError(f"there is no goal of kind {document.get('kind')!r}; there are: {known}")


@dataclass(frozen=True, slots=True)
class InventoryGoal(Goal):
    """The inventory is this document."""

    kind = "inventory"
    document: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        return {"document": self.document}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> InventoryGoal:
        return cls(document["document"])


@dataclass(frozen=True, slots=True)
class ApplyGoal(Goal):
    """A platform is what this document says, each network with the admitted nodes that `counts` says."""

    kind = "apply"
    document: Mapping[str, Any]
    counts: Mapping[str, int]

    @property
    def platform(self) -> str:
        """The platform's name."""
        return str(self.document["platform"])

    def fields(self) -> dict[str, Any]:
        return {"document": self.document, "counts": dict(self.counts)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> ApplyGoal:
        return cls(document["document"], document["counts"])


@dataclass(frozen=True, slots=True)
class RemovePlatformGoal(Goal):
    """There is no such platform."""

    kind = "removePlatform"
    platform: str

    def fields(self) -> dict[str, Any]:
        return {"platform": self.platform}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> RemovePlatformGoal:
        return cls(document["platform"])


@dataclass(frozen=True, slots=True)
class ScaleGoal(Goal):
    """A network has `count` admitted nodes."""

    kind = "scale"
    platform: str
    network: str
    count: int

    def fields(self) -> dict[str, Any]:
        return {"platform": self.platform, "network": self.network, "count": self.count}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> ScaleGoal:
        return cls(document["platform"], document["network"], document["count"])


@dataclass(frozen=True, slots=True)
class EnsureNodes(Goal):
    """These nodes of a network are admitted."""

    kind = "nodes"
    platform: str
    network: str
    nodes: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        return {"platform": self.platform, "network": self.network, "nodes": list(self.nodes)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> EnsureNodes:
        return cls(document["platform"], document["network"], tuple(document["nodes"]))


@dataclass(frozen=True, slots=True)
class EnsureAbsent(Goal):
    """None of these nodes of a network is admitted."""

    kind = "absent"
    platform: str
    network: str
    nodes: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        return {"platform": self.platform, "network": self.network, "nodes": list(self.nodes)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> EnsureAbsent:
        return cls(document["platform"], document["network"], tuple(document["nodes"]))


@dataclass(frozen=True, slots=True)
class WeighGoal(Goal):
    """A node has this weight."""

    kind = "weigh"
    platform: str
    network: str
    node: str
    weight: int

    def fields(self) -> dict[str, Any]:
        return {"platform": self.platform, "network": self.network, "node": self.node, "weight": self.weight}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> WeighGoal:
        return cls(document["platform"], document["network"], document["node"], document["weight"])


@dataclass(frozen=True, slots=True)
class MaintenanceGoal(Goal):
    """A switch is out of use (`on`), or in use; with `force` also where that cuts off a host or a border."""

    kind = "maintenance"
    switch: str
    on: bool
    force: bool = False

    def fields(self) -> dict[str, Any]:
        return {"switch": self.switch, "on": self.on, "force": self.force}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> MaintenanceGoal:
        return cls(document["switch"], document["on"], document["force"])


@dataclass(frozen=True, slots=True)
class Settle(Goal):
    """No node of these networks (``shop/app``) is draining any more; no name means every network."""

    kind = "settle"
    networks: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        return {"networks": list(self.networks)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Settle:
        return cls(tuple(document["networks"]))
