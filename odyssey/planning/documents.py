# SPDX-License-Identifier: AGPL-3.0-or-later
"""Documents that follow from the model: the controller's intent, node specifications and neighbour files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from odyssey.model.inventory import Inventory, Port
from odyssey.model.naming import network_document, network_key, service_document
from odyssey.model.platform import Network, Platform, Service
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import NetworkState, NodeState

DARK = "dark"
"""Phase of a node in the switches while it is being prepared; a decided node has a phase of the model."""


def intent(platform: Platform, networks: Mapping[str, NetworkState]) -> dict[str, dict[str, Any]]:
    """The controller's documents for the networks of a platform: networks, services, policies and exposures."""
    documents: dict[str, dict[str, Any]] = {}
    for network in platform.networks.values():
        state = networks[network.key]
        documents[network_document(network.key)] = network_intent(network, state)
        if network.service is not None:
            documents[service_document(network.key)] = service_intent(network, network.service, state)
        for name, ports in network.depends_on.items():
            documents[f"policy/{platform.name}/{network.name}/{name}"] = _policy(network, name, ports)
        if network.peers:
            documents[f"policy/{platform.name}/{network.name}/{network.name}"] = _policy(
                network, network.name, network.peers
            )
        for name, ports in network.exposed_to.items():
            documents[f"expose/{platform.name}/{network.name}/{name}"] = {
                "network": network.key, "border": name, "ports": port_documents(ports),
            }  # fmt: skip
    return documents


def network_intent(network: Network, state: NetworkState) -> dict[str, Any]:
    """The controller's document of one network."""
    six = {"subnet6": str(network.subnet6)} if network.subnet6 is not None else {}
    return {"id": state.id, "subnet": str(network.subnet), **six, "vlan": network.vlan}


def service_intent(network: Network, service: Service, state: NetworkState) -> dict[str, Any]:
    """The controller's document of a service address: who serves which slot, and which client where it matters."""
    pins = {"pins": dict(state.pins)} if state.pins else {}
    return {"network": network.key, **service.addresses(), "slots": list(state.slots), **pins}


def _policy(network: Network, to: str, ports: Iterable[Port]) -> dict[str, Any]:
    return {"from": network.key, "to": network_key(network.platform, to), "ports": port_documents(ports)}


def port_documents(ports: Iterable[Port]) -> list[dict[str, Any]]:
    """Ports as JSON."""
    return [port.document() for port in ports]


def binding(node: NodeState, phase: str) -> dict[str, Any]:
    """The controller's document of one node."""
    return {
        "node": node.name,
        "network": node.key,
        "address": str(node.address),
        **_address6(node),
        "mac": node.mac,
        "host": node.host,
        "phase": phase,
    }


def _address6(node: NodeState) -> dict[str, str]:
    return {"address6": str(node.address6)} if node.address6 is not None else {}


def dependencies(snapshot: Snapshot, network: Network) -> dict[str, Any]:
    """The part of the neighbour files that all nodes of a network share: whom they may reach, by address."""
    found: dict[str, Any] = {}
    for name, ports in network.depends_on.items():
        key = network_key(network.platform, name)
        nodes = sorted(snapshot.admitted(key), key=lambda item: item.address)
        found[name] = {
            "ports": port_documents(ports),
            "nodes": [{"node": node.name, "address": str(node.address), **_address6(node)} for node in nodes],
        }
        other = snapshot.network(key)
        if other is not None and other.service is not None:
            found[name]["service"] = other.service.addresses()
    return found


def neighbours(node: str, revision: int, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The neighbour file of one node; `shared` is what `dependencies` gave."""
    return {"node": node, "revision": revision, "dependencies": shared}


def node_spec(
    node: NodeState, network: Network, inventory: Inventory, neighbour_file: Mapping[str, Any]
) -> dict[str, Any]:
    """All that an agent needs to start a node."""
    fabric = inventory.fabric
    attachments = inventory.hosts[node.host].attachments
    return {
        "node": node.name,
        "platform": node.platform,
        "network": node.network,
        "address": str(node.address),
        **_address6(node),
        **({"serviceAddresses": list(network.service.addresses().values())} if network.service is not None else {}),
        "mac": node.mac,
        "image": node.image,
        "imageId": node.image_id,
        "command": list(network.command) if network.command is not None else None,
        "environment": dict(network.environment),
        "secrets": dict(network.secrets),
        "volume": {"name": f"{node.name}-data", "path": network.volume} if network.volume is not None else None,
        "resources": {"cpus": network.resources.cpus, "memoryMiB": network.resources.memory},
        "health": dict(network.health),
        "onChange": dict(network.on_change) if network.on_change is not None else None,
        "nics": [attachment.nic for attachment in attachments],
        **_tagging(network, [attachment.nic for attachment in attachments if attachment.tagged]),
        **({} if inventory.keeps_dark(node.host) else {"link": "admitted"}),
        "gateway": str(fabric.gateway),
        **({"gateway6": str(fabric.gateway6)} if node.address6 is not None else {}),
        "fabricMac": fabric.mac,
        "mtu": fabric.mtu,
        "neighbours": dict(neighbour_file),
    }


def _tagging(network: Network, nics: list[str]) -> dict[str, Any]:
    return {"vlan": network.vlan, "taggedNics": nics} if nics else {}
