# SPDX-License-Identifier: AGPL-3.0-or-later
"""Ports down: no frame comes to a port twice, nothing is delivered that must not be, and what survives one failure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from controller.evaluate import Fabric
from controller.fabric import Port
from tests.fabric_check.case import Case, Mismatch
from tests.fabric_check.openvswitch import OpenVSwitch
from tests.fabric_check.oracle import Verdict
from tests.fabric_check.packets import Shot
from tests.fabric_check.verdicts import Outcome, fault

#: With so many links and ports to hosts and borders, every combination is tried: 2 to the power of it.
EVERY_COMBINATION = 9
RANDOM_COMBINATIONS = 60

Element = tuple[Port, ...]


@dataclass(frozen=True)
class Failures:
    """The ways in which cables of a case can fail.

    An element is a cable: the port of a host or border, or both ends of a link.
    """

    case: Case

    @cached_property
    def elements(self) -> Sequence[Element]:
        """Every cable."""
        inventory = self.case.inventory
        ports = [(port,) for station in inventory.stations for port in station.ports]
        return [*ports, *((link.a, link.b) for link in inventory.links)]

    def combinations(self) -> Iterator[frozenset[Port]]:
        """Yield sets of ports that are down: all of them in a small fabric, else none, one, two, and random ones."""
        if len(self.elements) <= EVERY_COMBINATION:
            for number in range(len(self.elements) + 1):
                yield from (_ports(one) for one in itertools.combinations(self.elements, number))
            return
        for number in range(3):
            yield from (_ports(one) for one in itertools.combinations(self.elements, number))
        chance = random.Random(self.case.seed)
        for _ in range(RANDOM_COMBINATIONS):
            yield _ports(chance.sample(self.elements, chance.randint(3, len(self.elements))))

    def shots(self) -> list[tuple[Shot, Verdict]]:
        """Return one packet that must be delivered for each entrance, receiver, family and kind of address."""
        found: dict[tuple[object, ...], tuple[Shot, Verdict]] = {}
        for shot in self.case.shots(None):
            verdict = self.case.oracle.judge(shot.packet, shot.at)
            if verdict.receivers and not verdict.may_drop:
                to_service = len(verdict.receivers) > 1 or verdict.receivers[0].name not in shot.what
                found.setdefault((shot.at, verdict.receivers, shot.packet["eth_type"], to_service), (shot, verdict))
        return list(found.values())

    def mismatches(self) -> Iterator[Mismatch]:
        """Try every combination: a loop or a wrong delivery is a mismatch; so is a loss where a way is promised.

        Where the controller has to choose other ports, the moment before is tried too.
        """
        shots = self.shots()
        for down in self.combinations():
            if self.case.kinds != {True}:
                yield from self._tried(self.case.fabric.with_down(down), shots, down, mended=False)
            yield from self._tried(self.case.mended(down), shots, down, mended=True)

    def _tried(
        self, fabric: Fabric, shots: Sequence[tuple[Shot, Verdict]], down: frozenset[Port], *, mended: bool
    ) -> Iterator[Mismatch]:
        for shot, verdict in shots:
            outcome = self.case.evaluated(fabric, shot)
            by = f"evaluator, {self.case.profiles}"
            if isinstance(outcome, str):
                yield self.case.mismatch(_with_down(shot, down), by, outcome, ())
            elif wrong := self.fault(shot, verdict, down, outcome, mended=mended):
                yield self.case.mismatch(_with_down(shot, down), by, wrong, outcome.story)

    def traced(self, switches: OpenVSwitch, sets: int, packets: int) -> Iterator[Mismatch]:
        """Ask Open vSwitch, which holds the tables of the case, about some packets in some of the combinations.

        Tables of switches without groups are those of the moment before the controller has seen it.
        """
        chance = random.Random(self.case.seed)
        shots, combinations = self.shots(), list(self.combinations())
        for down in chance.sample(combinations, min(len(combinations), sets)):
            switches.set_down(self.case.fabric.with_down(down).down)
            for shot, verdict in chance.sample(shots, min(len(shots), packets)):
                outcome = switches.outcome(shot.packet, shot.at, self.case.fabric.links)
                if wrong := self.fault(shot, verdict, down, outcome, mended=self.case.kinds == {True}):
                    yield self.case.mismatch(_with_down(shot, down), "ofproto/trace", wrong, outcome.story)
        switches.set_down(frozenset())

    def fault(
        self, shot: Shot, verdict: Verdict, down: frozenset[Port], outcome: Outcome, *, mended: bool = True
    ) -> str | None:
        """Return in what an outcome is wrong while ports are down."""
        promised = mended and self.promised(shot.at, verdict, down)
        return fault(shot.packet, shot.at, verdict, outcome, ways_are_up=promised)

    def promised(self, at: Port, verdict: Verdict, down: frozenset[Port]) -> bool:
        """Tell whether a packet must still arrive: with one cable cut, wherever there is a way left.

        Where switches with groups and without share a fabric, no way around is promised; without any, every one is.
        """
        cut = [element for element in self.elements if down.intersection(element)]
        most = len(self.elements) if self.case.kinds == {False} else 1 if self.case.kinds == {True} else 0
        return len(cut) <= most and at not in down and self.survives(at, verdict, down)

    def survives(self, at: Port, verdict: Verdict, down: frozenset[Port]) -> bool:
        """Tell whether cables that are up join the switch of a port to every receiver."""
        joined, queue = {at.switch}, [at.switch]
        links = [(link.a, link.b) for link in self.case.inventory.links if link.a not in down and link.b not in down]
        while queue:
            here = queue.pop()
            for a, b in links:
                for near, far in ((a, b), (b, a)):
                    if near.switch == here and far.switch not in joined:
                        joined.add(far.switch)
                        queue.append(far.switch)
        return all(
            any(port not in down and port.switch in joined for port in receiver.ports) for receiver in verdict.receivers
        )


def _with_down(shot: Shot, down: frozenset[Port]) -> Shot:
    return Shot(f"{shot.what}, down: {', '.join(map(str, sorted(down)))}", shot.at, shot.packet)


def _ports(elements: Sequence[Element]) -> frozenset[Port]:
    return frozenset(port for element in elements for port in element)
