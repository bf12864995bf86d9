# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of the tests against netconfd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.netconf_support import MODELS, NEEDED, PACKAGES, NetconfServer, StartServer
from tests.integration.netconf_world import World


@pytest.fixture(params=MODELS, ids=lambda folder: folder.name)
def start_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartServer]:
    """Start a server like a switch of a profile; all of them end with the test."""
    missing = [name for name in NEEDED if not Path(name).exists()]
    assert not missing, f"{', '.join(missing)} is not there; {PACKAGES}"
    servers: list[NetconfServer] = []

    def start(profile: str) -> NetconfServer:
        server = NetconfServer(tmp_path / f"switch{len(servers)}", profile, request.param)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
async def world(start_server: StartServer, tmp_path: Path) -> AsyncIterator[World]:
    found = World(start_server("nexus9000"), start_server("alliedtelesis"), tmp_path)
    await found.participant.restore({}, ())
    yield found
    await found.close()
