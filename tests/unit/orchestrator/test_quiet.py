# SPDX-License-Identifier: AGPL-3.0-or-later
"""The wait for a switch that shall carry nothing, on counters from a script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from odyssey.orchestrator import steps
from odyssey.orchestrator.leadership import Leadership
from odyssey.orchestrator.questions import Questions
from odyssey.orchestrator.steps import StepRunner
from odyssey.planning import QuietStep
from rdmp.hub import Hub
from rdmp.rpc import RpcError

SAMPLE = 0.02


class Counters:
    """Stands for the hub: answers `switch_ports` with the next of some answers, and goes on with the last one."""

    def __init__(self, *answers: Mapping[str, Any] | None) -> None:
        self._answers: Iterator[Mapping[str, Any] | None] = iter(answers)
        self._last: Mapping[str, Any] | None = None
        self.asked = 0

    async def call(
        self, name: str, method: str, params: Mapping[str, Any], timeout: float, on_progress: object = None
    ) -> Mapping[str, Any]:
        assert (name, method, params) == ("controller", "switch_ports", {"switch": "sw2"})
        self.asked += 1
        self._last = next(self._answers, self._last)
        if self._last is None:
            raise RpcError("not_connected", "switch sw2 is not connected")
        return self._last


def ports(**packets: int) -> Mapping[str, Any]:
    """Counters of ports, p1=7: port 1 has received 7 packets and sent as many."""
    return {"ports": {name[1:]: {"rxPackets": count, "txPackets": count} for name, count in packets.items()}}


def wait(counters: Counters, timeout: float = 10.0) -> tuple[str | None, list[Mapping[str, Any]]]:
    """What the wait returns, and its progress."""
    told: list[Mapping[str, Any]] = []
    hub = cast(Hub, counters)
    runner = StepRunner(hub, Questions(hub, 1.0, lambda: "controller"), cast(Leadership, None), 1, 0.1)
    step = QuietStep("sw2", (1, 2), packets=10.0, timeout=timeout, required=True)
    return asyncio.run(runner.quiet(step, told.append)), told


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_RATE_SECONDS", SAMPLE)


def test_it_ends_when_the_counters_stand_still() -> None:
    counters = Counters(ports(p1=0, p2=0), ports(p1=500, p2=0), ports(p1=900, p2=0), ports(p1=900, p2=0))
    found, told = wait(counters)
    assert found is None and counters.asked == 4
    assert [message["ports"]["1"] > 10 for message in told] == [True, True, False]
    assert (told[-1]["kind"], told[-1]["switch"], told[-1]["ports"]) == ("quiet", "sw2", {"1": 0.0, "2": 0.0})


def test_traffic_that_does_not_end_is_told_by_port() -> None:
    class Busy(Counters):
        async def call(self, *arguments: Any) -> Mapping[str, Any]:
            await super().call(*arguments)
            return ports(p1=0, p2=1000 * self.asked)

    found, _ = wait(Busy({}), timeout=3 * SAMPLE)
    assert found is not None and "port 2: " in found and "port 1" not in found


def test_silence_is_not_believed_without_counters() -> None:
    """A switch that nobody sees may still forward."""
    found, told = wait(Counters(None), timeout=3 * SAMPLE)
    assert found is not None and "cannot read the port counters of sw2" in found
    assert {message["ports"]["all"] for message in told} == {None}


def test_a_port_that_the_controller_does_not_tell_is_unknown() -> None:
    found, _ = wait(Counters(ports(p1=0)), timeout=3 * SAMPLE)
    assert found is not None and "cannot read" in found


def test_counters_that_began_anew_are_no_silence() -> None:
    found, told = wait(Counters(ports(p1=900, p2=0), ports(p1=0, p2=0), ports(p1=0, p2=0)))
    assert found is None and [message["ports"]["1"] for message in told] == [None, 0.0]
