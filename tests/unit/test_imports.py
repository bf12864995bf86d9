# SPDX-License-Identifier: AGPL-3.0-or-later
"""The houses keep to the import rule, and the checker sees what breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.imports import LICENCE_LINE, ROOT, check_source, check_tree


def test_the_houses_keep_to_the_rule() -> None:
    breaches = check_tree(ROOT)
    assert not breaches, "\n" + "\n".join(str(breach) for breach in breaches)


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        ("schemas/loader.py", "import rdmp", "schemas imports rdmp"),
        ("rdmp/hub.py", "from odyssey.state import store", "rdmp imports odyssey.state"),
        ("odyssey/daemon.py", "from controller.compile import entries", "odyssey imports controller.compile"),
        ("agents/daemon.py", "import odyssey.lab", "agents imports odyssey.lab"),
        ("controller/daemon.py", "import agents.config as config", "controller imports agents.config"),
        ("controller/core.py", "from os_ken.ofproto import ofproto_v1_3", "only controller.openflow may import os_ken"),
        ("agents/daemon.py", "import docker", "only agents.docker may import docker"),
        ("odyssey/api/rpc.py", "from microesb import microesb", "only odyssey.services may import microesb"),
        ("rdmp/frames.py", "import jsocket", "only rdmp.blocking may import jsocket"),
        ("rdmp/frames.py", "import hypothesis", "for the tests only"),
    ],
)
def test_a_breach_is_found(path: str, line: str, expected: str) -> None:
    source = f"{LICENCE_LINE}\ndef late() -> None:\n    {line}\n"
    found = check_source(source, Path(path))
    assert [expected in breach.message for breach in found] == [True]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("rdmp/wire.py", "import schemas"),
        ("rdmp/blocking.py", "import jsocket"),
        ("odyssey/services/strict.py", "from microesb import microesb"),
        ("controller/openflow/app.py", "import os_ken.base.app_manager"),
        ("agents/docker/engine.py", "import docker"),
        ("agents/docker/__init__.py", "from . import engine"),
        ("agents/docker/nics.py", "from ..config import Config"),
        ("tests/unit/rdmp/test_jsocket.py", "import jsocket"),
    ],
)
def test_what_is_allowed_passes(path: str, line: str) -> None:
    assert check_source(f"{LICENCE_LINE}\n{line}\n", Path(path)) == []


def test_a_missing_licence_line_is_found() -> None:
    assert "SPDX" in check_source("import os\n", Path("rdmp/wire.py"))[0].message


def test_an_own_package_called_like_a_library_is_no_breach() -> None:
    source = f"{LICENCE_LINE}\nfrom .docker import engine\nfrom agents.docker import nics\n"
    assert check_source(source, Path("agents/daemon.py")) == []
