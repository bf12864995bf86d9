# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a schema cannot say about an inventory: every fault of its meaning at once, by JSON path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from odyssey.model.fabric_rules import (
    attachment_faults,
    border6_faults,
    carried_faults,
    owned_faults,
    parallel_faults,
    running_faults,
)
from odyssey.model.faults import by_path, fault
from odyssey.model.inventory import Fabric, Inventory, SwitchPort
from odyssey.model.naming import NETCONF, is_controller
from odyssey.model.snapshot import Snapshot
from schemas import Fault


def inventory_faults(inventory: Inventory, snapshot: Snapshot) -> tuple[Fault, ...]:
    """Every fault of `inventory` by itself and under the platforms and nodes of `snapshot`."""
    found = [
        *_fabric_faults(inventory.fabric),
        *_border_faults(inventory.fabric),
        *border6_faults(inventory.fabric),
        *_port_faults(inventory),
        *owned_faults(inventory, _ports(inventory)),
        *_host_faults(inventory),
        *attachment_faults(inventory),
        *_platform_faults(inventory.fabric, snapshot),
        *carried_faults(inventory.fabric, snapshot),
        *_change_faults(inventory, snapshot),
    ]
    return by_path(found)


def _fabric_faults(fabric: Fabric) -> Iterator[Fault]:
    path = "$.fabric.mac"
    if int(fabric.mac[:2], 16) & 1:
        yield fault(path, fabric.mac, "a unicast address: the first byte is even")
    if fabric.mac.startswith("02:00:"):
        yield fault(path, fabric.mac, "an address that does not begin with 02:00, which nodes use")
    seen: dict[str, str] = {}
    for name, datapath in sorted((name, switch.datapath_id) for name, switch in fabric.switches.items()):
        if datapath in seen:
            yield fault(f"$.fabric.switches.{name}.datapathId", datapath, f"an id apart from that of {seen[datapath]}")
        seen.setdefault(datapath, name)
    for number, (one, other) in enumerate(fabric.links):
        if one.switch == other.switch:
            yield fault(f"$.fabric.links[{number}]", f"{one} to {other}", "a link between two switches")
    yield from parallel_faults(fabric)


def _border_faults(fabric: Fabric) -> Iterator[Fault]:
    borders = [fabric.borders[name] for name in sorted(fabric.borders)]
    for position, border in enumerate(borders):
        path = f"$.fabric.borders.{border.name}"
        unusable = {border.prefix.network_address, border.prefix.broadcast_address}
        for part, address in (("gateway", border.gateway), ("peer.address", border.peer)):
            if address not in border.prefix or address in unusable:
                yield fault(f"{path}.{part}", str(address), f"a host address of {border.prefix}")
        if border.gateway == border.peer:
            yield fault(f"{path}.peer.address", str(border.peer), "another address than the gateway's")
        for other in borders[:position]:
            if border.prefix.overlaps(other.prefix):
                expected = f"a prefix apart from {other.prefix} of border {other.name}"
                yield fault(f"{path}.prefix", str(border.prefix), expected)


def _port_faults(inventory: Inventory) -> Iterator[Fault]:
    """Switches that do not exist and ports that are named twice."""
    uses: dict[SwitchPort, str] = {}
    for path, port in _ports(inventory):
        if port.switch not in inventory.fabric.switches:
            known = ", ".join(sorted(inventory.fabric.switches))
            yield fault(f"{path}.switch", port.switch, f"a switch of the fabric: {known}")
        elif port in uses:
            yield fault(f"{path}.port", port.port, f"a port of {port.switch} that is free; {uses[port]} has this one")
        uses.setdefault(port, path)


def _ports(inventory: Inventory) -> Iterator[tuple[str, SwitchPort]]:
    for number, (one, other) in enumerate(inventory.fabric.links):
        yield f"$.fabric.links[{number}].a", one
        yield f"$.fabric.links[{number}].b", other
    for name, border in sorted(inventory.fabric.borders.items()):
        for number, port in enumerate(border.ports):
            yield f"$.fabric.borders.{name}.ports[{number}]", port
    for name, host in sorted(inventory.hosts.items()):
        for number, attachment in enumerate(host.attachments):
            yield f"$.hosts.{name}.attachments[{number}]", attachment.at


def _host_faults(inventory: Inventory) -> Iterator[Fault]:
    for name, host in inventory.hosts.items():
        if is_controller(name):
            yield fault(f"$.hosts.{name}", name, "another name: controllers take part under such ones")
        if name == NETCONF:
            yield fault(f"$.hosts.{name}", name, "another name: odyssey-netconf takes part under this one")
        nics: set[str] = set()
        for number, attachment in enumerate(host.attachments):
            if attachment.nic in nics:
                yield fault(f"$.hosts.{name}.attachments[{number}].nic", attachment.nic, "each NIC once")
            nics.add(attachment.nic)


def _platform_faults(fabric: Fabric, snapshot: Snapshot) -> Iterator[Fault]:
    """Platforms that exist and that the fabric would no longer carry."""
    for platform in snapshot.platforms.values():
        for network in platform.networks.values():
            if network.vlan == fabric.transit_vlan:
                yield fault("$.fabric.transitVlan", network.vlan, f"a VLAN apart from that of network {network.key}")
            if fabric.gateway in network.subnet:
                outside = f"an address outside {network.subnet} of network {network.key}"
                yield fault("$.fabric.gateway", str(fabric.gateway), outside)
            for border in fabric.borders.values():
                if border.prefix.overlaps(network.subnet):
                    apart = f"a prefix apart from {network.subnet} of network {network.key}"
                    yield fault(f"$.fabric.borders.{border.name}.prefix", str(border.prefix), apart)
            for name in network.exposed_to:
                if name not in fabric.borders:
                    path = f"$.fabric.borders.{name}"
                    yield fault(path, None, f"a border with this name, because network {network.key} is exposed to it")


def _change_faults(inventory: Inventory, snapshot: Snapshot) -> Iterator[Fault]:
    """What nodes that run were started with, and hosts that still have nodes."""
    before = snapshot.inventory
    if before is None:
        return
    if inventory.cluster != before.cluster:
        yield fault("$.cluster", inventory.cluster, f"{before.cluster}: a cluster keeps its name")
    by_host: dict[str, list[str]] = {}
    for node in (*snapshot.nodes.values(), *snapshot.pending.values()):
        by_host.setdefault(node.host, []).append(node.name)
    if by_host:
        yield from _constant_faults(inventory.fabric, before.fabric)
        yield from running_faults(inventory, before, snapshot, by_host)
    for name, nodes in sorted(by_host.items()):
        if name not in inventory.hosts:
            yield fault(f"$.hosts.{name}", None, f"this host, because it still has nodes: {_some(nodes)}")
        elif name in before.hosts:
            old = [item.nic for item in before.hosts[name].attachments]
            new = [item.nic for item in inventory.hosts[name].attachments]
            if old != new:
                yield fault(f"$.hosts.{name}.attachments", new, f"the NICs {old}, which nodes use: {_some(nodes)}")


def _constant_faults(new: Fabric, old: Fabric) -> Iterator[Fault]:
    constants: tuple[tuple[str, Any, Any], ...] = (
        ("mac", new.mac, old.mac),
        ("gateway", str(new.gateway), str(old.gateway)),
        ("gateway6", str(new.gateway6), str(old.gateway6)),
        ("mtu", new.mtu, old.mtu),
    )
    for name, now, was in constants:
        if now != was:
            yield fault(f"$.fabric.{name}", now, f"{was}: nodes that run were started with it")


def _some(nodes: list[str], limit: int = 5) -> str:
    names = sorted(nodes)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
