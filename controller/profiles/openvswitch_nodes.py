# SPDX-License-Identifier: AGPL-3.0-or-later
"""The entries of one node in the Open vSwitch pipeline (``docs/fabric.md``, "What a phase means")."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from controller.fabric import Binding, Phase
from controller.families import FAMILIES, Address, Family
from controller.flows import (
    PROTO_TCP,
    SYN_WITHOUT_ACK,
    VLAN_PRESENT,
    Action,
    ClearInPort,
    FlowEntry,
    Goto,
    Kind,
    Match,
    PopVlan,
    SetField,
    ToGroup,
    make_cookie,
    match,
)
from controller.profiles.openvswitch_policy import DARK_BIT, RETURN_TRAFFIC, SERVICE_BIT, TABLE_POLICY
from controller.profiles.openvswitch_reach import TABLE_DELIVER, TABLE_FROM_TRUNK, TABLE_TO_STATION

TABLE_CLASSIFY = 0
UNTAGGED = (0, 0x1FFF)
REMEMBERED_NODES = 65536


@lru_cache(maxsize=REMEMBERED_NODES)
def pin_entries(binding: Binding, network: int, generation: int, port: int, vlan: int | None) -> tuple[FlowEntry, ...]:
    """Return what table 0 does with what a node sends on one port; ``vlan`` is the tag of its frames there.

    Remembered, like the other entries of nodes: of many nodes few change from one intent to the next.
    """
    if binding.phase is Phase.STANDBY:
        return ()
    cookie = make_cookie(Kind.BINDING, int(binding.address), generation)
    dark = binding.phase is Phase.DARK
    actions = (*untag(vlan), SetField("reg0", network | DARK_BIT if dark else network), Goto(TABLE_POLICY))
    return tuple(
        FlowEntry(TABLE_CLASSIFY, 300, pin(binding.mac, family, address, port, vlan, only_tcp=dark), actions, cookie)
        for family in FAMILIES
        if (address := binding.address_of(family)) is not None
    )


def untag(vlan: int | None) -> tuple[Action, ...]:
    """Return what makes a frame untagged."""
    return () if vlan is None else (PopVlan(),)


def pin(mac: int, family: Family, address: Address, port: int, vlan: int | None, *, only_tcp: bool = False) -> Match:
    """Match what comes from one MAC and one address on one port."""
    terms: dict[str, int | tuple[int, int]] = {
        "in_port": port,
        "vlan_vid": UNTAGGED if vlan is None else VLAN_PRESENT | vlan,
        "eth_src": mac,
        "eth_type": family.eth_type,
        family.source: int(address),
    }
    if only_tcp:
        terms["ip_proto"] = PROTO_TCP
    return match(**terms)


@lru_cache(maxsize=REMEMBERED_NODES)
def delivery_entries(binding: Binding, generation: int, group: int, fabric_mac: int) -> tuple[FlowEntry, ...]:
    """Return tables 30 and 31 for a node behind the destination with this group: the same on every switch."""
    if binding.phase is Phase.STANDBY:
        return ()
    return tuple(_delivery(binding, make_cookie(Kind.BINDING, int(binding.address), generation), group, fabric_mac))


def _delivery(binding: Binding, cookie: int, group: int, fabric_mac: int) -> Iterator[FlowEntry]:
    to_node = deliver(binding.mac, group, fabric_mac)
    dark = binding.phase is Phase.DARK
    for family in FAMILIES:
        if (address := binding.address_of(family)) is None:
            continue
        there = {"eth_type": family.eth_type, family.target: int(address)}
        if binding.phase is Phase.DRAINING:
            opens = match(**there, ip_proto=PROTO_TCP, tcp_flags=SYN_WITHOUT_ACK)
            yield FlowEntry(TABLE_DELIVER, 300, opens, (), cookie)
        here = match(**there, reg1=RETURN_TRAFFIC) if dark else match(**there)
        yield FlowEntry(TABLE_DELIVER, 200, here, to_node, cookie)
        yield FlowEntry(TABLE_FROM_TRUNK, 200, match(**there), from_trunk(binding.mac, group), cookie)


def deliver(mac: int, group: int, fabric_mac: int) -> tuple[Action, ...]:
    """Return the actions of table 30: address a packet to a MAC and hand it to the group of its destination."""
    return (SetField("eth_src", fabric_mac), SetField("eth_dst", mac), ClearInPort(), ToGroup(group))


def from_trunk(mac: int, group: int) -> tuple[Action, ...]:
    """Return the actions of table 31: name the destination.  A switch that cannot rewrite left the MAC to us."""
    return (SetField("eth_dst", mac), SetField("reg5", group), Goto(TABLE_TO_STATION))


@lru_cache(maxsize=REMEMBERED_NODES)
def member_pins(
    binding: Binding, network: int, cookie: int, addresses: tuple[Address | None, ...], port: int, vlan: int | None
) -> tuple[FlowEntry, ...]:
    """Return the pins of a member that answers from the service addresses: return traffic only, see table 10."""
    actions = (*untag(vlan), SetField("reg0", network | SERVICE_BIT), Goto(TABLE_POLICY))
    return tuple(
        FlowEntry(TABLE_CLASSIFY, 300, pin(binding.mac, family, address, port, vlan), actions, cookie)
        for family in FAMILIES
        for address in family.of(*addresses)
    )


@lru_cache(maxsize=REMEMBERED_NODES)
def member_entries(
    binding: Binding, cookie: int, addresses: tuple[Address | None, ...], group: int, fabric_mac: int
) -> tuple[FlowEntry, ...]:
    """Return how traffic to a service reaches a member that was chosen: by register 2, on a trunk by its MAC."""
    chosen = match(reg2=int(binding.address))
    found = [FlowEntry(TABLE_DELIVER, 250, chosen, deliver(binding.mac, group, fabric_mac), cookie)]
    for family in FAMILIES:
        for address in family.of(*addresses):
            terms = {"eth_dst": binding.mac, "eth_type": family.eth_type, family.target: int(address)}
            found.append(FlowEntry(TABLE_FROM_TRUNK, 200, match(**terms), from_trunk(binding.mac, group), cookie))
    return tuple(found)
