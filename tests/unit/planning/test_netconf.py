# SPDX-License-Identifier: AGPL-3.0-or-later
"""What NETCONF is told of switches, and in which transactions."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

import schemas
from controller.netconf.datamodel import Target
from controller.netconf.device import DeviceConfig
from controller.netconf.devices import DRIVERS
from odyssey.model import Inventory, Snapshot
from odyssey.model.naming import CONTROLLER, NETCONF
from odyssey.planning import Plan, PlanRefused, TransactionStep, plan
from odyssey.planning.goal import ApplyGoal, InventoryGoal, RemovePlatformGoal
from odyssey.planning.netconf import ABLE, NAME_LIMIT, device_documents, device_faults, vlan_name
from tests.unit.planning.worlds import Json, inventory, network, platform, snapshot

ACCESS: Json = {"address": "192.0.2.21", "username": "odyssey", "keyFile": "/k", "hostKey": "AAAA"}


def managed(profile: str = "nexus9000", hosts: int = 2, **fabric: Any) -> Json:
    """The lab whose first switch is configured by NETCONF."""
    document = inventory(hosts, profile=profile)
    names = {number: f"eth1/{number}" if profile == "nexus9000" else f"port1.0.{number}" for number in (1, 2, 101, 201)}
    document["fabric"]["switches"]["sw1"] |= {
        "management": ACCESS, "ports": {str(number): {"name": name} for number, name in names.items()}
    }  # fmt: skip
    document["fabric"] |= fabric
    for host in document["hosts"].values():
        for item in host["attachments"]:
            item["tagged"] = True
    return document


def world(document: Json, *networks: tuple[int, str]) -> Snapshot:
    documents: dict[str, Any] = {"inventory": document}
    if networks:
        documents["platform/shop"] = platform({name: network(number) for number, name in networks})
        documents |= {f"network/shop/{name}": {"id": number, "count": 0} for number, name in networks}
    found = snapshot(documents, hosts=2)
    return Snapshot.from_documents(
        0, documents, images=found.images, present=found.present | {NETCONF}, switches=found.switches
    )


def operations(planned: Plan) -> list[tuple[str, Json]]:
    """Title and NETCONF operation of each transaction that has one."""
    steps = [step for step in planned.steps if isinstance(step, TransactionStep)]
    found = [(step.title, dict(step.participants[NETCONF])) for step in steps if NETCONF in step.participants]
    for _, operation in found:
        assert schemas.validate("netconf-operation", operation) == ()
    return found


def test_a_document_has_every_port_with_what_it_is_there_for() -> None:
    document = device_documents(world(managed(), (1, "app"), (2, "db")))["sw1"]
    assert document["vlans"] == {"101": "shop-app", "102": "shop-db", "4000": "odyssey-transit"}
    assert document["owned"] == {
        "vlans": [{"from": number, "to": number} for number in (101, 102, 4000)],
        "ports": ["eth1/1", "eth1/101", "eth1/2", "eth1/201"],
    }
    host = {"description": "odyssey host h1 eth0", "trunk": [101, 102], "mtu": 1500, "acl": "hosts"}
    assert document["ports"]["eth1/1"] == host
    assert document["ports"]["eth1/101"] == {"description": "odyssey link sw2", "trunk": [4000], "mtu": 1500}
    border = {"description": "odyssey border edge", "access": 101, "mtu": 1500, "acl": "border-edge"}
    assert document["ports"]["eth1/201"] == border
    assert document["acls"] == {"hosts": ["10.1.0.0/24", "10.2.0.0/24"], "border-edge": ["203.0.113.0/24"]}
    assert document["management"] == ACCESS


def test_what_may_carry_nothing_yet_is_shut() -> None:
    document = device_documents(world(managed()))["sw1"]
    assert document["vlans"] == {"4000": "odyssey-transit"}
    assert document["ports"]["eth1/1"]["enabled"] is False and "trunk" not in document["ports"]["eth1/1"]
    assert document["ports"]["eth1/201"]["enabled"] is False
    assert document["ports"]["eth1/101"]["trunk"] == [4000]


def test_the_owned_ranges_are_those_of_the_inventory() -> None:
    ranges = [{"from": 100, "to": 199}, {"from": 4000, "to": 4000}]
    document = device_documents(world(managed(owned={"vlans": ranges}), (1, "app")))["sw1"]
    assert document["owned"]["vlans"] == ranges


@pytest.mark.parametrize(("owned", "made"), [(True, True), (False, False)])
def test_a_vlan_of_the_world_outside_is_made_only_where_it_is_ours(owned: bool, made: bool) -> None:
    found = managed(owned={"vlans": [{"from": 100, "to": 300 if owned else 199}, {"from": 4000, "to": 4000}]})
    found["fabric"]["borders"]["edge"]["vlan"] = 250
    document = device_documents(world(found, (1, "app")))["sw1"]
    assert document["ports"]["eth1/201"]["trunk"] == [250]
    assert ("250" in document["vlans"]) is made


def test_jumbo_frames_want_the_larger_of_the_two_mtus() -> None:
    document = device_documents(world(managed(mtu=9000), (1, "app")))["sw1"]
    assert document["ports"]["eth1/1"]["mtu"] == 9216


def test_an_uplink_is_an_aggregation_on_the_port_of_a_border() -> None:
    found = managed()
    found["fabric"]["switches"]["sw1"]["ports"]["201"]["name"] = "po10"
    found["fabric"]["switches"]["sw1"]["uplinks"] = {"edge": {"number": 10, "members": ["eth1/48", "eth1/47"]}}
    document = device_documents(world(found, (1, "app")))["sw1"]
    assert document["aggregates"]["10"]["members"] == ["eth1/47", "eth1/48"]
    assert document["aggregates"]["10"]["port"]["description"] == "odyssey border edge"
    assert document["ports"]["eth1/47"] | {"acl": "border-edge"} == document["aggregates"]["10"]["port"]
    assert "po10" not in document["ports"] and "eth1/47" in document["owned"]["ports"]


def test_an_allied_telesis_switch_gets_what_its_models_have() -> None:
    found = managed("alliedtelesis", controllers=[{"address": "192.0.2.1", "port": 6653}])
    document = device_documents(world(found, (1, "app")))["sw1"]
    assert document["controllers"] == [{"address": "192.0.2.1", "port": 6653}]
    assert document["openflowPorts"] == document["owned"]["ports"]
    assert "acls" not in document and "mtu" not in document["ports"]["port1.0.1"]
    del found["fabric"]["controllers"]
    assert "openflowPorts" not in device_documents(world(found, (1, "app")))["sw1"]


def test_a_switch_without_management_is_not_configured() -> None:
    assert list(device_documents(world(managed(), (1, "app")))) == ["sw1"]
    assert device_documents(world(inventory(2))) == {}


@pytest.mark.parametrize(
    ("change", "path", "expected"),
    [
        (lambda switch: switch.update(profile="openvswitch"), "management", "a profile that has NETCONF"),
        (lambda switch: switch["ports"].pop("101"), "ports.101", "the device's name of the port"),
        (lambda switch: switch["ports"]["2"].update(name="eth1/1"), "ports.2.name", "port 1 has this one"),
        (
            lambda switch: switch.update(uplinks={"edge": {"number": 10, "members": ["eth1/47"]}}),
            "uplinks.edge.number", "po10",
        ),
        (
            lambda switch: (
                switch["ports"]["201"].update(name="po10"),
                switch.update(uplinks={"edge": {"number": 10, "members": ["eth1/1"]}}),
            ),
            "uplinks.edge.members", "nothing else uses",
        ),
        (
            lambda switch: (
                switch["ports"]["201"].update(name="po10"),
                switch.update(
                    uplinks={
                        "edge": {"number": 10, "members": ["eth1/47"]}, "twin": {"number": 10, "members": ["eth1/48"]},
                    }
                ),
            ),
            "uplinks.twin.number", "edge has this one",
        ),
        (
            lambda switch: switch.update(profile="alliedtelesis", uplinks={"edge": {"number": 1, "members": ["x"]}}),
            "uplinks", "have no LACP",
        ),
    ],
)  # fmt: skip
def test_an_inventory_that_netconf_cannot_carry_out_is_refused(change: Any, path: str, expected: str) -> None:
    document = managed()
    change(document["fabric"]["switches"]["sw1"])
    faults = device_faults(Inventory.parse(document))
    assert [fault.path for fault in faults] == [f"$.fabric.switches.sw1.{path}"]
    assert expected in faults[0].message
    with pytest.raises(PlanRefused) as refused:
        plan(world(managed()), InventoryGoal(document))
    assert set(faults) <= set(refused.value.faults)


def test_no_host_may_have_the_name_of_the_participant() -> None:
    document = managed()
    document["hosts"][NETCONF] = deepcopy(document["hosts"]["h1"])
    with pytest.raises(PlanRefused, match="odyssey-netconf takes part under this one"):
        plan(world(managed()), InventoryGoal(document))


def test_the_inventory_brings_the_whole_configuration_and_the_same_again_nothing() -> None:
    document = managed()
    ((title, operation),) = operations(plan(world(inventory(2)), InventoryGoal(document)))
    assert title == "set the inventory"
    assert list(operation["stages"]) == ["admit"]
    assert operation["stages"]["admit"]["changes"]["device/sw1"]["management"] == ACCESS
    other = managed()
    other["hosts"]["h1"]["labels"] = {"zone": "elsewhere"}
    assert operations(plan(world(document), InventoryGoal(other))) == []


def test_a_switch_that_is_no_longer_managed_is_forgotten() -> None:
    ((_, operation),) = operations(plan(world(managed()), InventoryGoal(inventory(2))))
    assert operation["stages"]["admit"]["changes"] == {"device/sw1": None}


def test_a_platform_adds_its_vlans_before_its_nodes_and_removes_them_after() -> None:
    start = world(managed())
    document = platform({"app": network(1, count=0)})
    planned = plan(start, ApplyGoal(document, {"app": 0}))
    ((_, operation),) = operations(planned)
    assert "101" in operation["stages"]["admit"]["changes"]["device/sw1"]["vlans"]
    first = next(step for step in planned.steps if isinstance(step, TransactionStep))
    assert "device/sw1" in first.objects and {CONTROLLER, NETCONF} <= first.participants.keys()
    now = start.folded(first.changes)
    now = Snapshot.from_documents(1, now.documents(), images=start.images, present=start.present,
                                  switches=start.switches)  # fmt: skip
    planned = plan(now, RemovePlatformGoal("shop"))
    ((_, operation),) = operations(planned)
    assert "101" not in operation["stages"]["retire"]["changes"]["device/sw1"]["vlans"]
    assert planned.steps[-1].title == "remove platform shop"


def test_a_plan_needs_the_participant_only_where_something_changes() -> None:
    start = world(managed())
    away = Snapshot.from_documents(0, start.documents(), images=start.images, present=start.present - {NETCONF},
                                   switches=start.switches)  # fmt: skip
    with pytest.raises(PlanRefused, match="odyssey-netconf to be connected"):
        plan(away, ApplyGoal(platform({"app": network(1, count=0)}), {"app": 0}))
    assert plan(away, InventoryGoal(managed())).steps == ()


def test_long_names_stay_apart() -> None:
    long = ["a" * 31, "a" * 30 + "b"]
    names = {vlan_name("platform-with-a-long-name", name) for name in long}
    assert len(names) == 2 and all(len(name) <= NAME_LIMIT for name in names)
    assert vlan_name("shop", "app") == "shop-app"


def test_the_planner_knows_no_other_device_than_the_drivers() -> None:
    assert set(ABLE) == set(DRIVERS)


@pytest.mark.parametrize("profile", sorted(ABLE))
@pytest.mark.parametrize("networks", [(), ((1, "app"),), ((1, "app"), (2, "db"))], ids=len)
@pytest.mark.parametrize(("tagged", "vlan", "owned"), [(True, 250, False), (False, None, True), (True, 150, True)])
def test_every_document_can_be_carried_out_by_its_driver(
    profile: str, networks: tuple[tuple[int, str], ...], tagged: bool, vlan: int | None, owned: bool
) -> None:
    found = managed(profile, controllers=[{"address": "192.0.2.1", "port": 6653}])
    if owned:
        found["fabric"]["owned"] = {"vlans": [{"from": 100, "to": 199}, {"from": 4000, "to": 4000}]}
    if vlan is not None:
        found["fabric"]["borders"]["edge"]["vlan"] = vlan
    if profile == "nexus9000":
        found["fabric"]["switches"]["sw1"]["ports"]["201"]["name"] = "po10"
        found["fabric"]["switches"]["sw1"]["uplinks"] = {"edge": {"number": 10, "members": ["eth1/47"]}}
    for host in found["hosts"].values():
        for item in host["attachments"]:
            item["tagged"] = tagged
    document = device_documents(world(found, *networks))["sw1"]
    operation = {"prepare": None, "stages": {"admit": {"changes": {"device/sw1": document}}}}
    assert schemas.validate("netconf-operation", operation) == ()
    config = DeviceConfig.parse(document)
    model = DRIVERS[profile].model
    assert config.faults() == [] and model.refusals(config) == []
    assert model.difference({}, Target.of(None, config))
