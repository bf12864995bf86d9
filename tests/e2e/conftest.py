# SPDX-License-Identifier: AGPL-3.0-or-later
"""One lab with the shop on it for all end-to-end tests; each test finds it with two app nodes and nothing half done."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from odyssey.demo.only import only_user
from odyssey.demo.world import World
from odyssey.lab import Lab
from odyssey.lab.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "examples" / "shop" / "platform.json"
DIRECTORY = Path("/var/lib/odyssey-e2e")
PREFIX = "e2e"
NODES = {"lb": 1, "app": 2, "db": 1}  # admitted nodes as the document asks for them
OTHER_RUN = 900  # s to wait for a test run of another clone on the same machine
FIRST_BUILD = 1200  # s; the first test may have to build the images


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lab's start is part of the first test; building the images once takes minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.timeout(FIRST_BUILD))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Hosts, switches and daemons, from nothing."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    settings = replace(Settings.from_environment(), directory=DIRECTORY, prefix=PREFIX)
    with only_user(settings, wait=OTHER_RUN):
        lab = Lab(settings)
        lab.down()
        try:
            lab.up()
            yield lab
        finally:
            lab.down()


@pytest.fixture(scope="session")
def applied(lab: Lab) -> World:
    """The shop, applied."""
    world = World(lab, json.loads(PLATFORM.read_text(encoding="utf-8")))

    async def apply() -> None:
        await world.settled()
        await world.ctl("platform", "apply", str(PLATFORM))

    asyncio.run(apply())
    return world


@pytest.fixture
async def shop(applied: World) -> AsyncIterator[World]:
    """The shop as it was applied, before and after the test."""
    await as_applied(applied)
    yield applied
    await applied.start(*applied.daemons)
    await applied.settled()
    assert await applied.half_done() == ()


async def as_applied(world: World) -> None:
    """Bring everything back to what the platform document says."""
    await world.start(*world.daemons)
    await world.settled()
    await world.ctl("platform", "apply", str(PLATFORM))
    for network, count in NODES.items():
        if len(await world.nodes(network, "admitted")) != count:
            await world.ctl("network", "scale", f"{world.platform}/{network}", str(count))
    await world.settled()
