# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads the intent documents (``schemas/controller-operation.schema.json``) and checks what a schema cannot.

References, unique identities, prefixes that must not overlap: all faults are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

from controller.fabric import (
    GATEWAY6,
    Binding,
    Border,
    Document,
    Intent,
    IntentRefused,
    Inventory,
    Link,
    Network,
    Phase,
    Policy,
    Port,
    Refusal,
    Service,
    ServiceAddress,
    Station,
    Switch,
    parse_mac,
)
from controller.rules import intent_faults


def parse_intent(documents: Mapping[str, Document]) -> Intent:
    """Read intent documents that match the schema.

    Raises IntentRefused with every fault: unknown references, addresses or ports used twice, overlapping subnets.
    """
    generations = {key: document.generation for key, document in documents.items()}
    if "inventory" not in documents:
        missing = [Refusal(key, "there is no inventory; set it first") for key in sorted(documents)]
        if missing:
            raise IntentRefused(missing)
        return Intent(generations=generations)
    intent = Intent(
        inventory=_read("inventory", documents["inventory"], _parse_inventory),
        networks=_without_prefix(_collect(documents, "network/", _parse_network)),
        policies=_collect(documents, "policy/", _parse_policy) | _collect(documents, "expose/", _parse_expose),
        bindings=_without_prefix(_collect(documents, "binding/", _parse_binding)),
        services=_without_prefix(_collect(documents, "service/", _parse_service)),
        generations=generations,
    )
    if faults := intent_faults(intent):
        raise IntentRefused(faults)
    return intent


_T = TypeVar("_T")


def _read(key: str, document: Document, parse: Callable[[str, Mapping[str, Any]], _T]) -> _T:
    if "value" not in document.memo:
        document.memo["value"] = parse(key, document.value)
    found: _T = document.memo["value"]
    return found


def _collect(
    documents: Mapping[str, Document], prefix: str, parse: Callable[[str, Mapping[str, Any]], _T]
) -> dict[str, _T]:
    return {key: _read(key, documents[key], parse) for key in sorted(documents) if key.startswith(prefix)}


def _without_prefix(found: Mapping[str, _T]) -> dict[str, _T]:
    return {key.partition("/")[2]: value for key, value in found.items()}


def _port(value: Mapping[str, Any]) -> Port:
    return Port(value["switch"], value["port"])


def _address6(value: Any) -> IPv6Address | None:
    return None if value is None else IPv6Address(value)


def _network6(value: Any) -> IPv6Network | None:
    return None if value is None else IPv6Network(value)


def _ranges(value: Any) -> tuple[range, ...] | None:
    return None if value is None else tuple(range(item["from"], item["to"] + 1) for item in value)


def _services(ports: list[Mapping[str, Any]]) -> frozenset[Service]:
    return frozenset(Service(item["protocol"], item["port"]) for item in ports)


def _parse_switch(name: str, value: Mapping[str, Any]) -> Switch:
    reflects = value.get("reflects")
    return Switch(
        name=name,
        datapath_id=int(value["datapathId"], 16),
        profile=value["profile"],
        capacity=value["maxEntries"],
        reflects=None if reflects is None else reflects == "yes",
        owned_ports=_ranges(value.get("ownedPorts")),
        maintenance=value.get("maintenance", False),
        isolated=value.get("isolated", False),
    )


def _parse_border(name: str, number: int, value: Mapping[str, Any]) -> Border:
    ports = tuple(_port(port) for port in value["ports"])
    accepts = value.get("accepts")
    return Border(
        name=name,
        ports=ports,
        tagged=frozenset(ports if "vlan" in value else ()),
        number=number,
        prefix=IPv4Network(value["prefix"]),
        gateway=IPv4Address(value["gateway"]),
        peer_address=IPv4Address(value["peer"]["address"]),
        peer_mac=parse_mac(value["peer"]["mac"]),
        prefix6=_network6(value.get("prefix6")),
        gateway6=_address6(value.get("gateway6")),
        peer_address6=_address6(value["peer"].get("address6")),
        vlan=value.get("vlan"),
        accepts=None if accepts is None else _services(accepts),
    )


def _parse_host(name: str, value: Mapping[str, Any]) -> Station:
    tagged = frozenset(_port(item) for item in value["attachments"] if item.get("tagged"))
    nics = tuple(item.get("nic", "") for item in value["attachments"])
    return Station(name, tuple(_port(item) for item in value["attachments"]), tagged, nics)


def _parse_inventory(_key: str, value: Mapping[str, Any]) -> Inventory:
    fabric = value["fabric"]
    borders = enumerate(sorted(fabric.get("borders", {}).items()), start=1)
    return Inventory(
        mac=parse_mac(fabric["mac"]),
        gateway=IPv4Address(fabric["gateway"]),
        gateway6=_address6(fabric.get("gateway6")) or GATEWAY6,
        transit_vlan=fabric["transitVlan"],
        mtu=fabric.get("mtu", 1500),
        owned_vlans=_ranges(fabric.get("owned", {}).get("vlans")),
        switches={name: _parse_switch(name, item) for name, item in sorted(fabric["switches"].items())},
        links=tuple(Link(_port(link["a"]), _port(link["b"])) for link in fabric.get("links", [])),
        borders={name: _parse_border(name, number, item) for number, (name, item) in borders},
        hosts={name: _parse_host(name, item) for name, item in sorted(value["hosts"].items())},
    )


def _parse_network(key: str, value: Mapping[str, Any]) -> Network:
    return Network(
        key=key.removeprefix("network/"),
        number=value["id"],
        subnet=IPv4Network(value["subnet"]),
        vlan=value.get("vlan"),
        subnet6=_network6(value.get("subnet6")),
    )


def _parse_policy(key: str, value: Mapping[str, Any]) -> Policy:
    return Policy(key, value["from"], value["to"], tuple(sorted(_services(value["ports"]))), from_border=False)


def _parse_expose(key: str, value: Mapping[str, Any]) -> Policy:
    return Policy(key, value["border"], value["network"], tuple(sorted(_services(value["ports"]))), from_border=True)


def _parse_service(key: str, value: Mapping[str, Any]) -> ServiceAddress:
    return ServiceAddress(
        key=key,
        network=value["network"],
        address=IPv4Address(value["address"]),
        address6=_address6(value.get("address6")),
        slots=tuple(value["slots"]),
        pins={IPv4Network(prefix): node for prefix, node in sorted(value.get("pins", {}).items())},
    )


def _parse_binding(_key: str, value: Mapping[str, Any]) -> Binding:
    return Binding(
        node=value["node"],
        network=value["network"],
        address=IPv4Address(value["address"]),
        mac=parse_mac(value["mac"]),
        host=value["host"],
        phase=Phase(value["phase"]),
        address6=_address6(value.get("address6")),
    )
