# SPDX-License-Identifier: AGPL-3.0-or-later
"""Table 10 of the Open vSwitch pipeline: what may talk to what (``docs/fabric.md``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.fabric import Border, Intent, Inventory, Network, Policy
from controller.families import FAMILIES, Family, Prefix, term
from controller.flows import (
    FRAG_ANY,
    PROTO_TCP,
    PROTO_UDP,
    SYN_WITHOUT_ACK,
    Action,
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
TABLE_SERVICE = 20
TABLE_DELIVER = 30

DARK_BIT = 1 << 15  # of register 0
BORDER_BIT = 1 << 16  # of register 0
SERVICE_BIT = 1 << 17  # of register 0: the source address is that of a service, which opens no connection
DARK_OR_NOT = 0xFFFFFFFF & ~DARK_BIT
SERVICE_OR_NOT = 0xFFFFFFFF & ~SERVICE_BIT
WHATEVER = DARK_OR_NOT & SERVICE_OR_NOT
RETURN_TRAFFIC = 1  # value of register 1

_OPENS = (Goto(TABLE_SERVICE),)
_PASSES = (Goto(TABLE_DELIVER),)
_RETURNS = (SetField("reg1", RETURN_TRAFFIC), Goto(TABLE_DELIVER))


@dataclass(frozen=True, slots=True)
class _End:
    """One side of a policy: the value of register 0 and what has its addresses."""

    register: int
    what: Network | Border

    def prefix(self, family: Family) -> Prefix | None:
        return self.what.prefix_of(family)


def policy_table(intent: Intent, inventory: Inventory) -> Iterator[FlowEntry]:
    """Return table 10; it is the same on every switch."""
    generation = intent.generations.get("inventory", 0)
    base = make_cookie(Kind.BASE, 0, generation)
    for family in FAMILIES:
        # Open vSwitch shows no ports of any fragment (ovs-ofctl(8), "frags"), so a first one passes no other entry.
        fragment = match(eth_type=family.eth_type, ip_frag=(FRAG_ANY, FRAG_ANY))
        yield FlowEntry(TABLE_POLICY, 400, fragment, (), base)
    yield FlowEntry(TABLE_POLICY, 0, match(), (), base)
    for border in inventory.borders.values():
        denied = match(reg0=(BORDER_BIT | border.number, WHATEVER))
        yield FlowEntry(TABLE_POLICY, 10, denied, (), make_cookie(Kind.BORDER, crc_owner(border.name), generation))
    for network in intent.networks.values():
        denied = match(reg0=(network.number, WHATEVER))
        cookie = make_cookie(Kind.NETWORK, network.number, intent.generations.get(f"network/{network.key}", 0))
        yield FlowEntry(TABLE_POLICY, 10, denied, (), cookie)
    paired: set[frozenset[int]] = set()
    for key in sorted(intent.policies):
        policy = intent.policies[key]
        client, server = _ends(policy, intent, inventory)
        cookie = make_cookie(Kind.POLICY, crc_owner(key), intent.generations.get(key, 0))
        # A policy in the other direction needs the same ICMP entries: the first policy by key owns them.
        pair = frozenset((client.register, server.register))
        first = pair not in paired
        paired.add(pair)
        for family in FAMILIES:
            if client.prefix(family) is None or server.prefix(family) is None:
                continue
            for priority, what, actions in _services(policy, client, server, family):
                yield FlowEntry(TABLE_POLICY, priority, what, actions, cookie)
            for what in _icmp_errors(client, server, family) if first else ():
                yield FlowEntry(TABLE_POLICY, 150, what, _PASSES, cookie)


def _ends(policy: Policy, intent: Intent, inventory: Inventory) -> tuple[_End, _End]:
    target = intent.networks[policy.target]
    server = _End(target.number, target)
    if policy.from_border:
        border = inventory.borders[policy.source]
        return _End(BORDER_BIT | border.number, border), server
    source = intent.networks[policy.source]
    return _End(source.number, source), server


def _towards(end: _End, family: Family) -> dict[str, int | tuple[int, int]]:
    prefix = end.prefix(family)
    assert prefix is not None
    return {"eth_type": family.eth_type, family.target: term(prefix)}


def _services(
    policy: Policy, client: _End, server: _End, family: Family
) -> Iterator[tuple[int, Match, tuple[Action, ...]]]:
    """Yield priority, match and actions."""
    asks = (client.register, DARK_OR_NOT)
    answers = (server.register, SERVICE_OR_NOT)
    there, back = _towards(server, family), _towards(client, family)
    for service in policy.services:
        if service.protocol == "tcp":
            source = {"reg0": answers, **back, "ip_proto": PROTO_TCP, "tcp_src": service.port}
            yield 300, match(**there, reg0=asks, ip_proto=PROTO_TCP, tcp_dst=service.port), _OPENS
            yield 210, match(**source, tcp_flags=SYN_WITHOUT_ACK), ()
            yield 200, match(**source), _RETURNS
        else:
            yield 300, match(**there, reg0=asks, ip_proto=PROTO_UDP, udp_dst=service.port), _OPENS
            yield 200, match(**back, reg0=answers, ip_proto=PROTO_UDP, udp_src=service.port), _PASSES


def _icmp_errors(client: _End, server: _End, family: Family) -> Iterator[Match]:
    for source, target in dict.fromkeys(((client, server), (server, client))):
        for number in family.errors:
            there = _towards(target, family)
            yield match(**there, reg0=source.register, ip_proto=family.icmp, **{family.icmp_type: number})
