# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random fabrics and platforms as intent documents.  The same seed gives the same documents."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from controller.profiles import PROFILES

Json = dict[str, Any]
FABRIC_MAC = "02:fa:00:00:00:01"
TRANSIT_VLAN = 4000
#: Port numbers on every switch: hosts and borders by their number, trunks by the number of the far switch.
HOST_PORT, TRUNK_PORT, BORDER_PORT = 0, 100, 200
MOST_SWITCHES, MOST_HOSTS, MOST_BORDERS = 6, 5, 2
SERVICE_PORTS = (80, 443, 5432, 53)
PHASES = ("dark", "draining", "standby", *("admitted",) * 5)


@dataclass(frozen=True, slots=True)
class Shape:
    """What to draw; ``profiles`` are those that the switches may have, ``mixed`` how often not all are of one kind."""

    profiles: tuple[str, ...] = tuple(PROFILES)
    mixed: float = 0.25
    most_switches: int = MOST_SWITCHES


@dataclass
class _Draw:
    """One random case."""

    random: random.Random
    shape: Shape
    documents: Json = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def some(self, among: Sequence[Any], least: int, most: int) -> list[Any]:
        return self.random.sample(among, min(len(among), self.random.randint(least, most)))


def documents(seed: int, shape: Shape | None = None) -> Json:
    """Return a random intent that matches the schema."""
    draw = _Draw(random.Random(seed), shape or Shape())
    names = [f"sw{number}" for number in range(1, draw.random.randint(1, draw.shape.most_switches) + 1)]
    profiles = _profiles(draw, names)
    simple = not all(PROFILES[profile].capabilities.push_vlan for profile in profiles.values())
    ipv6 = all(PROFILES[profile].capabilities.ipv6 for profile in profiles.values()) and draw.maybe(0.6)
    hosts = {f"h{number}": _host(draw, names, number, simple) for number in range(1, draw.random.randint(1, 5) + 1)}
    ordinals = range(1, draw.random.randint(0, 2) + 1)
    borders = {f"edge{number}": _border(draw, names, number, ipv6, simple) for number in ordinals}
    fabric = {
        "mac": FABRIC_MAC,
        "gateway": "169.254.1.1",
        "transitVlan": TRANSIT_VLAN,
        "mtu": 1500,
        "switches": {name: _switch(draw, number, profiles[name]) for number, name in enumerate(names, start=1)},
        "links": [_link(a, b) for a, b in _graph(draw, names)],
        "borders": borders,
    }
    draw.documents["inventory"] = {"fabric": fabric, "hosts": hosts}
    _platform(draw, ipv6, tagged=simple or any(_is_tagged(host) for host in hosts.values()))
    return draw.documents


def _profiles(draw: _Draw, names: Sequence[str]) -> Mapping[str, str]:
    if draw.maybe(draw.shape.mixed):
        return {name: draw.random.choice(draw.shape.profiles) for name in names}
    return dict.fromkeys(names, draw.random.choice(draw.shape.profiles))


def _switch(draw: _Draw, number: int, profile: str) -> Json:
    most = PROFILES[profile].capabilities.most_entries or 100000
    found: Json = {"datapathId": f"{number:016x}", "profile": profile, "maxEntries": most}
    if PROFILES[profile].capabilities.reflects == "unknown" and draw.maybe(0.7):
        found["reflects"] = "yes"
    if draw.maybe(0.1):
        found["maintenance"] = True
    return found


def _host(draw: _Draw, names: Sequence[str], number: int, simple: bool) -> Json:
    tagged = simple or draw.maybe(0.3)
    homes = draw.some(names, 1, 2)
    return {
        "attachments": [
            {"nic": f"eth{nic}", "switch": home, "port": HOST_PORT + number} | ({"tagged": True} if tagged else {})
            for nic, home in enumerate(homes)
        ]
    }


def _is_tagged(host: Json) -> bool:
    return any(item.get("tagged") for item in host["attachments"])


def _border(draw: _Draw, names: Sequence[str], number: int, ipv6: bool, tagged: bool) -> Json:
    prefix = f"203.0.{112 + number}"
    found: Json = {
        "ports": [{"switch": home, "port": BORDER_PORT + number} for home in draw.some(names, 1, 2)],
        "prefix": f"{prefix}.0/24",
        "gateway": f"{prefix}.1",
        "peer": {"address": f"{prefix}.2", "mac": f"02:cc:00:00:00:{number:02x}"},
    }
    if ipv6 and draw.maybe(0.7):
        found |= {"prefix6": f"2001:db8:{number}::/64", "gateway6": f"2001:db8:{number}::1"}
        found["peer"]["address6"] = f"2001:db8:{number}::2"
    if draw.maybe(0.4) or tagged:
        found["vlan"] = 900 + number
    if draw.maybe(0.3):
        found["accepts"] = [{"protocol": protocol, "port": port} for protocol, port in _ports(draw, 2, 4)]
    return found


def _link(a: str, b: str) -> Json:
    ends = ((a, b), (b, a))
    return {
        side: {"switch": here, "port": TRUNK_PORT + int(there[2:])}
        for side, (here, there) in zip("ab", ends, strict=True)
    }


def _graph(draw: _Draw, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of switches: a connected graph."""
    kind = draw.random.choice(("line", "ring", "star", "mesh", "leaf-spine", "random"))
    if kind == "line":
        return list(itertools.pairwise(names))
    if kind == "ring":
        return [*itertools.pairwise(names), *([(names[0], names[-1])] if len(names) > 2 else [])]
    if kind == "star":
        return [(names[0], name) for name in names[1:]]
    if kind == "mesh":
        return list(itertools.combinations(names, 2))
    if kind == "leaf-spine" and len(names) > 2:
        spines = 2 if len(names) > 3 else 1
        return [(spine, leaf) for spine in names[:spines] for leaf in names[spines:]]
    tree = {(draw.random.choice(names[:number]), name) for number, name in enumerate(names) if number}
    more = draw.some(list(itertools.combinations(names, 2)), 0, len(names))
    return sorted({*tree, *more})


def _ports(draw: _Draw, least: int, most: int) -> list[tuple[str, int]]:
    every = [(protocol, port) for protocol in ("tcp", "udp") for port in SERVICE_PORTS]
    return sorted(draw.some(every, least, most))


def _opens(draw: _Draw, among: Sequence[tuple[str, int]] | None = None) -> list[Json]:
    ports = _ports(draw, 1, 3) if among is None else sorted(draw.some(among, 1, 3))
    return [{"protocol": protocol, "port": port} for protocol, port in ports]


def _platform(draw: _Draw, ipv6: bool, tagged: bool) -> None:
    inventory = draw.documents["inventory"]
    tiers = [f"shop/t{number}" for number in range(1, draw.random.randint(1, 4) + 1)]
    for number, tier in enumerate(tiers, start=1):
        _network(draw, tier, number, ipv6 and draw.maybe(0.8), tagged or draw.maybe(0.5), sorted(inventory["hosts"]))
    for source, target in itertools.product(tiers, repeat=2):
        if draw.maybe(0.4):
            name = target.partition("/")[2]
            draw.documents[f"policy/{source}/{name}"] = {"from": source, "to": target, "ports": _opens(draw)}
    for border, tier in itertools.product(inventory["fabric"]["borders"], tiers):
        accepts = inventory["fabric"]["borders"][border].get("accepts")
        among = None if accepts is None else [(one["protocol"], one["port"]) for one in accepts]
        if draw.maybe(0.5):
            ports = _opens(draw, among)
            draw.documents[f"expose/{tier}/{border}"] = {"network": tier, "border": border, "ports": ports}


def _network(draw: _Draw, tier: str, number: int, ipv6: bool, vlan: bool, hosts: Sequence[str]) -> None:
    subnet, subnet6 = IPv4Network(f"172.16.{number}0.0/24"), IPv6Network(f"2001:db8:100:{number}::/64")
    network: Json = {"id": number, "subnet": str(subnet)}
    network |= {"subnet6": str(subnet6)} if ipv6 else {}
    network |= {"vlan": 100 + number} if vlan else {}
    draw.documents[f"network/{tier}"] = network
    members = []
    for ordinal in range(1, draw.random.randint(0, 3) + 1):
        node = f"{tier.replace('/', '-')}-{ordinal}"
        phase = draw.random.choice(PHASES)
        address = subnet[ordinal + 1]
        draw.documents[f"binding/{node}"] = {
            "node": node,
            "network": tier,
            "address": str(address),
            "mac": "02:00:" + ":".join(f"{byte:02x}" for byte in address.packed),
            "host": draw.random.choice(hosts),
            "phase": phase,
        } | ({"address6": str(subnet6[ordinal + 1])} if ipv6 else {})
        members += [node] if phase in ("admitted", "draining") else []
    if draw.maybe(0.5):
        slots = [draw.random.choice(members) for _ in range(draw.random.choice((2, 8, 16)))] if members else []
        pins = {prefix: draw.random.choice(members) for prefix in ("172.16.0.0/16", "203.0.0.0/16") if members}
        service = {"network": tier, "address": str(subnet[1]), "slots": slots, "pins": pins}
        draw.documents[f"service/{tier}"] = service | ({"address6": str(subnet6[1])} if ipv6 else {})
