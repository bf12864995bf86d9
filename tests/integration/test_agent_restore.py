# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is committed comes back: after crashes of workload, sandbox, agent, engine and host."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agents.participant import AgentParticipant
from rdmp.participant import Transaction
from tests.integration.agent_support import (
    HOST,
    Agent,
    DockerHost,
    docker_host,
    eventually,
    inside,
    node_spec,
    operation,
    run,
    running_agent,
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with docker_host(tmp_path_factory.mktemp("agt")) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(host: DockerHost) -> Iterator[None]:
    with inside(HOST):
        yield
    host.clear()


@pytest.fixture
async def agent(host: DockerHost, tmp_path: Path) -> AsyncIterator[Agent]:
    async with running_agent(host, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def background(participant: AgentParticipant) -> AsyncIterator[None]:
    """The agent's own work, as the daemon runs it."""
    task = asyncio.create_task(participant.background())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def serves(host: DockerHost, number: int) -> bool:
    """Tell whether a node answers on its address with both NICs, in its sandbox's network namespace."""
    node = f"shop-app-{number}"
    try:
        same = (
            os.stat(f"/proc/{host.pid(node)}/ns/net").st_ino
            == os.stat(f"/proc/{host.pid(f'{node}.sandbox')}/ns/net").st_ino
        )
        page = host.in_node(node, "busybox", "wget", "-qO-", f"http://172.16.20.{number}:8080/healthz", check=False)
        return same and page == "well\n" and host.link_names(node) == ["fab0", "fab1", "lo"]
    except (OSError, RuntimeError):
        return False


def topics(agent: Agent, topic: str) -> list[str]:
    return [str(data["node"]) for name, data in agent.events if name == topic]


async def test_a_killed_workload_comes_back_with_its_address_without_an_agent(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    before, old = host.identities(), host.pid("shop-app-1")
    os.kill(old, signal.SIGKILL)
    await eventually(lambda: host.pid("shop-app-1") not in (0, old) and serves(host, 1))
    assert host.identities() == before


async def test_the_death_of_a_workload_is_told(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    async with background(agent.participant):
        await asyncio.sleep(0.5)
        os.kill(host.pid("shop-app-1"), signal.SIGKILL)
        await eventually(lambda: topics(agent, "node.restarted"))
    died = [data for topic, data in agent.events if topic == "node.died"]
    assert died == [{"node": "shop-app-1", "host": "h1", "exitCode": 137}]


async def test_an_undecided_node_is_left_as_it_is(host: DockerHost, agent: Agent) -> None:
    await agent.participant.prepare(agent.transaction("t1", operation([node_spec(1)])))
    os.kill(host.pid("shop-app-1"), signal.SIGKILL)
    async with background(agent.participant):
        await asyncio.sleep(1.5)
    assert host.inspect("shop-app-1")["State"]["Status"] == "exited"
    assert agent.events == []


async def test_a_killed_sandbox_takes_its_workload_to_the_new_namespace(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    before = host.identities()
    async with background(agent.participant):
        await asyncio.sleep(0.5)
        os.kill(host.pid("shop-app-1.sandbox"), signal.SIGKILL)
        await eventually(lambda: topics(agent, "node.restored"))
        await eventually(lambda: serves(host, 1))
    assert host.identities() == before


async def test_removed_containers_are_made_again(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1), node_spec(2))
    host.client.remove_container("shop-app-1", force=True)
    host.client.remove_container("shop-app-2.sandbox", force=True)
    await agent.participant.restorer.restore()
    await eventually(lambda: serves(host, 1) and serves(host, 2))
    for name in host.names():
        assert host.inspect(name)["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert host.inspect(name)["Config"]["Labels"]["odyssey.tx"] == "t1"


async def test_a_new_run_of_the_agent_adopts_what_runs(host: DockerHost, agent: Agent, tmp_path: Path) -> None:
    await agent.add("t1", node_spec(1))
    doubtful = agent.transaction("t2", operation([node_spec(2)], admit={"nodes": ["shop-app-2"]}))
    await agent.participant.prepare(doubtful)
    before = host.identities()
    async with running_agent(host, tmp_path, agent.state) as again:
        await again.participant.restore(again.state, [doubtful])
        async with background(again.participant):
            await asyncio.sleep(1.0)
            assert host.identities() == before
            observed = (await again.participant.observe())["nodes"]
            assert observed["shop-app-1"]["committed"] and observed["shop-app-1"]["healthy"]
            assert not observed["shop-app-2"]["committed"] and observed["shop-app-2"]["tx"] == "t2"
            effect = await again.participant.commit(doubtful, "admit")
        assert effect.degraded is None
        assert topics(again, "node.restored") == []
    assert host.identities() == before


async def test_an_abort_after_a_crash_in_prepare_finds_everything(
    host: DockerHost, agent: Agent, tmp_path: Path
) -> None:
    spec = node_spec(1, health={"type": "tcp", "port": 9, "deadline": 30})
    tx = Transaction("t1", 1, 1, operation([spec]), 30.0)
    preparing = asyncio.create_task(agent.participant.prepare(tx))
    await eventually(lambda: "shop-app-1" in host.names())
    async with running_agent(host, tmp_path, {}) as again:
        preparing.cancel()
        await asyncio.wait([preparing])
        await again.participant.abort(tx)
    assert host.names() == []


async def test_a_crash_of_the_engine_changes_nothing(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    before, pids = host.identities(), [host.pid(name) for name in host.names()]
    async with background(agent.participant):
        await asyncio.sleep(0.5)
        host.kill_engine()
        await asyncio.sleep(1.0)
        host.start_engine()
        await eventually(lambda: serves(host, 1))
        await asyncio.sleep(1.0)
    assert host.identities() == before
    assert [host.pid(name) for name in host.names()] == pids
    assert agent.events == []
    effects = await agent.add("t2", node_spec(2))
    assert effects[-1].degraded is None


async def test_a_host_that_lost_power_gets_its_nodes_back(host: DockerHost, agent: Agent, tmp_path: Path) -> None:
    secret = agent.secrets_dir / "key"
    secret.write_text("value")
    secret.chmod(0o600)
    await agent.add("t1", node_spec(1, secrets={"key": "/run/secrets/key"}), node_spec(2))
    undecided = agent.transaction("t2", operation([node_spec(3)], admit={"nodes": ["shop-app-3"]}))
    await agent.participant.prepare(undecided)
    await agent.driver.close()
    host.power_off()
    run("umount", str(host.folder / "run/secrets"))  # memory is empty after a power cut
    host.cable()
    host.start_engine()
    async with running_agent(host, tmp_path, agent.state) as again:
        await again.participant.restore(again.state, [undecided])
        async with background(again.participant):
            await eventually(lambda: serves(host, 1) and serves(host, 2))
            assert host.inspect("shop-app-3")["State"]["Status"] == "exited"
            # A yes vote binds: the node is brought back and the loss is told.
            effect = await again.participant.commit(undecided, "admit")
            assert effect.degraded is not None and "did not stand as it was prepared" in effect.degraded
            await eventually(lambda: serves(host, 3))
        read = await again.driver._engine.execute("shop-app-1", ["cat", "/run/secrets/key"], 5)
        assert read.output == "value"


async def test_what_cannot_be_brought_back_is_told_once(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    host.client.remove_container("shop-app-1", force=True)
    host.client.create_container("agt-web:1", name="shop-app-1")
    for _ in range(2):
        await agent.participant.restorer.restore()
    failed = [data["reason"] for topic, data in agent.events if topic == "node.failed"]
    assert len(failed) == 1 and "which is not of this cluster and host" in str(failed[0])
    assert (await agent.participant.observe())["nodes"]["shop-app-1"]["faults"] == failed


async def test_a_node_that_is_being_stopped_is_not_brought_back(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    async with background(agent.participant):
        await asyncio.sleep(0.3)
        await agent.commit(agent.transaction("t2", operation(stop={"nodes": ["shop-app-1"]})))
        await asyncio.sleep(1.5)
    assert host.names() == []
    assert topics(agent, "node.restored") == []
