# SPDX-License-Identifier: AGPL-3.0-or-later
"""What stands on the host and in a node's network namespace, read from what `ip -j` prints. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FACTS_BATCH = "addr show\nroute show default\nneigh show nud permanent\n"  # for ip -j -d -batch -
FACTS_BATCH6 = "route show default\n"  # for ip -6 -j -batch -


@dataclass(frozen=True, slots=True)
class HostNic:
    """An interface of the host; `parent` is the name of the one below it, `master` of the one above it.

    `changes` counts how often the carrier came or went.
    """

    index: int
    mtu: int
    up: bool
    carrier: bool
    kind: str = ""  # as `ip` calls it, for example vlan or veth; nothing for hardware
    parent: str = ""
    master: str = ""
    vlan: int = 0
    alias: str = ""
    changes: int = 0


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
class Route:
    """A default route of a node; `nexthop` is the id of a nexthop object (ip-nexthop(8)), 0 where it has none."""

    device: str
    gateway: str
    metric: int
    source: str
    nexthop: int = 0
    ipv6: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What stands in a node's namespace."""

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()  # on lo, as "172.16.20.3/32"
    routes: frozenset[Route] = frozenset()  # default routes of both families
    neighbours: frozenset[tuple[str, str, str]] = frozenset()  # permanent ones: device, address, MAC
    sysctls: Mapping[str, str] = field(default_factory=dict)  # below net/ipv6/conf; empty: the kernel has no IPv6


def parse_facts(text: str, text6: str = "[]", sysctls: Mapping[str, str] | None = None) -> Facts:
    """Read what `ip` printed for FACTS_BATCH (three JSON arrays) and for FACTS_BATCH6 (one)."""
    addresses, routes, neighbours = _arrays(text, 3)
    (routes6,) = _arrays(text6, 1)
    return Facts(
        links={item["ifname"]: _link(item) for item in addresses if item.get("ifname")},
        addresses=frozenset(
            f"{info['local']}/{info['prefixlen']}"
            for item in addresses
            if item.get("ifname") == "lo"
            for info in item.get("addr_info", ())
        ),
        routes=frozenset((*(_route(item, False) for item in routes), *(_route(item, True) for item in routes6))),
        neighbours=frozenset(
            (item.get("dev", ""), item.get("dst", ""), str(item.get("lladdr", "")).lower()) for item in neighbours
        ),
        sysctls=dict(sysctls or {}),
    )


def parse_host_nics(text: str) -> dict[str, HostNic]:
    """Read what `ip -j -d -s -s link show` printed in the host's namespace."""
    (links,) = _arrays(text, 1)
    return {item["ifname"]: _host_nic(item) for item in links if item.get("ifname")}


def cable_ends(nics: Mapping[str, HostNic]) -> dict[str, HostNic]:
    """Return the interfaces on which a cable may hang: hardware, and a virtual cable that is in no bridge."""
    return {
        name: nic
        for name, nic in nics.items()
        if name != "lo" and (nic.kind == "" or (nic.kind == "veth" and not nic.master))
    }


def _host_nic(item: Mapping[str, Any]) -> HostNic:
    info = item.get("linkinfo", {})
    return HostNic(
        index=int(item["ifindex"]),
        mtu=int(item["mtu"]),
        up="UP" in item["flags"],
        carrier="LOWER_UP" in item["flags"],
        kind=info.get("info_kind", ""),
        parent=item.get("link") or "",  # null: it lies in another namespace
        master=item.get("master", ""),
        vlan=int(info.get("info_data", {}).get("id", 0)) if info.get("info_kind") == "vlan" else 0,
        alias=item.get("ifalias", ""),
        changes=int(item.get("stats64", {}).get("tx", {}).get("carrier_changes", 0)),
    )


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


def _route(item: Mapping[str, Any], ipv6: bool) -> Route:
    return Route(
        device=item.get("dev", ""),
        gateway=item.get("gateway", ""),
        metric=int(item.get("metric", 0)),
        source=item.get("prefsrc", ""),
        nexthop=int(item.get("nhid", 0)),
        ipv6=ipv6,
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
