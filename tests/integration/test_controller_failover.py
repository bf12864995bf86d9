# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cables are pulled and ports shut at a thousand packets a second while no controller is alive."""

from __future__ import annotations

import pytest

from tests.changes.failover import FAULTS, RATE, Fault, measure
from tests.integration.controller_harness import Controller, address, intent
from tests.integration.controller_support import Lab

pytest_plugins = ["tests.integration.controller_fixtures"]
GOAL = 100  # packets; a tenth of a second


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_costs_few_packets(controller: Controller, ctl_lab: Lab, fault: Fault) -> None:
    documents = intent()
    documents["policy/shop/lb/app"]["ports"].append({"protocol": "udp", "port": 9001})
    await controller.carry_out(documents)
    await controller.stop()
    lost = await measure(ctl_lab, fault, "lb-1", "app-2", address("app-2"))
    assert lost.sent > RATE, "the measurement itself must not be starved"
    assert lost.down < GOAL and lost.up < GOAL, lost
