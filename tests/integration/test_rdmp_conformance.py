# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our hub passes the conformance suite on each transport, and the suite can fail."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from rdmp.frames import Decoder
from rdmp.hub import Hub
from rdmp.session import Session
from tests.integration.rdmp_support import Cluster, Pki

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def conformance(endpoint: str, *options: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance", endpoint, "--json", *options, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    result: dict[str, Any] = json.loads(out)
    assert process.returncode == (1 if result["failed"] else 0)
    return result


async def test_over_a_unix_socket(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster.hub() as (hub, _):
        await hub.serve_unix(tmp_path / "s")
        result = await conformance(f"unix:{tmp_path / 's'}")
    assert result["failed"] == {} and result["checks"] > 20


@pytest.mark.parametrize("role", ["operator", "agent"])
async def test_over_tls(cluster: Cluster, tmp_path: Path, role: str) -> None:
    files = cluster.pki.issue(role, "conformance")
    for source, name in ((files.cert, "cert.pem"), (files.key, "key.pem"), (files.ca, "ca.pem")):
        shutil.copy(source, tmp_path / name)
    async with cluster.hub() as (_, port):
        assert (await conformance(f"tls:127.0.0.1:{port}", "--pki", str(tmp_path), "--role", role))["failed"] == {}


async def test_the_suite_finds_what_is_wrong(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "_check_header", lambda *_: None)
    monkeypatch.setattr(Hub, "_refusal", lambda *_: None)
    monkeypatch.setattr(Session, "_beat", lambda self, heartbeat, number: self.close("impatient"))
    async with cluster.hub() as (hub, _):
        await hub.serve_unix(tmp_path / "s")
        failed = (await conformance(f"unix:{tmp_path / 's'}"))["failed"]
    assert {
        "hello must be true", "the version is in both ranges", "an epoch from the future is told",
        "heartbeats come and silence ends the connection",
    } <= set(failed)  # fmt: skip
