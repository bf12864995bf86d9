# SPDX-License-Identifier: AGPL-3.0-or-later
"""The agent's process: it joins, takes part in real transactions, is killed at any moment, and nothing is half done."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import schemas
from odyssey.security.ca import CertificateAuthority
from odyssey.security.enrol import EnrolServer, enrol_context
from odyssey.security.tokens import JoinTokens, MemoryTokenStore
from rdmp.decisionlog import MemoryDecisionLog
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.records import TxRecord
from rdmp.rpc import RpcError
from rdmp.tls import TlsFiles
from tests.integration.agent_support import (
    CLUSTER,
    HOST,
    WEB,
    DockerHost,
    docker_host,
    eventually,
    inside,
    node_spec,
    operation,
)
from tests.integration.rdmp_support import FAST, Echo

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-c", "from agents.daemon import main; main()")
KILL_MOMENTS = (0.0, 0.02, 0.05, 0.08, 0.12, 0.2, 0.4)  # seconds after the transaction began


class Site:
    """An orchestrator with its CA, in the host's network namespace, and the agent's process."""

    def __init__(self, folder: Path, host: DockerHost) -> None:
        self.folder = folder
        self.host = host
        self.log = MemoryDecisionLog()
        self.events = MemoryEventLog()
        self.authority = CertificateAuthority.create(folder / "ca", CLUSTER)
        self.tokens = JoinTokens(MemoryTokenStore(), CLUSTER, self.authority.fingerprint)
        issued = self.authority.issue("orchestrator", "o1", folder / "o1")
        self.files = TlsFiles(issued.cert, issued.key, issued.ca)
        self.process: asyncio.subprocess.Process | None = None
        self.port = 0

    async def open(self) -> None:
        self.hub = Hub(self.files.identity(), self.log, self.events, Echo(), 1, "i1", FAST)
        self.port = await self.hub.serve_tls("127.0.0.1", 0, self.files.server_context())
        context = enrol_context(self.files.cert, self.files.key)
        self.enrol = EnrolServer(self.authority, self.tokens, context)
        self.enrol_port = await self.enrol.serve("127.0.0.1", 0)
        (self.folder / "agent.toml").write_text(self.config())

    def config(self) -> str:
        return f"""
[agent]
orchestrators = ["tls:127.0.0.1:{self.port}"]
docker = "{self.host.socket}"
state_dir = "{self.folder}/state"
run_dir = "{self.folder}/run"
secrets_dir = "{self.folder}/secrets"
pki_dir = "{self.folder}/pki"

[limits]
pool = 1
restore_interval = 0.5
stop_grace = 1

[rdmp]
reconnect_min = 0.02
reconnect_max = 0.2
"""

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run odyssey-agent until it ends; returns its exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def join(self) -> str:
        token = await self.tokens.create("agent", "h1")
        server = f"127.0.0.1:{self.enrol_port}"
        code, output = await self.command(
            "join", "--server", server, "--name", "h1", "--token", token.text, "--pki", f"{self.folder}/pki"
        )
        assert code == 0, output
        return output

    async def start(self) -> None:
        """Start the agent and wait until it is connected."""
        with (self.folder / "agent.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *COMMAND, "run", "--config", f"{self.folder}/agent.toml", cwd=ROOT, stdout=log, stderr=log
            )
        await eventually(lambda: any(peer.name == "h1" for peer in self.hub.peers()))

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), 20)
        await eventually(lambda: not any(peer.name == "h1" for peer in self.hub.peers()))
        return code

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.end(signal.SIGKILL)
        await self.enrol.close()
        await self.hub.close()

    async def transact(self, tx: str, document: dict[str, Any], stages: Sequence[str] = ("admit",)) -> TxRecord:
        record = TxRecord(tx, 0, 0, 0, "preparing", {"h1": document}, tuple(stages), deadline=20.0)
        return await self.hub.execute(record, lambda progress: None)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with docker_host(tmp_path_factory.mktemp("agt")) as made:
        yield made


@pytest.fixture
async def site(host: DockerHost, tmp_path: Path) -> AsyncIterator[Site]:
    with inside(HOST):
        made = Site(tmp_path, host)
        await made.open()
        yield made
        await made.close()
    host.clear()
    host.unmount(tmp_path)


def adding(number: int, **changes: Any) -> dict[str, Any]:
    return operation([node_spec(number, **changes)], admit={"nodes": [f"shop-app-{number}"]})


async def test_a_host_joins_and_takes_part(site: Site, host: DockerHost) -> None:
    assert "joined as odyssey://test/agent/h1" in await site.join()
    assert (site.folder / "pki/key.pem").stat().st_mode & 0o777 == 0o600
    await site.start()
    done = await site.transact("t1", adding(1))
    assert (done.state, dict(done.degraded)) == ("committed", {})
    observed = await site.hub.call("h1", "observe", {}, 5)
    assert schemas.validate("agent-observation", observed) == ()
    assert observed["nodes"]["shop-app-1"]["committed"] and observed["revision"] == done.seq
    images = await site.hub.call("h1", "images", {"references": [WEB]}, 5)
    assert images[WEB].startswith("sha256:")
    with pytest.raises(RpcError, match=r"host h1: node shop-app-9 is not on this host"):
        await site.hub.call("h1", "logs", {"node": "shop-app-9", "tail": 1}, 5)
    before = host.identities()
    assert await site.end() == 0
    await site.start()
    again = await site.hub.call("h1", "observe", {}, 5)
    assert again["nodes"]["shop-app-1"]["committed"] and again["revision"] == done.seq
    assert host.identities() == before
    gone = await site.transact("t2", operation(stop={"nodes": ["shop-app-1"]}), ("stop",))
    assert gone.state == "committed" and host.names() == []


async def test_killed_at_any_moment_of_an_addition_nothing_is_half_done(site: Site, host: DockerHost) -> None:
    await site.join()
    await site.start()
    for number, moment in enumerate(KILL_MOMENTS, 1):
        transaction = asyncio.create_task(site.transact(f"t{number}", adding(number)))
        await asyncio.sleep(moment)
        await site.end(signal.SIGKILL)
        await site.start()
        record = await transaction
        node = f"shop-app-{number}"
        expected = [node, f"{node}.sandbox"] if record.state == "committed" else []
        await eventually(lambda node=node, expected=expected: _of(host, node) == expected)  # type: ignore[misc]
        folder = site.folder / f"state/nodes/{node}"
        await eventually(lambda folder=folder, expected=expected: folder.exists() == bool(expected))  # type: ignore[misc]
        observed = (await site.hub.call("h1", "observe", {}, 5))["nodes"]
        assert observed.get(node, {}).get("committed", False) is bool(expected)


def _of(host: DockerHost, node: str) -> list[str]:
    return [name for name in host.names() if name in (node, f"{node}.sandbox")]


async def test_the_death_of_a_node_reaches_the_orchestrator(site: Site, host: DockerHost) -> None:
    await site.join()
    await site.start()
    await site.transact("t1", adding(1))
    await asyncio.sleep(0.5)
    host.client.kill("shop-app-1", "SIGKILL")
    seen: dict[str, Any] = {}

    async def told() -> bool:
        for event in await site.events.read(1, 1000):
            seen[event.topic] = dict(event.data)
        return {"node.died", "node.restarted"} <= set(seen)

    async with asyncio.timeout(20):
        while not await told():
            await asyncio.sleep(0.1)
    assert seen["node.died"] == {"node": "shop-app-1", "host": "h1", "exitCode": 137}


async def test_a_second_agent_of_the_same_host_is_refused(site: Site) -> None:
    await site.join()
    await site.start()
    code, output = await site.command("run", "--config", f"{site.folder}/agent.toml")
    assert code == 78 and f"another agent holds {site.folder}/state; stop it first" in output


async def test_what_cannot_start_says_why(site: Site) -> None:
    code, output = await site.command("run", "--config", f"{site.folder}/agent.toml")
    assert code == 78 and "this host has not joined" in output
    (site.folder / "bad.toml").write_text("[agent]\norchestrators = []\n")
    code, output = await site.command("run", "--config", f"{site.folder}/bad.toml")
    assert code == 78 and "[agent] orchestrators: found [], must be a list with at least one text" in output


async def test_a_token_of_another_cluster_is_seen_before_anything_is_sent(site: Site, tmp_path: Path) -> None:
    other = CertificateAuthority.create(tmp_path / "other", CLUSTER)
    token = await JoinTokens(MemoryTokenStore(), CLUSTER, other.fingerprint).create("agent", "h1")
    server = f"127.0.0.1:{site.enrol_port}"
    code, output = await site.command(
        "join", "--server", server, "--name", "h1", "--token", token.text, "--pki", f"{tmp_path}/new"
    )
    assert code == 1 and "shows another CA than the one in the token" in output
    assert not (tmp_path / "new").exists()
