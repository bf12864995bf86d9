# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults of an inventory in what it owns, in IPv6 of its borders, and in what its switches cannot do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from odyssey.model.apart import not_apart
from odyssey.model.faults import fault
from odyssey.model.inventory import Border, Fabric, Inventory, Ranges, SwitchPort
from odyssey.model.service_rules import not_accepted
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import STANDBY
from schemas import Fault

_LONGEST_INTERFACE = 15
"""Characters of the name of an interface (IFNAMSIZ of Linux, without the closing zero)."""

_LONGEST_TAGGED = _LONGEST_INTERFACE - len(".4094")
"""The agent's VLAN interfaces are called <nic>.<vlan>."""


def owned_faults(inventory: Inventory, ports: Iterable[tuple[str, SwitchPort]]) -> Iterator[Fault]:
    """VLANs and ports outside of what Odyssey owns; `ports` are all that the inventory names, with their paths."""
    fabric = inventory.fabric
    vlans = [("$.fabric.transitVlan", fabric.transit_vlan)]
    vlans += [
        (f"$.fabric.borders.{name}.vlan", border.vlan)
        for name, border in sorted(fabric.borders.items())
        if border.vlan is not None
    ]
    if fabric.owned_vlans is not None:
        yield from _range_faults("$.fabric.owned.vlans", fabric.owned_vlans)
        for path, vlan in vlans:
            if vlan not in fabric.owned_vlans:
                yield fault(path, vlan, f"a VLAN that Odyssey owns: {fabric.owned_vlans} ($.fabric.owned.vlans)")
    for path, vlan in vlans[1:]:
        if vlan == fabric.transit_vlan:
            yield fault(path, vlan, "another VLAN: this is the transit VLAN of the fabric")
    for name, switch in sorted(fabric.switches.items()):
        if switch.owned_ports is not None:
            yield from _range_faults(f"$.fabric.switches.{name}.ownedPorts", switch.owned_ports)
            for number in sorted(map(int, inventory.document["fabric"]["switches"][name].get("ports", {}))):
                if number not in switch.owned_ports:
                    yield _foreign_port(f"$.fabric.switches.{name}.ports.{number}", number, name, switch.owned_ports)
    for path, port in ports:
        owner = fabric.switches.get(port.switch)
        if owner is not None and owner.owned_ports is not None and port.port not in owner.owned_ports:
            yield _foreign_port(f"{path}.port", port.port, owner.name, owner.owned_ports)


def _foreign_port(path: str, number: int, switch: str, owned: Ranges) -> Fault:
    return fault(path, number, f"a port that Odyssey owns on {switch}: {owned} ($.fabric.switches.{switch}.ownedPorts)")


def _range_faults(path: str, ranges: Ranges) -> Iterator[Fault]:
    for number, (low, high) in enumerate(ranges.parts):
        if low > high:
            yield fault(f"{path}[{number}].to", high, f"at least {low}, where the range begins")


def parallel_faults(fabric: Fabric) -> Iterator[Fault]:
    """Two links between the same switches: forwarding is by distance, so a second one would never be used."""
    seen: dict[frozenset[str], int] = {}
    for number, (one, other) in enumerate(fabric.links):
        pair = frozenset((one.switch, other.switch))
        if len(pair) == 2 and pair in seen:
            names = " and ".join(sorted(pair))
            expected = f"one link between {names}, which $.fabric.links[{seen[pair]}] joins already"
            yield fault(f"$.fabric.links[{number}]", f"{one} to {other}", expected)
        seen.setdefault(pair, number)


def border6_faults(fabric: Fabric) -> Iterator[Fault]:
    """IPv6 of the borders: addresses, prefixes that overlap, and switches that cannot have it."""
    borders = [fabric.borders[name] for name in sorted(fabric.borders)]
    for position, border in enumerate(borders):
        path = f"$.fabric.borders.{border.name}"
        if border.prefix6 is None:
            if border.peer6 is not None:
                yield fault(f"{path}.peer.address6", str(border.peer6), f"{path}.prefix6 and gateway6 too")
            continue
        yield from _border6_addresses(border, path)
        if fabric.gateway6 in border.prefix6:
            outside = f"a prefix without {fabric.gateway6}, the next hop of every node"
            yield fault(f"{path}.prefix6", str(border.prefix6), outside)
        for other in borders[:position]:
            if other.prefix6 is not None and border.prefix6.overlaps(other.prefix6):
                expected = f"a prefix apart from {other.prefix6} of border {other.name}"
                yield fault(f"{path}.prefix6", str(border.prefix6), expected)
        for switch in (fabric.switches[port.switch] for port in border.ports if port.switch in fabric.switches):
            if not switch.facts.ipv6:
                expected = f"no IPv6: switch {switch.name} has the profile {switch.profile}, which cannot have both"
                yield fault(f"{path}.prefix6", str(border.prefix6), expected)


def _border6_addresses(border: Border, path: str) -> Iterator[Fault]:
    assert border.prefix6 is not None
    if border.peer6 is None:
        yield fault(f"{path}.peer.address6", None, f"the peer's address in {border.prefix6}")
    if border.peer6 is not None and border.peer6 == border.gateway6:
        yield fault(f"{path}.peer.address6", str(border.peer6), "another address than that of gateway6")
    for part, address in (("gateway6", border.gateway6), ("peer.address6", border.peer6)):
        if address is not None and (address not in border.prefix6 or address == border.prefix6.network_address):
            yield fault(f"{path}.{part}", str(address), f"a host address of {border.prefix6}")


def attachment_faults(inventory: Inventory) -> Iterator[Fault]:
    """Attachments that a switch's profile cannot serve, or whose VLAN interfaces could not be named."""
    for name, host in sorted(inventory.hosts.items()):
        for number, attachment in enumerate(host.attachments):
            path = f"$.hosts.{name}.attachments[{number}]"
            switch = inventory.fabric.switches.get(attachment.at.switch)
            if switch is not None and switch.facts.needs_tagged and not attachment.tagged:
                why = f"true: switch {switch.name} has the profile {switch.profile}, which cannot push VLANs"
                yield fault(f"{path}.tagged", attachment.tagged, why)
            if attachment.tagged and len(attachment.nic) > _LONGEST_TAGGED:
                why = f"at most {_LONGEST_TAGGED} characters: its VLAN interfaces are called {attachment.nic}.<vlan>"
                yield fault(f"{path}.nic", attachment.nic, why)


def carried_faults(fabric: Fabric, snapshot: Snapshot) -> Iterator[Fault]:
    """Networks that exist and whose VLAN, IPv6 or exposure the fabric would no longer carry."""
    networks = [network for platform in snapshot.platforms.values() for network in platform.networks.values()]
    for network in networks:
        if fabric.owned_vlans is not None and network.vlan not in fabric.owned_vlans:
            found = str(fabric.owned_vlans)
            yield fault("$.fabric.owned.vlans", found, f"VLAN {network.vlan} of network {network.key} among them")
        for border in fabric.borders.values():
            path = f"$.fabric.borders.{border.name}"
            if border.vlan == network.vlan:
                yield fault(f"{path}.vlan", border.vlan, f"a VLAN apart from that of network {network.key}")
            if border.prefix6 is not None and network.subnet6 is not None and border.prefix6.overlaps(network.subnet6):
                apart = f"a prefix apart from {network.subnet6} of network {network.key}"
                yield fault(f"{path}.prefix6", str(border.prefix6), apart)
            if missing := not_accepted(border, network.exposed_to.get(border.name, ())):
                ports = ", ".join(map(str, missing))
                accepted = ", ".join(map(str, border.accepts or ())) or "nothing"
                yield fault(f"{path}.accepts", accepted, f"{ports} too, which network {network.key} exposes here")
        if network.subnet6 is None:
            continue
        if fabric.gateway6 in network.subnet6:
            outside = f"an address outside {network.subnet6} of network {network.key}"
            yield fault("$.fabric.gateway6", str(fabric.gateway6), outside)
        for switch in fabric.switches.values():
            if not switch.facts.ipv6:
                why = f"a profile that can have IPv6 beside IPv4, because network {network.key} has a subnet6"
                yield fault(f"$.fabric.switches.{switch.name}.profile", switch.profile, why)


def running_faults(
    inventory: Inventory, before: Inventory, snapshot: Snapshot, by_host: Mapping[str, list[str]]
) -> Iterator[Fault]:
    """What cannot change under nodes that run: tags, the identity of a switch in use, frames that are sent back."""
    for name, switch in sorted(inventory.fabric.switches.items()):
        old = before.fabric.switches.get(name)
        maintenance = snapshot.maintenance.get(name)
        if old is None or (maintenance is not None and maintenance.isolated):
            continue
        for part, now, was in (
            ("datapathId", switch.datapath_id, old.datapath_id), ("profile", switch.profile, old.profile),
        ):  # fmt: skip
            if now != was:
                how = f"a switch is replaced while it is out of use (odysseyctl switch maintenance {name} on)"
                yield fault(f"$.fabric.switches.{name}.{part}", now, f"{was}: {how}")
    for name in sorted(by_host.keys() & inventory.hosts.keys() & before.hosts.keys()):
        old_tags = {item.nic: item.tagged for item in before.hosts[name].attachments}
        for number, item in enumerate(inventory.hosts[name].attachments):
            tagged = old_tags.get(item.nic, item.tagged)
            if item.tagged != tagged:
                path = f"$.hosts.{name}.attachments[{number}].tagged"
                yield fault(path, item.tagged, f"{tagged}: nodes that run were started with it")
        waiting = [node.name for node in snapshot.nodes.values() if (node.host, node.phase) == (name, STANDBY)]
        if waiting and inventory.keeps_dark(name) and not before.keeps_dark(name):
            how = "no standby node on it: its agent keeps their links down, and would not be told to raise them"
            yield fault(f"$.hosts.{name}", waiting, f"{how} (lower scale.standby until the switches are replaced)")
    nodes = (*snapshot.nodes.values(), *snapshot.pending.values())
    for pair in not_apart(inventory, snapshot.platforms, nodes):
        yield fault(f"$.hosts.{pair.host}", pair.nodes, f"nodes on different hosts: {pair.reason}")
