# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures of the controller's integration tests; a pytest plugin."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.controller_harness import NODES, Controller
from tests.integration.controller_support import Lab, Pki


@pytest.fixture(scope="module")
def ctl_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.up()
        for node, (_, address, host) in NODES.items():
            made.add_node(node, host, address)
        yield made
    finally:
        made.down()
        shutil.rmtree(made.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def ctl_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def controller(ctl_lab: Lab, ctl_pki: Pki) -> AsyncIterator[Controller]:
    made = Controller(ctl_lab, ctl_pki)
    ctl_lab.forget()
    await made.start()
    try:
        await made.attach()
        yield made
    finally:
        await made.stop()
