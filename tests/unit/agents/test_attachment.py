# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agents import attachment, facts
from agents.attachment import QUIET, Standing
from agents.facts import Facts, HostNic, Link, Route
from agents.spec import Attachment
from tests.unit.agents.documents import spec

NODE = spec().attachment
NODE6 = spec(address6="fd00:20:0::3", gateway6="fe80::1", serviceAddresses=["172.16.20.1", "fd00:20::1"]).attachment
UP, DARK = Standing(), Standing(up=False)
NICS = {
    "lo": HostNic(1, 65536, True, True),
    "eth0": HostNic(5, 1500, True, True),
    "eth1": HostNic(6, 1500, True, True),
}


def standing_facts(node: Attachment, standing: Standing = UP) -> Facts:
    """What stands when a node is attached as it has to be."""
    links = [Link("macvlan", "vepa", "02:00:ac:10:14:03", 1500, index, standing.up, False) for index in (5, 6)]
    gateways = [node.gateway, *([node.gateway6] if node.address6 else [])]
    return Facts(
        links={"lo": Link("", "", "00:00:00:00:00:00", 65536, 0, True, True), "fab0": links[0], "fab1": links[1]},
        addresses=frozenset({"127.0.0.1/8", "::1/128", *attachment.addresses(node)}),
        routes=frozenset(route for number in (0, 1) for route in attachment.routes(node, standing, number)),
        neighbours=frozenset((f"fab{number}", to, "02:fa:00:00:00:01") for number in (0, 1) for to in gateways),
        sysctls=attachment.sysctls(node, ["fab0", "fab1"]),
    )


GOOD = standing_facts(NODE)
GOOD6 = standing_facts(NODE6)


def test_the_commands_are_those_of_the_design() -> None:
    assert attachment.host_commands(NODE, [1], "/proc/self/fd/7") == [
        "link add link eth1 name fab1 index 1073741825 netns /proc/self/fd/7 address 02:00:ac:10:14:03 mtu 1500"
        " type macvlan mode vepa"
    ]
    assert attachment.address_commands(attachment.addresses(NODE)) == ["addr replace 172.16.20.3/32 dev lo"]
    assert attachment.node_commands(NODE, UP, [0]) == [
        "link set dev fab0 arp off up",
        "neigh replace 169.254.1.1 lladdr 02:fa:00:00:00:01 dev fab0 nud permanent",
        "route replace default via 169.254.1.1 dev fab0 onlink metric 10 src 172.16.20.3",
    ]
    assert attachment.nexthop_commands(NODE, UP, 0) == []


def test_the_commands_of_a_node_with_ipv6_and_a_service_address() -> None:
    assert attachment.address_commands(attachment.addresses(NODE6)) == [
        "addr replace 172.16.20.3/32 dev lo",
        "addr replace fd00:20::3/128 dev lo nodad",
        "addr replace 172.16.20.1/32 dev lo",
        "addr replace fd00:20::1/128 dev lo nodad",
    ]
    assert attachment.node_commands(NODE6, UP, [1]) == [
        "link set dev fab1 arp off up",
        "neigh replace 169.254.1.1 lladdr 02:fa:00:00:00:01 dev fab1 nud permanent",
        "neigh replace fe80::1 lladdr 02:fa:00:00:00:01 dev fab1 nud permanent",
        "route replace default via 169.254.1.1 dev fab1 onlink metric 11 src 172.16.20.3",
        "route replace ::/0 via fe80::1 dev fab1 onlink metric 111 src fd00:20::3",
    ]
    assert attachment.nexthop_commands(NODE6, UP, 1) == [
        "nexthop replace id 2 via fe80::1 dev fab1 onlink",
        "route replace ::/0 nhid 2 metric 11 src fd00:20::3",
    ]


def test_ipv6_is_switched_on_last_and_kept_off_without_an_address() -> None:
    settings = list(attachment.sysctls(NODE6, ["fab0"]).items())
    assert settings[-1] == ("all/disable_ipv6", "0")
    switches = [key for key, _ in settings if key.endswith("disable_ipv6")]
    assert [key for key, _ in settings[-3:]] == switches
    assert {("default/addr_gen_mode", "1"), ("fab0/addr_gen_mode", "1"), ("fab0/accept_ra", "0")} <= set(settings)
    assert attachment.sysctls(NODE, ["fab0"]) == {"all/disable_ipv6": "1", "default/disable_ipv6": "1"}


def test_a_node_in_the_dark_has_its_nics_down_and_no_route() -> None:
    node = spec(link="admitted", address6="fd00:20::3").attachment
    assert attachment.node_commands(node, DARK, [0, 1]) == [
        "link set dev fab0 arp off down",
        "link set dev fab1 arp off down",
    ]
    assert attachment.nexthop_commands(node, DARK, 1) == []
    dark = standing_facts(node, DARK)
    assert not attachment.compare(node, DARK, dark, NICS)
    admitted = attachment.compare(node, UP, dark, NICS)
    assert admitted.settings == {0: QUIET, 1: QUIET} and admitted.told() == ()
    lit = attachment.compare(node, DARK, standing_facts(node), NICS)
    assert lit.told() == tuple(f"fab{n} was up, although its node is not admitted" for n in (0, 1))


@pytest.mark.parametrize("node", [NODE, NODE6], ids=["IPv4", "both"])
def test_what_stands_is_not_touched(node: Attachment) -> None:
    assert not attachment.compare(node, UP, standing_facts(node), NICS)


@pytest.mark.parametrize(
    "change",
    [
        {"mac": "02:00:ac:10:14:04"},
        {"mode": "bridge"},
        {"kind": "veth"},
        {"mtu": 1400},
        {"parent": 9},
    ],
    ids=str,
)
def test_a_link_that_is_not_right_is_made_anew(change: dict[str, Any]) -> None:
    facts = replace(GOOD, links={**GOOD.links, "fab0": replace(GOOD.links["fab0"], **change)})
    wrong = attachment.compare(NODE, UP, facts, NICS)
    assert list(wrong.links) == [0] and not wrong.settings and not wrong.addresses


def test_settings_are_put_back_without_a_new_link() -> None:
    facts = replace(
        GOOD,
        addresses=frozenset({"127.0.0.1/8"}),
        routes=frozenset(item for item in GOOD.routes if item.device == "fab1"),
        links={**GOOD.links, "fab1": replace(GOOD.links["fab1"], arp=True)},
        sysctls={"all/disable_ipv6": "0", "default/disable_ipv6": "1"},
    )
    wrong = attachment.compare(NODE, UP, facts, NICS)
    assert wrong.told() == (
        "IPv6 was not set as it has to be",
        "lo had no address 172.16.20.3/32",
        "fab0 had no default route by 169.254.1.1 with metric 10",
        "fab1 was down or resolved addresses",
    )
    assert wrong.sysctls == {"all/disable_ipv6": "1"}
    assert not wrong.links


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"addresses": GOOD6.addresses - {"fd00:20::1/128"}}, ("lo had no address fd00:20::1/128",)),
        ({"addresses": GOOD6.addresses - {"172.16.20.1/32"}}, ("lo had no address 172.16.20.1/32",)),
        (
            {"routes": frozenset(route for route in GOOD6.routes if route.metric != 110)},
            ("fab0 had no default route by fe80::1 with metric 110",),
        ),
        (
            {"neighbours": GOOD6.neighbours - {("fab1", "fe80::1", "02:fa:00:00:00:01")}},
            ("fab1 had no permanent neighbour fe80::1",),
        ),
        ({"sysctls": {**GOOD6.sysctls, "fab0/accept_ra": "1"}}, ("IPv6 was not set as it has to be",)),
        (
            {"routes": GOOD6.routes | {Route("fab0", "fe80::9", 1, "", ipv6=True)}},
            ("fab0 had a default route with metric 1",),
        ),
    ],
)
def test_every_part_of_ipv6_is_looked_at(changes: dict[str, Any], told: tuple[str, ...]) -> None:
    assert attachment.compare(NODE6, UP, replace(GOOD6, **changes), NICS).told() == told


def test_a_route_that_went_with_the_carrier_is_put_back_in_silence_when_that_has_returned() -> None:
    facts = replace(GOOD6, routes=frozenset(route for route in GOOD6.routes if route.nexthop != 1))
    back = attachment.compare(NODE6, UP, facts, NICS)
    assert back.settings == {0: QUIET} and back.told() == ()
    assert not attachment.compare(NODE6, UP, facts, {**NICS, "eth0": replace(NICS["eth0"], carrier=False)})


def test_a_nic_to_be_avoided_has_a_later_route_and_the_old_ones_go() -> None:
    avoiding = Standing(avoided=frozenset({"eth0"}))
    wrong = attachment.compare(NODE6, avoiding, GOOD6, NICS)
    assert list(wrong.settings) == [0] and not wrong.links
    assert attachment.node_commands(NODE6, avoiding, [0])[-2:] == [
        "route replace default via 169.254.1.1 dev fab0 onlink metric 1010 src 172.16.20.3",
        "route replace ::/0 via fe80::1 dev fab0 onlink metric 1110 src fd00:20::3",
    ]
    assert attachment.nexthop_commands(NODE6, avoiding, 0)[1] == "route replace ::/0 nhid 1 metric 1010 src fd00:20::3"
    assert attachment.delete_commands(NODE6, avoiding, wrong.stale) == [
        "route del default via 169.254.1.1 dev fab0 onlink metric 10",
        "route del ::/0 nhid 1 metric 10",
        "route del ::/0 via fe80::1 dev fab0 onlink metric 110",
        "route replace ::/0 via fe80::1 dev fab0 onlink metric 1110 src fd00:20::3",  # sockets look anew
    ]
    assert not attachment.compare(NODE6, avoiding, standing_facts(NODE6, avoiding), NICS)


def test_a_missing_neighbour_is_found() -> None:
    assert attachment.compare(NODE, UP, replace(GOOD, neighbours=frozenset()), NICS).settings == {
        0: "had no permanent neighbour 169.254.1.1",
        1: "had no permanent neighbour 169.254.1.1",
    }


def test_nothing_is_asked_of_a_nic_that_is_down() -> None:
    nics = {**NICS, "eth0": replace(NICS["eth0"], up=False)}
    facts = replace(GOOD, links={name: link for name, link in GOOD.links.items() if name != "fab0"})
    assert not attachment.compare(NODE, UP, facts, nics)
    assert attachment.usable(NODE, nics) == (1,)
    assert attachment.nic_reasons(NODE, nics, ipv6=True) == ()


def test_ipv6_needs_a_kernel_with_it_and_an_address_of_the_node() -> None:
    assert attachment.nic_reasons(NODE6, NICS, ipv6=True) == ()
    (reason,) = attachment.nic_reasons(NODE6, NICS, ipv6=False)
    assert "the kernel of this host has no IPv6, which the address fd00:20::3 needs" in reason
    node = spec(serviceAddresses=["172.16.20.1", "fd00:20::1"]).attachment
    assert attachment.nic_reasons(node, NICS, ipv6=True) == (
        "service address fd00:20::1 is of IPv6, but the node has no IPv6 address",
    )


def test_reasons_against_a_host() -> None:
    assert attachment.nic_reasons(NODE, {"lo": NICS["lo"]}, ipv6=True) == (
        "this host has no NIC eth0; it has: lo",
        "this host has no NIC eth1; it has: lo",
    )
    small = {**NICS, "eth1": replace(NICS["eth1"], mtu=1400)}
    assert attachment.nic_reasons(NODE, small, ipv6=True) == (
        "NIC eth1 has MTU 1400, the node needs 1500; run: ip link set dev eth1 mtu 1500",
    )
    dark = {name: replace(nic, carrier=False) for name, nic in NICS.items()}
    assert attachment.nic_reasons(NODE, dark, ipv6=True) == (
        "none of the NICs eth0, eth1 has a carrier; check the cables and the switch",
    )


def test_the_answers_of_ip_are_read() -> None:
    addresses = [
        {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "address": "00:00:00:00:00:00",
         "addr_info": [{"family": "inet", "local": "172.16.20.3", "prefixlen": 32}, {"family": "inet6", "local": "::1",
                        "prefixlen": 128}]},
        {"ifname": "fab0", "link_index": 5, "flags": ["NOARP", "UP", "LOWER_UP"], "mtu": 1500,
         "address": "02:00:AC:10:14:03", "linkinfo": {"info_kind": "macvlan", "info_data": {"mode": "vepa"}},
         "addr_info": []},
        {},
    ]  # fmt: skip
    routes = [{"dst": "default", "gateway": "169.254.1.1", "dev": "fab0", "prefsrc": "172.16.20.3", "metric": 10}]
    routes6 = [
        {"dst": "default", "nhid": 1, "gateway": "fe80::1", "dev": "fab0", "prefsrc": "fd00:20::3", "metric": 10}
    ]
    known = [{"dst": "169.254.1.1", "dev": "fab0", "lladdr": "02:fa:00:00:00:01", "state": ["PERMANENT"]}]
    text = "\n".join(json.dumps(part) for part in (addresses, routes, known)) + "\n"
    read = facts.parse_facts(text, json.dumps(routes6), {"all/disable_ipv6": "1"})
    assert read.addresses == {"172.16.20.3/32", "::1/128"}
    assert read.links["fab0"] == GOOD.links["fab0"]
    assert read.routes == {
        Route("fab0", "169.254.1.1", 10, "172.16.20.3"),
        Route("fab0", "fe80::1", 10, "fd00:20::3", nexthop=1, ipv6=True),
    }
    assert read.neighbours == {("fab0", "169.254.1.1", "02:fa:00:00:00:01")}
    assert read.sysctls == {"all/disable_ipv6": "1"}
    with pytest.raises(ValueError, match="ip printed 1 JSON arrays, expected 3"):
        facts.parse_facts("[]")


def test_the_interfaces_of_a_host_are_read() -> None:
    up = ["UP", "LOWER_UP"]
    shown = [
        {"ifname": "lo", "ifindex": 1, "mtu": 65536, "flags": ["LOOPBACK", *up]},
        {"ifname": "eth0", "ifindex": 5, "mtu": 1500, "flags": up, "stats64": {"tx": {"carrier_changes": 3}}},
        {"ifname": "eth0.120", "link": "eth0", "ifindex": 8, "mtu": 1500, "flags": up, "ifalias": "odyssey:c:h1",
         "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1Q", "id": 120}}},
        {"ifname": "veth1", "ifindex": 9, "mtu": 1500, "flags": up, "master": "docker0", "link": None,
         "linkinfo": {"info_kind": "veth"}},
        {"ifname": "eth7", "ifindex": 10, "mtu": 1500, "flags": up, "linkinfo": {"info_kind": "veth"}},
    ]  # fmt: skip
    nics = facts.parse_host_nics(json.dumps(shown))
    assert nics["eth0"] == replace(NICS["eth0"], changes=3)
    assert nics["eth0.120"] == HostNic(8, 1500, True, True, "vlan", "eth0", "", 120, "odyssey:c:h1")
    assert list(facts.cable_ends(nics)) == ["eth0", "eth7"]
