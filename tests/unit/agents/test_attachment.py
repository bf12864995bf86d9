# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agents import attachment
from agents.attachment import Facts, HostNic, Link
from tests.unit.agents.documents import spec

NODE = spec().attachment
NICS = {
    "lo": HostNic(1, 65536, True, True),
    "eth0": HostNic(5, 1500, True, True),
    "eth1": HostNic(6, 1500, True, True),
}
GOOD = Facts(
    links={
        "lo": Link("", "", "00:00:00:00:00:00", 65536, 0, True, True),
        "fab0": Link("macvlan", "vepa", "02:00:ac:10:14:03", 1500, 5, True, False),
        "fab1": Link("macvlan", "vepa", "02:00:ac:10:14:03", 1500, 6, True, False),
    },
    addresses=frozenset({"127.0.0.1/8", "172.16.20.3/32"}),
    routes=frozenset(
        {("fab0", "169.254.1.1", 10, "172.16.20.3"), ("fab1", "169.254.1.1", 11, "172.16.20.3")},
    ),
    neighbours=frozenset(
        {("fab0", "169.254.1.1", "02:fa:00:00:00:01"), ("fab1", "169.254.1.1", "02:fa:00:00:00:01")},
    ),
)


def test_the_commands_are_those_of_the_design() -> None:
    assert attachment.host_commands(NODE, [1], "/proc/self/fd/7") == [
        "link add link eth1 name fab1 netns /proc/self/fd/7 address 02:00:ac:10:14:03 mtu 1500 type macvlan mode vepa"
    ]
    assert attachment.address_command(NODE) == "addr replace 172.16.20.3/32 dev lo"
    assert attachment.node_commands(NODE, [0]) == [
        "link set dev fab0 arp off up",
        "neigh replace 169.254.1.1 lladdr 02:fa:00:00:00:01 dev fab0 nud permanent",
        "route replace default via 169.254.1.1 dev fab0 onlink src 172.16.20.3 metric 10",
    ]


def test_what_stands_is_not_touched() -> None:
    assert not attachment.compare(NODE, GOOD, NICS)


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
    wrong = attachment.compare(NODE, facts, NICS)
    assert list(wrong.links) == [0] and not wrong.settings and not wrong.address


def test_settings_are_put_back_without_a_new_link() -> None:
    facts = replace(
        GOOD,
        addresses=frozenset({"127.0.0.1/8"}),
        routes=frozenset(item for item in GOOD.routes if item[0] == "fab1"),
        links={**GOOD.links, "fab1": replace(GOOD.links["fab1"], arp=True)},
    )
    wrong = attachment.compare(NODE, facts, NICS)
    assert wrong.told() == (
        "lo had no address",
        "fab0 had no default route",
        "fab1 was down or resolved addresses",
    )
    assert not wrong.links


def test_a_missing_neighbour_is_found() -> None:
    assert attachment.compare(NODE, replace(GOOD, neighbours=frozenset()), NICS).settings == {
        0: "had no permanent neighbour",
        1: "had no permanent neighbour",
    }


def test_nothing_is_asked_of_a_nic_that_is_down() -> None:
    nics = {**NICS, "eth0": replace(NICS["eth0"], up=False)}
    facts = replace(GOOD, links={name: link for name, link in GOOD.links.items() if name != "fab0"})
    assert not attachment.compare(NODE, facts, nics)
    assert attachment.usable(NODE, nics) == (1,)
    assert attachment.nic_reasons(NODE, nics) == ()


def test_reasons_against_a_host() -> None:
    assert attachment.nic_reasons(NODE, {"lo": NICS["lo"]}) == (
        "this host has no NIC eth0; it has: lo",
        "this host has no NIC eth1; it has: lo",
    )
    small = {**NICS, "eth1": replace(NICS["eth1"], mtu=1400)}
    assert attachment.nic_reasons(NODE, small) == (
        "NIC eth1 has MTU 1400, the node needs 1500; run: ip link set dev eth1 mtu 1500",
    )
    dark = {name: replace(nic, carrier=False) for name, nic in NICS.items()}
    assert attachment.nic_reasons(NODE, dark) == (
        "none of the NICs eth0, eth1 has a carrier; check the cables and the switch",
    )


def test_the_answers_of_ip_are_read() -> None:
    addresses = [
        {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "address": "00:00:00:00:00:00",
         "addr_info": [{"family": "inet", "local": "172.16.20.3", "prefixlen": 32}, {"family": "inet6", "local": "::1",
                        "prefixlen": 128}]},
        {"ifname": "fab0", "link_index": 5, "flags": ["NOARP", "UP"], "mtu": 1500, "address": "02:00:AC:10:14:03",
         "linkinfo": {"info_kind": "macvlan", "info_data": {"mode": "vepa"}}, "addr_info": []},
        {},
    ]  # fmt: skip
    routes = [{"dst": "default", "gateway": "169.254.1.1", "dev": "fab0", "prefsrc": "172.16.20.3", "metric": 10}]
    known = [{"dst": "169.254.1.1", "dev": "fab0", "lladdr": "02:fa:00:00:00:01", "state": ["PERMANENT"]}]
    facts = attachment.parse_facts("\n".join(json.dumps(part) for part in (addresses, routes, known)) + "\n")
    assert facts.addresses == {"172.16.20.3/32"}
    assert facts.links["fab0"] == GOOD.links["fab0"]
    assert facts.routes == {("fab0", "169.254.1.1", 10, "172.16.20.3")}
    assert facts.neighbours == {("fab0", "169.254.1.1", "02:fa:00:00:00:01")}
    nics = attachment.parse_host_nics('[{"ifname":"eth0","ifindex":5,"mtu":1500,"flags":["UP","LOWER_UP"]}]')
    assert nics == {"eth0": NICS["eth0"]}
    with pytest.raises(ValueError, match="ip printed 1 JSON arrays, expected 3"):
        attachment.parse_facts("[]")
