# SPDX-License-Identifier: AGPL-3.0-or-later
"""One random case: its documents, its tables, its packets, and where the tables break what the policy says."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from controller.compiler import Compilation, compile_documents
from controller.evaluate import EvaluationError, Fabric, overlapping
from controller.fabric import Document, Intent, Inventory, Port
from controller.flows import TableSet
from controller.profiles import PROFILES
from controller.topology import Topology
from tests.fabric_check.cases import Shape, documents
from tests.fabric_check.openvswitch import OpenVSwitch
from tests.fabric_check.oracle import Oracle, Verdict
from tests.fabric_check.packets import Packets, Shot
from tests.fabric_check.verdicts import COUNTERS, Outcome, fault, shown

#: Of so many packets the ones to try are chosen: few of those that can be thought of have to arrive anywhere.
LEAST_DRAWN = 1200


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A packet of which tables make something else than the intent says."""

    seed: int
    by: str
    what: str
    fault: str
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join((f"seed {self.seed}, {self.by}: {self.what}: {self.fault}", *self.story))


@dataclass(frozen=True)
class Case:
    """An intent and its tables; ``tables`` stand in for those of the compiler where a fault is planted."""

    seed: int
    documents: Mapping[str, Any]
    tables: Mapping[str, TableSet] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, seed: int, shape: Shape | None = None) -> Case:
        """Draw a case."""
        return cls(seed, documents(seed, shape))

    @cached_property
    def compilation(self) -> Compilation:
        """The compiled intent; raises IntentRefused."""
        return compile_documents(self._stamped)

    @cached_property
    def _stamped(self) -> Mapping[str, Document]:
        return {key: Document(value, 1) for key, value in self.documents.items()}

    @cached_property
    def kinds(self) -> frozenset[bool]:
        """Whether its switches have groups: all, none, or some."""
        return frozenset(can.groups for can in self.oracle.capabilities.values())

    def mended(self, down: frozenset[Port]) -> Fabric:
        """Return the fabric with ports down, once the controller has seen it: without groups it chooses the ports."""
        if self.tables is not None or self.kinds == {True}:
            return self.fabric.with_down(down)
        down = self.fabric.with_down(down).down
        return Fabric.of(compile_documents(self._stamped, down).tables, self.inventory, down)

    @property
    def intent(self) -> Intent:
        """The intent."""
        return self.compilation.intent

    @property
    def inventory(self) -> Inventory:
        """The fabric."""
        assert self.intent.inventory is not None
        return self.intent.inventory

    @cached_property
    def fabric(self) -> Fabric:
        """The tables with their cables, all ports up."""
        return Fabric.of(self.tables or self.compilation.tables, self.inventory)

    @cached_property
    def oracle(self) -> Oracle:
        """What has to happen."""
        switches = self.inventory.switches.items()
        return Oracle(self.intent, {name: PROFILES[switch.profile].capabilities for name, switch in switches})

    @property
    def profiles(self) -> str:
        """The kinds of its switches."""
        return "+".join(sorted({switch.profile for switch in self.inventory.switches.values()}))

    def shots(self, budget: int | None) -> list[Shot]:
        """Return so many packets, half of them such as must arrive, if there are; None: all that can be thought of."""
        chance = random.Random(self.seed)
        drawn = Packets(self.intent, chance).draw(None if budget is None else max(4 * budget, LEAST_DRAWN))
        found = [shot for shot in drawn if self._judged(shot)]
        if budget is None:
            return found
        arrives = {True: [], False: []}  # type: dict[bool, list[Shot]]
        for shot in found:
            verdict = self.oracle.judge(shot.packet, shot.at)
            arrives[bool(verdict.receivers or verdict.answer or verdict.to_controller)].append(shot)
        few = [chance.sample(shots, min(len(shots), budget // 2)) for shots in arrives.values()]
        return [shot for shots in few for shot in shots]

    def _judged(self, shot: Shot) -> bool:
        """What comes from a trunk in the transit VLAN was let in by another switch.

        Where sources are told by their VLAN alone, ports that are not ours are kept out of the OpenFlow agent.
        """
        from_switch = any(shot.at in (link.a, link.b) for link in self.inventory.links)
        if from_switch and shot.packet["vlan_vid"] & 0xFFF == self.inventory.transit_vlan:
            return False
        ours = shot.at.number in self.inventory.ports(shot.at.switch)
        return ours or self.oracle.capabilities[shot.at.switch].pins == "node"

    def overlaps(self) -> Iterator[Mismatch]:
        """Yield the entries of which a switch may take either."""
        for switch, tables in (self.tables or self.compilation.tables).items():
            for one, other in overlapping(tables):
                yield Mismatch(self.seed, "evaluator", f"{switch}: {one}", f"overlaps {other}")

    def mismatches(self, shots: Iterable[Shot]) -> Iterator[Mismatch]:
        """Run packets through the evaluator."""
        for shot in shots:
            verdict = self.oracle.judge(shot.packet, shot.at)
            outcome = self.evaluated(self.fabric, shot)
            if isinstance(outcome, str):
                yield self.mismatch(shot, f"evaluator, {self.profiles}", outcome, ())
            elif found := self.fault(shot, verdict, outcome):
                yield self.mismatch(shot, f"evaluator, {self.profiles}", found, outcome.story)

    def traced(self, shots: Iterable[Shot], switches: OpenVSwitch) -> Iterator[Mismatch]:
        """Run packets through Open vSwitch, which has to hold the tables of this case."""
        for shot in shots:
            verdict = self.oracle.judge(shot.packet, shot.at)
            outcome = switches.outcome(shot.packet, shot.at, self.fabric.links)
            if found := self.fault(shot, verdict, outcome):
                yield self.mismatch(shot, "ofproto/trace", found, outcome.story)

    def fault(self, shot: Shot, verdict: Verdict, outcome: Outcome) -> str | None:
        """Return in what an outcome breaks a verdict with all ports up."""
        counters = COUNTERS.get(self.inventory.switches[shot.at.switch].profile)
        up = self.joined(shot.at, verdict)
        return fault(shot.packet, shot.at, verdict, outcome, ways_are_up=up, counters=counters)

    def evaluated(self, fabric: Fabric, shot: Shot) -> Outcome | str:
        """Return what the evaluator says became of a packet, or why the tables are wrong."""
        try:
            return Outcome.of(fabric.trace(shot.packet, shot.at))
        except EvaluationError as error:
            return str(error)

    def mismatch(self, shot: Shot, by: str, found: str, story: tuple[str, ...]) -> Mismatch:
        """Describe a mismatch."""
        return Mismatch(self.seed, by, f"{shot.what} at {shot.at}: {shown(shot.packet)}", found, story)

    @cached_property
    def _topology(self) -> Topology:
        return Topology.of(self.inventory, avoid_maintained=False)

    def joined(self, at: Port, verdict: Verdict) -> bool:
        """Tell whether there are cables from a switch to those of every receiver."""
        return all(
            at.switch in self._topology.costs(tuple(sorted({port.switch for port in receiver.ports})))
            for receiver in verdict.receivers
        )
