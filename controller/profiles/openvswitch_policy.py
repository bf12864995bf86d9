# SPDX-License-Identifier: AGPL-3.0-or-later
"""Table 10 of the Open vSwitch pipeline: what may talk to what (``docs/fabric.md``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network

from controller.fabric import Intent, Inventory, Policy
from controller.flows import (
    ETH_IPV4,
    FRAG_LATER,
    PROTO_ICMP,
    PROTO_TCP,
    PROTO_UDP,
    SYN_WITHOUT_ACK,
    FlowEntry,
    Goto,
    Kind,
    Match,
    SetField,
    crc_owner,
    make_cookie,
    match,
)

TABLE_POLICY = 10
TABLE_DELIVER = 30

DARK_BIT = 1 << 15  # of register 0
BORDER_BIT = 1 << 16  # of register 0
DARK_OR_NOT = 0xFFFFFFFF & ~DARK_BIT
RETURN_TRAFFIC = 1  # value of register 1

#: RFC 792: destination unreachable, time exceeded, parameter problem.  Redirect (5) would let a node steer others.
ICMP_ERRORS = (3, 11, 12)


@dataclass(frozen=True, slots=True)
class _End:
    """One side of a policy: the value of register 0 and the addresses."""

    register: int
    prefix: IPv4Network

    @property
    def address(self) -> tuple[int, int]:
        return int(self.prefix.network_address), int(self.prefix.netmask)


def policy_table(intent: Intent, inventory: Inventory) -> Iterator[FlowEntry]:
    """Return table 10; it is the same on every switch."""
    generation = intent.generations.get("inventory", 0)
    base = make_cookie(Kind.BASE, 0, generation)
    yield FlowEntry(TABLE_POLICY, 400, match(eth_type=ETH_IPV4, ip_frag=(FRAG_LATER, FRAG_LATER)), (), base)
    yield FlowEntry(TABLE_POLICY, 0, match(), (), base)
    for border in inventory.borders.values():
        denied = match(reg0=(BORDER_BIT | border.number, DARK_OR_NOT))
        yield FlowEntry(TABLE_POLICY, 10, denied, (), make_cookie(Kind.BORDER, crc_owner(border.name), generation))
    for network in intent.networks.values():
        denied = match(reg0=(network.number, DARK_OR_NOT))
        cookie = make_cookie(Kind.NETWORK, network.number, intent.generations.get(f"network/{network.key}", 0))
        yield FlowEntry(TABLE_POLICY, 10, denied, (), cookie)
    paired: set[frozenset[_End]] = set()
    for key in sorted(intent.policies):
        policy = intent.policies[key]
        client, server = _ends(policy, intent, inventory)
        cookie = make_cookie(Kind.POLICY, crc_owner(key), intent.generations.get(key, 0))
        for priority, what, reply in _services(policy, client, server):
            yield FlowEntry(TABLE_POLICY, priority, what, _onward(priority, reply), cookie)
        # A policy in the other direction needs the same ICMP entries: the first policy by key owns them.
        if frozenset((client, server)) not in paired:
            paired.add(frozenset((client, server)))
            for what in _icmp_errors(client, server):
                yield FlowEntry(TABLE_POLICY, 150, what, (Goto(TABLE_DELIVER),), cookie)


def _onward(priority: int, reply: bool) -> tuple[SetField | Goto, ...]:
    if priority == 210:
        return ()
    return (SetField("reg1", RETURN_TRAFFIC), Goto(TABLE_DELIVER)) if reply else (Goto(TABLE_DELIVER),)


def _ends(policy: Policy, intent: Intent, inventory: Inventory) -> tuple[_End, _End]:
    target = intent.networks[policy.target]
    server = _End(target.number, target.subnet)
    if policy.from_border:
        border = inventory.borders[policy.source]
        return _End(BORDER_BIT | border.number, border.prefix), server
    source = intent.networks[policy.source]
    return _End(source.number, source.subnet), server


def _services(policy: Policy, client: _End, server: _End) -> Iterator[tuple[int, Match, bool]]:
    """Yield priority, match and whether it is TCP return traffic."""
    asks = (client.register, DARK_OR_NOT)
    for service in policy.services:
        if service.protocol == "tcp":
            ip = {"eth_type": ETH_IPV4, "ip_proto": PROTO_TCP}
            back = match(**ip, reg0=server.register, ipv4_dst=client.address, tcp_src=service.port)
            guard = match(
                **ip, reg0=server.register, ipv4_dst=client.address, tcp_src=service.port, tcp_flags=SYN_WITHOUT_ACK
            )
            yield 300, match(**ip, reg0=asks, ipv4_dst=server.address, tcp_dst=service.port), False
            yield 210, guard, False
            yield 200, back, True
        else:
            ip = {"eth_type": ETH_IPV4, "ip_proto": PROTO_UDP}
            yield 300, match(**ip, reg0=asks, ipv4_dst=server.address, udp_dst=service.port), False
            yield 200, match(**ip, reg0=server.register, ipv4_dst=client.address, udp_src=service.port), False


def _icmp_errors(client: _End, server: _End) -> Iterator[Match]:
    for source, target in dict.fromkeys(((client, server), (server, client))):
        for number in ICMP_ERRORS:
            error = {"eth_type": ETH_IPV4, "ip_proto": PROTO_ICMP, "icmpv4_type": number}
            yield match(**error, reg0=source.register, ipv4_dst=target.address)
