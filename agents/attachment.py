# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a node hangs on the fabric: commands for `ip -batch`, and what is wrong with what `ip -j` reports. Pure.

One macvlan in VEPA mode on each NIC of the host, so that every frame leaves the host, even towards a neighbour on the
same host. The address is a /32 on `lo`. One default route for each NIC, with rising metrics, goes `onlink` to a
constant gateway whose MAC is a permanent neighbour: nothing is ever resolved, and on loss of carrier the kernel takes
the next route (`ignore_routes_with_linkdown`, Documentation/networking/ip-sysctl.rst).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.spec import Attachment

FIRST_METRIC = 10

# Set on the sandbox at its creation, so that they hold before the first NIC appears.
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


@dataclass(frozen=True, slots=True)
class HostNic:
    """A NIC of the host."""

    index: int
    mtu: int
    up: bool
    carrier: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A link in a node's namespace; `parent` is the host's interface index."""

    kind: str
    mode: str
    mac: str
    mtu: int
    parent: int
    up: bool
    arp: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands in a node's namespace."""

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()  # on lo, as "172.16.20.3/32"
    routes: frozenset[tuple[str, str, int, str]] = frozenset()  # default routes: device, gateway, metric, source
    neighbours: frozenset[tuple[str, str, str]] = frozenset()  # permanent ones: device, address, MAC


FACTS_BATCH = "addr show\nroute show default\nneigh show nud permanent\n"  # for ip -j -d -batch -


DEVICE = "fab"
"""What the names of a node's NICs begin with, inside the node."""


def device(number: int) -> str:
    """Return the name that a node's NIC has inside the node."""
    return f"{DEVICE}{number}"


def parse_facts(text: str) -> Facts:
    """Read what `ip -j -d -batch -` printed for FACTS_BATCH: three JSON arrays."""
    addresses, routes, neighbours = _arrays(text, 3)
    return Facts(
        links={item["ifname"]: _link(item) for item in addresses if item.get("ifname")},
        addresses=frozenset(
            f"{info['local']}/{info['prefixlen']}"
            for item in addresses
            if item.get("ifname") == "lo"
            for info in item.get("addr_info", ())
            if info.get("family") == "inet"
        ),
        routes=frozenset(
            (item.get("dev", ""), item.get("gateway", ""), int(item.get("metric", 0)), item.get("prefsrc", ""))
            for item in routes
        ),
        neighbours=frozenset(
            (item.get("dev", ""), item.get("dst", ""), str(item.get("lladdr", "")).lower()) for item in neighbours
        ),
    )


def parse_host_nics(text: str) -> dict[str, HostNic]:
    """Read what `ip -j link show` printed in the host's namespace."""
    (links,) = _arrays(text, 1)
    return {
        item["ifname"]: HostNic(
            index=int(item["ifindex"]),
            mtu=int(item["mtu"]),
            up="UP" in item["flags"],
            carrier="LOWER_UP" in item["flags"],
        )
        for item in links
        if item.get("ifname")
    }


def nic_reasons(attachment: Attachment, nics: Mapping[str, HostNic]) -> tuple[str, ...]:
    """Tell why a node cannot be attached to the host's NICs, in words for people."""
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
    return tuple(reasons)


def usable(attachment: Attachment, nics: Mapping[str, HostNic]) -> tuple[int, ...]:
    """Return the numbers of the node's NICs whose parent is up; a macvlan cannot be set up on a parent that is down."""
    return tuple(number for number, name in enumerate(attachment.nics) if name in nics and nics[name].up)


def host_commands(attachment: Attachment, numbers: Sequence[int], namespace: str) -> list[str]:
    """Return the `ip -batch` lines, for the host's namespace, that put the node's NICs into `namespace` (a path)."""
    return [
        f"link add link {attachment.nics[number]} name {device(number)} netns {namespace}"
        f" address {attachment.mac} mtu {attachment.mtu} type macvlan mode vepa"
        for number in numbers
    ]


def address_command(attachment: Attachment) -> str:
    """Return the `ip -batch` line, for the node's namespace, that gives the node its address."""
    return f"addr replace {attachment.address}/32 dev lo"


def node_commands(attachment: Attachment, numbers: Sequence[int]) -> list[str]:
    """Return the `ip -batch` lines, for the node's namespace, that make its NICs work."""
    lines = []
    for number in numbers:
        name = device(number)
        lines += [
            f"link set dev {name} arp off up",
            f"neigh replace {attachment.gateway} lladdr {attachment.fabric_mac} dev {name} nud permanent",
            f"route replace default via {attachment.gateway} dev {name} onlink"
            f" src {attachment.address} metric {FIRST_METRIC + number}",
        ]
    return lines


@dataclass(frozen=True, slots=True)
class Wrong:
    """What of an attachment does not stand: the address, links to make anew, links to set up anew (with the reason)."""

    address: bool = False
    links: Mapping[int, str] = field(default_factory=dict)
    settings: Mapping[int, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.address or bool(self.links) or bool(self.settings)

    def told(self) -> tuple[str, ...]:
        """Return what is wrong in words for people."""
        nics = {**self.links, **self.settings}
        told = tuple(f"{device(number)} {nics[number]}" for number in sorted(nics))
        return (("lo had no address",) if self.address else ()) + told


def compare(attachment: Attachment, facts: Facts, nics: Mapping[str, HostNic]) -> Wrong:
    """Tell what of the attachment does not stand. NICs whose parent is down are left out: nothing can be done."""
    links, settings = {}, {}
    for number in usable(attachment, nics):
        if reason := _link_fault(attachment, number, facts, nics[attachment.nics[number]]):
            links[number] = reason
        elif reason := _setting_fault(attachment, number, facts):
            settings[number] = reason
    return Wrong(f"{attachment.address}/32" not in facts.addresses, links, settings)


def _link_fault(attachment: Attachment, number: int, facts: Facts, parent: HostNic) -> str | None:
    link = facts.links.get(device(number))
    if link is None:
        return "was missing"
    expected = Link("macvlan", "vepa", attachment.mac.lower(), attachment.mtu, parent.index, up=link.up, arp=link.arp)
    return None if link == expected else f"was {link}, expected {expected}"


def _setting_fault(attachment: Attachment, number: int, facts: Facts) -> str | None:
    name = device(number)
    if not facts.links[name].up or facts.links[name].arp:
        return "was down or resolved addresses"
    if (name, attachment.gateway, FIRST_METRIC + number, attachment.address) not in facts.routes:
        return "had no default route"
    if (name, attachment.gateway, attachment.fabric_mac.lower()) not in facts.neighbours:
        return "had no permanent neighbour"
    return None


def _link(item: Mapping[str, Any]) -> Link:
    info = item.get("linkinfo", {})
    return Link(
        kind=info.get("info_kind", ""),
        mode=info.get("info_data", {}).get("mode", ""),
        mac=str(item.get("address", "")).lower(),
        mtu=int(item["mtu"]),
        parent=int(item.get("link_index", 0)),
        up="UP" in item["flags"],
        arp="NOARP" not in item["flags"],
    )


def _arrays(text: str, count: int) -> list[list[dict[str, Any]]]:
    """Split JSON arrays that stand one after the other, as a batch of `ip` commands prints them."""
    decoder = json.JSONDecoder()
    arrays: list[list[dict[str, Any]]] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        value, position = decoder.raw_decode(text, position)
        arrays.append(value)
    if len(arrays) != count:
        raise ValueError(f"ip printed {len(arrays)} JSON arrays, expected {count}: {text[:200]!r}")
    return arrays
