# SPDX-License-Identifier: AGPL-3.0-or-later
"""The packets that a case is tried with: all pairs and ports, and what a wrong or hostile device would send."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from controller.fabric import Border, Intent, Inventory, Port
from controller.families import FAMILIES, IPV4, Family
from controller.flows import (
    ETH_ARP,
    ETH_LLDP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    TCP_ACK,
    TCP_SYN,
    VLAN_PRESENT,
)
from tests.fabric_check.oracle import LLDP_TO

EPHEMERAL = 40000
UNKNOWN_PORT = 299
SCTP = 132
_RST, _FIN, _ECE_CWR = 0x004, 0x001, 0x0C0
FLAGS = (TCP_SYN, TCP_SYN | TCP_ACK, TCP_ACK, _RST, _FIN | TCP_ACK, TCP_SYN | _ECE_CWR)
FIRST_FRAGMENT, LATER_FRAGMENT = 1, 3  # NXM_NX_IP_FRAG: a fragment; one that is not the first
Fields = dict[str, int]


@dataclass(frozen=True, slots=True)
class Shot:
    """A packet and the port where it comes in; ``what`` says who sends it."""

    what: str
    at: Port
    packet: Fields


@dataclass(frozen=True, slots=True)
class _Source:
    """Somebody who sends: frames without transport, one for each port and family; ``group`` as policies name it."""

    name: str
    group: str
    frames: tuple[tuple[Port, Family, Fields], ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """An address to send to."""

    name: str
    group: str
    family: Family
    address: int


@dataclass(frozen=True)
class Packets:
    """Draws packets for one intent."""

    intent: Intent
    random: random.Random

    @property
    def inventory(self) -> Inventory:
        """The fabric."""
        assert self.intent.inventory is not None
        return self.intent.inventory

    def draw(self, budget: int | None) -> list[Shot]:
        """Return about so many packets, None: every one; a third of them is not what an honest node sends."""
        honest = list(self._honest())
        if budget is not None:
            likely = [shot for shot in honest if shot[1]]
            chosen = self.random.sample(likely, min(len(likely), budget // 2))
            chosen += self.random.sample(honest, min(len(honest), budget // 6))
            honest = chosen
        shots = [shot for shot, _ in honest]
        spoofs = [spoof for shot in shots for spoof in self._spoofs(shot)]
        strange = list(self._strange())
        if budget is not None:
            spoofs = self.random.sample(spoofs, min(len(spoofs), budget // 4))
            strange = self.random.sample(strange, min(len(strange), max(budget // 8, 8)))
        return shots + spoofs + strange

    # What honest nodes send

    def _honest(self) -> Iterator[tuple[Shot, bool]]:
        """Yield all pairs and ports, and whether a policy joins the two."""
        for source, target in itertools.product(self._sources, self._targets):
            opened = self._between(source.group, target.group)
            for at, family, frame in source.frames:
                if family is target.family and frame[family.source] != target.address:
                    for fields in transports(family, opened):
                        packet = frame | {family.target: target.address} | fields
                        yield Shot(f"{source.name} to {target.name}", at, packet), bool(opened)

    def _between(self, one: str, other: str) -> list[tuple[str, int]]:
        found = {
            (service.protocol, service.port)
            for policy in self.intent.policies.values()
            if (policy.source, policy.target) in ((one, other), (other, one))
            for service in policy.services
        }
        return sorted(found)

    @cached_property
    def _sources(self) -> Sequence[_Source]:
        found = []
        for node, binding in self.intent.bindings.items():
            own = {family: binding.address_of(family) for family in FAMILIES}
            service = self.intent.services.get(binding.network)
            served = {family: service.address_of(family) if service else None for family in FAMILIES}
            for name, addresses in ((node, own), (f"{node} as {binding.network}", served)):
                sends = [(family, int(address)) for family, address in addresses.items() if address is not None]
                frames = tuple(self._frames(binding.mac, sends, self._places(node)))
                found += [_Source(name, binding.network, frames)] if frames else []
        return found + [self._border(border) for border in self.inventory.borders.values()]

    def _border(self, border: Border) -> _Source:
        prefixes = [(family, border.prefix_of(family)) for family in FAMILIES]
        clients = [(family, int(prefix[9])) for family, prefix in prefixes if prefix is not None]
        places = [(port, _tag(border.vlan)) for port in border.ports]
        return _Source(f"a client at {border.name}", border.name, tuple(self._frames(border.peer_mac, clients, places)))

    def _places(self, node: str) -> list[tuple[Port, int]]:
        """Return the ports of a node's host, and the tag of its frames there."""
        binding = self.intent.bindings[node]
        host, network = self.inventory.hosts[binding.host], self.intent.networks[binding.network]
        return [(port, _tag(network.vlan if port in host.tagged else None)) for port in host.ports]

    def _frames(
        self, mac: int, sends: Iterable[tuple[Family, int]], places: Iterable[tuple[Port, int]]
    ) -> Iterator[tuple[Port, Family, Fields]]:
        for (family, address), (port, tag) in itertools.product(sends, list(places)):
            frame = {"vlan_vid": tag, "eth_type": family.eth_type, "eth_src": mac, "eth_dst": self.inventory.mac}
            yield port, family, frame | {family.source: address, "ip_frag": 0}

    @cached_property
    def _targets(self) -> Sequence[_Target]:
        """Everybody's address, and some that nobody has."""
        found = []
        for family in FAMILIES:
            named = [(node, one.network, one.address_of(family)) for node, one in self.intent.bindings.items()]
            named += [(one.key, one.network, one.address_of(family)) for one in self.intent.services.values()]
            for border in self.inventory.borders.values():
                prefix = border.prefix_of(family)
                named += [(f"the gateway of {border.name}", border.name, border.gateway_of(family))]
                named += [(f"a client at {border.name}", border.name, None if prefix is None else prefix[9])]
            for network in self.intent.networks.values():
                subnet = network.prefix_of(family)
                named += [(f"nobody in {network.key}", network.key, None if subnet is None else subnet[99])]
            found += [_Target(name, group, family, int(one)) for name, group, one in named if one is not None]
        return found

    # What they must not send

    def _spoofs(self, shot: Shot) -> Iterator[Shot]:
        """Yield a packet with another source MAC, address, tag or port; some of these are still right."""
        packet = shot.packet
        family = IPV4 if packet["eth_type"] == IPV4.eth_type else FAMILIES[1]
        others = [one.mac for one in self.intent.bindings.values()] + [0x02EE00000001, self.inventory.mac]
        yield Shot(f"{shot.what}, other MAC", shot.at, packet | {"eth_src": self.random.choice(others)})
        victim = self.random.choice([one for one in self._targets if one.family is family])
        what = f"{shot.what}, as {victim.name}"
        yield Shot(what, shot.at, packet | {family.source: victim.address})
        tags = [0, VLAN_PRESENT, *(VLAN_PRESENT | vlan for vlan in (101, 102, 901, 777))]
        yield Shot(f"{shot.what}, other VLAN", shot.at, packet | {"vlan_vid": self.random.choice(tags)})
        transit = VLAN_PRESENT | self.inventory.transit_vlan
        yield Shot(f"{shot.what}, in the transit VLAN", shot.at, packet | {"vlan_vid": transit})
        ports = [port for station in self.inventory.stations for port in station.ports]
        ports += [Port(name, UNKNOWN_PORT) for name in self.inventory.switches]
        ports += [end for link in self.inventory.links for end in (link.a, link.b)]
        yield Shot(f"{shot.what}, other port", self.random.choice(ports), packet)
        yield Shot(f"{shot.what}, to a broadcast MAC", shot.at, packet | {"eth_dst": 0xFFFFFFFFFFFF})

    def _strange(self) -> Iterator[Shot]:
        """Yield ARP, neighbour discovery, LLDP and multicast on every port, from unknown ports too."""
        places = [(Port(name, UNKNOWN_PORT), 0, 0x02EE00000001) for name in self.inventory.switches]
        for node in self.intent.bindings:
            places += [(port, tag, self.intent.bindings[node].mac) for port, tag in self._places(node)]
        for border in self.inventory.borders.values():
            places += [(port, tag, border.peer_mac) for port in border.ports for tag in (_tag(border.vlan), 0)]
        places += [(end, 0, 0x02EE00000001) for link in self.inventory.links for end in (link.a, link.b)]
        for at, tag, mac in places:
            for what, fields in self._oddities():
                yield Shot(what, at, {"vlan_vid": tag, "eth_src": mac} | fields)

    def _oddities(self) -> Iterator[tuple[str, Fields]]:
        broadcast = 0xFFFFFFFFFFFF
        lldp = {"eth_dst": LLDP_TO, "eth_type": ETH_LLDP}
        yield "LLDP", lldp
        yield "LLDP to another address", lldp | {"eth_dst": broadcast}
        client = int(self._a_client(IPV4))
        for border in self.inventory.borders.values():
            arp = {"eth_dst": broadcast, "eth_type": ETH_ARP, "arp_op": 1, "arp_sha": border.peer_mac, "arp_tha": 0}
            arp |= {"arp_spa": int(border.peer_address), "arp_tpa": int(border.gateway)}
            yield "ARP request", arp
            yield "ARP request for another", arp | {"arp_tpa": client}
            yield "ARP request of another", arp | {"arp_spa": client}
            yield "ARP reply", arp | {"arp_op": 2}
            if border.gateway6 is not None and border.peer_address6 is not None:
                yield from self._solicitations(int(border.peer_address6), int(border.gateway6))
        node = int(next(iter(self.intent.bindings.values())).address) if self.intent.bindings else client
        multicast = {"eth_dst": 0x01005E000001, "eth_type": IPV4.eth_type, "ip_frag": 0, "ipv4_src": node}
        yield "multicast", multicast | {"ipv4_dst": 0xE0000001, "ip_proto": 2}
        yield "DHCP", multicast | {"eth_dst": broadcast, "ipv4_src": 0, "ipv4_dst": 0xFFFFFFFF} | udp(68, 67)
        yield "an unknown type", {"eth_dst": self.inventory.mac, "eth_type": 0x88B5}

    def _a_client(self, family: Family) -> int:
        prefixes = [border.prefix_of(family) for border in self.inventory.borders.values()]
        return next((int(prefix[9]) for prefix in prefixes if prefix is not None), 0xC6120001)

    def _solicitations(self, source: int, target: int) -> Iterator[tuple[str, Fields]]:
        solicits = {
            "eth_dst": 0x3333FF000000 | target & 0xFFFFFF,
            "eth_type": FAMILIES[1].eth_type,
            "ip_frag": 0,
            "ip_proto": PROTO_ICMPV6,
            "ipv6_src": source,
            "ipv6_dst": 0xFF0200000000000000000001FF000000 | target & 0xFFFFFF,
            "icmpv6_type": 135,
            "icmpv6_code": 0,
            "nd_target": target,
        }
        yield "neighbour solicitation", solicits
        yield "neighbour solicitation of a neighbour that is known", solicits | {"eth_dst": self.inventory.mac}
        yield "neighbour solicitation for another", solicits | {"nd_target": source}
        yield "neighbour advertisement", solicits | {"icmpv6_type": 136}
        yield "router solicitation", solicits | {"icmpv6_type": 133, "nd_target": 0}


def transports(family: Family, opened: Sequence[tuple[str, int]]) -> Iterator[Fields]:
    """Yield the transports for two groups with these open ports: to the port, from it, between two of them."""
    ports = [port for _, port in opened] or [80]
    pairs = {(EPHEMERAL, ports[0] + 1)}
    pairs |= {pair for port in ports for pair in ((EPHEMERAL, port), (port, EPHEMERAL), (port, ports[-1]))}
    for source, target in sorted(pairs):
        for flags in FLAGS:
            yield tcp(source, target, flags)
        yield udp(source, target)
    known = {(ports[0], ports[-1]), (EPHEMERAL, ports[0])}
    for source, target in sorted(known):
        yield tcp(source, target, TCP_ACK) | {"ip_frag": FIRST_FRAGMENT}
    yield from ({"ip_proto": number, "ip_frag": LATER_FRAGMENT} for number in (PROTO_TCP, PROTO_UDP))
    for number in (*family.errors, *((0, 8, 5) if family is IPV4 else (128, 129, 137))):
        yield {"ip_proto": family.icmp, family.icmp_type: number} | ({} if family is IPV4 else {"icmpv6_code": 0})
    yield {"ip_proto": SCTP}


def tcp(source: int, target: int, flags: int) -> Fields:
    """Return the fields of a TCP packet."""
    return {"ip_proto": PROTO_TCP, "tcp_src": source, "tcp_dst": target, "tcp_flags": flags}


def udp(source: int, target: int) -> Fields:
    """Return the fields of a UDP packet."""
    return {"ip_proto": PROTO_UDP, "udp_src": source, "udp_dst": target}


def _tag(vlan: int | None) -> int:
    return 0 if vlan is None else VLAN_PRESENT | vlan
