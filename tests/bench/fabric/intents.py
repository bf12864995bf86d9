# SPDX-License-Identifier: AGPL-3.0-or-later
"""Intents of any size: a platform of three tiers, on hosts with two switches each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from controller.fabric import Document
from tests.unit.controller import samples
from tests.unit.controller.samples import EDGE_CLIENT, EDGE_MAC, FABRIC_MAC, mac_of

Json = dict[str, Any]

TIERS = ("lb", "app", "db")
SHARES = (1, 6, 3)  # of ten nodes
SUBNETS = tuple(IPv4Network(f"10.{64 + 16 * number}.0.0/12") for number in range(3))
PORTS = {("lb", "app"): 8080, ("app", "db"): 5432}
PROBE_PORT = 9000  # UDP, from lb to app, where datagrams tell when a node can be reached
NODES_ON_A_HOST = 40
MOST_ENTRIES = 10_000_000  # what the inventory says of a switch whose own limit is to be found
SPINES = 2
BORDER_PORT = 201
BORDER_VLAN = 200  # where frames are tagged
FIRST_TRUNK = 301


@dataclass(frozen=True, slots=True)
class Size:
    """How large a fabric is."""

    nodes: int
    switches: int
    profile: str = "openvswitch"
    most_entries: int = MOST_ENTRIES
    tagged: bool = False


def node_name(tier: str, number: int) -> str:
    """The name of a node."""
    return f"bench-{tier}-{number}"


def _hosts(size: Size) -> list[str]:
    """Each host has nodes of one tier only: where a switch cannot reflect, nodes that may talk never share one."""
    return [f"h{number}" for number in range(max(6, -(-size.nodes // NODES_ON_A_HOST) + 3))]


def _leaves(size: Size) -> list[str]:
    names = [f"sw{number}" for number in range(1, size.switches + 1)]
    return names if size.switches <= SPINES else names[SPINES:]


def _links(size: Size) -> list[Json]:
    """Return one link between two switches, else one from each leaf to each spine."""
    if size.switches == SPINES:
        pairs = [("sw1", "sw2")]
    else:
        pairs = [(f"sw{spine}", leaf) for leaf in _leaves(size) for spine in range(1, SPINES + 1)]
    used: dict[str, int] = {}

    def end(switch: str) -> Json:
        used[switch] = used.get(switch, FIRST_TRUNK - 1) + 1
        return {"switch": switch, "port": used[switch]}

    return [{"a": end(a), "b": end(b)} for a, b in pairs]


def inventory(size: Size) -> Json:
    """Return the inventory document: hosts on pairs of leaves, the border on the first leaf."""
    leaves = _leaves(size)
    pairs = [leaves[number : number + 2] for number in range(0, len(leaves) - 1, 2)]
    on_pair = [0] * len(pairs)
    hosts: Json = {}
    for number, host in enumerate(_hosts(size)):
        pair = number % len(pairs)
        on_pair[pair] += 1
        hosts[host] = {
            "attachments": [
                {"nic": f"eth{nic}", "switch": switch, "port": 1000 + on_pair[pair], "tagged": size.tagged}
                for nic, switch in enumerate(pairs[pair])
            ]
        }
    fabric = {
        "mac": FABRIC_MAC,
        "gateway": "169.254.1.1",
        "transitVlan": 4000,
        "mtu": 1500,
        "switches": {
            f"sw{number}": {"datapathId": f"{number:016x}", "profile": size.profile, "maxEntries": size.most_entries}
            for number in range(1, size.switches + 1)
        },
        "links": _links(size),
        "borders": {
            "edge": {
                "ports": [{"switch": leaves[0], "port": BORDER_PORT}],
                "prefix": "203.0.113.0/24",
                "gateway": "203.0.113.1",
                "peer": {"address": EDGE_CLIENT, "mac": EDGE_MAC},
            }
            | ({"vlan": BORDER_VLAN} if size.tagged else {})
        },
    }
    return {"fabric": fabric, "hosts": hosts}


def bindings(nodes: int, hosts: Sequence[str]) -> Json:
    """Return the nodes; those of one network and host have neighbouring addresses, in an aligned block."""
    found: Json = {}
    for tier, (name, share) in enumerate(zip(TIERS, SHARES, strict=True)):
        places = hosts[tier::3]
        block = 1 << (-(-nodes * share // 10 // len(places)) + 1).bit_length()
        for number in range(max(1, nodes * share // 10)):
            host = number % len(places)
            address = str(SUBNETS[tier][block * (host + 1) + number // len(places) + 1])
            found[f"binding/{node_name(name, number)}"] = binding(node_name(name, number), name, address, places[host])
    return found


def binding(node: str, tier: str, address: str, host: str, phase: str = "admitted") -> Json:
    """Return a binding document."""
    assert IPv4Address(address) in SUBNETS[TIERS.index(tier)]
    network = f"bench/{tier}"
    return {"node": node, "network": network, "address": address, "mac": mac_of(address), "host": host, "phase": phase}


def networks(probe: bool = False) -> Json:
    """Return the three networks, their dependencies, and what the border may open."""
    found: Json = {}
    for tier, name in enumerate(TIERS):
        found[f"network/bench/{name}"] = {"id": tier + 1, "subnet": str(SUBNETS[tier]), "vlan": 110 + 10 * tier}
    for (source, target), port in PORTS.items():
        ports: list[Json] = [{"protocol": "tcp", "port": port}]
        if probe and target == "app":
            ports.append({"protocol": "udp", "port": PROBE_PORT})
        found[f"policy/bench/{source}/{target}"] = {"from": f"bench/{source}", "to": f"bench/{target}", "ports": ports}
    ports = [{"protocol": "tcp", "port": 80}]
    found["expose/bench/lb/edge"] = {"network": "bench/lb", "border": "edge", "ports": ports}
    return found


def documents(size: Size) -> Json:
    """Return the whole intent."""
    return {"inventory": inventory(size), **networks(), **bindings(size.nodes, _hosts(size))}


def lab_documents(nodes: int) -> Json:
    """Return an intent for the switches and hosts of ``tests/integration/controller_support.py``."""
    place = samples.inventory(max_entries=MOST_ENTRIES)
    return {"inventory": place, **networks(probe=True), **bindings(nodes, list(place["hosts"]))}


def stamped(values: Mapping[str, Any]) -> dict[str, Document]:
    """Return documents as the compiler takes them."""
    return {key: Document(value, 1) for key, value in values.items()}
