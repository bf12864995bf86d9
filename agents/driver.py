# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the agent needs of a kind of host. `agents.docker.driver` is the Docker host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.connections import Connections
from agents.health import Probe
from agents.spec import NodeSpec, Phase

NodeState = Literal["running", "exited", "absent"]


class NodeError(Exception):
    """Something cannot be done for a node; the text tells people what, where and why. `detail` adds facts."""

    def __init__(self, reason: str, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = dict(detail or {})


class HostUnreachable(NodeError):
    """The host could not be asked: nothing is known of its nodes, which may run well."""


class NodeHeld(NodeError):
    """The node's name belongs to another transaction, which may be about to let go of it."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What stands of a node on the host."""

    state: NodeState = "absent"
    container: str | None = None
    sandbox: str | None = None
    image_id: str | None = None
    tx: str | None = None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What stands on the host beside nodes."""

    images: Mapping[str, str] = field(default_factory=dict)
    pool: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)
    nics: Mapping[str, Any] = field(default_factory=dict)  # by name, as the schema agent-observation has them


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """Something happened to a node without the agent's doing, or by it. `sandbox` tells which of the two it was."""

    kind: Literal["died", "started", "lost-sight"]
    node: str
    sandbox: bool = False
    exit_code: int = 0


class HostDriver(ABC):
    """One host. All methods raise NodeError; those that change something are idempotent by the node's name.

    The caller sees to it that no two calls that change the same node run at once. A cancelled call has ended when the
    cancellation is delivered: nothing goes on afterwards.
    """

    @abstractmethod
    async def open(self) -> None:
        """Prepare the host; called once before everything else. It must not need the engine."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of the host; its nodes run on."""

    @abstractmethod
    async def background(self) -> None:
        """Work ahead for as long as the agent runs; run as a task and cancelled at the end."""

    @abstractmethod
    async def check(self, specs: Sequence[NodeSpec]) -> Sequence[str]:
        """Return every reason why the nodes cannot be started here; pulls images that are missing."""

    @abstractmethod
    async def start(self, spec: NodeSpec, tx: str) -> NodeFacts:
        """Create, attach and start a node for a transaction, or find what an earlier call left and complete it.

        Raises NodeHeld while another transaction holds the name.
        """

    @abstractmethod
    async def keep(self, spec: NodeSpec, tx: str, phase: Phase) -> Sequence[str]:
        """Make a committed node run and come back by itself; returns what had to be mended, nothing if all stood.

        A node whose `link` is `admitted` has its NICs up in the phase `admitted` only.
        """

    @abstractmethod
    async def ended(self, node: str) -> str | None:
        """Tell how the node's process ended, None while it runs or is being restarted."""

    @abstractmethod
    async def probe(self, spec: NodeSpec) -> Probe:
        """Make one health check; a node without one is healthy while its process runs."""

    @abstractmethod
    async def discard(self, spec: NodeSpec, tx: str) -> None:
        """Remove every trace that the aborted transaction left of the node, and nothing of any other transaction.

        A volume goes only if the transaction made it.
        """

    @abstractmethod
    async def stop(self, node: str) -> None:
        """Ask the node to end, end it after a grace time, and remove all but its volume."""

    @abstractmethod
    async def prefer(self, avoid: Sequence[str]) -> Mapping[str, str]:
        """Have all nodes, also later ones, send through these NICs of the host only while no other has a carrier.

        Loses no packet; returns by node why it could not be done. What was said before is replaced. A NIC that the host
        has not is remembered: it may come back.
        """

    @abstractmethod
    async def tidy(self) -> None:
        """Remove what this driver made on the host for nodes that have gone."""

    @abstractmethod
    async def neighbours(self, spec: NodeSpec) -> None:
        """Replace the node's neighbours file by that of `spec` and run its onChange command."""

    @abstractmethod
    async def nodes(self) -> Mapping[str, NodeFacts]:
        """Return every node of this cluster that stands on this host."""

    @abstractmethod
    async def connections(self, node: str) -> Connections:
        """Count the node's open connections."""

    @abstractmethod
    async def logs(self, node: str, tail: int) -> str:
        """Return the last `tail` lines that the node printed."""

    @abstractmethod
    async def images(self, references: Sequence[str]) -> Mapping[str, str | None]:
        """Return the local id of each image, None where it is not here."""

    @abstractmethod
    async def describe(self) -> HostFacts:
        """Return the rest of the host's state."""

    @abstractmethod
    def events(self) -> AsyncGenerator[NodeEvent, None]:
        """Yield what happens to nodes, for ever. After a gap comes one `lost-sight` without a node."""
