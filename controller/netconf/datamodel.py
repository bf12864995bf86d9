# SPDX-License-Identifier: AGPL-3.0-or-later
"""The data model of a kind of device: where each setting stands in its tree, and what of the tree is ours.  Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from controller.netconf.device import DeviceConfig, Owned, Port, released
from controller.netconf.tree import BASE, Difference, Element, Node, Path, Shape, Tree, difference, read, text


@dataclass(frozen=True, slots=True)
class Target:
    """What a device shall become: the wish, the interfaces that are given back, and all that may be touched for it.

    With ``tree`` it shall become exactly what that says (a backup), as far as it is ours.
    """

    config: DeviceConfig
    released: Mapping[str, Port]
    owned: Owned
    aggregates: frozenset[int]
    tree: Tree | None = None

    @classmethod
    def of(cls, before: DeviceConfig | None, after: DeviceConfig) -> Target:
        """The target of a change from what was decided ``before`` to ``after``."""
        if before is None:
            return cls(after, {}, after.owned, frozenset(after.aggregates))
        return cls(
            after, released(before, after), before.owned | after.owned,
            frozenset(before.aggregates) | frozenset(after.aggregates),
        )  # fmt: skip

    def back_to(self, tree: Tree) -> Target:
        """The target that is what ``tree`` says, of the same that is ours."""
        return replace(self, tree=tree)

    def ports(self) -> dict[str, Port]:
        """The interfaces with what they shall be."""
        return {**self.released, **self.config.ports}


class DataModel(ABC):
    """Where settings stand.  All methods are pure."""

    shape: Shape

    @abstractmethod
    def filter(self) -> Element:
        """The subtree filter (RFC 6241, section 6) for all that ``values`` may name."""

    @abstractmethod
    def values(self, target: Target) -> dict[Path, Node]:
        """What the device shall hold."""

    @abstractmethod
    def owned(self, path: Path, target: Target) -> bool:
        """Tell whether a path is ours to set."""

    @abstractmethod
    def removable(self, path: Path, target: Target) -> bool:
        """Tell whether an entry is ours to remove where the wish does not name it."""

    @abstractmethod
    def refusals(self, config: DeviceConfig) -> list[str]:
        """What this kind of device cannot be configured with, and what to do instead."""

    def atomic(self, path: Path) -> bool:
        """Tell whether a container is compared and sent whole."""
        return False

    def rank(self, path: Path) -> int:
        """In which order parts are sent where one edit cannot hold them all."""
        return 0

    def normal(self, tree: Tree) -> dict[Path, Node]:
        """A tree as it was read, with values that can be written in several ways in the one way of ``values``."""
        return dict(tree)

    def read(self, data: Element, target: Target) -> dict[Path, Node]:
        """What a device holds of ours."""
        tree = self.normal(read(data, self.shape))
        return {path: node for path, node in tree.items() if self.owned(path, target)}

    def planned(self, before: DeviceConfig | None, after: DeviceConfig) -> Difference:
        """What is to be done to a device that holds exactly what was decided ``before`` (None: nothing of ours)."""
        have = self.values(Target.of(None, before)) if before is not None else {}
        return self.difference(have, Target.of(before, after))

    def difference(self, have: Tree, target: Target) -> Difference:
        """What is to be done; raises ValueError if it would touch anything that is not ours."""
        exact = target.tree is not None
        want = self.values(target) if target.tree is None else target.tree
        found = difference(have, want, lambda path: self.removable(path, target), self.atomic, exact=exact)
        for path in found.paths():
            if not self.owned(path, target):
                raise ValueError(f"{text(path)} is not owned")
        return found


def filter_of(*paths: tuple[str, ...]) -> Element:
    """A subtree filter that selects what lies below each path of tags."""
    top = ElementTree.Element(f"{{{BASE}}}filter", {"type": "subtree"})
    for path in paths:
        element = top
        for tag in path:
            found = element.find(tag)
            element = ElementTree.SubElement(element, tag) if found is None else found
    return top
