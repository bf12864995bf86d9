# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which host a node gets, with which image, and why a host does not get it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from odyssey.model import Snapshot
from odyssey.planning import PlanRefused, ScaleGoal, plan, resolve
from odyssey.planning.images import has_registry
from odyssey.services.wish import ApplyPlatform
from tests.unit.planning.worlds import Json, World, inventory, network, opening, platform, snapshot


def hosts_of(state: Snapshot, key: str) -> dict[str, int]:
    """How many nodes of a network each host has."""
    return dict(Counter(node.host for node in state.nodes_of(key)))


def apply(document: Json, state: Snapshot | None = None) -> Snapshot:
    """The state after an apply."""
    world = World(state or snapshot())
    world.wish(ApplyPlatform(document))
    return world.state


def refusal(document: Json, state: Snapshot) -> dict[str, str]:
    """Path and message of each fault."""
    with pytest.raises(PlanRefused) as caught:
        plan(state, resolve(ApplyPlatform(document), state))
    return {fault.path: fault.message for fault in caught.value.faults}


def with_images(**images: str) -> Snapshot:
    """A snapshot in which these hosts have demo:1 under these ids, and others do not."""
    return replace(snapshot(), images={host: {"demo:1": image} for host, image in images.items()})


def one(**more: Any) -> Json:
    """A platform of one network."""
    return platform({"app": network(1, **more)})


def test_nodes_of_a_network_are_spread() -> None:
    assert hosts_of(apply(one(count=7)), "shop/app") == {"h1": 3, "h2": 2, "h3": 2}


def test_networks_are_spread_over_what_others_left() -> None:
    state = apply(platform({"a": network(1, count=2), "b": network(2, count=1)}))
    assert hosts_of(state, "shop/b") == {"h3": 1}


def test_labels_choose_hosts() -> None:
    state = apply(one(count=3, placement={"labels": {"zone": "z2"}}))
    assert hosts_of(state, "shop/app") == {"h2": 3}


def test_a_host_that_is_away_gets_nothing() -> None:
    assert hosts_of(apply(one(count=4), snapshot(absent=["h2"])), "shop/app") == {"h1": 2, "h3": 2}


def test_resources_are_respected_to_the_last_thousandth() -> None:
    state = snapshot({"inventory": inventory(1, cpus=0.3)}, hosts=1)
    full = apply(one(count=3, resources={"cpus": 0.1, "memoryMiB": 8}), state)
    assert len(full.nodes) == 3
    with pytest.raises(PlanRefused, match=r"h1: 0 of 0\.3 cpus free"):
        plan(full, ScaleGoal("shop", "app", 4))


def test_a_refusal_tells_the_numbers_of_each_host() -> None:
    documents = {"inventory": inventory(3, memory=1000, nodes=1)}
    documents["inventory"]["hosts"]["h1"]["capacity"]["nodes"] = 50
    documents["inventory"]["hosts"]["h3"]["labels"] = {}
    state = snapshot(documents, absent=["h2"])
    document = one(count=5, placement={"labels": {}}, resources={"cpus": 0.5, "memoryMiB": 400})
    message = refusal(document, state)["$.networks.app.resources"]
    assert "0.5 cpus and 400 MiB for shop-app-4" in message
    assert "h1: 200 of 1000 MiB free" in message
    assert "h2: not connected" in message
    assert "h3: holds 1 of 1 nodes" in message


def test_tiers_that_do_not_fit_are_told_together() -> None:
    state = snapshot({"inventory": inventory(1, nodes=1)}, hosts=1)
    document = platform({"a": network(1, count=2, dependsOn={"b": opening(1)}), "b": network(2, count=2)})
    assert set(refusal(document, state)) == {"$.networks.a.resources", "$.networks.b.resources"}


def test_nodes_of_open_transactions_take_room() -> None:
    state = snapshot({"inventory": inventory(1, nodes=2)}, hosts=1)
    full = apply(one(count=2), state)
    pending = {key: document for key, document in full.documents().items() if key.startswith("node/")}
    waiting = snapshot({"inventory": inventory(1, nodes=2)}, hosts=1, pending=pending)
    assert "holds 2 of 2 nodes" in refusal(platform({"web": network(2)}, "blog"), waiting)["$.networks.web.resources"]


def test_an_image_is_pinned_to_the_id_that_most_hosts_have() -> None:
    state = apply(one(count=4), with_images(h1="sha256:" + "b" * 64, h2="sha256:" + "a" * 64, h3="sha256:" + "b" * 64))
    assert {node.image_id for node in state.nodes.values()} == {"sha256:" + "b" * 64}
    assert hosts_of(state, "shop/app") == {"h1": 2, "h3": 2}


def test_where_ids_are_equally_common_the_smaller_one_is_taken() -> None:
    state = apply(one(), with_images(h2="sha256:" + "b" * 64, h3="sha256:" + "a" * 64))
    assert hosts_of(state, "shop/app") == {"h3": 1}


def test_a_network_keeps_the_image_id_that_its_nodes_run() -> None:
    old, new = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    state = apply(one(count=1), with_images(h1=old))
    rebuilt = replace(state, images={"h1": {"demo:1": new}, "h2": {"demo:1": old}})
    made = plan(rebuilt, ScaleGoal("shop", "app", 3))
    assert {item.detail.split(",")[0] for item in made.changes if item.op == "+"} == {"admitted on h2"}
    with pytest.raises(PlanRefused) as caught:
        plan(replace(state, images={"h1": {"demo:1": new}}), ScaleGoal("shop", "app", 3))
    (fault,) = caught.value.faults
    assert fault.path == "$.networks.app.image" and old in fault.message and new in fault.message


def test_an_image_that_no_host_has_is_refused() -> None:
    state = replace(snapshot(), images={})
    assert "docker load" in refusal(one(), state)["$.networks.app.image"]


def test_an_image_that_only_an_absent_host_has_is_refused() -> None:
    state = replace(snapshot(absent=["h1"]), images={"h1": {"demo:1": "sha256:" + "a" * 64}})
    assert "docker load" in refusal(one(), state)["$.networks.app.image"]


def test_an_image_of_a_registry_may_be_pulled() -> None:
    document = one(count=3, image="registry.example.org/demo:1")
    state = apply(document)
    assert {node.image_id for node in state.nodes.values()} == {None}
    known = replace(snapshot(), images={"h2": {"registry.example.org/demo:1": "sha256:" + "a" * 64}})
    state = apply(document, known)
    assert {node.image_id for node in state.nodes.values()} == {"sha256:" + "a" * 64}
    assert hosts_of(state, "shop/app") == {"h2": 3}, "a host that has it is preferred"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [("demo:1", False), ("team/demo:1", False), ("r.example.org/demo", True), ("r:5000/demo", True),
     ("localhost/demo", True), ("demo:5000", False)],
)  # fmt: skip
def test_a_registry_is_recognised_as_docker_does(reference: str, expected: bool) -> None:
    assert has_registry(reference) is expected


def test_a_stateful_node_returns_to_the_host_of_its_volume() -> None:
    world = World()
    document = one(count=3, stateful={"volume": "/data"})
    world.wish(ApplyPlatform(document))
    homes = {node.name: node.host for node in world.state.nodes.values()}
    world.reach(ScaleGoal("shop", "app", 0))
    assert world.state.networks["shop/app"].homes == homes
    world.reach(ScaleGoal("shop", "app", 3))
    assert {node.name: node.host for node in world.state.nodes.values()} == homes


def test_a_stateful_node_does_not_start_without_its_volume() -> None:
    world = World()
    world.wish(ApplyPlatform(one(count=1, stateful={"volume": "/data"})))
    world.reach(ScaleGoal("shop", "app", 0))
    away = replace(world.state, present=world.state.present - {"h1"})
    with pytest.raises(PlanRefused, match=r"h1: not connected; h2: the node's volume is on h1"):
        plan(away, ScaleGoal("shop", "app", 1))


def mute(hosts: int = 3, **more: Any) -> Snapshot:
    """A snapshot whose switches are not known to send frames back."""
    return snapshot({"inventory": inventory(hosts, profile="alliedtelesis", **more)}, hosts=hosts)


def chain(*counts: int) -> Json:
    """Networks a, b, c... of which each depends on the next."""
    names = "abcdef"[: len(counts)]
    return platform({
        name: network(
            number + 1, count=counts[number], dependsOn={names[number + 1]: opening(80)} if name != names[-1] else {}
        )
        for number, name in enumerate(names)
    })  # fmt: skip


def test_nodes_that_may_talk_never_share_a_host_that_does_not_send_frames_back() -> None:
    state = apply(chain(2, 2, 1), mute())
    hosts = {key: set(hosts_of(state, f"shop/{key}")) for key in "abc"}
    assert not hosts["a"] & hosts["b"] and not hosts["b"] & hosts["c"]


def test_where_frames_come_back_nodes_share_hosts_as_before() -> None:
    state = apply(chain(3, 3, 1), mute(reflects="yes"))
    assert hosts_of(state, "shop/a") == hosts_of(state, "shop/b") == {"h1": 1, "h2": 1, "h3": 1}


def test_what_a_probe_found_counts_more_than_the_profile() -> None:
    state = snapshot({"inventory": inventory(1, reflects="no")}, hosts=1)
    assert "sw1, sw2 are not known" in refusal(chain(1, 1), state)["$.networks.a.resources"]
    one_of_two = inventory(1)
    one_of_two["fabric"]["switches"]["sw2"]["reflects"] = "no"
    assert (
        "sw2 is not known"
        in refusal(chain(1, 1), snapshot({"inventory": one_of_two}, hosts=1))["$.networks.a.resources"]
    )


def test_peers_have_a_host_each_and_a_refusal_tells_how_many_are_there() -> None:
    document = one(count=3, peers=opening(7000))
    assert hosts_of(apply(document, mute()), "shop/app") == {"h1": 1, "h2": 1, "h3": 1}
    message = refusal(one(count=4, peers=opening(7000)), mute())["$.networks.app.resources"]
    assert message.count("holds nodes that it may talk to (1 of shop/app)") == 3
    assert "odysseyctl switch probe" in message


def test_a_network_that_spreads_leaves_hosts_to_those_that_it_talks_to() -> None:
    """The last tier is placed first; without care it would take every host."""
    state = apply(chain(1, 6, 6), mute(4))
    assert len(hosts_of(state, "shop/c")) == 2 and len(hosts_of(state, "shop/b")) == 2
    assert set(hosts_of(state, "shop/a")) <= set(hosts_of(state, "shop/c"))


def test_networks_that_do_not_talk_share_hosts() -> None:
    state = apply(platform({"a": network(1, count=1), "b": network(2, count=1)}), mute(1))
    assert hosts_of(state, "shop/a") == hosts_of(state, "shop/b") == {"h1": 1}
