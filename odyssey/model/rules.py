# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a schema cannot say about a platform: every fault of its meaning at once, by JSON path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any

from odyssey.model.apart import not_apart
from odyssey.model.faults import by_path, fault, network_path
from odyssey.model.graph import cycles
from odyssey.model.inventory import Inventory
from odyssey.model.ipam import usable
from odyssey.model.naming import HOSTNAME_LIMIT, ORDINAL_DIGITS, network_key
from odyssey.model.platform import Network, Platform
from odyssey.model.service_rules import border_faults, pair_faults, service_faults
from odyssey.model.snapshot import Snapshot
from schemas import Fault

_RESERVED_RANGES = tuple(
    IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)


def platform_faults(platform: Platform, snapshot: Snapshot) -> tuple[Fault, ...]:
    """Every fault of `platform` by itself, beside the other platforms and on the inventory of `snapshot`."""
    if snapshot.inventory is None:
        return (fault("$", None, "an inventory before the first platform (service call setInventory)"),)
    found: list[Fault] = []
    for network in platform.networks.values():
        found += _network_faults(network, platform, snapshot.inventory)
        found += service_faults(network, snapshot)
    found += _cycle_faults(platform)
    found += _clashes(platform, snapshot)
    return by_path(found)


def _network_faults(network: Network, platform: Platform, inventory: Inventory) -> Iterator[Fault]:
    yield from _name_faults(network)
    yield from _subnet_faults(network, inventory)
    yield from _scale_faults(network)
    yield from _reference_faults(network, platform, inventory)
    yield from _placement_faults(network, inventory)
    yield from _file_faults(network)


def _name_faults(network: Network) -> Iterator[Fault]:
    longest = len(network.platform) + len(network.name) + 2 + ORDINAL_DIGITS
    if longest > HOSTNAME_LIMIT:
        room = HOSTNAME_LIMIT - 2 - ORDINAL_DIGITS
        yield fault(
            network_path(network.name),
            network.name,
            f"platform and network names of at most {room} characters together: a node's name is a host name",
        )


def _subnet_faults(network: Network, inventory: Inventory) -> Iterator[Fault]:
    path = network_path(network.name, "subnet")
    for area in _RESERVED_RANGES:
        if network.subnet.overlaps(area):
            yield fault(path, str(network.subnet), f"a subnet outside {area}, which has a meaning of its own")
    if inventory.fabric.gateway in network.subnet:
        yield fault(path, str(network.subnet), f"a subnet without {inventory.fabric.gateway}, the fabric's gateway")
    if network.vlan == inventory.fabric.transit_vlan:
        yield fault(
            network_path(network.name, "vlan"), network.vlan, "another VLAN: this is the transit VLAN of the fabric"
        )


def _scale_faults(network: Network) -> Iterator[Fault]:
    scale = network.scale
    if scale.min > scale.max:
        yield fault(network_path(network.name, "scale", "min"), scale.min, f"at most scale.max, which is {scale.max}")
    elif scale.count is not None and not scale.min <= scale.count <= scale.max:
        yield fault(
            network_path(network.name, "scale", "count"), scale.count, f"from {scale.min} to {scale.max} (min to max)"
        )
    room = usable(network.subnet, network.reserved)
    if scale.max + scale.standby > room:
        yield fault(
            network_path(network.name, "subnet"),
            str(network.subnet),
            f"room for {scale.max + scale.standby} nodes (max {scale.max} + standby {scale.standby}); "
            f"it has {room} usable addresses",
        )


def _reference_faults(network: Network, platform: Platform, inventory: Inventory) -> Iterator[Fault]:
    others = [name for name in platform.networks if name != network.name]
    for name in network.depends_on:
        path = network_path(network.name, "dependsOn", name)
        if name == network.name:
            yield fault(path, name, 'another network; traffic inside one network is declared with "peers"')
        elif name not in platform.networks:
            yield fault(path, name, f"a network of this platform: {_listed(others)}")
    for name in network.exposed_to:
        if name not in inventory.fabric.borders:
            path = network_path(network.name, "exposedTo", name)
            yield fault(path, name, f"a border of the fabric: {_listed(sorted(inventory.fabric.borders))}")


def _placement_faults(network: Network, inventory: Inventory) -> Iterator[Fault]:
    fitting = [host for host in inventory.hosts.values() if host.matches(network.labels)]
    if not fitting:
        known = sorted({f"{key}={value}" for host in inventory.hosts.values() for key, value in host.labels.items()})
        yield fault(
            network_path(network.name, "placement", "labels"),
            dict(network.labels),
            f"labels that one host has together; hosts have: {_listed(known)}",
        )
        return
    for field, need, most in (
        ("cpus", network.resources.cpus, max(host.capacity.cpus for host in fitting)),
        ("memoryMiB", network.resources.memory, max(host.capacity.memory for host in fitting)),
    ):
        if need > most:
            yield fault(
                network_path(network.name, "resources", field), need, f"at most {most:g}, the largest fitting host"
            )


def _file_faults(network: Network) -> Iterator[Fault]:
    """Mount points inside the container that would cover each other."""
    places: dict[str, str] = {"/run/odyssey": "the neighbours file"}
    mounts = [(network_path(network.name, "secrets", name), path) for name, path in sorted(network.secrets.items())]
    if network.volume is not None:
        mounts.insert(0, (network_path(network.name, "stateful", "volume"), network.volume))
    for path, place in mounts:
        for taken, owner in places.items():
            if place == taken or place.startswith(f"{taken}/") or taken.startswith(f"{place}/"):
                yield fault(path, place, f"a path apart from {taken} ({owner})")
        places[place] = path


def _cycle_faults(platform: Platform) -> Iterator[Fault]:
    # A network that depends on itself is told as a wrong reference.
    graph = {name: [o for o in network.depends_on if o != name] for name, network in platform.networks.items()}
    for cycle in cycles(graph):
        path = network_path(cycle[0], "dependsOn", cycle[1])
        yield fault(path, " -> ".join(cycle), "dependencies without a cycle")


def _clashes(platform: Platform, snapshot: Snapshot) -> Iterator[Fault]:
    """VLANs, subnets and node names that two networks, or a network and a border, would share."""
    assert snapshot.inventory is not None
    others = [other for other in snapshot.platforms.values() if other.name != platform.name]
    elsewhere = [network for other in others for network in other.networks.values()]
    before = snapshot.platforms.get(platform.name)
    leaving = [item for name, item in before.networks.items() if name not in platform.networks] if before else []
    networks = list(platform.networks.values())
    for position, network in enumerate(networks):
        yield from pair_faults(network, networks[:position], lambda other: f"network {other.name}")
        yield from pair_faults(network, elsewhere, lambda other: f"network {other.key}")
        yield from pair_faults(
            network, leaving, lambda other: f"network {other.name}, which must be removed by an earlier apply"
        )
        for border in snapshot.inventory.fabric.borders.values():
            yield from border_faults(network, border)
        for other in elsewhere:
            if f"{network.platform}-{network.name}" == f"{other.platform}-{other.name}":
                path = network_path(network.name)
                yield fault(path, network.name, f"another name: nodes would be called like those of {other.key}")


def change_faults(platform: Platform, snapshot: Snapshot) -> tuple[Fault, ...]:
    """Changes of networks that have nodes and that would need the nodes to be replaced."""
    before = snapshot.platforms.get(platform.name)
    if before is None:
        return ()
    found: list[Fault] = []
    for name, network in platform.networks.items():
        nodes = snapshot.nodes_of(network_key(platform.name, name))
        if name in before.networks and nodes:
            found += _frozen_faults(before.networks[name], network, len(nodes))
    return tuple(found + list(_apart_faults(platform, snapshot)))


def _apart_faults(platform: Platform, snapshot: Snapshot) -> Iterator[Fault]:
    """Nodes on one host that would be allowed to talk, and could not."""
    assert snapshot.inventory is not None
    for pair in not_apart(snapshot.inventory, {platform.name: platform}, snapshot.nodes.values()):
        one, other = pair.networks
        path = network_path(one, "peers") if one == other else network_path(one, "dependsOn", other)
        yield fault(path, f"{pair.nodes} on host {pair.host}", f"nodes on different hosts: {pair.reason}")


def _frozen_faults(old: Network, new: Network, nodes: int) -> Iterator[Fault]:
    run = "node runs" if nodes == 1 else "nodes run"
    for field, read in _FROZEN.items():
        if read(old) != read(new):
            yield fault(
                network_path(new.name, field),
                read(new),
                f"{read(old)}, with which {nodes} {run}: rolling updates are not available yet; "
                "scale the network to 0 or remove it first",
            )


_FROZEN: Mapping[str, Callable[[Network], Any]] = {
    "image": lambda network: network.image,
    "subnet": lambda network: str(network.subnet),
    "subnet6": lambda network: str(network.subnet6) if network.subnet6 is not None else None,
    "service": lambda network: network.service.addresses() if network.service is not None else None,
    "vlan": lambda network: network.vlan,
    "stateful": lambda network: network.volume,
    "command": lambda network: list(network.command) if network.command is not None else None,
    "environment": lambda network: dict(network.environment),
    "secrets": lambda network: dict(network.secrets),
    "resources": lambda network: {"cpus": network.resources.cpus, "memoryMiB": network.resources.memory},
}


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "there is none"
