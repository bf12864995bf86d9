# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables 20 to 23 of the Open vSwitch pipeline: which member serves a connection (``docs/fabric.md``, "Services").

A new connection goes to the node of its slot, which is a hash of the connection; the switch learns an entry for it on
every SYN, so that it stays there when slots move.
"""

from __future__ import annotations

from collections.abc import Iterator

from controller.fabric import Intent, Network, ServiceAddress
from controller.families import FAMILIES, Address, Family
from controller.flows import (
    PROTO_TCP,
    SYN_WITHOUT_ACK,
    Action,
    FlowEntry,
    Goto,
    Kind,
    Learn,
    Multipath,
    Resubmit,
    SetField,
    crc_owner,
    make_cookie,
    match,
)
from controller.profiles.openvswitch_reach import TABLE_DELIVER

TABLE_SERVICE = 20
TABLE_LEARNED = 21
TABLE_CHOOSE = 22
TABLE_SLOT = 23

#: Seconds without a packet after which a connection is forgotten: longer than TCP keep-alives are commonly set to.
LEARNED_IDLE = 3600
#: The same after a FIN or RST.
LEARNED_FIN_IDLE = 15
#: Learned entries of one service in one switch; later connections stay at their slot only.
LEARNED_LIMIT = 65536


def service_entries(intent: Intent) -> Iterator[FlowEntry]:
    """Return tables 20 to 23; they are the same on every switch."""
    base = make_cookie(Kind.BASE, 0, intent.generations.get("inventory", 0))
    yield FlowEntry(TABLE_SERVICE, 0, match(), (Goto(TABLE_DELIVER),), base)
    yield FlowEntry(TABLE_CHOOSE, 0, match(), (), base)
    for service in intent.services.values():
        yield from _of_one(service, intent.networks[service.network], intent)


def service_cookie(service: ServiceAddress, intent: Intent) -> int:
    """Return the cookie of a service's entries."""
    return make_cookie(Kind.SERVICE, crc_owner(service.key), intent.generations.get(service.key, 0))


def _of_one(service: ServiceAddress, network: Network, intent: Intent) -> Iterator[FlowEntry]:
    cookie = service_cookie(service, intent)
    for family in FAMILIES:
        if (address := service.address_of(family)) is not None:
            yield from _choice(service, network, family, address, cookie)
    for slot, node in enumerate(service.slots):
        member = SetField("reg2", int(intent.bindings[node].address))
        yield FlowEntry(TABLE_SLOT, 100, match(reg3=slot, reg4=network.number), (member,), cookie)


def _choice(
    service: ServiceAddress, network: Network, family: Family, address: Address, cookie: int
) -> Iterator[FlowEntry]:
    there = {"eth_type": family.eth_type, family.target: int(address)}
    enter = (SetField("reg4", network.number), Resubmit(TABLE_LEARNED), Goto(TABLE_CHOOSE))
    yield FlowEntry(TABLE_SERVICE, 100, match(**there), enter, cookie)
    if not service.slots:
        opens: tuple[Action, ...] = ()
        unknown: tuple[Action, ...] = ()
    else:
        choose: tuple[Action, ...] = (Multipath(len(service.slots), "reg3"), Resubmit(TABLE_SLOT))
        opens = (SetField("reg2", 0), *choose, _learn(service, family), Goto(TABLE_DELIVER))
        unknown = (*choose, Goto(TABLE_DELIVER))
    syn = match(**there, ip_proto=PROTO_TCP, tcp_flags=SYN_WITHOUT_ACK)
    yield FlowEntry(TABLE_CHOOSE, 300, syn, opens, cookie)
    yield FlowEntry(TABLE_CHOOSE, 200, match(**there, reg2=0), unknown, cookie)
    yield FlowEntry(TABLE_CHOOSE, 100, match(**there), (Goto(TABLE_DELIVER),), cookie)


def _learn(service: ServiceAddress, family: Family) -> Learn:
    return Learn(
        table=TABLE_LEARNED,
        priority=100,
        cookie=make_cookie(Kind.LEARNED, crc_owner(service.key), 0),
        idle_timeout=LEARNED_IDLE,
        fin_idle_timeout=LEARNED_FIN_IDLE,
        limit=LEARNED_LIMIT,
        terms=(("eth_type", family.eth_type), ("ip_proto", PROTO_TCP)),
        fields=(family.source, family.target, "tcp_src", "tcp_dst"),
        keeps=("reg2",),
    )
