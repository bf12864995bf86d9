# SPDX-License-Identifier: AGPL-3.0-or-later
"""Documents of ``netconf-operation`` for one switch of each kind."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
ACCESS = {"address": "192.0.2.21", "username": "root", "hostKey": "AAAA", "keyFile": "/nowhere"}
PORTS = {
    "nexus9000": ("eth1/1", "eth1/2", "eth1/47", "eth1/48"),
    "alliedtelesis": ("port1.0.1", "port1.0.2", "port1.0.47", "port1.0.48"),
}


def device(profile: str, vlans: dict[int, str], management: Json | None = None, **changes: Any) -> Json:
    """A switch with a host port that carries ``vlans`` but 4000, and a link port with 4000."""
    host, link, *_ = PORTS[profile]
    document: Json = {
        "profile": profile,
        "management": management or ACCESS,
        "owned": {"vlans": [{"from": 100, "to": 199}, {"from": 4000, "to": 4000}], "ports": [*PORTS[profile]]},
        "vlans": {str(number): name for number, name in vlans.items()},
        "ports": {
            host: {"description": "odyssey host h1 eth0", "trunk": sorted(vlans.keys() - {4000})},
            link: {"description": "odyssey link sw2", "trunk": [4000]},
        },
    }
    return {**document, **changes}


SHOP = {110: "shop-web", 120: "shop-app", 4000: "odyssey-transit"}
WEB = {110: "shop-web", 4000: "odyssey-transit"}


def nexus(vlans: dict[int, str] = SHOP, management: Json | None = None, **changes: Any) -> Json:
    """A Nexus with everything that can be set on it."""
    port: Json = {"description": "odyssey border edge", "access": 110, "acl": "edge", "mtu": 9216}
    more: Json = {
        "acls": {"hosts": ["172.16.20.0/24", "2001:db8:20::/64"], "edge": ["203.0.113.0/24"]},
        "aggregates": {"10": {"members": ["eth1/47", "eth1/48"], "port": port}},
    }
    document = device("nexus9000", vlans, management, **more)
    document["ports"]["eth1/1"] |= {"acl": "hosts", "mtu": 9216}
    document["ports"] |= dict.fromkeys(("eth1/47", "eth1/48"), port)
    return {**document, **changes}


def allied(vlans: dict[int, str] = SHOP, management: Json | None = None, **changes: Any) -> Json:
    """An Allied Telesis switch with everything that can be set on it."""
    document = device("alliedtelesis", vlans, management)
    document["controllers"] = [{"address": "192.0.2.1", "port": 6653}]
    document["openflowPorts"] = ["port1.0.1", "port1.0.2"]
    return {**document, **changes}
