# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the switches have to make true: inventory, networks, policies and bindings as frozen values.

``parse_intent`` reads the intent documents (``schemas/controller-operation.schema.json``) and checks what a schema
cannot: references, unique identities, subnets that must not overlap.  All faults are reported at once.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar


class Phase(enum.StrEnum):
    """What the switches do for a node (``docs/fabric.md``, "What a phase means")."""

    DARK = "dark"
    ADMITTED = "admitted"
    DRAINING = "draining"
    STANDBY = "standby"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an intent cannot be made true: ``subject`` is the document's key or the switch, ``reason`` is for people."""

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


class IntentRefused(Exception):
    """An intent with every reason why it is refused."""

    def __init__(self, refusals: Iterable[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("; ".join(str(refusal) for refusal in self.refusals))


@dataclass(frozen=True)
class Document:
    """An intent document and the sequence number of the transaction that last changed it."""

    value: Mapping[str, Any]
    seq: int

    @cached_property
    def generation(self) -> int:
        """16 bits that tell its content, and nothing else: the same on every controller and after every restart."""
        text = json.dumps(self.value, sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest())


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A port of a switch, by its OpenFlow number."""

    switch: str
    number: int

    def __str__(self) -> str:
        return f"{self.switch}:{self.number}"


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch; ``capacity`` is the number of flow entries that it may hold."""

    name: str
    datapath_id: int
    profile: str
    capacity: int


@dataclass(frozen=True, slots=True)
class Link:
    """A trunk: a cable between two switches."""

    a: Port
    b: Port


@dataclass(frozen=True, slots=True)
class Station:
    """Something that hangs on the fabric by ports of its own: a host or a border."""

    name: str
    ports: tuple[Port, ...]

    def port_on(self, switch: str) -> int | None:
        """Return the number of its port on ``switch``, None where it has none."""
        return next((port.number for port in self.ports if port.switch == switch), None)


@dataclass(frozen=True, slots=True)
class Border(Station):
    """A way out of the fabric: the devices of ``prefix`` behind one peer.  MAC addresses are 48-bit integers."""

    number: int
    prefix: IPv4Network
    gateway: IPv4Address
    peer_address: IPv4Address
    peer_mac: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The fabric: its switches, links, borders and the ports of the hosts."""

    mac: int
    gateway: IPv4Address
    transit_vlan: int
    switches: Mapping[str, Switch]
    links: tuple[Link, ...]
    borders: Mapping[str, Border]
    hosts: Mapping[str, Station]

    def trunks(self, switch: str) -> Mapping[int, Port]:
        """Return the far end of each trunk port of ``switch``."""
        ends = [(link.a, link.b) for link in self.links] + [(link.b, link.a) for link in self.links]
        return {near.number: far for near, far in sorted(ends) if near.switch == switch}


@dataclass(frozen=True, slots=True)
class Network:
    """One tier: ``key`` is ``platform/network``; ``number`` is what register 0 carries."""

    key: str
    number: int
    subnet: IPv4Network
    vlan: int | None


@dataclass(frozen=True, slots=True, order=True)
class Service:
    """A port to which connections may be opened; ``protocol`` is ``tcp`` or ``udp``."""

    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may open connections to which ports; ``source`` is a network or, where ``from_border``, a border."""

    key: str
    source: str
    target: str
    services: tuple[Service, ...]
    from_border: bool


@dataclass(frozen=True, slots=True)
class Binding:
    """A node at its place; ``mac`` is a 48-bit integer."""

    node: str
    network: str
    address: IPv4Address
    mac: int
    host: str
    phase: Phase


@dataclass(frozen=True, slots=True)
class Intent:
    """Everything that the switches have to make true; ``generations`` has that of each document by its key."""

    inventory: Inventory | None = None
    networks: Mapping[str, Network] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)


def parse_mac(text: str) -> int:
    """Return the 48-bit integer of a MAC address in colon notation."""
    return int(text.replace(":", ""), 16)


def format_mac(value: int) -> str:
    """Return a MAC address in colon notation."""
    return ":".join(f"{byte:02x}" for byte in value.to_bytes(6, "big"))


def parse_intent(documents: Mapping[str, Document]) -> Intent:
    """Read intent documents that match the schema.

    Raises IntentRefused with every fault: unknown references, addresses or ports used twice, overlapping subnets.
    """
    faults: list[Refusal] = []
    generations = {key: document.generation for key, document in documents.items()}
    if "inventory" not in documents:
        missing = [Refusal(key, "there is no inventory; set it first") for key in sorted(documents)]
        if missing:
            raise IntentRefused(missing)
        return Intent(generations=generations)
    inventory = _parse_inventory(documents["inventory"].value)
    networks = {network.key: network for network in _collect(documents, "network/", _parse_network).values()}
    policies = _collect(documents, "policy/", _parse_policy) | _collect(documents, "expose/", _parse_expose)
    bindings = {
        key.removeprefix("binding/"): one for key, one in _collect(documents, "binding/", _parse_binding).items()
    }
    intent = Intent(inventory, networks, policies, bindings, generations)
    faults += _inventory_faults(inventory)
    faults += _network_faults(inventory, networks)
    for policy in policies.values():
        faults += _policy_faults(policy, inventory, networks)
    faults += _binding_faults(intent)
    if faults:
        raise IntentRefused(faults)
    return intent


_T = TypeVar("_T")


def _collect(
    documents: Mapping[str, Document], prefix: str, parse: Callable[[str, Mapping[str, Any]], _T]
) -> dict[str, _T]:
    return {key: parse(key, documents[key].value) for key in sorted(documents) if key.startswith(prefix)}


def _parse_port(value: Mapping[str, Any]) -> Port:
    return Port(value["switch"], value["port"])


def _parse_inventory(value: Mapping[str, Any]) -> Inventory:
    fabric = value["fabric"]
    switches = {
        name: Switch(name, int(item["datapathId"], 16), item["profile"], item["maxEntries"])
        for name, item in sorted(fabric["switches"].items())
    }
    borders = {
        name: Border(
            name=name,
            ports=tuple(_parse_port(port) for port in item["ports"]),
            number=number,
            prefix=IPv4Network(item["prefix"]),
            gateway=IPv4Address(item["gateway"]),
            peer_address=IPv4Address(item["peer"]["address"]),
            peer_mac=parse_mac(item["peer"]["mac"]),
        )
        for number, (name, item) in enumerate(sorted(fabric.get("borders", {}).items()), start=1)
    }
    hosts = {
        name: Station(name, tuple(_parse_port(attachment) for attachment in item["attachments"]))
        for name, item in sorted(value["hosts"].items())
    }
    return Inventory(
        mac=parse_mac(fabric["mac"]),
        gateway=IPv4Address(fabric["gateway"]),
        transit_vlan=fabric["transitVlan"],
        switches=switches,
        links=tuple(Link(_parse_port(link["a"]), _parse_port(link["b"])) for link in fabric.get("links", [])),
        borders=borders,
        hosts=hosts,
    )


def _parse_network(key: str, value: Mapping[str, Any]) -> Network:
    return Network(key.removeprefix("network/"), value["id"], IPv4Network(value["subnet"]), value.get("vlan"))


def _parse_services(value: Mapping[str, Any]) -> tuple[Service, ...]:
    return tuple(sorted({Service(item["protocol"], item["port"]) for item in value["ports"]}))


def _parse_policy(key: str, value: Mapping[str, Any]) -> Policy:
    return Policy(key, value["from"], value["to"], _parse_services(value), from_border=False)


def _parse_expose(key: str, value: Mapping[str, Any]) -> Policy:
    return Policy(key, value["border"], value["network"], _parse_services(value), from_border=True)


def _parse_binding(key: str, value: Mapping[str, Any]) -> Binding:
    return Binding(
        node=value["node"],
        network=value["network"],
        address=IPv4Address(value["address"]),
        mac=parse_mac(value["mac"]),
        host=value["host"],
        phase=Phase(value["phase"]),
    )


def _inventory_faults(inventory: Inventory) -> list[Refusal]:
    faults = []
    users: dict[Port, str] = {}
    stations = [*inventory.hosts.values(), *inventory.borders.values()]
    uses = [(port, station.name) for station in stations for port in station.ports]
    uses += [(port, "a link") for link in inventory.links for port in (link.a, link.b)]
    for port, user in uses:
        if port.switch not in inventory.switches:
            known = ", ".join(inventory.switches)
            reason = f"{user} uses port {port}, but there is no switch {port.switch}; there are: {known}"
            faults.append(Refusal("inventory", reason))
        if port in users:
            faults.append(Refusal("inventory", f"port {port} is used twice: by {users[port]} and by {user}"))
        users[port] = user
    by_id: dict[int, str] = {}
    for switch in inventory.switches.values():
        if switch.datapath_id in by_id:
            pair = f"{by_id[switch.datapath_id]} and {switch.name}"
            faults.append(Refusal("inventory", f"{pair} have the same datapath id {switch.datapath_id:016x}"))
        by_id[switch.datapath_id] = switch.name
    for border in inventory.borders.values():
        for what, address in (("gateway", border.gateway), ("peer address", border.peer_address)):
            if address not in border.prefix:
                faults.append(Refusal("inventory", f"border {border.name}: {what} {address} is not in {border.prefix}"))
    return faults


def _network_faults(inventory: Inventory, networks: Mapping[str, Network]) -> list[Refusal]:
    faults = []
    numbers: dict[int, str] = {}
    for network in networks.values():
        subject = f"network/{network.key}"
        if network.number in numbers:
            faults.append(Refusal(subject, f"id {network.number} is already that of {numbers[network.number]}"))
        numbers[network.number] = network.key
        if network.vlan == inventory.transit_vlan:
            faults.append(Refusal(subject, f"VLAN {network.vlan} is the transit VLAN of the fabric"))
    prefixes = [(network.subnet, f"network/{network.key}") for network in networks.values()]
    prefixes += [(border.prefix, f"border {border.name}") for border in inventory.borders.values()]
    prefixes.sort()
    for (low, low_name), (high, high_name) in itertools.pairwise(prefixes):
        if low.overlaps(high):
            faults.append(Refusal(high_name, f"{high} overlaps {low} of {low_name}"))
    return faults


def _policy_faults(policy: Policy, inventory: Inventory, networks: Mapping[str, Network]) -> list[Refusal]:
    faults = []
    kind = "expose" if policy.from_border else "policy"
    if policy.from_border:
        expected = f"{kind}/{policy.target}/{policy.source}"
        if policy.source not in inventory.borders:
            faults.append(Refusal(policy.key, f"there is no border {policy.source}"))
    else:
        platform, _, source = policy.source.partition("/")
        expected = f"{kind}/{platform}/{source}/{policy.target.partition('/')[2]}"
        if policy.source not in networks:
            faults.append(Refusal(policy.key, f"there is no network {policy.source}"))
        if not policy.target.startswith(f"{platform}/"):
            faults.append(Refusal(policy.key, f"{policy.source} and {policy.target} are not of one platform"))
    if policy.target not in networks:
        faults.append(Refusal(policy.key, f"there is no network {policy.target}"))
    if policy.key != expected:
        faults.append(Refusal(policy.key, f"the document belongs under the key {expected}"))
    return faults


def _binding_faults(intent: Intent) -> list[Refusal]:
    faults = []
    addresses: dict[IPv4Address, str] = {}
    macs: dict[int, str] = {}
    assert intent.inventory is not None
    for key, binding in intent.bindings.items():
        subject = f"binding/{key}"
        if key != binding.node:
            faults.append(Refusal(subject, f"the document is of node {binding.node}"))
        network = intent.networks.get(binding.network)
        if network is None:
            faults.append(Refusal(subject, f"there is no network {binding.network}"))
        elif binding.address not in network.subnet:
            faults.append(Refusal(subject, f"{binding.address} is not in {network.subnet} of {binding.network}"))
        host = intent.inventory.hosts.get(binding.host)
        if host is None:
            faults.append(Refusal(subject, f"there is no host {binding.host} in the inventory"))
        elif not host.ports:
            faults.append(Refusal(subject, f"host {binding.host} has no attachment to a switch"))
        if binding.address in addresses:
            faults.append(Refusal(subject, f"{binding.address} is already the address of {addresses[binding.address]}"))
        if binding.mac in macs:
            faults.append(Refusal(subject, f"{format_mac(binding.mac)} is already the MAC of {macs[binding.mac]}"))
        addresses[binding.address] = binding.node
        macs[binding.mac] = binding.node
    return faults
