# SPDX-License-Identifier: AGPL-3.0-or-later
"""What one network lacks and what it has too much of, given what shall be."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from odyssey.model.faults import fault, network_path
from odyssey.model.naming import free_ordinals, node_name, node_ordinal
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import NodeState
from odyssey.planning.steps import PlanRefused


@dataclass(frozen=True, slots=True)
class Target:
    """How a network's admitted nodes have to change; `count` is how many there are afterwards."""

    network: Network
    count: int
    promote: tuple[NodeState, ...] = ()
    start: tuple[int, ...] = ()
    withdraw: tuple[NodeState, ...] = ()

    @property
    def reached(self) -> bool:
        """Tell whether no node has to change."""
        return not (self.promote or self.start or self.withdraw)


def to_count(snapshot: Snapshot, network: Network, count: int) -> Target:
    """Have `count` admitted nodes: standby nodes first, then new ones; the highest ordinals go."""
    admitted, standby = snapshot.admitted(network.key), ready(snapshot, network)
    missing = count - len(admitted)
    if missing <= 0:
        return Target(network, count, withdraw=admitted[count:])
    promote = standby[:missing]
    start = fresh(snapshot, network, missing - len(promote))
    return Target(network, count, promote=promote, start=start)


def with_nodes(snapshot: Snapshot, network: Network, names: Collection[str]) -> Target:
    """Have these nodes admitted besides those that are. Raises PlanRefused if an open transaction holds one."""
    admitted = {node.name for node in snapshot.admitted(network.key)}
    promote = tuple(node for node in ready(snapshot, network) if node.name in names)
    missing = set(names) - admitted - {node.name for node in promote}
    for node in snapshot.standby(network.key):
        if node.name in missing:
            expected = f"the host of standby node {node.name} to be connected"
            raise PlanRefused(fault(f"$.hosts.{node.host}", "not connected", expected))
    if held := sorted(missing & snapshot.taken_names()):
        path = network_path(network.name)
        raise PlanRefused(fault(path, ", ".join(held), "nodes that no open transaction holds; repeat the call later"))
    ordinals = [node_ordinal(network.platform, network.name, name) for name in missing]
    start = tuple(sorted(ordinal for ordinal in ordinals if ordinal is not None))
    return Target(network, len(admitted) + len(promote) + len(start), promote=promote, start=start)


def without_nodes(snapshot: Snapshot, network: Network, names: Collection[str]) -> Target:
    """Have none of these nodes admitted."""
    admitted = snapshot.admitted(network.key)
    withdraw = tuple(node for node in admitted if node.name in names)
    return Target(network, len(admitted) - len(withdraw), withdraw=withdraw)


def ready(snapshot: Snapshot, network: Network) -> tuple[NodeState, ...]:
    """Standby nodes whose host is connected: only those are known to run."""
    return tuple(node for node in snapshot.standby(network.key) if node.host in snapshot.present)


def fresh(snapshot: Snapshot, network: Network, count: int) -> tuple[int, ...]:
    """The `count` lowest ordinals that are free."""
    free = free_ordinals(network.platform, network.name, snapshot.taken_names())
    return tuple(islice(free, max(0, count)))


def names_of(network: Network, ordinals: Collection[int]) -> tuple[str, ...]:
    """Node names for ordinals."""
    return tuple(node_name(network.platform, network.name, ordinal) for ordinal in ordinals)
