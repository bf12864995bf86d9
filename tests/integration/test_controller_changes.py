# SPDX-License-Identifier: AGPL-3.0-or-later
"""A thousand random changes on real switches: nothing is lost that is always allowed, nothing passes that never is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller import switches
from tests.changes.run import prepare_nodes, release_nodes, run
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import Lab
from tests.unit.controller.test_controller_rounds import delete_first

pytest_plugins = ["tests.integration.controller_fixtures"]
CHANGES = 1000
PLANTED = 60


@pytest.fixture
def nodes(ctl_lab: Lab) -> Iterator[None]:
    prepare_nodes(ctl_lab)
    yield
    release_nodes(ctl_lab)


@pytest.mark.timeout(600)
async def test_a_thousand_changes_lose_and_leak_nothing(controller: Controller, nodes: None) -> None:
    verdict = await run(controller, CHANGES, seed=1)
    assert verdict.changes == CHANGES and verdict.sent > 10 * CHANGES
    assert (verdict.lost, verdict.leaked) == ({}, {})


async def test_deleting_first_is_found(controller: Controller, nodes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "rounds", delete_first)
    verdict = await run(controller, PLANTED, seed=1)
    assert verdict.lost
