# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a node hangs on the fabric: commands for `ip -batch`, and what is wrong with what stands. Pure.

One macvlan in VEPA mode on each NIC of the host, so that every frame leaves the host, even towards a neighbour on the
same host. The addresses are a /32 and a /128 on `lo`, where nothing answers ARP or neighbour discovery for them. One
default route for each NIC, with rising metrics, goes `onlink` to a constant gateway whose MAC is a permanent neighbour:
nothing is ever resolved, and on loss of carrier the kernel takes the next route (`ignore_routes_with_linkdown`,
Documentation/networking/ip-sysctl.rst).

Two things make the changeover quick (docs/decisions/0007-changeover-of-a-node.md):

- The kernel delays the loss of carrier of a link by up to a second unless its index differs from the index of the link
  below it (`linkwatch_urgent_event`, net/core/link_watch.c). In a new namespace the two are often equal by chance, so
  nodes' links get indices that no host's interface has.
- An IPv6 socket keeps its route while that route stands, and it stands without a carrier. A route that belongs to a
  nexthop object goes with the carrier, and takes the sockets with it. So IPv6 has two routes for each NIC: a preferred
  one through a nexthop object, and one without that is still there when the carrier returns.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agents.facts import Facts, HostNic, Link, Route
from agents.spec import Attachment

FIRST_METRIC = 10
KEPT_METRIC = 100  # more, for the IPv6 routes that outlive a loss of carrier
AVOIDED_METRIC = 1000  # more, for the routes through a NIC that is to be avoided
FIRST_INDEX = 1 << 30  # of the links in a node; a host's interfaces are counted from 1
QUIET = ""  # the reason for a setting that nobody needs to hear of

# Set on the sandbox at its creation, so that they hold before the first NIC appears. IPv6 is off in a sandbox made
# ahead; a node that has an IPv6 address switches it on when it is attached.
SANDBOX_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.default.ignore_routes_with_linkdown": "1",
    "net.ipv4.conf.default.arp_ignore": "1",
    "net.ipv4.conf.default.accept_redirects": "0",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
}
SANDBOX_SYSCTLS_IPV6: Mapping[str, str] = {
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}

# Below net/ipv6/conf/<default or link>: no routers, no duplicate detection, no link-local address (addr_gen_mode 1) and
# so no multicast group that would have to be reported. IPv6 is switched on last, when the rest holds.
IPV6_SETTINGS: Mapping[str, str] = {
    "accept_ra": "0",
    "autoconf": "0",
    "accept_dad": "0",
    "dad_transmits": "0",
    "router_solicitations": "0",
    "accept_redirects": "0",
    "addr_gen_mode": "1",
    "ignore_routes_with_linkdown": "1",
    "disable_ipv6": "0",
}
IPV6_SWITCH = "all/disable_ipv6"

DEVICE = "fab"
"""What the names of a node's NICs begin with, inside the node."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node's NICs are to stand now: `avoided` are NICs of the host."""

    up: bool = True
    avoided: frozenset[str] = frozenset()


def device(number: int) -> str:
    """Return the name that a node's NIC has inside the node."""
    return f"{DEVICE}{number}"


def nic_reasons(attachment: Attachment, nics: Mapping[str, HostNic], *, ipv6: bool) -> tuple[str, ...]:
    """Tell why a node cannot be attached to the host's NICs, in words for people; `ipv6`: the kernel has IPv6."""
    reasons = []
    for name in attachment.nics:
        nic = nics.get(name)
        if nic is None:
            reasons.append(f"this host has no NIC {name}; it has: {', '.join(sorted(nics)) or 'none'}")
        elif nic.mtu < attachment.mtu:
            reasons.append(
                f"NIC {name} has MTU {nic.mtu}, the node needs {attachment.mtu};"
                f" run: ip link set dev {name} mtu {attachment.mtu}"
            )
    if not reasons and not any(nics[name].carrier for name in attachment.nics):
        reasons.append(f"none of the NICs {', '.join(attachment.nics)} has a carrier; check the cables and the switch")
    if attachment.address6 is None:
        reasons += [
            f"service address {address} is of IPv6, but the node has no IPv6 address"
            for address in attachment.service_addresses
            if ":" in address
        ]
    elif not ipv6:
        reasons.append(
            f"the kernel of this host has no IPv6, which the address {attachment.address6} needs; boot it without"
            " ipv6.disable=1"
        )
    return tuple(reasons)


def usable(attachment: Attachment, nics: Mapping[str, HostNic]) -> tuple[int, ...]:
    """Return the numbers of the node's NICs whose parent is up; a macvlan cannot be set up on a parent that is down."""
    parents = [attachment.parent(number) for number in range(len(attachment.nics))]
    return tuple(number for number, name in enumerate(parents) if name in nics and nics[name].up)


def host_commands(attachment: Attachment, numbers: Sequence[int], namespace: str) -> list[str]:
    """Return the `ip -batch` lines, for the host's namespace, that put the node's NICs into `namespace` (a path)."""
    return [
        f"link add link {attachment.parent(number)} name {device(number)} index {FIRST_INDEX + number}"
        f" netns {namespace} address {attachment.mac} mtu {attachment.mtu} type macvlan mode vepa"
        for number in numbers
    ]


def address_commands(addresses: Sequence[str]) -> list[str]:
    """Return the `ip -batch` lines, for the node's namespace, that give the node addresses with their prefixes."""
    return [f"addr replace {address} dev lo" + (" nodad" if ":" in address else "") for address in addresses]


def node_commands(attachment: Attachment, standing: Standing, numbers: Sequence[int]) -> list[str]:
    """Return the `ip -batch` lines, for the node's namespace, that make its NICs stand as they are to."""
    lines = []
    for number in numbers:
        name = device(number)
        if not standing.up:
            lines.append(f"link set dev {name} arp off down")
            continue
        lines.append(f"link set dev {name} arp off up")
        for gateway in _gateways(attachment):
            lines.append(f"neigh replace {gateway} lladdr {attachment.fabric_mac} dev {name} nud permanent")
        lines += [_replace(route) for route in routes(attachment, standing, number) if not route.nexthop]
    return lines


def nexthop_commands(attachment: Attachment, standing: Standing, number: int) -> list[str]:
    """Return the `ip -batch` lines for the route that goes with the carrier; they fail where there is none."""
    lines = []
    for route in routes(attachment, standing, number):
        if route.nexthop:
            lines.append(f"nexthop replace id {route.nexthop} via {route.gateway} dev {route.device} onlink")
            lines.append(_replace(route))
    return lines


def delete_commands(attachment: Attachment, standing: Standing, stale: Sequence[Route]) -> list[str]:
    """Return the `ip -batch` lines that remove routes; run them when their successors stand, so that none is missed.

    IPv6 sockets look for another route than that of a nexthop object when one is added, not when it is deleted
    (`ip6_dst_check`, net/ipv6/route.c): so one that stands is added once more at the end.
    """
    lines = [f"route del {_target(route)}" for route in stale]
    kept = [route for number in range(len(attachment.nics)) for route in routes(attachment, standing, number)]
    again = next((route for route in kept if route.ipv6 and not route.nexthop), None)
    if again is not None and any(route.ipv6 for route in stale):
        lines.append(_replace(again))
    return lines


def routes(attachment: Attachment, standing: Standing, number: int) -> tuple[Route, ...]:
    """Return the default routes that a node has through one of its NICs."""
    if not standing.up:
        return ()
    name, nic = device(number), attachment.nics[number]
    metric = FIRST_METRIC + number + (AVOIDED_METRIC if nic in standing.avoided else 0)
    found = [Route(name, attachment.gateway, metric, attachment.address)]
    if attachment.address6 is not None:
        found.append(Route(name, attachment.gateway6, metric, attachment.address6, number + 1, True))
        found.append(Route(name, attachment.gateway6, metric + KEPT_METRIC, attachment.address6, 0, True))
    return tuple(found)


def addresses(attachment: Attachment) -> tuple[str, ...]:
    """Return what stands on the node's `lo`: its own addresses and the service addresses, with their prefixes."""
    own = [attachment.address, *([attachment.address6] if attachment.address6 else [])]
    return tuple(
        f"{address}/{ipaddress.ip_address(address).max_prefixlen}" for address in (*own, *attachment.service_addresses)
    )


def sysctls(attachment: Attachment, links: Sequence[str] = ()) -> dict[str, str]:
    """Return how IPv6 is set in the node, below net/ipv6/conf, in the order of writing; `links` are its NICs."""
    if attachment.address6 is None:
        return {IPV6_SWITCH: "1", "default/disable_ipv6": "1"}
    settings = {f"{where}/{key}": value for key, value in IPV6_SETTINGS.items() for where in ("default", *links)}
    return {**settings, IPV6_SWITCH: "0"}


@dataclass(frozen=True, slots=True)
class Wrong:
    """What of an attachment does not stand, each with the reason: links to make anew, links to set up anew.

    `addresses` and `sysctls` are missing, `stale` routes are too many.
    """

    addresses: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[int, str] = field(default_factory=dict)
    stale: tuple[Route, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.sysctls or self.links or self.settings or self.stale)

    def told(self) -> tuple[str, ...]:
        """Return what is wrong in words for people."""
        nics = {**self.links, **self.settings}
        return (
            *(("IPv6 was not set as it has to be",) if self.sysctls else ()),
            *(f"lo had no address {address}" for address in self.addresses),
            *(f"{device(number)} {nics[number]}" for number in sorted(nics) if nics[number] != QUIET),
            *(f"{route.device} had a default route with metric {route.metric}" for route in self.stale),
        )


def compare(attachment: Attachment, standing: Standing, facts: Facts, nics: Mapping[str, HostNic]) -> Wrong:
    """Tell what of the attachment does not stand. NICs whose parent is down are left out: nothing can be done."""
    links, settings = {}, {}
    numbers = usable(attachment, nics)
    for number in numbers:
        if reason := _link_fault(attachment, number, facts, nics[attachment.parent(number)]):
            links[number] = reason
        elif (fault := _setting_fault(attachment, standing, number, facts, nics)) is not None:
            settings[number] = fault
    there = [name for name in facts.links if name.startswith(DEVICE)]
    wanted = sysctls(attachment, there) if facts.sysctls else {}
    return Wrong(
        tuple(address for address in addresses(attachment) if address not in facts.addresses),
        {key: value for key, value in wanted.items() if facts.sysctls.get(key) != value},
        links,
        settings,
        _stale(attachment, standing, [number for number in numbers if number not in links], facts),
    )


def _stale(attachment: Attachment, standing: Standing, numbers: Sequence[int], facts: Facts) -> tuple[Route, ...]:
    """Return the routes through these NICs that are too many; a NIC that is to be down loses all by itself."""
    if not standing.up:
        return ()
    expected = {_target(route) for number in numbers for route in routes(attachment, standing, number)}
    devices = {device(number) for number in numbers}
    found = [r for r in facts.routes if r.device in devices and _target(r) not in expected]
    return tuple(sorted(found, key=lambda route: (route.ipv6, route.device, route.metric)))


def _link_fault(attachment: Attachment, number: int, facts: Facts, parent: HostNic) -> str | None:
    link = facts.links.get(device(number))
    if link is None:
        return "was missing"
    expected = Link("macvlan", "vepa", attachment.mac.lower(), attachment.mtu, parent.index, up=link.up, arp=link.arp)
    return None if link == expected else f"was {link}, expected {expected}"


def _setting_fault(
    attachment: Attachment, standing: Standing, number: int, facts: Facts, nics: Mapping[str, HostNic]
) -> str | None:
    """Tell what is wrong with a link that stands; None: nothing."""
    name = device(number)
    link = facts.links[name]
    if not standing.up:
        return "was up, although its node is not admitted" if link.up else None
    if not link.up and attachment.link == "admitted" and not link.arp:
        return QUIET  # it waited for this
    if not link.up or link.arp:
        return "was down or resolved addresses"
    for gateway in _gateways(attachment):
        if (name, gateway, attachment.fabric_mac.lower()) not in facts.neighbours:
            return f"had no permanent neighbour {gateway}"
    missing = [route for route in routes(attachment, standing, number) if route not in facts.routes]
    for route in missing:
        if not route.nexthop:
            return f"had no default route by {route.gateway} with metric {route.metric}"
    # Such a route went with the carrier; it is put back when that has returned, and is no fault.
    return QUIET if missing and nics[attachment.parent(number)].carrier else None


def _gateways(attachment: Attachment) -> tuple[str, ...]:
    return (attachment.gateway,) if attachment.address6 is None else (attachment.gateway, attachment.gateway6)


def _replace(route: Route) -> str:
    return f"route replace {_target(route)} src {route.source}"


def _target(route: Route) -> str:
    """Return what tells a route from every other one, as `ip` wants it."""
    where = "::/0" if route.ipv6 else "default"
    if route.nexthop:
        return f"{where} nhid {route.nexthop} metric {route.metric}"
    via = f"via {route.gateway} dev {route.device} onlink" if route.gateway else f"dev {route.device}"
    return f"{where} {via} metric {route.metric}"
