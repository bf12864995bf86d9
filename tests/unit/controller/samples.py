# SPDX-License-Identifier: AGPL-3.0-or-later
"""Small fabrics and intents for the tests of the controller."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any

from controller.compiler import Compilation, compile_documents
from controller.evaluate import ip_packet
from controller.fabric import Document, Intent, Port, parse_mac
from controller.families import IPV4
from controller.flows import PROTO_TCP, PROTO_UDP, TCP_ACK, TCP_SYN

Json = dict[str, Any]
FABRIC_MAC = "02:fa:00:00:00:01"
EDGE_MAC = "02:cc:00:00:00:01"
EDGE_CLIENT = "203.0.113.2"
SERVICE = "172.16.20.1"


def mac_of(address: str) -> str:
    """Return the MAC of a node: 02:00 and the bytes of its address."""
    return "02:00:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def inventory(hosts: int = 3, switches: int = 2, max_entries: int = 100000, border: bool = True) -> Json:
    """Return the inventory document of the lab: host i on port i of each switch, the switches in a line."""
    names = [f"sw{number}" for number in range(1, switches + 1)]
    fabric: Json = {
        "mac": FABRIC_MAC,
        "gateway": "169.254.1.1",
        "transitVlan": 4000,
        "mtu": 1500,
        "switches": {
            name: {"datapathId": f"{number:016x}", "profile": "openvswitch", "maxEntries": max_entries}
            for number, name in enumerate(names, start=1)
        },
        "links": [
            {"a": {"switch": a, "port": 101 + number}, "b": {"switch": b, "port": 101 if number == 0 else 100 + number}}
            for number, (a, b) in enumerate(itertools.pairwise(names))
        ],
        "borders": {},
    }
    if border:
        fabric["borders"]["edge"] = {
            "ports": [{"switch": "sw1", "port": 201}],
            "prefix": "203.0.113.0/24",
            "gateway": "203.0.113.1",
            "peer": {"address": EDGE_CLIENT, "mac": EDGE_MAC},
        }
    attachments = {
        f"h{host}": {
            "attachments": [
                {"nic": f"eth{number}", "switch": name, "port": host} for number, name in enumerate(names[:2])
            ]
        }
        for host in range(1, hosts + 1)
    }
    return {"fabric": fabric, "hosts": attachments}


def network(number: int, subnet: str, vlan: int | None = None) -> Json:
    """Return a network document."""
    return {"id": number, "subnet": subnet} | ({} if vlan is None else {"vlan": vlan})


def binding(node: str, net: str, address: str, host: str, phase: str = "admitted") -> Json:
    """Return a binding document."""
    return {"node": node, "network": net, "address": address, "mac": mac_of(address), "host": host, "phase": phase}


def policy(source: str, target: str, *ports: tuple[str, int]) -> Json:
    """Return a policy document."""
    return {"from": source, "to": target, "ports": [{"protocol": protocol, "port": port} for protocol, port in ports]}


def service(net: str, service_address: str, *slots: str) -> Json:
    """Return the service document of a network."""
    return {"network": net, "address": service_address, "slots": list(slots)}


def shop(**phases: str) -> dict[str, Json]:
    """Return the three tiers: two lb, two app, one db node on three hosts; ``app_2="dark"`` sets a phase."""
    nodes = {
        "shop-lb-1": ("shop/lb", "172.16.10.2", "h1"),
        "shop-lb-2": ("shop/lb", "172.16.10.3", "h2"),
        "shop-app-1": ("shop/app", "172.16.20.2", "h1"),
        "shop-app-2": ("shop/app", "172.16.20.3", "h2"),
        "shop-db-1": ("shop/db", "172.16.30.2", "h3"),
    }
    documents: dict[str, Json] = {
        "inventory": inventory(),
        "network/shop/lb": network(1, "172.16.10.0/24", 110),
        "network/shop/app": network(2, "172.16.20.0/24", 120),
        "network/shop/db": network(3, "172.16.30.0/24", 130),
        "policy/shop/lb/app": policy("shop/lb", "shop/app", ("tcp", 8080)),
        "policy/shop/app/db": policy("shop/app", "shop/db", ("tcp", 5432), ("udp", 5353)),
        "expose/shop/lb/edge": {
            "network": "shop/lb",
            "border": "edge",
            "ports": [{"protocol": "tcp", "port": 80}],
        },
    }
    for node, (net, address, host) in nodes.items():
        phase = phases.get(node.removeprefix("shop-").replace("-", "_"), "admitted")
        documents[f"binding/{node}"] = binding(node, net, address, host, phase)
    return documents


def stamped(documents: Mapping[str, Json], seq: int = 1) -> dict[str, Document]:
    """Give every document the same sequence number."""
    return {key: Document(value, seq) for key, value in documents.items()}


def compiled(documents: Mapping[str, Json], seq: int = 1) -> Compilation:
    """Compile plain documents."""
    return compile_documents(stamped(documents, seq))


def address(intent: Intent, node: str) -> int:
    """Return a node's address; ``edge`` is the border's client, ``service`` the service address of the applications."""
    if node == "service":
        return int(IPv4Address(SERVICE))
    return int(IPv4Address(EDGE_CLIENT)) if node == "edge" else int(intent.bindings[node].address)


def entrances(intent: Intent, node: str) -> list[Port]:
    """Return the switch ports through which a node, or the border's client, can send."""
    assert intent.inventory is not None
    if node == "edge":
        return list(intent.inventory.borders["edge"].ports)
    return list(intent.inventory.hosts[intent.bindings[node].host].ports)


def packet(intent: Intent, source: str, target: str, **fields: int) -> dict[str, int]:
    """Return a packet as ``source`` sends it towards ``target``, to the fabric MAC."""
    mac = parse_mac(EDGE_MAC) if source == "edge" else intent.bindings[source].mac
    return ip_packet(
        IPV4,
        eth_src=mac,
        eth_dst=parse_mac(FABRIC_MAC),
        source=address(intent, source),
        target=address(intent, target),
        **fields,
    )


def syn(source_port: int, port: int) -> dict[str, int]:
    """Return the fields of a packet that opens a TCP connection."""
    return {"ip_proto": PROTO_TCP, "tcp_src": source_port, "tcp_dst": port, "tcp_flags": TCP_SYN}


def ack(source_port: int, port: int, flags: int = TCP_ACK) -> dict[str, int]:
    """Return the fields of a packet of an open TCP connection."""
    return {"ip_proto": PROTO_TCP, "tcp_src": source_port, "tcp_dst": port, "tcp_flags": flags}


def udp(source_port: int, port: int) -> dict[str, int]:
    """Return the fields of a UDP packet."""
    return {"ip_proto": PROTO_UDP, "udp_src": source_port, "udp_dst": port}


def icmp(number: int) -> dict[str, int]:
    """Return the fields of an ICMP packet of a type."""
    return {"ip_proto": 1, "icmpv4_type": number}
