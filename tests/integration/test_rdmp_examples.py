# SPDX-License-Identifier: AGPL-3.0-or-later
"""The examples run as they stand, as processes, and are as short as promised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.rdmp_support import Pki

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/rdmp"


@contextlib.asynccontextmanager
async def process(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / name), *arguments, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def run(name: str, *arguments: str) -> list[str]:
    async with process(name, *arguments) as started:
        out, err = await started.communicate()
        assert started.returncode == 0, err.decode()
        return out.decode().splitlines()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with cert.pem, key.pem and ca.pem for each role."""
    pki = Pki(tmp_path / "all")
    roles = {"orchestrator": "o1", "agent": "h1", "operator": "alice", "publisher": "meter"}
    for role, name in [*roles.items(), ("agent", "h2")]:
        files = pki.issue(role, name)
        folder = tmp_path / name
        folder.mkdir()
        for source, target in ((files.cert, "cert.pem"), (files.key, "key.pem"), (files.ca, "ca.pem")):
            shutil.copy(source, folder / target)
    return tmp_path


async def test_the_examples_do_what_they_say(folders: Path) -> None:
    def pki(name: str) -> str:
        return str(folders / name)

    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(process("hub.py", pki("o1"), "0"))
        assert hub.stdout is not None
        endpoint = f"tls:127.0.0.1:{int(await hub.stdout.readline())}"
        assert await run("rpc_async.py", endpoint, pki("alice")) == [
            "10 odyssey://test/operator/alice", "unknown_method there is no method nothing",
        ]  # fmt: skip
        assert await run("rpc_blocking.py", endpoint, pki("alice")) == [
            "odyssey://test/operator/alice", "unknown_method there is no method nothing",
        ]  # fmt: skip
        for name in ("h1", "h2"):
            journal = str(folders / f"{name}.journal")
            await stack.enter_async_context(process("participant.py", endpoint, pki(name), journal))
        for attempt in range(40):
            moved = await run("transaction.py", endpoint, pki("alice"), f"transfer-{attempt}")
            if "committed" in moved[0]:
                break
            assert "not connected" in moved[0]  # the participants are still starting
        assert moved == [f"transfer-{attempt} committed "]
        assert await run("transaction.py", endpoint, pki("alice"), f"transfer-{attempt}") == moved
        for name in ("second", "third"):
            assert await run("transaction.py", endpoint, pki("alice"), name) == [f"{name} committed "]
        (refused,) = await run("transaction.py", endpoint, pki("alice"), "fourth")
        assert refused == "fourth aborted h1 voted no: the balance is only 10"
        indexes = await run("publisher.py", endpoint, pki("meter"), "4")
        place = str(folders / "place")
        lines = [f"{index} scaling.load {number}" for number, index in enumerate(indexes)]
        assert await run("subscriber.py", endpoint, pki("alice"), place, "3") == lines[:3]
        assert await run("subscriber.py", endpoint, pki("alice"), place, "1") == lines[3:]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_has_less_than_forty_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40
