# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an intent must keep to besides its schema.  Pure: each rule returns every breach of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from controller.fabric import (
    Binding,
    Intent,
    Inventory,
    Network,
    Policy,
    Port,
    Refusal,
    ServiceAddress,
    format_mac,
)
from controller.families import FAMILIES, Address, Prefix


def intent_faults(intent: Intent) -> list[Refusal]:
    """Return every reason why an intent, which has an inventory, cannot be made true by any profile."""
    inventory = intent.inventory
    assert inventory is not None
    faults = [*_port_faults(inventory), *_identity_faults(inventory), *_border_faults(inventory)]
    faults += _vlan_faults(inventory, intent.networks)
    faults += _network_faults(intent.networks)
    faults += _overlaps(inventory, intent.networks)
    for policy in intent.policies.values():
        faults += _policy_faults(policy, inventory, intent.networks)
    faults += _binding_faults(intent)
    holders = {
        address: node
        for node, binding in intent.bindings.items()
        for address in (binding.address, binding.address6)
        if address is not None
    }
    for service in intent.services.values():
        faults += _service_faults(service, intent, holders)
    return faults


def _port_faults(inventory: Inventory) -> Iterator[Refusal]:
    users: dict[Port, str] = {}
    uses = [(port, station.name) for station in inventory.stations for port in station.ports]
    uses += [(port, "a link") for link in inventory.links for port in (link.a, link.b)]
    for port, user in uses:
        switch = inventory.switches.get(port.switch)
        if switch is None:
            known = ", ".join(inventory.switches)
            reason = f"{user} uses port {port}, but there is no switch {port.switch}; there are: {known}"
            yield Refusal("inventory", reason)
        elif switch.owned_ports is not None and not any(port.number in owned for owned in switch.owned_ports):
            reason = f"{user} uses port {port}, which is not among the owned ports {_spans(switch.owned_ports)}"
            yield Refusal("inventory", reason)
        if port in users:
            yield Refusal("inventory", f"port {port} is used twice: by {users[port]} and by {user}")
        users[port] = user


def _spans(ranges: Iterable[range]) -> str:
    return ", ".join(f"{span.start}-{span.stop - 1}" for span in ranges)


def _identity_faults(inventory: Inventory) -> Iterator[Refusal]:
    by_id: dict[int, str] = {}
    for switch in inventory.switches.values():
        if switch.datapath_id in by_id:
            pair = f"{by_id[switch.datapath_id]} and {switch.name}"
            yield Refusal("inventory", f"{pair} have the same datapath id {switch.datapath_id:016x}")
        by_id[switch.datapath_id] = switch.name
    pairs: dict[frozenset[str], str] = {}
    for link in inventory.links:
        ends = frozenset((link.a.switch, link.b.switch))
        if len(ends) == 1:
            yield Refusal("inventory", f"the link {link.a} - {link.b} joins a switch to itself")
        elif ends in pairs:
            reason = f"the link {link.a} - {link.b} is parallel to {pairs[ends]}; bundle them in one port (LACP)"
            yield Refusal("inventory", reason)
        pairs[ends] = f"{link.a} - {link.b}"


def _border_faults(inventory: Inventory) -> Iterator[Refusal]:
    for border in inventory.borders.values():
        named: list[tuple[str, Address | None, Prefix | None]] = [
            ("gateway", border.gateway, border.prefix),
            ("peer address", border.peer_address, border.prefix),
            ("gateway6", border.gateway6, border.prefix6),
            ("peer address6", border.peer_address6, border.prefix6),
        ]
        for what, address, prefix in named:
            if address is not None and (prefix is None or address not in prefix):
                reason = f"border {border.name}: {what} {address} is not in {prefix or 'a prefix of its family'}"
                yield Refusal("inventory", reason)


def _vlan_faults(inventory: Inventory, networks: Mapping[str, Network]) -> Iterator[Refusal]:
    users: dict[int, str] = {inventory.transit_vlan: "the transit VLAN of the fabric"}
    uses = [(border.vlan, "inventory", f"border {border.name}") for border in inventory.borders.values()]
    uses += [(network.vlan, f"network/{network.key}", f"network {network.key}") for network in networks.values()]
    for vlan, subject, user in uses:
        if vlan is None:
            continue
        if vlan in users:
            what = "is" if vlan == inventory.transit_vlan else "is already that of"
            yield Refusal(subject, f"VLAN {vlan} {what} {users[vlan]}")
        users[vlan] = user
    if inventory.owned_vlans is None:
        return
    checked = [(inventory.transit_vlan, "inventory"), *((vlan, subject) for vlan, subject, _ in uses)]
    for vlan, subject in checked:
        if vlan is not None and not any(vlan in owned for owned in inventory.owned_vlans):
            yield Refusal(subject, f"VLAN {vlan} is not among the owned VLANs {_spans(inventory.owned_vlans)}")


def _network_faults(networks: Mapping[str, Network]) -> Iterator[Refusal]:
    numbers: dict[int, str] = {}
    for network in networks.values():
        subject = f"network/{network.key}"
        if network.number in numbers:
            yield Refusal(subject, f"id {network.number} is already that of {numbers[network.number]}")
        numbers[network.number] = network.key


def _overlaps(inventory: Inventory, networks: Mapping[str, Network]) -> Iterator[Refusal]:
    for family in FAMILIES:
        found = [(network.prefix_of(family), f"network/{network.key}") for network in networks.values()]
        found += [(border.prefix_of(family), f"border {border.name}") for border in inventory.borders.values()]
        prefixes = sorted((int(prefix.network_address), prefix, name) for prefix, name in found if prefix is not None)
        for (_, low, low_name), (_, high, high_name) in itertools.pairwise(prefixes):
            if low.broadcast_address >= high.network_address:  # type: ignore[operator]  # both are of one family
                yield Refusal(high_name, f"{high} overlaps {low} of {low_name}")


def _policy_faults(policy: Policy, inventory: Inventory, networks: Mapping[str, Network]) -> Iterator[Refusal]:
    kind = "expose" if policy.from_border else "policy"
    if policy.from_border:
        expected = f"{kind}/{policy.target}/{policy.source}"
        border = inventory.borders.get(policy.source)
        if border is None:
            yield Refusal(policy.key, f"there is no border {policy.source}")
        elif border.accepts is not None:
            for service in policy.services:
                if service not in border.accepts:
                    accepted = ", ".join(f"{one.protocol} {one.port}" for one in sorted(border.accepts)) or "nothing"
                    reason = f"border {border.name} does not accept {service.protocol} {service.port}, only {accepted}"
                    yield Refusal(policy.key, reason)
    else:
        platform, _, source = policy.source.partition("/")
        expected = f"{kind}/{platform}/{source}/{policy.target.partition('/')[2]}"
        if policy.source not in networks:
            yield Refusal(policy.key, f"there is no network {policy.source}")
        if not policy.target.startswith(f"{platform}/"):
            yield Refusal(policy.key, f"{policy.source} and {policy.target} are not of one platform")
    if policy.target not in networks:
        yield Refusal(policy.key, f"there is no network {policy.target}")
    if policy.key != expected:
        yield Refusal(policy.key, f"the document belongs under the key {expected}")


def _binding_faults(intent: Intent) -> Iterator[Refusal]:
    addresses: dict[Address, str] = {}
    macs: dict[int, str] = {}
    for key, binding in intent.bindings.items():
        subject = f"binding/{key}"
        if key != binding.node:
            yield Refusal(subject, f"the document is of node {binding.node}")
        yield from (Refusal(subject, reason) for reason in _place_faults(binding, intent))
        for address in (binding.address, binding.address6):
            if address is not None and address in addresses:
                yield Refusal(subject, f"{address} is already the address of {addresses[address]}")
            if address is not None:
                addresses[address] = binding.node
        if binding.mac in macs:
            yield Refusal(subject, f"{format_mac(binding.mac)} is already the MAC of {macs[binding.mac]}")
        macs[binding.mac] = binding.node


def _place_faults(binding: Binding, intent: Intent) -> Iterator[str]:
    assert intent.inventory is not None
    network = intent.networks.get(binding.network)
    if network is None:
        yield f"there is no network {binding.network}"
    else:
        for family in FAMILIES:
            address, prefix = binding.address_of(family), network.prefix_of(family)
            if address is not None and (prefix is None or address not in prefix):
                yield f"{address} is not in {prefix or 'an IPv6 subnet'} of {binding.network}"
    host = intent.inventory.hosts.get(binding.host)
    if host is None:
        yield f"there is no host {binding.host} in the inventory"
    elif not host.ports:
        yield f"host {binding.host} has no attachment to a switch"
    elif host.tagged and network is not None and network.vlan is None:
        yield f"host {binding.host} is attached with tags, and {binding.network} has no VLAN"


def _service_faults(service: ServiceAddress, intent: Intent, holders: Mapping[Address, str]) -> Iterator[Refusal]:
    if service.key != f"service/{service.network}":
        yield Refusal(service.key, f"the document belongs under the key service/{service.network}")
    network = intent.networks.get(service.network)
    if network is None:
        yield Refusal(service.key, f"there is no network {service.network}")
        return
    for family in FAMILIES:
        address, prefix = service.address_of(family), network.prefix_of(family)
        if address is not None and (prefix is None or address not in prefix):
            yield Refusal(service.key, f"{address} is not in {prefix or 'an IPv6 subnet'} of {service.network}")
        if address is not None and address in holders:
            yield Refusal(service.key, f"{address} is the address of {holders[address]}")
    if len(service.slots) & (len(service.slots) - 1):
        yield Refusal(service.key, f"{len(service.slots)} slots; their number must be a power of two")
    for node in sorted({*service.slots, *service.pins.values()}):
        member = intent.bindings.get(node)
        if member is None or member.network != service.network:
            yield Refusal(service.key, f"{node} is no node of {service.network}")
        elif not member.phase.serves:
            yield Refusal(service.key, f"{node} is {member.phase}; only an admitted node may serve")
