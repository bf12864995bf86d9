# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service addresses in plans: when slots move, what the participants are told, and weights."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import pytest

from odyssey.planning import (
    InventoryGoal,
    Plan,
    PlanRefused,
    ScaleGoal,
    Step,
    TransactionStep,
    WeighGoal,
    plan,
    resolve,
)
from odyssey.services.wish import ApplyPlatform, SetInventory, WeighNode
from tests.unit.planning.worlds import Json, World, check, inventory, network, opening, platform, service, snapshot

ONE_TABLE: Json = {"profile": "alliedtelesis", "reflects": "yes"}


def web(count: int = 2, **more: Any) -> Json:
    """Clients and a network with a service address."""
    document = network(2, count=count, standby=1, exposedTo={"edge": opening(80)}, **(service(2, six=True) | more))
    return platform({"client": network(1, count=2, dependsOn={"web": opening(80)}), "web": document})


def running(document: Json, **switches: Any) -> World:
    """A world in which a platform runs."""
    world = World(snapshot({"inventory": inventory(**switches)}))
    world.wish(ApplyPlatform(document))
    check(world)
    return world


def without_ipv6(document: Json) -> Json:
    """The platform without what a switch with one table cannot do."""
    del document["networks"]["web"]["subnet6"], document["networks"]["web"]["service"]["address6"]
    return document


def slots(world: World) -> dict[str, int]:
    """How many slots each node has, as the controller was told."""
    return dict(Counter(world.intent["service/shop/web"]["slots"]))


def stage_of(step: Step, key: str) -> str:
    """The controller's stage in which a document changes."""
    assert isinstance(step, TransactionStep)
    stages = step.participants["controller"]["stages"]
    (found,) = [name for name, stage in stages.items() if key in stage["changes"]]
    return str(found)


def test_slots_come_with_the_nodes_that_are_admitted() -> None:
    world = running(web())
    assert slots(world) == {"shop-web-1": 4, "shop-web-2": 4}
    document = world.intent["service/shop/web"]
    assert (document["address"], document["address6"]) == ("10.2.0.1", "fd00:0:0:2::1") and "pins" not in document


def test_a_network_without_nodes_serves_nobody() -> None:
    assert running(web(0)).intent["service/shop/web"]["slots"] == []


def test_a_promoted_node_gets_its_slots_in_the_transaction_that_admits_it() -> None:
    world = running(web())
    step = plan(world.state, ScaleGoal("shop", "web", 3)).steps[0]
    assert step.title == "admit standby shop-web-3"
    assert stage_of(step, "service/shop/web") == stage_of(step, "binding/shop-web-3") == "admit"
    world.reach(ScaleGoal("shop", "web", 3))
    assert sorted(slots(world).values()) == [2, 3, 3]


def test_slots_leave_a_node_when_it_is_withdrawn() -> None:
    world = running(web(3))
    withdraw, *_ = plan(world.state, ScaleGoal("shop", "web", 2)).steps
    assert stage_of(withdraw, "service/shop/web") == stage_of(withdraw, "binding/shop-web-3") == "withdraw"
    world.carry_out(withdraw)
    assert slots(world) == {"shop-web-1": 4, "shop-web-2": 4}


def test_the_agents_are_told_the_addresses() -> None:
    world = World()
    steps = plan(world.state, resolve(ApplyPlatform(web(1)), world.state)).steps
    starts = [step for step in steps if isinstance(step, TransactionStep) and step.title == "start shop-web-1"]
    (spec,) = [item for host in ("h1", "h2", "h3") for item in _starts(starts[0], host)]
    address = spec["address"]
    assert spec["serviceAddresses"] == ["10.2.0.1", "fd00:0:0:2::1"]
    assert spec["address6"] == f"fd00:0:0:2::{int(address.rsplit('.', 1)[1]):x}" and spec["gateway6"] == "fe80::1"
    assert "link" not in spec and "taggedNics" not in spec
    binding = starts[0].participants["controller"]["stages"]["admit"]["changes"]["binding/shop-web-1"]
    assert binding["address6"] == spec["address6"]


def _starts(step: TransactionStep, host: str) -> list[Json]:
    operation = step.participants.get(host, {"prepare": None})
    found: list[Json] = (operation["prepare"] or {}).get("start", [])
    return found


def test_dependents_read_the_service_address_in_their_neighbours() -> None:
    world = running(web())
    entry = world.files["shop-client-1"]["dependencies"]["web"]
    assert entry["service"] == {"address": "10.2.0.1", "address6": "fd00:0:0:2::1"}
    assert {node["address6"] for node in entry["nodes"]} == {
        str(node.address6) for node in world.state.admitted("shop/web")
    }


def test_frames_are_tagged_and_links_kept_down_where_the_switches_need_it() -> None:
    stored = inventory(profile="nexus9000", reflects="yes")
    for host in stored["hosts"].values():
        for attachment in host["attachments"]:
            attachment["tagged"] = True
    world = World(snapshot({"inventory": stored}))
    made = world.wish(ApplyPlatform(without_ipv6(web(1))))
    steps = [step for step in made.steps if isinstance(step, TransactionStep)]
    specs = [spec for step in steps for host in stored["hosts"] for spec in _starts(step, host)]
    found = [(spec["vlan"], spec["taggedNics"], spec["link"]) for spec in specs if spec["network"] == "web"]
    assert found == [(102, ["eth0", "eth1"], "admitted")] * 2
    promote = plan(world.state, ScaleGoal("shop", "web", 2)).steps[0]
    assert isinstance(promote, TransactionStep) and promote.title == "admit standby shop-web-2"
    host = world.state.nodes["shop-web-2"].host
    assert promote.participants[host]["stages"]["admit"] == {"nodes": ["shop-web-2"]}, "its link is set up now"


def test_a_weight_moves_slots_and_nothing_else() -> None:
    world = running(web())
    made = world.wish(WeighNode("shop", "web", "shop-web-1", 300))
    (step,) = made.steps
    assert isinstance(step, TransactionStep) and set(step.participants) == {"controller"}
    assert step.nodes == ("shop-web-1",)
    assert slots(world) == {"shop-web-1": 6, "shop-web-2": 2}
    assert [change.name for change in made.changes if change.kind == "service"] == ["shop/web"]
    assert "weight 100 -> 300" in next(change.detail for change in made.changes if change.kind == "node")
    check(world)
    assert plan(world.state, WeighGoal("shop", "web", "shop-web-1", 300)).steps == ()


def test_a_node_of_weight_zero_takes_no_new_connection_and_stays() -> None:
    world = running(web())
    world.wish(WeighNode("shop", "web", "shop-web-1", 0))
    assert slots(world) == {"shop-web-2": 8}
    assert world.state.nodes["shop-web-1"].phase == "admitted"
    assert world.intent["binding/shop-web-1"]["phase"] == "admitted"
    world.wish(WeighNode("shop", "web", "shop-web-2", 0))
    assert world.intent["service/shop/web"]["slots"] == []


def test_a_weight_that_moves_no_slot_is_confirmed_by_the_controller() -> None:
    world = running(web(1))
    (step,) = world.wish(WeighNode("shop", "web", "shop-web-1", 7)).steps
    assert isinstance(step, TransactionStep)
    assert set(step.participants["controller"]["stages"]["admit"]["changes"]) == {"network/shop/web"}


@pytest.mark.parametrize(
    ("wish", "path", "expected"),
    [
        (WeighNode("shop", "client", "shop-client-1", 1), "Network.name", "service address"),
        (WeighNode("shop", "web", "shop-web-9", 1), "Network.Node.name", "shop-web-1, shop-web-2"),
        (WeighNode("shop", "web", "shop-client-1", 1), "Network.Node.name", "shop-web-1"),
    ],
)  # fmt: skip
def test_what_cannot_be_weighed_is_refused(wish: WeighNode, path: str, expected: str) -> None:
    with pytest.raises(PlanRefused) as caught:
        resolve(wish, running(web()).state)
    (fault,) = caught.value.faults
    assert fault.path == f"$.data[0].System.{path}" and expected in fault.message


def test_the_number_of_slots_may_change_while_nodes_run() -> None:
    world = running(web(2))
    document = web(2)
    document["networks"]["web"]["service"]["slots"] = 16
    world.wish(ApplyPlatform(document))
    assert slots(world) == {"shop-web-1": 8, "shop-web-2": 8}
    check(world)


def pins(world: World) -> dict[str, str]:
    """The node of each client."""
    return dict(world.intent["service/shop/web"]["pins"])


def test_a_switch_with_one_table_balances_by_clients() -> None:
    world = running(without_ipv6(web()), **ONE_TABLE)
    found = pins(world)
    clients = {f"{node.address}/32" for node in world.state.admitted("shop/client")}
    assert {prefix for prefix in found if prefix.endswith("/32")} == clients
    assert len([prefix for prefix in found if prefix.startswith("203.0.113.")]) == 8
    assert Counter(found.values()) == {"shop-web-1": 5, "shop-web-2": 5}


def test_a_client_moves_when_its_node_is_retired_and_not_before() -> None:
    world = running(without_ipv6(web()), **ONE_TABLE)
    before = pins(world)
    made = plan(world.state, ScaleGoal("shop", "web", 1))
    withdraw, drain, retire = made.steps[:3]
    world.carry_out(withdraw)
    assert pins(world) == before, "draining: its clients stay"
    world.carry_out(drain)
    world.carry_out(retire)
    assert set(pins(world).values()) == {"shop-web-1"}
    assert stage_of(retire, "service/shop/web") == "retire"
    check(world)


def test_new_clients_and_their_end_are_followed() -> None:
    """The nodes of one network change what the controller knows of another one: its document is locked and held."""
    world = running(without_ipv6(web()), **ONE_TABLE)
    made = world.reach(ScaleGoal("shop", "client", 3))
    address = world.state.nodes["shop-client-3"].address
    assert f"{address}/32" in pins(world) and "network/shop/web" in made.locks
    (step,) = made.steps
    assert isinstance(step, TransactionStep) and "network/shop/web" in step.objects
    made = world.reach(ScaleGoal("shop", "client", 2))
    assert f"{address}/32" not in pins(world) and "network/shop/web" in made.locks
    check(world)


def test_pins_follow_the_inventory() -> None:
    """Another prefix behind the border, and the first switch with one table."""
    world = running(without_ipv6(web()), **ONE_TABLE)
    document = inventory(**ONE_TABLE)
    document["fabric"]["borders"]["edge"]["prefix"] = "203.0.112.0/23"
    world.wish(SetInventory(document))
    assert "203.0.112.0/26" in pins(world)
    check(world)
    several = running(without_ipv6(web()))
    assert "pins" not in several.intent["service/shop/web"]
    mixed = deepcopy(dict(inventory()))
    mixed["fabric"]["switches"]["sw3"] = {"datapathId": f"{3:016x}", "profile": "alliedtelesis", "maxEntries": 10}
    several.wish(SetInventory(mixed))
    assert len(pins(several)) == 10
    check(several)


def test_no_node_gets_the_service_address() -> None:
    """Neither the IPv4 address nor the one whose IPv6 address would be the service's."""
    document = web(5)
    document["networks"]["web"]["service"] |= {"address": "10.2.0.2", "address6": "fd00:0:0:2::3"}
    world = running(document)
    taken = {str(node.address) for node in world.state.nodes_of("shop/web")}
    assert not taken & {"10.2.0.2", "10.2.0.3"} and "10.2.0.4" in taken


def test_a_removed_platform_takes_its_service_with_it() -> None:
    world = running(web())
    document = web(0)
    del document["networks"]["web"]["service"], document["networks"]["web"]["subnet6"]
    world.reach(ScaleGoal("shop", "web", 0))
    document["networks"]["web"]["scale"]["standby"] = 0
    kept = deepcopy(document)
    kept["networks"]["web"] |= service(2, six=True)
    world.wish(ApplyPlatform(kept))
    world.wish(ApplyPlatform(document))
    assert "service/shop/web" not in world.intent
    check(world)


def test_a_plan_tells_how_many_slots_each_node_gets() -> None:
    made: Plan = plan(running(web()).state, ScaleGoal("shop", "web", 3))
    (change,) = [change for change in made.changes if change.kind == "service"]
    assert (change.op, change.name) == ("~", "shop/web")
    assert change.detail == "slots: shop-web-1 4 -> 3, shop-web-2 4 -> 3, shop-web-3 0 -> 2"


def test_the_same_inventory_changes_nothing() -> None:
    world = running(web())
    assert plan(world.state, InventoryGoal(inventory())).steps == ()
