# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the planner gives the controller is what the controller takes: schema, references, order of stages."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import schemas
from controller.ledger import Ledger, OpenTransaction
from odyssey.model.snapshot import Snapshot
from odyssey.planning import PlanOptions, TransactionStep, plan, resolve
from odyssey.services.wish import (
    ApplyPlatform,
    RemovePlatform,
    ScaleNetwork,
    SetInventory,
    SetMaintenance,
    WeighNode,
    Wish,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


class World:
    """A snapshot and a ledger that live through the same transactions."""

    def __init__(self, platform: str = "shop") -> None:
        self.inventory = json.loads((EXAMPLES / "lab" / "inventory.json").read_text())
        self.platform = json.loads((EXAMPLES / platform / "platform.json").read_text())
        self.images = {
            host: {network["image"]: "sha256:" + "a" * 64 for network in self.platform["networks"].values()}
            for host in self.inventory["hosts"]
        }
        self.snapshot = self.watched(Snapshot.from_documents(0, {}))
        self.ledger = Ledger()
        self.seq = 0

    def watched(self, snapshot: Snapshot) -> Snapshot:
        """Hosts and images are not state; they are seen."""
        present = frozenset([*self.inventory["hosts"], "controller"])
        switches = frozenset(self.inventory["fabric"]["switches"])
        return dataclasses.replace(snapshot, images=self.images, present=present, switches=switches)

    def fulfil(self, wish: Wish) -> None:
        made = plan(self.snapshot, resolve(wish, self.snapshot), PlanOptions())
        for step in made.steps:
            if isinstance(step, TransactionStep):
                self.carry_out(step)
                self.snapshot = self.watched(self.snapshot.folded(step.changes))

    def carry_out(self, step: TransactionStep) -> None:
        operation: Any = step.participants.get("controller")
        if operation is None:
            return
        assert schemas.validate("controller-operation", operation) == ()
        self.seq += 1
        one = OpenTransaction.of(f"tx-{self.seq}", self.seq, operation)
        self.ledger, outcome = self.ledger.prepared(one)
        for stage in step.stages:
            if stage in operation["stages"]:
                self.ledger = self.ledger.with_stage(one, stage)
        assert self.ledger.finished(one.id)
        assert self.ledger.compilation.tables == outcome.tables, "prepare checked what the stages came to"
        self.ledger = self.ledger.without(one.id)

    def phases(self, network: str) -> list[str]:
        bindings = self.ledger.compilation.intent.bindings.values()
        return sorted(binding.phase.value for binding in bindings if binding.network == network)


def test_a_platform_comes_grows_shrinks_and_goes() -> None:
    world = World()
    world.fulfil(SetInventory(world.inventory))
    bare = {switch: len(tables.entries) for switch, tables in world.ledger.compilation.tables.items()}
    assert bare.keys() == world.inventory["fabric"]["switches"].keys()
    world.fulfil(ApplyPlatform(world.platform))
    wanted = world.platform["networks"]["app"]["scale"]
    assert world.phases("shop/app").count("admitted") == wanted["count"]
    assert world.phases("shop/app").count("standby") == wanted.get("standby", 0)
    grown = world.ledger.compilation.tables["sw1"]
    world.fulfil(ScaleNetwork("shop", "app", 6))
    assert world.phases("shop/app").count("admitted") == 6
    world.fulfil(ScaleNetwork("shop", "app", wanted["count"]))
    assert world.ledger.compilation.tables["sw1"].entries.keys() == grown.entries.keys()
    world.fulfil(RemovePlatform("shop"))
    assert {switch: len(tables.entries) for switch, tables in world.ledger.compilation.tables.items()} == bare


def slots(world: World) -> dict[str, int]:
    """How many slots each node of the counter's front has in the controller's intent."""
    return dict(Counter(world.ledger.compilation.intent.services["balanced/web"].slots))


def test_a_service_address_is_served_by_the_nodes_that_are_admitted() -> None:
    """Slots, weights, IPv6 and a scale down through the controller's own checks and compiler, at every stage."""
    world = World("balanced")
    world.fulfil(SetInventory(world.inventory))
    world.fulfil(ApplyPlatform(world.platform))
    assert slots(world) == {"balanced-web-1": 32, "balanced-web-2": 32}
    service = world.ledger.compilation.intent.services["balanced/web"]
    assert str(service.address6) == world.platform["networks"]["web"]["service"]["address6"]
    world.fulfil(ScaleNetwork("balanced", "web", 4))
    assert set(slots(world).values()) == {16}
    world.fulfil(WeighNode("balanced", "web", "balanced-web-1", 0))
    assert "balanced-web-1" not in slots(world) and len(slots(world)) == 3
    world.fulfil(ScaleNetwork("balanced", "web", 2))
    assert slots(world) == {"balanced-web-2": 64}
    world.fulfil(RemovePlatform("balanced"))
    assert not world.ledger.compilation.intent.services


def test_a_switch_goes_out_of_use_and_comes_back() -> None:
    world = World("balanced")
    world.fulfil(SetInventory(world.inventory))
    world.fulfil(ApplyPlatform(world.platform))
    before = world.ledger.compilation.tables
    world.fulfil(SetMaintenance("sw2", on=True))
    intent = world.ledger.compilation.intent
    assert intent.inventory is not None
    assert intent.inventory.switches["sw2"].maintenance and intent.inventory.switches["sw2"].isolated
    assert not intent.inventory.switches["sw1"].maintenance
    world.fulfil(SetMaintenance("sw2", on=False))
    assert world.ledger.compilation.tables == before
