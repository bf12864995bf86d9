# SPDX-License-Identifier: AGPL-3.0-or-later
"""What single-table switches cannot do: refused, or told to the operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from controller.fabric import Binding, Intent, Inventory, Phase, Refusal, Station, Switch, format_mac
from controller.profiles.base import Capabilities

NAMED_PAIRS = 3
"""How many pairs of nodes of one host a refusal names; the rest is counted."""


def reflects(switch: Switch, can: Capabilities) -> bool:
    """Tell whether a switch can send back out of the ingress port: what a probe found, else what the profile knows."""
    return can.reflects == "yes" if switch.reflects is None else switch.reflects


def inventory_faults(inventory: Inventory, switch: str, profile: str, can: Capabilities) -> Iterator[Refusal]:
    """Yield every reason why such a switch cannot be part of a fabric."""
    capacity = inventory.switches[switch].capacity
    if can.most_entries is not None and capacity > can.most_entries:
        reason = f"maxEntries is {capacity}, and a switch of profile {profile} holds at most {can.most_entries}"
        yield Refusal(switch, reason)
    for name, host in inventory.hosts.items():
        for port in host.ports:
            if port.switch == switch and port not in host.tagged:
                reason = f"host {name} hangs on port {port.number} without tags, and profile {profile} pushes no VLAN"
                yield Refusal(switch, f"{reason}; set tagged: true on the attachment")
    for border in inventory.borders.values():
        if border.port_on(switch) is None:
            continue
        if border.vlan is None:
            reason = f"border {border.name} has no VLAN, and profile {profile} pushes and pops none"
            yield Refusal(switch, f"{reason}; give the border a vlan")
        if border.prefix6 is not None and not can.ipv6:
            reason = f"border {border.name} has IPv6, and profile {profile} cannot have both families"
            yield Refusal(switch, f"{reason}; leave out prefix6")


def intent_faults(intent: Intent, switch: str, profile: str, can: Capabilities) -> Iterator[Refusal]:
    """Yield every reason why such a switch cannot make an intent true."""
    inventory = intent.inventory
    assert inventory is not None
    if not can.ipv6:
        yield from _family_faults(intent, inventory, switch, profile)
    if not reflects(inventory.switches[switch], can):
        yield from _hairpin_faults(intent, inventory, switch)


def _family_faults(intent: Intent, inventory: Inventory, switch: str, profile: str) -> Iterator[Refusal]:
    """A network touches a switch that has nodes of it, or that may lie on the way between others."""
    between = len(inventory.trunks(switch)) > 1
    here = {node.network for node in _nodes_here(intent, inventory, switch)}
    for key, network in intent.networks.items():
        if network.subnet6 is not None and (between or key in here):
            reason = f"network {key} has IPv4 and IPv6 (subnet6), and profile {profile} cannot have both"
            yield Refusal(switch, f"{reason}; leave out subnet6, or keep the network off this switch")


def _hairpin_faults(intent: Intent, inventory: Inventory, switch: str) -> Iterator[Refusal]:
    by_host: dict[str, list[Binding]] = {}
    for node in _nodes_here(intent, inventory, switch):
        if node.phase is not Phase.STANDBY:
            by_host.setdefault(node.host, []).append(node)
    talking = {frozenset((policy.source, policy.target)) for policy in intent.policies.values()}
    for host, nodes in by_host.items():
        pairs = (
            f"{one.node} and {other.node}"
            for one, other in itertools.combinations(nodes, 2)
            if frozenset((one.network, other.network)) in talking
        )
        named = list(itertools.islice(pairs, NAMED_PAIRS))
        if named:
            more = sum(1 for _ in pairs)
            who = ", ".join(named) + (f" and {more} more pairs" if more else "")
            reason = f"{who} may talk and share {_ports(inventory.hosts[host], switch)} of host {host}"
            what = f"{switch} is not known to send a frame out of the port on which it came in"
            remedy = f"place them on different hosts, or set reflects: yes if odysseyctl switch probe {switch} finds so"
            yield Refusal(switch, f"{reason}; {what}: {remedy}")


def _ports(station: Station, switch: str) -> str:
    numbers = [str(port.number) for port in station.ports if port.switch == switch]
    return f"port {numbers[0]}" if len(numbers) == 1 else f"ports {' and '.join(numbers)}"


def notes(intent: Intent, switch: str, can: Capabilities) -> Iterator[str]:
    """Yield what the operator must do, and what is weaker here than the intent says."""
    inventory = intent.inventory
    assert inventory is not None
    for border in inventory.borders.values():
        if border.port_on(switch) is not None:
            for gateway in filter(None, (border.gateway, border.gateway6)):
                neighbour = f"static neighbour {gateway} at {format_mac(inventory.mac)}"
                yield f"border {border.name}: give the device {border.peer_address} the {neighbour}"
    here = _nodes_here(intent, inventory, switch)
    if not here:
        return
    yield "returns are told by their source port: from the port of a service its nodes can also open connections"
    yield "sources are held to the subnet of their network, not to the address of the node"
    if any(node.phase is Phase.DRAINING for node in here):
        yield "draining nodes still get new connections: the switch does not tell them from others"
    if not can.icmp_errors:
        yield "ICMP errors are dropped: the switch does not match their type; all ends need the MTU of the fabric"
    for service in intent.services.values():
        if not service.pins and (service.slots or service.address6):
            yield f"{service.key}: clients on this switch get no member without pins"
        elif service.address6 is not None and can.ipv6:
            yield f"{service.key}: clients on this switch reach it by IPv4 only: pins are IPv4 prefixes"


def _nodes_here(intent: Intent, inventory: Inventory, switch: str) -> list[Binding]:
    """Return the nodes of hosts on a switch."""
    hosts = {name for name, host in inventory.hosts.items() if switch in host.homes}
    return [node for node in intent.bindings.values() if node.host in hosts]
