# SPDX-License-Identifier: AGPL-3.0-or-later
"""The snapshot: parsing, folding and what open transactions hold."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from odyssey.model import Snapshot
from odyssey.model.naming import node_ordinal
from odyssey.services.wish import ApplyPlatform, SetMaintenance, WeighNode
from tests.unit.planning.worlds import Json, World, shop, snapshot

NODE: Json = {
    "node": "shop-app-1", "platform": "shop", "network": "app", "ordinal": 1, "host": "h1", "address": "10.2.0.2",
    "mac": "02:00:0a:02:00:02", "phase": "admitted", "image": "demo:1", "imageId": None, "tx": "c.1",
}  # fmt: skip


def test_documents_come_back_as_they_were() -> None:
    world = World()
    document = shop()
    document["networks"]["app"] |= {"service": {"address": "172.16.20.1"}, "subnet6": "fd00::/64"}
    world.wish(ApplyPlatform(document))
    world.wish(SetMaintenance("sw2", on=True))
    world.wish(WeighNode("shop", "app", "shop-app-1", 5))
    documents = world.state.documents()
    assert documents["maintenance/sw2"]["phase"] == "isolated" and documents["node/shop-app-1"]["weight"] == 5
    again = Snapshot.from_documents(7, documents)
    assert again.documents() == documents
    assert again.index == 7
    assert Snapshot.from_documents(0, {"node/shop-app-1": NODE}).documents() == {"node/shop-app-1": NODE}


def test_folding_sets_and_deletes_and_leaves_the_old_snapshot_alone() -> None:
    before = snapshot()
    after = before.folded({"node/shop-app-1": NODE, "other/thing": {"a": 1}})
    assert not before.nodes and after.nodes["shop-app-1"].address == IPv4Address("10.2.0.2")
    assert after.index == before.index + 1
    assert [node.name for node in after.admitted("shop/app")] == ["shop-app-1"]
    gone = after.folded({"node/shop-app-1": None, "node/never-was-1": None})
    assert not gone.nodes and not gone.nodes_of("shop/app")


def test_nodes_are_ordered_by_ordinal() -> None:
    nodes = {f"node/shop-app-{n}": {**NODE, "node": f"shop-app-{n}", "ordinal": n} for n in (10, 2, 1)}
    assert [node.ordinal for node in Snapshot.from_documents(0, nodes).nodes_of("shop/app")] == [1, 2, 10]


def test_nodes_of_open_transactions_are_taken() -> None:
    state = snapshot(reserved=frozenset({"node/shop-app-2", "address/10.2.0.9"}), pending={"node/shop-app-1": NODE})
    assert not state.nodes
    assert state.taken_names() == {"shop-app-1", "shop-app-2"}
    assert state.taken_addresses() == {IPv4Address("10.2.0.2"), IPv4Address("10.2.0.9")}


def test_a_pending_node_that_exists_counts_once() -> None:
    state = snapshot({"node/shop-app-1": NODE}, pending={"node/shop-app-1": {**NODE, "phase": "draining"}})
    assert not state.pending and len(state.nodes) == 1


@pytest.mark.parametrize(
    ("name", "ordinal"),
    [("shop-app-3", 3), ("shop-app-0", None), ("shop-app-03", None), ("shop-app-x", None), ("shop-ap-3", None),
     ("shop-app-123456", None), ("shop-app-²", None)],
)  # fmt: skip
def test_a_node_name_ends_with_its_ordinal(name: str, ordinal: int | None) -> None:
    assert node_ordinal("shop", "app", name) == ordinal
