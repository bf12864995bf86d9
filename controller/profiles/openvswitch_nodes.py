# SPDX-License-Identifier: AGPL-3.0-or-later
"""The entries of one node in the Open vSwitch pipeline (``docs/fabric.md``, "What a phase means")."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from controller.fabric import Binding, Phase
from controller.flows import (
    ETH_IPV4,
    PROTO_TCP,
    SYN_WITHOUT_ACK,
    ClearInPort,
    FlowEntry,
    Goto,
    Kind,
    Match,
    SetField,
    ToGroup,
    make_cookie,
    match,
)
from controller.profiles.openvswitch_policy import DARK_BIT, RETURN_TRAFFIC, TABLE_POLICY
from controller.profiles.openvswitch_reach import TABLE_DELIVER, TABLE_FROM_TRUNK, Reach

TABLE_CLASSIFY = 0
UNTAGGED = (0, 0x1FFF)
REMEMBERED_NODES = 16384


@lru_cache(maxsize=REMEMBERED_NODES)
def node_entries(binding: Binding, network: int, generation: int, reach: Reach) -> tuple[FlowEntry, ...]:
    """Return a node's entries on one switch; ``network`` is the number of its network.

    Remembered, because of many nodes few change from one intent to the next.
    """
    if binding.phase is Phase.STANDBY:
        return ()
    cookie = make_cookie(Kind.BINDING, int(binding.address), generation)
    return tuple(_entries(binding, network, cookie, reach))


def _entries(binding: Binding, network: int, cookie: int, reach: Reach) -> Iterator[FlowEntry]:
    address = int(binding.address)
    if reach.port is not None:
        dark = binding.phase is Phase.DARK
        register = SetField("reg0", network | DARK_BIT if dark else network)
        yield FlowEntry(TABLE_CLASSIFY, 300, _pin(binding, reach.port), (register, Goto(TABLE_POLICY)), cookie)
    if reach.reachable:
        here = match(eth_type=ETH_IPV4, ipv4_dst=address)
        if binding.phase is Phase.DRAINING:
            opens = match(eth_type=ETH_IPV4, ip_proto=PROTO_TCP, ipv4_dst=address, tcp_flags=SYN_WITHOUT_ACK)
            yield FlowEntry(TABLE_DELIVER, 300, opens, (), cookie)
        if binding.phase is Phase.DARK:
            here = match(reg1=RETURN_TRAFFIC, eth_type=ETH_IPV4, ipv4_dst=address)
        deliver = (*reach.rewrite(binding.mac), ClearInPort(), ToGroup(reach.group))
        yield FlowEntry(TABLE_DELIVER, 200, here, deliver, cookie)
    for what, actions in reach.from_trunk(binding.mac, address):
        yield FlowEntry(TABLE_FROM_TRUNK, 200, what, actions, cookie)


def _pin(binding: Binding, port: int) -> Match:
    terms: dict[str, int | tuple[int, int]] = {
        "in_port": port,
        "vlan_vid": UNTAGGED,
        "eth_src": binding.mac,
        "eth_type": ETH_IPV4,
        "ipv4_src": int(binding.address),
    }
    if binding.phase is Phase.DARK:
        terms["ip_proto"] = PROTO_TCP
    return match(**terms)
