# SPDX-License-Identifier: AGPL-3.0-or-later
"""A scripted odysseyd on a real Unix socket, and odysseyctl in this process or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from odyssey.cli.program import program
from tests.unit.cli.fake import FakeDaemon

Ctl = Callable[..., Result]

_VARIABLES = ("ODYSSEYCTL_SOCKET", "ODYSSEYCTL_SERVER", "ODYSSEYCTL_PKI", "ODYSSEY_LAB", "NO_COLOR")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    started = FakeDaemon(tmp_path / "odysseyd.sock").start()
    yield started
    started.stop()


@pytest.fixture
def ctl(daemon: FakeDaemon) -> Ctl:
    """Run odysseyctl against the scripted daemon."""

    def run(*arguments: str, **more: Any) -> Result:
        result = CliRunner().invoke(program, ["--socket", str(daemon.path), *arguments], **more)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def start_ctl(daemon: FakeDaemon, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    """Start odysseyctl as a process, for what only a process shows (signals, terminals)."""
    environment = {**os.environ, **more.pop("environment", {})}
    command = [sys.executable, "-c", "from odyssey.cli import main; main()", "--socket", str(daemon.path), *arguments]
    return subprocess.Popen(command, env=environment, **more)
