# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents import attachment, vlan
from agents.facts import HostNic
from agents.spec import Attachment
from tests.unit.agents.documents import spec

ALIAS = "odyssey:c:h1"
NODE = spec(vlan=120, taggedNics=["eth0", "eth1"]).attachment
ONE = spec(vlan=120, taggedNics=["eth1"]).attachment
NICS = {"eth0": HostNic(5, 1500, True, True), "eth1": HostNic(6, 1500, True, True)}
OURS = HostNic(8, 1500, True, True, "vlan", "eth0", "", 120, ALIAS)
WITH = {**NICS, "eth0.120": OURS, "eth1.120": replace(OURS, parent="eth1", index=9)}
FOREIGN = replace(OURS, alias="")


def test_the_parent_of_a_tagged_nic_is_its_vlan_interface() -> None:
    assert NODE.vlan_interfaces == {"eth0.120", "eth1.120"} and ONE.vlan_interfaces == {"eth1.120"}
    assert [ONE.parent(number) for number in (0, 1)] == ["eth0", "eth1.120"]
    lines = attachment.host_commands(ONE, [0, 1], "/ns")
    assert [line.split()[3] for line in lines] == ["eth0", "eth1.120"]
    assert attachment.usable(NODE, NICS) == () and attachment.usable(NODE, WITH) == (0, 1)
    assert attachment.usable(ONE, NICS) == (0,)


def test_missing_interfaces_are_made_without_an_address_of_the_host() -> None:
    assert vlan.needs_support(NODE, NICS) and not vlan.needs_support(NODE, WITH)
    assert vlan.make_commands(ONE, NICS, ALIAS) == [
        "link add link eth1 name eth1.120 type vlan id 120",
        f"link set dev eth1.120 alias {ALIAS}",
        "link set dev eth1.120 addrgenmode none arp off mtu 1500 up",
    ]
    assert vlan.make_commands(ONE, NICS, ALIAS, ipv6=False)[-1] == "link set dev eth1.120 arp off mtu 1500 up"
    assert vlan.make_commands(NODE, WITH, ALIAS) == []
    assert vlan.make_commands(spec().attachment, NICS, ALIAS) == []


def test_our_own_is_set_up_anew_and_nothing_is_done_on_a_nic_that_is_down() -> None:
    down = {**WITH, "eth0.120": replace(OURS, up=False)}
    assert vlan.make_commands(NODE, down, ALIAS) == [
        "link set dev eth0.120 addrgenmode none arp off mtu 1500 up"
    ]
    assert vlan.make_commands(NODE, {**down, "eth0": replace(NICS["eth0"], up=False)}, ALIAS) == []
    assert vlan.make_commands(NODE, {**WITH, "eth0.120": replace(OURS, mtu=1400)}, ALIAS) != []


def test_an_interface_of_somebody_else_is_used_and_left_as_it_is() -> None:
    nics = {**WITH, "eth0.120": FOREIGN}
    assert vlan.reasons(NODE, nics, ALIAS) == ()
    assert vlan.make_commands(NODE, nics, ALIAS) == []
    assert vlan.drop_commands(nics, frozenset(), ALIAS) == ["link del dev eth1.120"]


@pytest.mark.parametrize(
    "change",
    [
        {"alias": ""},
        {"alias": "odyssey:c:h2"},
        {"kind": "macvlan"},
        {"parent": "eth7"},
        {"vlan": 121},
    ],
    ids=str,
)
def test_only_what_is_ours_is_removed(change: dict[str, Any]) -> None:
    assert vlan.drop_commands({**NICS, "eth0.120": OURS}, frozenset(), ALIAS) == ["link del dev eth0.120"]
    assert vlan.drop_commands({**NICS, "eth0.120": replace(OURS, **change)}, frozenset(), ALIAS) == []
    assert vlan.drop_commands({**NICS, "eth0.120": OURS}, {"eth0.120"}, ALIAS) == []


@pytest.mark.parametrize(
    ("node", "nics", "reason"),
    [
        (spec(taggedNics=["eth0"]).attachment, NICS, "taggedNics needs vlan"),
        (spec(vlan=1, taggedNics=["eth2"]).attachment, NICS, "names eth2, which is not one of nics (eth0, eth1)"),
        (NODE, {**NICS, "eth0.120": replace(OURS, vlan=121)}, "eth0.120 of this host is not VLAN 120 of eth0"),
        (NODE, {**NICS, "eth0.120": replace(OURS, parent="eth1")}, "eth0.120 of this host is not VLAN 120 of eth0"),
        (NODE, {**NICS, "eth0.120": replace(OURS, kind="macvlan")}, "eth0.120 of this host is not VLAN 120 of eth0"),
        (NODE, {**NICS, "eth0.120": replace(FOREIGN, mtu=1400)}, "run: ip link set dev eth0.120 mtu 1500"),
        (NODE, {**NICS, "eth0.120": replace(FOREIGN, up=False)}, "run: ip link set dev eth0.120 up, or remove it"),
        (
            spec(nics=["enp129s0f0np0"], vlan=120, taggedNics=["enp129s0f0np0"]).attachment,
            {"enp129s0f0np0": NICS["eth0"]},
            "enp129s0f0np0.120 would have a name of more than 15 characters",
        ),
    ],
)
def test_reasons_against_a_host(node: Attachment, nics: dict[str, HostNic], reason: str) -> None:
    (found,) = vlan.reasons(node, nics, ALIAS)
    assert reason in found
