# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two ends of a path as people name them: a node, a network, a border, a service, or an address of any of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from typing import Any

from controller.fabric import Binding, Border, Intent, Inventory, Port, ServiceAddress, Station, format_mac
from controller.families import IPV4, IPV6, Address, Family, family_of
from controller.flows import VLAN_PRESENT

NAMED_EXAMPLES = 5


class UnknownEnd(Exception):
    """Nobody has such a name or address; the text says what there is."""


@dataclass(frozen=True, slots=True)
class End:
    """One end: ``group`` is the key of its network or the name of its border; ``mac`` is a 48-bit integer.

    ``service`` is set where connections go to a service address, and then ``binding`` is the member that is looked at.
    ``note`` tells people what was chosen for them.
    """

    name: str
    group: str
    address: Address
    mac: int
    station: Station
    binding: Binding | None = None
    service: ServiceAddress | None = None
    vlan: int | None = None
    note: str | None = None

    @property
    def is_border(self) -> bool:
        """Tell whether it is outside of the fabric."""
        return self.binding is None

    @property
    def family(self) -> Family:
        """The family of its address."""
        return family_of(self.address)

    def tag_at(self, port: Port) -> int:
        """Return the field vlan_vid of its frames at a port."""
        return VLAN_PRESENT | self.vlan if self.vlan is not None and port in self.station.tagged else 0

    def to_json(self) -> dict[str, Any]:
        """Return it as an answer carries it."""
        found: dict[str, Any] = {"name": self.name, "address": str(self.address), "mac": format_mac(self.mac)}
        if self.binding is None:
            return {**found, "kind": "border", "border": self.group}
        node = {"kind": "node", "node": self.binding.node, "network": self.group, "host": self.binding.host}
        service = {"service": str(self.address)} if self.service is not None else {}
        return {**found, **node, "phase": self.binding.phase.value, **service}


def both_ends(intent: Intent, source: str, target: str) -> tuple[End, End]:
    """Find the ends of a path; raises UnknownEnd.  Both are of the family of an address that was given, else IPv4."""
    family = IPV4
    for text in (source, target):
        if isinstance(_address(text), IPv6Address):
            family = IPV6
    finder = _Finder(intent, family)
    return finder.find(source, as_target=False), finder.find(target, as_target=True)


def members(intent: Intent, end: End) -> Iterator[End]:
    """Yield the end once for each node to which its service may send a connection, by name."""
    if end.service is None:
        yield end
        return
    for node in sorted({*end.service.slots, *end.service.pins.values()}):
        binding = intent.bindings[node]
        assert intent.inventory is not None
        station = intent.inventory.hosts[binding.host]
        yield replace(end, name=node, binding=binding, mac=binding.mac, station=station)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class _Finder:
    intent: Intent
    family: Family

    @property
    def inventory(self) -> Inventory:
        assert self.intent.inventory is not None
        return self.intent.inventory

    def find(self, text: str, *, as_target: bool) -> End:
        address = _address(text)
        if address is not None:
            return self._by_address(address, as_target)
        if text in self.intent.bindings:
            return self._node(self.intent.bindings[text])
        if text in self.inventory.borders:
            return self._border(self.inventory.borders[text], None)
        return self._network(text, as_target)

    def _node(self, binding: Binding, note: str | None = None) -> End:
        address = binding.address_of(self.family)
        if address is None:
            raise UnknownEnd(f"{binding.node} has no {self.family.name} address")
        host = self.inventory.hosts[binding.host]
        vlan = self.intent.networks[binding.network].vlan
        return End(binding.node, binding.network, address, binding.mac, host, binding, None, vlan, note)

    def _service(self, service: ServiceAddress, note: str | None = None) -> End:
        address = service.address_of(self.family)
        nodes = [*service.slots, *service.pins.values()]
        if address is None:
            raise UnknownEnd(f"the service of {service.network} has no {self.family.name} address")
        if not nodes:
            raise UnknownEnd(f"no node serves {address}, the service address of {service.network}")
        member = self._node(self.intent.bindings[sorted(nodes)[0]])
        return replace(member, name=f"service of {service.network}", address=address, service=service, note=note)

    def _border(self, border: Border, address: Address | None) -> End:
        if address is None:
            peer = border.peer_address if self.family is IPV4 else border.peer_address6
            prefix = border.prefix_of(self.family)
            if prefix is None:
                raise UnknownEnd(f"the border {border.name} has no {self.family.name} prefix")
            gateway = border.gateway_of(self.family)
            address = peer if peer in prefix else next((one for one in prefix.hosts() if one != gateway), None)
        if address is None:
            raise UnknownEnd(f"no address of the border {border.name} is left for a device")
        name = f"{address} behind {border.name}"
        return End(name, border.name, address, border.peer_mac, border, vlan=border.vlan)

    def _by_address(self, address: Address, as_target: bool) -> End:
        for binding in self.intent.bindings.values():
            if address in (binding.address, binding.address6):
                return self._node(binding)
        for service in self.intent.services.values():
            if as_target and address in (service.address, service.address6):
                return self._service(service)
        for border in self.inventory.borders.values():
            prefix = border.prefix_of(self.family)
            if prefix is not None and address in prefix:
                if address == border.gateway_of(self.family):
                    raise UnknownEnd(f"{address} is the gateway of the border {border.name}: the fabric itself")
                return self._border(border, address)
        for network in self.intent.networks.values():
            prefix = network.prefix_of(self.family)
            if prefix is not None and address in prefix:
                raise UnknownEnd(f"{address} is of network {network.key}, and no node there has it")
        raise UnknownEnd(f"{address} is of no network and behind no border")

    def _network(self, text: str, as_target: bool) -> End:
        keys = [key for key in self.intent.networks if text in (key, key.partition("/")[2])]
        if len(keys) > 1:
            raise UnknownEnd(f"{text} is ambiguous: say which of {', '.join(keys)}")
        if not keys:
            raise UnknownEnd(f"there is no node, network, border or address {text}; there are {self._examples()}")
        service = self.intent.services.get(keys[0])
        if as_target and service is not None and (service.slots or service.pins):
            return self._service(service, f"{text} is a network: taken its service address")
        nodes = sorted(
            (not one.phase.serves, one.node) for one in self.intent.bindings.values() if one.network == keys[0]
        )
        if not nodes:
            raise UnknownEnd(f"network {keys[0]} has no node")
        return self._node(self.intent.bindings[nodes[0][1]], f"{text} is a network: taken its node {nodes[0][1]}")

    def _examples(self) -> str:
        names = [*sorted(self.intent.bindings)[:NAMED_EXAMPLES], *self.inventory.borders]
        return ", ".join(names) or "none yet"

