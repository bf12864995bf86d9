# SPDX-License-Identifier: AGPL-3.0-or-later
"""Steps that change nodes: promote, start, withdraw, drain, retire, and keeping the standby nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from odyssey.model.faults import by_path
from odyssey.model.graph import tiers
from odyssey.model.naming import binding_document, network_key, node_document, node_name
from odyssey.model.platform import Network, Platform
from odyssey.model.state import ADMITTED, DRAINING, STANDBY, NodeState
from odyssey.planning.builder import Builder, new_node, store_node, titled, told
from odyssey.planning.documents import DARK, binding, dependencies, neighbours, node_spec
from odyssey.planning.images import Image, resolve_image
from odyssey.planning.operations import ADD, RETIRE, WITHDRAW, Draft
from odyssey.planning.placement import Allocator
from odyssey.planning.steps import PlanRefused
from odyssey.planning.targets import Target, fresh
from schemas import Fault

TargetOf = Callable[[Network], Target]
Wanted = tuple[Network, int]
"""A node that shall start: its network and its ordinal."""


def network_tiers(platform: Platform) -> tuple[tuple[Network, ...], ...]:
    """The networks of a platform, what is depended on first."""
    graph = {name: tuple(network.depends_on) for name, network in platform.networks.items()}
    return tuple(tuple(platform.networks[name] for name in tier) for tier in tiers(graph))


def grow(builder: Builder, groups: Iterable[Sequence[Network]], target_of: TargetOf) -> None:
    """Promote and start what the targets lack, group after group in the order given."""
    allocator = _Lazy(builder)
    faults: list[Fault] = []
    for networks in groups:
        targets = [target_of(network) for network in networks]
        for batch in builder.batches([node for target in targets for node in target.promote]):
            _promote(builder, batch)
        wanted = [(target.network, ordinal) for target in targets for ordinal in target.start]
        for part in builder.batches(wanted):
            try:
                _start(builder, allocator.get(), part, ADMITTED)
            except PlanRefused as refused:
                faults += refused.faults
                break  # the other tiers may have faults of their own
    if faults:
        raise PlanRefused(*by_path(faults))


def shrink(builder: Builder, groups: Iterable[Sequence[Network]], target_of: TargetOf) -> None:
    """Withdraw, drain and retire what the targets have too much of, group after group in the order given."""
    for networks in groups:
        leaving = [node for network in networks for node in target_of(network).withdraw]
        for batch in builder.batches(leaving):
            _withdraw(builder, batch)
        gone = [builder.now.nodes[node.name] for node in leaving]
        builder.drain(gone)
        retire(builder, gone)


def settle(builder: Builder, keys: Iterable[str]) -> None:
    """Drain and retire what an earlier plan left draining in these networks.

    Nodes on hosts that are away wait until the host is back; nothing new reaches them meanwhile.
    """
    left = [node for key in keys for node in builder.now.draining(key) if builder.reachable(node)]
    builder.drain(left)
    retire(builder, left)


def retire(builder: Builder, nodes: Sequence[NodeState]) -> None:
    """Remove nodes that nothing reaches any more: flows first, then the containers."""
    for batch in builder.batches(nodes):
        draft = Draft(titled("retire", batch), RETIRE)
        for node in batch:
            draft.node(node.name)
            draft.change(node_document(node.name), None)
            draft.hold(f"address/{node.address}")
            draft.intend("retire", binding_document(node.name), None)
            draft.stop(node.host, node.name)
            draft.event("node.retired", **told(node))
        builder.recount(draft, {node.key for node in batch})
        builder.serve(draft, "retire")
        builder.add(draft)


def keep_standby(builder: Builder, networks: Iterable[Network]) -> None:
    """Bring the standby nodes of networks to the number that each wants."""
    allocator = _Lazy(builder)
    surplus: list[NodeState] = []
    wanted: list[Wanted] = []
    for network in networks:
        standby = builder.now.standby(network.key)
        surplus += standby[network.scale.standby :]
        missing = network.scale.standby - len(standby)
        wanted += [(network, ordinal) for ordinal in fresh(builder.now, network, missing)]
    retire(builder, surplus)
    for part in builder.batches(wanted):
        _start(builder, allocator.get(), part, STANDBY)


class _Lazy:
    """Makes the allocator when the first node is placed, on the snapshot as it is then."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._allocator: Allocator | None = None

    def get(self) -> Allocator:
        """The allocator."""
        if self._allocator is None:
            self._allocator = Allocator(self._builder.now)
        return self._allocator


def _promote(builder: Builder, nodes: Sequence[NodeState]) -> None:
    draft = Draft(titled("admit standby", nodes), ADD)
    inventory = builder.now.inventory
    assert inventory is not None
    for node in nodes:
        store_node(draft, replace(node, phase=ADMITTED))
        draft.intend("admit", binding_document(node.name), binding(node, ADMITTED))
        if not inventory.keeps_dark(node.host):
            draft.admit(node.host, node.name)  # its link is down until its agent hears of it
        draft.event("node.admitted", **told(node))
    keys = {node.key for node in nodes}
    builder.recount(draft, keys)
    builder.serve(draft, "admit")
    builder.write_files(draft, builder.users(keys))
    builder.add(draft)


def _start(builder: Builder, allocator: Allocator, wanted: Sequence[Wanted], phase: str) -> None:
    nodes = _placed(builder, allocator, wanted, phase)
    draft = Draft(titled("start standby" if phase == STANDBY else "start", nodes), ADD)
    for node in nodes:
        store_node(draft, node)
        draft.hold(f"address/{node.address}")
        draft.admit(node.host, node.name, standby=phase == STANDBY)
        draft.dark(binding_document(node.name), binding(node, DARK))
        draft.intend("admit", binding_document(node.name), binding(node, phase))
        draft.event("node.standby" if phase == STANDBY else "node.admitted", **told(node))
    keys = {node.key for node in nodes}
    builder.recount(draft, keys, [node for node in nodes if builder.network(node.key).volume is not None])
    builder.serve(draft, "admit")
    _specify(builder, draft, nodes)
    if phase == ADMITTED:
        builder.write_files(draft, builder.users(keys))
    healthy = max(builder.network(key).health["deadline"] for key in keys)
    builder.add(draft, builder.options.start + healthy)


def _placed(builder: Builder, allocator: Allocator, wanted: Sequence[Wanted], phase: str) -> list[NodeState]:
    """The new nodes with host and address; all refusals together."""
    nodes: list[NodeState] = []
    images: dict[str, Image] = {}
    faults: dict[str, Fault] = {}
    for network, ordinal in wanted:
        try:
            image = images[network.key] = images.get(network.key) or resolve_image(network, builder.now)
            name = node_name(network.platform, network.name, ordinal)
            home = builder.now.networks[network.key].homes.get(name) if network.volume is not None else None
            host, address = allocator.place(network, name, image, home)
        except PlanRefused as refused:
            # One fault for each path: the next node of the network fails for the same reason.
            faults |= {item.path: item for item in refused.faults if item.path not in faults}
            continue
        nodes.append(
            new_node(network, ordinal, phase, host=host, address=address, image=image.reference, image_id=image.id)
        )
    if faults:
        raise PlanRefused(*by_path(faults.values()))
    return nodes


def _specify(builder: Builder, draft: Draft, nodes: Sequence[NodeState]) -> None:
    """Give each agent the specifications of its new nodes, with the neighbours as they are after the transaction."""
    after = builder.now.folded(draft.changes)
    assert after.inventory is not None
    shared = {key: dependencies(after, builder.network(key)) for key in sorted({node.key for node in nodes})}
    for node in nodes:
        file = neighbours(node.name, builder.revision, shared[node.key])
        draft.start(node.host, node_spec(node, builder.network(node.key), after.inventory, file))


def _withdraw(builder: Builder, nodes: Sequence[NodeState]) -> None:
    draft = Draft(titled("withdraw", nodes), WITHDRAW)
    for node in nodes:
        store_node(draft, replace(node, phase=DRAINING))
        draft.intend("withdraw", binding_document(node.name), binding(node, DRAINING))
        draft.event("node.withdrawn", **told(node))
    keys = {node.key for node in nodes}
    builder.recount(draft, keys)
    builder.serve(draft, "withdraw")
    builder.write_files(draft, builder.users(keys))
    builder.add(draft)


def keys_of(platform: Platform) -> tuple[str, ...]:
    """Keys of all networks of a platform."""
    return tuple(network_key(platform.name, name) for name in platform.networks)
