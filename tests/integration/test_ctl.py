# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyctl as a process against a real RDMP hub: Unix socket, TLS, roles of certificates, a restart of the hub."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from odyssey.security.ca import CertificateAuthority, IssuedFiles
from rdmp.decisionlog import MemoryDecisionLog
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.rpc import PeerAbsent, ProgressSender, RpcError, RpcHandler
from rdmp.tls import Identity, server_context
from schemas import Fault


@dataclass
class Handler(RpcHandler):
    """Answers like odysseyd; a service call with the id `slow` waits to be released."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[Identity, str, Mapping[str, Any]]] = field(default_factory=list)

    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        self.calls.append((peer, method, params))
        if method == "status":
            return {"cluster": "lab", "epoch": 1, "index": 1, "peers": [], "transactions": {"open": 0}}
        if method == "node.logs":
            raise PeerAbsent("peer_absent", "h1 is not connected")
        if method == "service.call":
            return await self._service(params, progress)
        raise RpcError("unknown_method", f"there is no method {method}")

    async def _service(self, params: Mapping[str, Any], progress: ProgressSender) -> Mapping[str, Any]:
        if params["id"] == "bad":
            raise RpcError("refused", "the plan is refused", (Fault("$.networks.app", 1, "2", "too few"),))
        await progress({"kind": "message", "text": "working"})
        self.started.set()
        await self.released.wait()
        return {"id": params["id"], "state": "done", "index": 2, "transactions": [], "nodes": []}


@dataclass
class Site:
    """A hub with its socket, its TLS port and the certificates of a cluster."""

    folder: Path
    authority: CertificateAuthority
    files: IssuedFiles
    handler: Handler = field(default_factory=Handler)
    events: MemoryEventLog = field(default_factory=MemoryEventLog)
    hub: Hub | None = None
    port: int = 0

    async def start(self) -> None:
        me = Identity("lab", "orchestrator", "o1")
        self.hub = Hub(me, MemoryDecisionLog(), self.events, self.handler, 1, "i1")
        await self.hub.serve_unix(self.folder / "odysseyd.sock")
        context = server_context(self.files.cert, self.files.key, self.files.ca)
        self.port = await self.hub.serve_tls("127.0.0.1", 0, context)

    async def stop(self) -> None:
        if self.hub is not None:
            await self.hub.close()

    async def ctl(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from odyssey.cli import main; main()", *arguments, stdout=pipe, stderr=pipe,
            env={**os.environ, "ODYSSEYCTL_RECONNECT": "20s"},
        )  # fmt: skip

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.ctl(*arguments)
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def local(self, *arguments: str) -> tuple[int | None, str, str]:
        return await self.run("--socket", str(self.folder / "odysseyd.sock"), *arguments)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    authority = CertificateAuthority.create(tmp_path / "ca", "lab")
    started = Site(tmp_path, authority, authority.issue("orchestrator", "o1", tmp_path / "o1"))
    await started.start()
    yield started
    await started.stop()


async def test_a_question_by_the_unix_socket(site: Site) -> None:
    code, out, err = await site.local("status", "-o", "json")
    assert (code, json.loads(out)["cluster"], err) == (0, "lab", "")
    [(peer, _, _)] = site.handler.calls
    assert (peer.role, peer.name.startswith("local:")) == ("operator", True)


async def test_a_question_by_tls_as_an_operator(site: Site) -> None:
    site.authority.issue("operator", "alice", site.folder / "alice")
    where = ("--server", f"127.0.0.1:{site.port}", "--pki", str(site.folder / "alice"))
    code, _, err = await site.run(*where, "status", "-o", "json")
    assert (code, err) == (0, "")
    assert site.handler.calls[0][0] == Identity("lab", "operator", "alice")


async def test_a_certificate_of_another_ca_reaches_nobody(site: Site, tmp_path: Path) -> None:
    CertificateAuthority.create(tmp_path / "ca2", "lab").issue("operator", "alice", tmp_path / "mallory")
    code, _, err = await site.run("--server", f"127.0.0.1:{site.port}", "--pki", str(tmp_path / "mallory"), "status")
    assert (code, "cannot reach odysseyd at tls:127.0.0.1" in err) == (5, True)
    assert site.handler.calls == []


async def test_a_server_that_is_no_orchestrator_is_not_believed(site: Site, tmp_path: Path) -> None:
    await site.stop()
    site.files = site.authority.issue("agent", "h1", tmp_path / "h1")
    await site.start()
    site.authority.issue("operator", "alice", site.folder / "alice")
    code, _, err = await site.run("--server", f"127.0.0.1:{site.port}", "--pki", str(site.folder / "alice"), "status")
    assert (code, "no orchestrator" in err) == (5, True)
    assert site.handler.calls == []


async def test_an_absent_participant_is_no_lost_connection(site: Site) -> None:
    code, _, err = await site.local("node", "logs", "shop-app-1")
    assert (code, err) == (3, "odysseyctl: h1 is not connected\n")


async def test_faults_come_through(site: Site) -> None:
    code, _, err = await site.local("network", "scale", "shop/app", "1", "--id", "bad")
    assert code == 3
    assert "  $.networks.app: too few" in err.splitlines()


async def test_a_call_survives_a_restart_of_the_hub(site: Site) -> None:
    socket = str(site.folder / "odysseyd.sock")
    process = await site.ctl("--socket", socket, "network", "scale", "shop/app", "1", "--id", "mine")
    await asyncio.wait_for(site.handler.started.wait(), 30)
    await site.stop()
    site.handler.released.set()
    await site.start()
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert out.decode() == "nothing to change; the state is at index 2\n"
    assert "connection to odysseyd lost" in err.decode()
    assert [params["id"] for _, method, params in site.handler.calls if method == "service.call"] == ["mine", "mine"]


async def test_events_are_followed_across_a_restart_of_the_hub(site: Site) -> None:
    assert site.hub is not None
    await site.hub.publish("node.admitted", {"node": "n1"})
    await site.hub.publish("other.topic", {})
    process = await site.ctl(
        "--socket", str(site.folder / "odysseyd.sock"), "events", "--follow", "--from", "1", "--topic", "node.*",
        "-o", "json",
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["data"] == {"node": "n1"}
    await site.stop()
    await site.start()
    await site.hub.publish("node.admitted", {"node": "n2"})
    assert json.loads(await process.stdout.readline())["data"] == {"node": "n2"}
    process.terminate()
    await process.communicate()
    code, out, _ = await site.local("events", "-o", "json")
    assert (code, [json.loads(line)["topic"] for line in out.splitlines()].count("node.admitted")) == (0, 2)
