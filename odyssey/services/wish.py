# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a service call wishes for: values without effect, relative to a state that they do not know."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Wish(ABC):  # noqa: B024 - the common type of the wishes; what they share has a default
    """Base of all wishes. The planner makes an absolute goal of one (`odyssey.planning.resolve`)."""

    __slots__ = ()

    def images(self) -> frozenset[str]:
        """Image references that the wish brings with it and that hosts should be asked about."""
        return frozenset()

    def asks_switches(self) -> bool:
        """Whether the plan depends on which switches are connected."""
        return False


@dataclass(frozen=True, slots=True)
class SetInventory(Wish):
    """Make this the inventory."""

    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ApplyPlatform(Wish):
    """Make a platform what its document says."""

    document: Mapping[str, Any]

    def images(self) -> frozenset[str]:
        return frozenset(network["image"] for network in self.document["networks"].values())


@dataclass(frozen=True, slots=True)
class RemovePlatform(Wish):
    """Remove a platform with all of its nodes."""

    platform: str


@dataclass(frozen=True, slots=True)
class AddNetwork(Wish):
    """Add one network to a platform that exists."""

    platform: str
    name: str
    document: Mapping[str, Any]

    def images(self) -> frozenset[str]:
        return frozenset({str(self.document["image"])})


@dataclass(frozen=True, slots=True)
class RemoveNetwork(Wish):
    """Remove one network of a platform with all of its nodes."""

    platform: str
    name: str


@dataclass(frozen=True, slots=True)
class AddNodes(Wish):
    """Add `count` nodes to a network, or the one that is called `name`."""

    platform: str
    network: str
    count: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class RemoveNodes(Wish):
    """Remove the `count` nodes with the highest ordinals of a network, or those in `names`."""

    platform: str
    network: str
    count: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScaleNetwork(Wish):
    """Give a network `count` admitted nodes."""

    platform: str
    network: str
    count: int


@dataclass(frozen=True, slots=True)
class WeighNode(Wish):
    """Give a node another share of the new connections to its network's service address; 0: none."""

    platform: str
    network: str
    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class SetMaintenance(Wish):
    """Take a switch out of use, or back into it."""

    switch: str
    on: bool
    force: bool = False

    def asks_switches(self) -> bool:
        return True
