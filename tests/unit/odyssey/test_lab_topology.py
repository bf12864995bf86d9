# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lab's names, addresses and cables, and that the example's inventory describes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from odyssey.lab import LabError, Settings, topology
from tests.imports import ROOT

INVENTORY = json.loads((ROOT / "examples" / "lab" / "inventory.json").read_text(encoding="utf-8"))


def test_the_inventory_has_the_hosts_and_their_cables() -> None:
    settings = Settings()
    assert tuple(INVENTORY["hosts"]) == settings.hosts
    for host, document in INVENTORY["hosts"].items():
        for number, attachment in enumerate(document["attachments"]):
            cable = topology.attachment(settings, host, number)
            assert attachment["nic"] == cable.a.interface
            assert settings.netns(attachment["switch"]) == cable.b.netns
            assert attachment["port"] == topology.switch_ports(settings, attachment["switch"])[cable.b.interface]


def test_the_inventory_has_the_switches_the_trunk_and_the_border() -> None:
    settings, fabric = Settings(), INVENTORY["fabric"]
    assert tuple(fabric["switches"]) == settings.switches
    assert [int(switch["datapathId"], 16) for switch in fabric["switches"].values()] == [1, 2]
    (link,) = fabric["links"]
    assert [link[end]["port"] for end in "ab"] == [topology.TRUNK_PORT] * 2
    edge = fabric["borders"]["edge"]
    assert edge["ports"] == [{"switch": settings.switches[0], "port": topology.EDGE_PORT}]
    assert edge["gateway"] == topology.EDGE_GATEWAY
    assert edge["peer"] == {"address": topology.EDGE_ADDRESS.split("/")[0], "mac": topology.EDGE_MAC}


def test_management_addresses() -> None:
    settings = Settings()
    names = (*settings.hosts, *settings.switches)
    assert [settings.management_address(name) for name in names] == [
        "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.21", "192.0.2.22"
    ]  # fmt: skip


def test_every_port_of_a_switch_has_one_cable() -> None:
    settings = Settings()
    cables = topology.fabric_cables(settings)
    for switch in settings.switches:
        ends = [end.interface for cable in cables for end in (cable.a, cable.b) if end.netns == settings.netns(switch)]
        assert sorted(ends) == sorted(topology.switch_ports(settings, switch))


def test_interface_names_fit_into_the_kernel() -> None:
    settings = Settings()
    names = (*settings.hosts, *settings.switches)
    cables = (*topology.fabric_cables(settings), *(topology.management(settings, name) for name in names))
    assert all(len(end.interface) <= 15 for cable in cables for end in (cable.a, cable.b))


def test_settings_come_from_the_environment() -> None:
    assert Settings.from_environment({}) == Settings()
    found = Settings.from_environment({"ODYSSEY_LAB": "/tmp/x/lab", "ODYSSEY_LAB_PREFIX": "two"})
    assert (found.directory, found.prefix, found.cache) == (Path("/tmp/x/lab"), "two", Path("/tmp/x/odyssey-cache"))
    assert Settings.from_environment({"ODYSSEY_CACHE": "/srv/c"}).cache == Path("/srv/c")


@pytest.mark.parametrize("prefix", ["", "-a", "UP", "toolongaprefix", "a/b"])
def test_a_prefix_that_cannot_be_a_name_is_refused(prefix: str) -> None:
    with pytest.raises(LabError, match="prefix"):
        Settings(prefix=prefix)


def test_a_relative_directory_is_refused() -> None:
    with pytest.raises(LabError, match="absolute"):
        Settings(directory=Path("lab"))


def test_a_directory_too_long_for_sockets_is_refused() -> None:
    with pytest.raises(LabError, match="sockets"):
        Settings(directory=Path("/tmp") / ("x" * 60))
