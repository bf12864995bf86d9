# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a fabric must do with a packet, said by the intent alone: no table, no compiler.

Where a kind of switch cannot do all of it (``controller.profiles.base.Capabilities``), a verdict is wider: it names
every receiver that is right, and whether a drop is right too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Literal

from controller.fabric import Binding, Border, Intent, Inventory, Phase, Port, ServiceAddress, Station
from controller.families import FAMILIES, IPV4, Address, Family, Prefix
from controller.flows import (
    ETH_ARP,
    ETH_IPV6,
    ETH_LLDP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    TCP_ACK,
    TCP_SYN,
    VLAN_PRESENT,
)
from controller.profiles.base import Capabilities

Packet = Mapping[str, int]
LLDP_TO = 0x0180C200000E  # IEEE 802.1AB, nearest bridge


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who may get a packet: at one of ``ports``, tagged with ``vlan`` on those that are ``tagged``.

    The frame is from ``source_mac``, that of the fabric, to ``mac``.
    """

    name: str
    ports: tuple[Port, ...]
    mac: int
    source_mac: int
    vlan: int | None
    tagged: frozenset[Port]

    def tag_at(self, port: Port) -> int:
        """Return the field vlan_vid of a frame as it must leave at a port."""
        return VLAN_PRESENT | self.vlan if self.vlan is not None and port in self.tagged else 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What must become of a packet.

    It may go to one of ``receivers`` and to nobody else; with ``may_drop`` it may also end.  ``answer`` is the frame
    that must come back at once.  ``to_controller``: a copy goes there and nowhere else.  ``counted``: the counter
    of drops that must count it, where a switch has one.  ``why`` is for people.
    """

    why: str
    receivers: tuple[Receiver, ...] = ()
    may_drop: bool = True
    answer: Packet | None = None
    to_controller: bool = False
    counted: Literal["spoof", "fragment"] | None = None


@dataclass(frozen=True, slots=True)
class _Sender:
    """Whose packet it is, as far as the switch can tell; ``sure``: nobody else could have sent it."""

    group: str
    phase: Phase
    serves_from: ServiceAddress | None = None
    sure: bool = True


@dataclass(frozen=True, slots=True)
class _Wish:
    """How the policy sees a packet: it ``asks`` a port, or ``answers`` from one, or reports an ``error``."""

    asks: bool = False
    answers: bool = False
    error: bool = False
    opens: bool = False  # a TCP connection
    tcp: bool = False

    def __bool__(self) -> bool:
        return self.asks or self.answers or self.error


@dataclass(frozen=True)
class Oracle:
    """Judges packets for one intent; ``capabilities`` are those of each switch."""

    intent: Intent
    capabilities: Mapping[str, Capabilities]
    _asked: dict[tuple[str, str], frozenset[tuple[str, int]]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def inventory(self) -> Inventory:
        """The fabric."""
        assert self.intent.inventory is not None
        return self.intent.inventory

    def judge(self, packet: Packet, at: Port) -> Verdict:
        """Say what must become of a packet that comes in at a port where all ports are up."""
        station = next((one for one in self.inventory.stations if at in one.ports), None)
        trunk = any(at in (link.a, link.b) for link in self.inventory.links)
        if station is None and not trunk:
            return Verdict("the port is not ours")
        if packet["vlan_vid"] == 0 and packet["eth_dst"] == LLDP_TO and packet["eth_type"] == ETH_LLDP:
            return Verdict("LLDP", to_controller=True)
        if station is None:
            if packet["vlan_vid"] == VLAN_PRESENT | self.inventory.transit_vlan:
                raise ValueError(f"only another switch sends into the transit VLAN; {at} is a trunk")
            return Verdict("not from the transit VLAN")
        can = self.capabilities[at.switch]
        if isinstance(station, Border) and (answer := self._answer(packet, station)):
            return Verdict("resolves the gateway", answer=answer if can.answers_neighbours else None)
        family = next((one for one in FAMILIES if one.eth_type == packet["eth_type"]), None)
        if family is None:
            return Verdict("neither IPv4 nor IPv6")
        sender = self._sender(packet, station, at, family, can)
        if sender is None:
            multicast = packet["eth_dst"] >> 40 & 1  # kernels send some of these on their own
            return Verdict("not an address that may send here", counted=None if multicast else "spoof")
        if packet["ip_frag"] and can.fragments:
            # A dark node is pinned to TCP; the rest is not told from what is spoofed.
            return Verdict("a fragment", counted=None if sender.phase is Phase.DARK else "fragment")
        verdict = self._decide(packet, sender, family, can, not packet["ip_frag"])
        itself = any(receiver.mac == packet["eth_src"] for receiver in verdict.receivers)
        return replace(verdict, may_drop=True) if itself else verdict  # what is for itself never leaves a node

    # Who sends

    def _answer(self, packet: Packet, border: Border) -> Packet | None:
        """Return the answer to an ARP request (RFC 826) or a neighbour solicitation (RFC 4861, 4.3) for the gateway."""
        if packet["vlan_vid"] != _tag(border.vlan):
            return None
        turned = {**packet, "eth_dst": packet["eth_src"], "eth_src": self.inventory.mac}
        if packet["eth_type"] == ETH_ARP:
            if packet["arp_op"] != 1 or packet["arp_tpa"] != int(border.gateway):
                return None
            if IPv4Address(packet["arp_spa"]) not in border.prefix:
                return None
            there = {"arp_tha": packet["arp_sha"], "arp_tpa": packet["arp_spa"]}
            return turned | there | {"arp_op": 2, "arp_sha": self.inventory.mac, "arp_spa": int(border.gateway)}
        solicits = packet["eth_type"] == ETH_IPV6 and packet.get("ip_proto") == PROTO_ICMPV6
        solicits = solicits and (packet["icmpv6_type"], packet.get("icmpv6_code", 0)) == (135, 0)
        if not solicits or border.gateway6 is None or packet["nd_target"] != int(border.gateway6):
            return None
        advertises = {"icmpv6_type": 136, "nd_reserved": 0xE0000000, "nd_options_type": 2, "nd_tll": self.inventory.mac}
        return turned | advertises | {"ipv6_dst": packet["ipv6_src"], "ipv6_src": int(border.gateway6)}

    def _sender(self, packet: Packet, station: Station, at: Port, family: Family, can: Capabilities) -> _Sender | None:
        source = packet[family.source]
        if isinstance(station, Border):
            ours = packet["vlan_vid"] == _tag(station.vlan) and packet["eth_dst"] == self.inventory.mac
            return _Sender(station.name, Phase.ADMITTED) if ours and _in(source, station.prefix_of(family)) else None
        for binding in self.intent.bindings.values():
            if binding.host == station.name and packet["vlan_vid"] == self._tag_of(binding, at):
                found = self._as(binding, packet, source, family)
                if found is not None:
                    dark = found.phase is Phase.DARK and not can.keeps_dark  # the agent holds its link down
                    return replace(found, phase=Phase.ADMITTED, sure=False) if dark else found
        return self._somebody_of_the_network(packet, station, at, family) if can.pins == "network" else None

    def _as(self, binding: Binding, packet: Packet, source: int, family: Family) -> _Sender | None:
        """Tell whether the node of a binding sent it, from its own address or as a member of its service."""
        if packet["eth_src"] != binding.mac or binding.phase is Phase.STANDBY:
            return None
        if _is(source, binding.address_of(family)):
            return _Sender(binding.network, binding.phase)
        service = self.intent.services.get(binding.network)
        if service is not None and _is(source, service.address_of(family)) and binding.phase.serves:
            return _Sender(binding.network, binding.phase, serves_from=service)
        return None

    def _somebody_of_the_network(self, packet: Packet, station: Station, at: Port, family: Family) -> _Sender | None:
        """Find a network of which any address may be used here."""
        for binding in self.intent.bindings.values():
            network = self.intent.networks[binding.network]
            here = binding.host == station.name and packet["vlan_vid"] == self._tag_of(binding, at)
            if here and _in(packet[family.source], network.prefix_of(family)):
                return _Sender(network.key, Phase.ADMITTED, sure=False)
        return None

    def _tag_of(self, binding: Binding, at: Port) -> int:
        tagged = at in self.inventory.hosts[binding.host].tagged
        return _tag(self.intent.networks[binding.network].vlan if tagged else None)

    # Whether it may, and who gets it

    def _decide(self, packet: Packet, sender: _Sender, family: Family, can: Capabilities, ports_known: bool) -> Verdict:
        target = packet[family.target]
        for border in self.inventory.borders.values():
            if _in(target, border.prefix_of(family)) and not _is(target, border.gateway_of(family)):
                wish = self._wish(packet, sender, border.name, family, can)
                receiver = self._receiver_at(border, border.name, border.peer_mac, border.vlan)
                return self._verdict(wish, sender, Phase.ADMITTED, (receiver,), can, ports_known)
        for service in self.intent.services.values():
            if _is(target, service.address_of(family)):
                return self._to_service(packet, sender, service, family, can, ports_known)
        for binding in self.intent.bindings.values():
            if _is(target, binding.address_of(family)):
                wish = self._wish(packet, sender, binding.network, family, can)
                return self._verdict(wish, sender, binding.phase, (self._receiver(binding),), can, ports_known)
        return Verdict("nobody has the target address")

    def _receiver(self, binding: Binding) -> Receiver:
        host, vlan = self.inventory.hosts[binding.host], self.intent.networks[binding.network].vlan
        return self._receiver_at(host, binding.node, binding.mac, vlan)

    def _receiver_at(self, station: Station, name: str, mac: int, vlan: int | None) -> Receiver:
        return Receiver(name, station.ports, mac, self.inventory.mac, vlan, station.tagged)

    def _to_service(
        self, packet: Packet, sender: _Sender, service: ServiceAddress, family: Family, can: Capabilities, known: bool
    ) -> Verdict:
        """A service address opens nothing, so only what asks it for a port gets there."""
        wish = self._wish(packet, sender, service.network, family, can)
        if not wish.asks:
            return Verdict("only a declared port of a service address is open")
        members = service.slots
        if not can.learns:
            client = IPv4Address(packet[family.source]) if family is IPV4 else None
            pins = sorted(service.pins.items(), key=lambda pin: -pin[0].prefixlen)
            members = tuple(node for prefix, node in pins if client is not None and client in prefix)[:1]
        receivers = tuple(self._receiver(self.intent.bindings[node]) for node in dict.fromkeys(members))
        if not receivers:
            return Verdict("the service has no member")
        return self._verdict(_Wish(asks=True), sender, Phase.ADMITTED, receivers, can, known)

    def _wish(self, packet: Packet, sender: _Sender, target: str, family: Family, can: Capabilities) -> _Wish:
        asked, answered = self._opened(sender.group, target), self._opened(target, sender.group)
        protocol = packet.get("ip_proto")
        if protocol == family.icmp:
            reports = packet[family.icmp_type] in family.errors and bool(asked or answered)
            told = can.icmp_errors and sender.serves_from is None and sender.phase is not Phase.DARK
            return _Wish(error=reports and told)
        name = {PROTO_TCP: "tcp", PROTO_UDP: "udp"}.get(protocol or 0)
        if name is None or (name == "udp" and sender.phase is Phase.DARK):
            return _Wish()
        if packet["ip_frag"]:  # a switch that cannot tell may take it for anything
            return _Wish(asks=any(one == name for one, _ in asked), answers=any(one == name for one, _ in answered))
        opens = name == "tcp" and packet["tcp_flags"] & (TCP_SYN | TCP_ACK) == TCP_SYN
        asks = (name, packet[f"{name}_dst"]) in asked and sender.serves_from is None
        answers = (name, packet[f"{name}_src"]) in answered and sender.phase is not Phase.DARK
        answers = answers and not (opens and can.tcp_flags)
        return _Wish(asks=asks, answers=answers, opens=opens, tcp=name == "tcp")

    def _opened(self, source: str, target: str) -> frozenset[tuple[str, int]]:
        """Return the ports of ``target`` to which ``source`` may open connections."""
        if (source, target) not in self._asked:
            self._asked[source, target] = frozenset(self._of_policies(source, target))
        return self._asked[source, target]

    def _of_policies(self, source: str, target: str) -> Iterator[tuple[str, int]]:
        for policy in self.intent.policies.values():
            if (policy.source, policy.target) == (source, target):
                yield from ((service.protocol, service.port) for service in policy.services)

    def _verdict(
        self,
        wish: _Wish,
        sender: _Sender,
        target: Phase,
        receivers: tuple[Receiver, ...],
        can: Capabilities,
        ports_known: bool,
    ) -> Verdict:
        if not wish:
            return Verdict("the policy does not open it")
        unsure = not sender.sure or not ports_known
        if wish.opens and wish.answers and not wish.asks:
            unsure = True  # a switch that sees no flags may or may not tell it from an answer
        if target is Phase.STANDBY:
            return Verdict("the target is not part of the fabric")
        if target is Phase.DARK:
            # What sees no flags takes what comes from the port of a service for an answer, whatever it asks for.
            if (wish.asks and can.tcp_flags) or not (wish.answers and wish.tcp):
                return Verdict("nothing but answers reaches a dark node")
            homes = {port.switch for receiver in receivers for port in receiver.ports}
            unsure = unsure or not can.keeps_dark or not all(self.capabilities[one].keeps_dark for one in homes)
        if target is Phase.DRAINING and wish.opens:
            if can.tcp_flags:
                return Verdict("a draining node gets no new connection")
            unsure = True
        return Verdict("the policy opens it", receivers, may_drop=unsure)


def _tag(vlan: int | None) -> int:
    return 0 if vlan is None else VLAN_PRESENT | vlan


def _in(address: int, prefix: Prefix | None) -> bool:
    return prefix is not None and int(prefix.network_address) == address & int(prefix.netmask)


def _is(value: int, address: Address | None) -> bool:
    return address is not None and int(address) == value
