# SPDX-License-Identifier: AGPL-3.0-or-later
"""Transactions on the configuration of switches, as values: what is decided, what is open.  Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.netconf.datamodel import Target
from controller.netconf.device import DeviceConfig
from controller.netconf.tree import Node, Path, Step, Tree

T = TypeVar("T")
Json = Mapping[str, Any]
DEVICE = "device/"
BEFORE = "before/"
REVISION = "revision"


class CommitError(Exception):
    """A decided change is not yet on all switches; it is repeated."""


@dataclass(frozen=True)
class OpenChange:
    """A transaction that was prepared and is not carried out: a target for each switch that it configures.

    ``documents`` are the wishes by switch; None forgets a switch and leaves it as it is.  ``before`` is what each held.
    """

    id: str
    seq: int
    documents: Mapping[str, Json | None]
    targets: Mapping[str, Target]
    before: Mapping[str, Tree] = field(default_factory=dict)

    @property
    def token(self) -> str:
        """The name of the change on devices."""
        return f"odyssey-{self.id}"

    def without(self, switches: Container[str]) -> OpenChange:
        """The change of the other switches."""

        def rest(whole: Mapping[str, T]) -> dict[str, T]:
            return {switch: part for switch, part in whole.items() if switch not in switches}

        return OpenChange(self.id, self.seq, rest(self.documents), rest(self.targets), rest(self.before))

    def meets(self, other: OpenChange) -> bool:
        """Tell whether both are of one switch."""
        return not self.documents.keys().isdisjoint(other.documents)

    @classmethod
    def of(cls, tx_id: str, seq: int, operation: Json, decided: Mapping[str, Json]) -> OpenChange:
        """Read an operation that matches its schema, for switches that are configured as ``decided`` says."""
        (stage,) = operation["stages"].values()
        documents = {key.removeprefix(DEVICE): document for key, document in stage["changes"].items()}
        targets = {}
        for switch, document in documents.items():
            if document is not None:
                after = DeviceConfig.parse(document)
                targets[switch] = Target.of(earlier(switch, after, decided), after)
        return cls(tx_id, seq, documents, targets)


def earlier(switch: str, after: DeviceConfig, decided: Mapping[str, Json]) -> DeviceConfig | None:
    """What was decided of a switch, unless another kind of device has come in its place."""
    before = DeviceConfig.parse(decided[switch]) if switch in decided else None
    return before if before is not None and before.profile == after.profile else None


def decided(state: Mapping[str, Json]) -> dict[str, Json]:
    """The wishes by switch in the state documents of the journal."""
    return {key.removeprefix(DEVICE): document for key, document in state.items() if key.startswith(DEVICE)}


def before_key(tx_id: str) -> str:
    """The state document in which a transaction keeps what switches held before."""
    return f"{BEFORE}{tx_id}"


def tree_to_json(tree: Tree) -> list[Any]:
    """A tree as JSON."""
    return [
        [[[step.tag, step.key] for step in path], {tag: _plain(value) for tag, value in node.items()}]
        for path, node in tree.items()
    ]


def tree_from_json(items: list[Any]) -> dict[Path, Node]:
    """The tree that ``tree_to_json`` wrote."""
    return {
        tuple(Step(tag, key) for tag, key in path): {
            tag: value if isinstance(value, str) else tuple(value) for tag, value in node.items()
        }
        for path, node in items
    }


def _plain(value: str | tuple[str, ...]) -> str | list[str]:
    return value if isinstance(value, str) else list(value)
