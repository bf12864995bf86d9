# SPDX-License-Identifier: AGPL-3.0-or-later
"""Collects the steps of one plan; each step is built on the snapshot as the steps before it leave it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from odyssey.model.faults import by_path, fault
from odyssey.model.ipam import address6_of
from odyssey.model.naming import (
    CONTROLLER,
    NETCONF,
    mac_of,
    network_document,
    node_document,
    node_name,
    service_document,
)
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import NetworkState, NodeState
from odyssey.planning.balance import balanced, balanced_with
from odyssey.planning.changes import difference
from odyssey.planning.documents import dependencies, neighbours, network_intent, service_intent
from odyssey.planning.netconf import configure
from odyssey.planning.operations import Draft, listed
from odyssey.planning.steps import DrainStep, Plan, PlanOptions, PlanRefused, QuietStep, Step, TransactionStep

T = TypeVar("T")
SERVICES = {CONTROLLER: ("$", "the controller"), NETCONF: ("$.fabric.switches", "odyssey-netconf")}
"""Participants that are no agents: the path of a fault about one that is absent, and what it is called."""


class Builder:
    """The plan so far. `now` is the snapshot after the steps so far, `counts` the wanted nodes of each network."""

    def __init__(self, snapshot: Snapshot, options: PlanOptions) -> None:
        self.options = options
        self.now = snapshot
        self.counts: dict[str, int] = {}
        self._before = snapshot
        self._steps: list[Step] = []
        self._transactions = 0

    @property
    def revision(self) -> int:
        """Revision of the neighbour files that the next transaction writes; it rises with every plan and step."""
        return self._before.index + self._transactions + 1

    def batches(self, items: Sequence[T]) -> list[Sequence[T]]:
        """`items` in pieces of at most `options.batch`."""
        return [items[start : start + self.options.batch] for start in range(0, len(items), self.options.batch)]

    def network(self, key: str) -> Network:
        """The definition of a network that exists."""
        network = self.now.network(key)
        assert network is not None, key
        return network

    def reachable(self, node: NodeState) -> bool:
        """Tell whether the agent of a node can take part."""
        return self.options.absent_allowed or node.host in self.now.present

    def add(self, draft: Draft, deadline: float | None = None) -> None:
        """Append the transaction and fold its decision."""
        after = self.now.folded(draft.changes)
        configure(draft, self.now, after)
        self._steps.append(draft.finish(self.options.deadline if deadline is None else deadline))
        self._transactions += 1
        self.now = after

    def drain(self, nodes: Iterable[NodeState]) -> None:
        """Append the wait for the connections of draining nodes."""
        draining = list(nodes)
        if draining:
            timeout = max(self.network(node.key).drain_timeout for node in draining)
            self._steps.append(DrainStep(tuple((node.name, node.host) for node in draining), timeout))

    def wait(self, step: QuietStep) -> None:
        """Append the wait for a switch that shall carry nothing."""
        self._steps.append(step)

    def recount(self, draft: Draft, keys: Iterable[str], homes: Iterable[NodeState] = ()) -> None:
        """Let a transaction store what follows from its other changes for networks whose nodes or documents change.

        That is the wanted count, where new stateful nodes (`homes`) have their volumes, and who serves which part of
        the new connections to a service address.
        """
        new_homes: dict[str, dict[str, str]] = {}
        for node in homes:
            new_homes.setdefault(node.key, {})[node.name] = node.host
        changed = set(keys)
        after = self.now.folded(draft.changes)
        for key in sorted(changed | (balanced_with(after, changed) & self.now.networks.keys())):
            state = self.now.networks[key]
            count = self.counts.get(key, state.count)
            stand = {**state.homes, **new_homes.get(key, {})}
            # A volume went with its host when that left the inventory; its node starts anew elsewhere.
            stand = {name: host for name, host in stand.items() if after.inventory and host in after.inventory.hosts}
            wanted = balanced(after, replace(state, count=count, homes=stand))
            if wanted != state:
                draft.change(network_document(key), wanted.document())

    def serve(self, draft: Draft, stage: str) -> None:
        """Let the controller know in `stage` of the slots that `recount` changed."""
        after = self.now.folded(draft.changes)
        for key, state in sorted(after.networks.items()):
            network = after.network(key)
            old = self.now.networks.get(key)
            if network is None or network.service is None or old is None:
                continue
            if (old.slots, old.pins) != (state.slots, state.pins):
                draft.intend(stage, service_document(key), service_intent(network, network.service, state))

    def write_files(self, draft: Draft, networks: Iterable[str]) -> None:
        """Let agents rewrite the neighbour files of all nodes of `networks`, as they are after this transaction."""
        after = self.now.folded(draft.changes)
        for key in sorted(set(networks)):
            network = after.network(key)
            nodes = after.nodes_of(key)
            if network is None or not nodes:
                continue
            # An older file must never overwrite a newer one: the network is held until this one is written.
            draft.hold(network_document(key))
            shared = dependencies(after, network)
            for node in nodes:
                draft.file(node.host, node.name, neighbours(node.name, self.revision, shared))

    def users(self, keys: Iterable[str]) -> set[str]:
        """Keys of the networks that depend on one of `keys`."""
        return {user for key in keys for user in self.now.dependents(key)}

    def touch(self, draft: Draft, key: str) -> None:
        """Give a transaction without any work a participant: the controller confirms what it has of a network."""
        draft.intend("admit", network_document(key), network_intent(self.network(key), self.now.networks[key]))

    def finish(self, locks: Iterable[str]) -> Plan:
        """The plan. Raises PlanRefused if a participant is not connected."""
        if not self.options.absent_allowed:
            self._require_present()
        # What a transaction will reserve is locked from the start, or the plan would break in its middle on what an
        # unfinished transaction of somebody else holds.
        reserved = {name for step in self._steps if isinstance(step, TransactionStep) for name in step.objects}
        changes = difference(self._before, self.now)
        return Plan(self._before.index, tuple(self._steps), changes, frozenset(locks) | reserved)

    def _require_present(self) -> None:
        absent: dict[str, str] = {}
        for step in self._steps:
            if isinstance(step, TransactionStep):
                for name in step.participants.keys() - self._before.present:
                    absent.setdefault(name, step.title)
        faults = []
        for name, title in absent.items():
            path, who = SERVICES.get(name, (f"$.hosts.{name}", f"the agent of {name}"))
            faults.append(fault(path, "not connected", f"{who} to be connected: it takes part in: {title}"))
        if faults:
            raise PlanRefused(*by_path(faults))


def new_node(network: Network, ordinal: int, phase: str, **placed: Any) -> NodeState:
    """The state of a new node; `placed` gives host, address, image and image_id."""
    return NodeState(
        name=node_name(network.platform, network.name, ordinal), platform=network.platform, network=network.name,
        ordinal=ordinal, phase=phase, mac=mac_of(placed["address"]),
        address6=address6_of(network.subnet, network.subnet6, placed["address"]), **placed,
    )  # fmt: skip


def told(node: NodeState) -> dict[str, str]:
    """The data of an event about a node."""
    return {
        "node": node.name, "host": node.host, "address": str(node.address), "network": node.network,
        "platform": node.platform,
    }  # fmt: skip


def titled(verb: str, nodes: Iterable[NodeState]) -> str:
    """The title of a transaction on nodes."""
    return f"{verb} {listed(node.name for node in nodes)}"


def store_node(draft: Draft, node: NodeState) -> None:
    """Let a transaction store a node."""
    draft.node(node.name)
    draft.change(node_document(node.name), node.document())


def new_states(keys: Iterable[str], taken: frozenset[int], counts: dict[str, int]) -> dict[str, NetworkState]:
    """States for networks that begin to exist, with the lowest free ids. Raises PlanRefused if ids run out."""
    states: dict[str, NetworkState] = {}
    candidate = 1
    for key in keys:
        while candidate in taken:
            candidate += 1
        if candidate > LAST_NETWORK_ID:
            raise PlanRefused(fault("$.networks", key, f"at most {LAST_NETWORK_ID} networks in a cluster"))
        states[key] = NetworkState(key, candidate, counts.get(key, 0))
        candidate += 1
    return states


LAST_NETWORK_ID = 32767
"""The switches carry a network's id in fifteen bits."""
