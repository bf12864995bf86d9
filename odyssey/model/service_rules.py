# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults of a network's IPv6 subnet and service address, and of what it asks of the fabric that others own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Network

from odyssey.model.faults import fault, network_path
from odyssey.model.inventory import Border, Inventory, Port
from odyssey.model.platform import Network, Service
from odyssey.model.snapshot import Snapshot
from schemas import Fault

_RESERVED6 = tuple(IPv6Network(text) for text in ("::/8", "fe80::/10", "ff00::/8"))
"""Unspecified, loopback and mapped addresses, link-local and multicast (RFC 4291, 2.4)."""


def service_faults(network: Network, snapshot: Snapshot) -> Iterator[Fault]:
    """Faults of one network by itself, on the inventory, and beside its own nodes."""
    inventory = snapshot.inventory
    assert inventory is not None
    yield from _subnet6_faults(network, inventory)
    if network.service is not None:
        yield from _address_faults(network, network.service, snapshot)
        yield from _slot_faults(network, network.service)
    yield from _owned_faults(network, inventory)
    yield from _accepted_faults(network, inventory)


def _subnet6_faults(network: Network, inventory: Inventory) -> Iterator[Fault]:
    if network.subnet6 is None:
        return
    path, found = network_path(network.name, "subnet6"), str(network.subnet6)
    for area in _RESERVED6:
        if network.subnet6.overlaps(area):
            yield fault(path, found, f"a subnet outside {area}, which has a meaning of its own")
    if inventory.fabric.gateway6 in network.subnet6:
        yield fault(path, found, f"a subnet without {inventory.fabric.gateway6}, the fabric's IPv6 gateway")
    if network.subnet6.num_addresses < network.subnet.num_addresses:
        expected = f"as many addresses as {network.subnet} at least: it has {network.subnet6.num_addresses}"
        yield fault(path, found, f"{expected} of {network.subnet.num_addresses}")
    for switch in inventory.fabric.switches.values():
        if not switch.facts.ipv6:
            expected = f"no IPv6: switch {switch.name} has the profile {switch.profile}, which cannot have both"
            yield fault(path, found, expected)


def _address_faults(network: Network, service: Service, snapshot: Snapshot) -> Iterator[Fault]:
    path, found = network_path(network.name, "service", "address"), str(service.address)
    subnet = network.subnet
    if service.address not in subnet:
        yield fault(path, found, f"an address in {subnet}")
    elif service.address in {subnet.network_address, subnet.broadcast_address}:
        yield fault(path, found, f"another address than the network and the broadcast address of {subnet}")
    for node in (*snapshot.nodes.values(), *snapshot.pending.values()):
        if node.address == service.address:
            yield fault(path, found, f"an address that no node has: {node.name} has this one")
    if service.address6 is None:
        return
    path6, found6 = network_path(network.name, "service", "address6"), str(service.address6)
    if network.subnet6 is None:
        yield fault(path6, found6, f"{network_path(network.name, 'subnet6')} too")
    elif service.address6 not in network.subnet6:
        yield fault(path6, found6, f"an address in {network.subnet6}")
    elif service.address6 == network.subnet6.network_address:
        expected = f"another address than the first one of {network.subnet6}, which all routers have (RFC 4291, 2.6.1)"
        yield fault(path6, found6, expected)
    for node in (*snapshot.nodes.values(), *snapshot.pending.values()):
        if node.address6 == service.address6:
            yield fault(path6, found6, f"an address that no node has: {node.name} has this one")


def _slot_faults(network: Network, service: Service) -> Iterator[Fault]:
    if service.slots < network.scale.max:
        path = network_path(network.name, "service", "slots")
        yield fault(path, service.slots, f"at least scale.max, which is {network.scale.max}: each node needs a slot")


def _owned_faults(network: Network, inventory: Inventory) -> Iterator[Fault]:
    path = network_path(network.name, "vlan")
    owned = inventory.fabric.owned_vlans
    if owned is not None and network.vlan not in owned:
        yield fault(path, network.vlan, f"a VLAN that Odyssey owns: {owned} ($.fabric.owned.vlans of the inventory)")
    for border in inventory.fabric.borders.values():
        if border.vlan == network.vlan:
            yield fault(path, network.vlan, f"another VLAN: frames of border {border.name} carry this one")


def _accepted_faults(network: Network, inventory: Inventory) -> Iterator[Fault]:
    for name, ports in network.exposed_to.items():
        border = inventory.fabric.borders.get(name)
        if border is not None and (refused := not_accepted(border, ports)):
            path = network_path(network.name, "exposedTo", name)
            yield fault(path, _listed(refused), f"only what the border accepts: {_listed(border.accepts or ())}")


def not_accepted(border: Border, ports: Iterable[Port]) -> tuple[Port, ...]:
    """The ports that may not be exposed to a border."""
    return () if border.accepts is None else tuple(port for port in ports if port not in border.accepts)


def border_faults(network: Network, border: Border) -> Iterator[Fault]:
    """Subnets of a network that overlap what is behind a border."""
    if network.subnet.overlaps(border.prefix):
        path = network_path(network.name, "subnet")
        yield fault(path, str(network.subnet), f"a subnet apart from {border.prefix} of border {border.name}")
    if network.subnet6 is not None and border.prefix6 is not None and network.subnet6.overlaps(border.prefix6):
        path = network_path(network.name, "subnet6")
        yield fault(path, str(network.subnet6), f"a subnet apart from {border.prefix6} of border {border.name}")


def pair_faults(network: Network, others: list[Network], called: Callable[[Network], str]) -> Iterator[Fault]:
    """What a network would share with others: subnets and VLANs."""
    for other in others:
        if network.subnet.overlaps(other.subnet):
            path = network_path(network.name, "subnet")
            yield fault(path, str(network.subnet), f"a subnet apart from {other.subnet} of {called(other)}")
        if network.subnet6 is not None and other.subnet6 is not None and network.subnet6.overlaps(other.subnet6):
            path = network_path(network.name, "subnet6")
            yield fault(path, str(network.subnet6), f"a subnet apart from {other.subnet6} of {called(other)}")
        if network.vlan == other.vlan:
            yield fault(network_path(network.name, "vlan"), network.vlan, f"a VLAN apart from that of {called(other)}")


def _listed(ports: Iterable[Port]) -> str:
    return ", ".join(map(str, ports)) or "nothing"
