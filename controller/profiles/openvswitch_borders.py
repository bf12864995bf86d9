# SPDX-License-Identifier: AGPL-3.0-or-later
"""The entries of a border in the Open vSwitch pipeline: pins, ARP and neighbour discovery, delivery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.fabric import Border
from controller.families import FAMILIES, term
from controller.flows import (
    ETH_ARP,
    ETH_IPV6,
    PROTO_ICMPV6,
    VLAN_PRESENT,
    Action,
    FlowEntry,
    Goto,
    Kind,
    Match,
    Move,
    OutputInPort,
    SetField,
    crc_owner,
    make_cookie,
    match,
)
from controller.profiles.openvswitch_nodes import TABLE_CLASSIFY, UNTAGGED, deliver, from_trunk, untag
from controller.profiles.openvswitch_policy import BORDER_BIT, TABLE_POLICY
from controller.profiles.openvswitch_reach import TABLE_DELIVER, TABLE_FROM_TRUNK, Reach

TABLE_RESOLVE = 5
TABLE_ADVERTISE = 6

ARP_REQUEST, ARP_REPLY = 1, 2
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136  # RFC 4861, 4.3 and 4.4
ROUTER_SOLICITED_OVERRIDE = 0xE0000000  # the flags R, S and O of an advertisement
TARGET_LINK_LAYER_ADDRESS = 2  # the option of an advertisement


@dataclass(frozen=True, slots=True)
class BorderEntries:
    """All entries of one border on one switch."""

    border: Border
    reach: Reach
    generation: int
    has_trunks: bool

    def __iter__(self) -> Iterator[FlowEntry]:
        if self.reach.port is not None:
            yield from self._enters(self.reach.port)
            yield from self._resolves(self.reach.port)
        if self.reach.reachable:
            yield from self._leaves()

    def _entry(self, table: int, priority: int, what: Match, *actions: Action) -> FlowEntry:
        cookie = make_cookie(Kind.BORDER, crc_owner(self.border.name), self.generation)
        return FlowEntry(table, priority, what, actions, cookie)

    @property
    def _register(self) -> int:
        return BORDER_BIT | self.border.number

    def _on(self, port: int) -> dict[str, int | tuple[int, int]]:
        vlan = self.border.vlan
        return {"in_port": port, "vlan_vid": UNTAGGED if vlan is None else VLAN_PRESENT | vlan}

    def _enters(self, port: int) -> Iterator[FlowEntry]:
        actions = (*untag(self.border.vlan), SetField("reg0", self._register), Goto(TABLE_POLICY))
        for family in FAMILIES:
            if (prefix := self.border.prefix_of(family)) is not None:
                terms = self._on(port) | {"eth_dst": self.reach.mac, "eth_type": family.eth_type}
                terms[family.source] = term(prefix)
                yield self._entry(TABLE_CLASSIFY, 300, match(**terms), *actions)

    def _resolves(self, port: int) -> Iterator[FlowEntry]:
        """Answer for the gateway addresses with the fabric's MAC address.

        An advertisement takes two tables: only what is one already has a target link-layer address to set.  The answer
        keeps the tag of the question.
        """
        enter = (SetField("reg0", self._register), Goto(TABLE_RESOLVE))
        asks = match(**self._on(port), eth_type=ETH_ARP, arp_spa=term(self.border.prefix))
        yield self._entry(TABLE_CLASSIFY, 300, asks, *enter)
        gateway = int(self.border.gateway)
        request = match(reg0=self._register, eth_type=ETH_ARP, arp_op=ARP_REQUEST, arp_tpa=gateway)
        yield self._entry(TABLE_RESOLVE, 100, request, *self._arp_reply(gateway))
        if self.border.gateway6 is None:
            return
        gateway6 = int(self.border.gateway6)
        neighbour: dict[str, int | tuple[int, int]] = {
            "eth_type": ETH_IPV6,
            "ip_proto": PROTO_ICMPV6,
            "icmpv6_code": 0,
            "nd_target": gateway6,
        }
        solicits = match(**self._on(port), **neighbour, icmpv6_type=NEIGHBOUR_SOLICITATION)
        # Above the pin of the border: a neighbour that is known already is asked at its own MAC address.
        yield self._entry(TABLE_CLASSIFY, 310, solicits, *enter)
        turned = (SetField("icmpv6_type", NEIGHBOUR_ADVERTISEMENT), Goto(TABLE_ADVERTISE))
        asked = match(reg0=self._register, **neighbour, icmpv6_type=NEIGHBOUR_SOLICITATION)
        yield self._entry(TABLE_RESOLVE, 100, asked, *turned)
        answer = match(reg0=self._register, **neighbour, icmpv6_type=NEIGHBOUR_ADVERTISEMENT)
        yield self._entry(TABLE_ADVERTISE, 100, answer, *self._advertisement(gateway6))

    def _arp_reply(self, gateway: int) -> tuple[Action, ...]:
        return (
            Move("eth_src", "eth_dst"),
            SetField("eth_src", self.reach.mac),
            SetField("arp_op", ARP_REPLY),
            Move("arp_sha", "arp_tha"),
            Move("arp_spa", "arp_tpa"),
            SetField("arp_sha", self.reach.mac),
            SetField("arp_spa", gateway),
            OutputInPort(),
        )

    def _advertisement(self, gateway: int) -> tuple[Action, ...]:
        return (
            Move("eth_src", "eth_dst"),
            SetField("eth_src", self.reach.mac),
            Move("ipv6_src", "ipv6_dst"),
            SetField("ipv6_src", gateway),
            SetField("nd_reserved", ROUTER_SOLICITED_OVERRIDE),
            SetField("nd_options_type", TARGET_LINK_LAYER_ADDRESS),
            SetField("nd_tll", self.reach.mac),
            OutputInPort(),
        )

    def _leaves(self) -> Iterator[FlowEntry]:
        group, mac = self.reach.ids.first, self.border.peer_mac
        for family in FAMILIES:
            prefix, gateway = self.border.prefix_of(family), self.border.gateway_of(family)
            if prefix is None or gateway is None:
                continue
            to_gateway = match(eth_type=family.eth_type, **{family.target: int(gateway)})
            yield self._entry(TABLE_DELIVER, 150, to_gateway)
            there = match(eth_type=family.eth_type, **{family.target: term(prefix)})
            yield self._entry(TABLE_DELIVER, 100, there, *deliver(mac, group, self.reach.mac))
            if self.has_trunks:
                yield self._entry(TABLE_FROM_TRUNK, 100, there, *from_trunk(mac, group))
