# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes on a real Docker engine: prepared, admitted, refused, aborted, told of neighbours, stopped."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

import schemas
from agents.docker.driver import DockerDriver
from agents.files import Claim, NodeFiles
from rdmp.participant import Refused
from rdmp.rpc import RpcError
from tests.integration.agent_support import (
    FABRIC_MAC,
    GATEWAY,
    HOST,
    WEB,
    Agent,
    DockerHost,
    docker_host,
    eventually,
    inside,
    neighbours,
    node_spec,
    operation,
    run,
    running_agent,
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with docker_host(tmp_path_factory.mktemp("agt")) as made:
        yield made


@pytest.fixture
async def agent(host: DockerHost, tmp_path: Path) -> AsyncIterator[Agent]:
    with inside(HOST):
        async with running_agent(host, tmp_path) as made:
            yield made
        host.clear()


async def test_a_node_is_prepared_admitted_and_stopped(host: DockerHost, agent: Agent) -> None:
    tx = agent.transaction("t1", operation([node_spec()], admit={"nodes": ["shop-app-1"]}))
    prepared = await agent.participant.prepare(tx)
    assert prepared.detail["nodes"]["shop-app-1"]["container"] == host.inspect("shop-app-1")["Id"]
    assert host.inspect("shop-app-1")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert not (await agent.participant.observe())["nodes"]["shop-app-1"]["committed"]

    (admitted,) = await agent.commit(tx)
    assert admitted.degraded is None
    assert agent.state["node/shop-app-1"]["phase"] == "admitted"
    for name in ("shop-app-1", "shop-app-1.sandbox"):
        found = host.inspect(name)
        assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert found["Config"]["Labels"]["odyssey.cluster"] == "test"
        assert found["Config"]["Labels"]["odyssey.host"] == "h1"
    observed = await agent.participant.observe()
    assert schemas.validate("agent-observation", json.loads(json.dumps(observed))) == ()
    assert observed["nodes"]["shop-app-1"]["committed"] and observed["revision"] == tx.seq

    stopped = agent.transaction("t2", operation(stop={"nodes": ["shop-app-1"]}))
    await agent.participant.prepare(stopped)
    await agent.commit(stopped)
    assert host.names() == []
    assert "node/shop-app-1" not in agent.state
    assert list((agent.folder / "state/nodes").iterdir()) == []
    await agent.commit(stopped)  # a repeat finds nothing to do


async def test_the_attachment_is_that_of_the_design(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(3))
    addresses = json.loads(host.in_node("shop-app-3", "ip", "-j", "-d", "addr"))
    links = {item["ifname"]: item for item in addresses}
    for name in ("fab0", "fab1"):
        assert links[name]["address"] == "02:00:ac:10:14:03"
        assert links[name]["linkinfo"]["info_data"]["mode"] == "vepa"
        assert "NOARP" in links[name]["flags"] and links[name]["mtu"] == 1500
        for setting, value in (("rp_filter", "0"), ("ignore_routes_with_linkdown", "1")):
            path = f"net.ipv4.conf.{name}.{setting}"
            assert host.in_node("shop-app-3", "sysctl", "-n", path).strip() == value
        assert [info for info in links[name]["addr_info"] if info["family"] == "inet6"] == []
    assert "172.16.20.3/32" in {f"{info['local']}/{info['prefixlen']}" for info in links["lo"]["addr_info"]}
    routes = json.loads(host.in_node("shop-app-3", "ip", "-j", "route"))
    assert [(item["dev"], item["gateway"], item["metric"]) for item in routes] == [
        ("fab0", GATEWAY, 10),
        ("fab1", GATEWAY, 11),
    ]
    known = json.loads(host.in_node("shop-app-3", "ip", "-j", "neigh"))
    assert {(item["dev"], item["lladdr"], *item["state"]) for item in known} == {
        ("fab0", FABRIC_MAC, "PERMANENT"),
        ("fab1", FABRIC_MAC, "PERMANENT"),
    }


async def test_the_workload_is_hardened_and_knows_itself(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec())
    found = host.inspect("shop-app-1")["HostConfig"]
    assert found["CapDrop"] == ["ALL"] and "NET_RAW" not in found["CapAdd"]
    assert found["SecurityOpt"] == ["no-new-privileges"]
    assert (found["Memory"], found["MemorySwap"], found["NanoCpus"]) == (32 << 20, 32 << 20, 500_000_000)
    assert found["PidsLimit"] == 512
    result = await agent.driver._engine.execute(
        "shop-app-1", ["sh", "-c", "cat /etc/hosts; echo $ODYSSEY_NODE $LOG_LEVEL; touch /run/odyssey/x"], 5
    )
    assert "172.16.20.1 shop-app-1 node" in result.output
    assert "shop-app-1 info" in result.output
    assert result.code != 0 and "Read-only file system" in result.output


async def test_repeats_find_what_stands(host: DockerHost, agent: Agent) -> None:
    tx = agent.transaction("t1", operation([node_spec()], admit={"nodes": ["shop-app-1"]}))
    await agent.participant.prepare(tx)
    before = host.identities()
    await agent.participant.prepare(tx)
    await agent.commit(tx)
    await agent.commit(tx)
    assert host.identities() == before


async def test_many_nodes_start_in_parallel(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", *(node_spec(number) for number in range(1, 7)))
    assert len(host.names()) == 12


async def test_a_node_that_does_not_become_healthy_is_refused_without_a_trace(host: DockerHost, agent: Agent) -> None:
    health = {"type": "http", "port": 8080, "path": "/missing", "interval": 0.05, "deadline": 0.5}
    tx = agent.transaction("t1", operation([node_spec(1), node_spec(2, health=health)], admit={}))
    with pytest.raises(Refused, match=r"shop-app-2 on host h1: it did not become healthy within 0.5 s") as caught:
        await agent.participant.prepare(tx)
    assert "404" in caught.value.reason
    await agent.participant.abort(tx)
    assert host.names() == []
    assert list((agent.folder / "state/nodes").iterdir()) == []
    await agent.participant.abort(tx)


async def test_a_node_whose_process_ends_is_refused_at_once_with_its_log(host: DockerHost, agent: Agent) -> None:
    command = ["sh", "-c", "echo the disk is full; exit 7"]
    tx = agent.transaction("t1", operation([node_spec(command=command)]))
    with pytest.raises(Refused, match="it ended with exit code 7 before it was healthy") as caught:
        await agent.participant.prepare(tx)
    assert "the disk is full" in caught.value.reason
    assert caught.value.detail is not None
    assert caught.value.detail["nodes"]["shop-app-1"]["log"] == ["the disk is full"]
    await agent.participant.abort(tx)
    assert host.names() == []


async def test_an_abort_in_the_middle_leaves_nothing(host: DockerHost, agent: Agent) -> None:
    health = {"type": "tcp", "port": 9, "interval": 0.05, "deadline": 30}
    specs = [node_spec(number, health=health) for number in (1, 2, 3)]
    for pause in (0.0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.6):
        tx = agent.transaction(f"t-{pause}", operation(specs))
        preparing = asyncio.create_task(agent.participant.prepare(tx))
        await asyncio.sleep(pause)
        preparing.cancel()
        await asyncio.wait([preparing])
        await agent.participant.abort(tx)
        assert host.names() == [], f"after {pause} s"
        assert list((agent.folder / "state/nodes").iterdir()) == []


async def test_what_comes_late_of_an_aborted_transaction_is_removed(host: DockerHost, agent: Agent) -> None:
    tx = agent.transaction("t1", operation([node_spec(1)]))
    await agent.participant.abort(tx)
    labels = {"odyssey.cluster": "test", "odyssey.host": "h1", "odyssey.role": "workload", "odyssey.node": "shop-app-1"}
    host.client.create_container(WEB, name="shop-app-1", labels={**labels, "odyssey.tx": "t1"})
    host.client.create_container(
        WEB, name="shop-app-2", labels={**labels, "odyssey.node": "shop-app-2", "odyssey.tx": "t0"}
    )
    await agent.participant.restorer.restore()
    assert host.names() == ["shop-app-2"]


async def test_all_reasons_come_at_once(agent: Agent) -> None:
    spec = node_spec(image="nowhere.invalid/none:1", nics=["eth7"], secrets={"db-password": "/run/secrets/db"})
    with pytest.raises(Refused) as caught:
        await agent.participant.prepare(agent.transaction("t1", operation([spec])))
    assert "image nowhere.invalid/none:1 is not on this host" in caught.value.reason
    assert "this host has no NIC eth7; it has: eth0, eth1, lo" in caught.value.reason
    assert "secret db-password" in caught.value.reason and "is missing" in caught.value.reason


async def test_another_image_under_the_same_name_is_refused(agent: Agent) -> None:
    spec = node_spec(imageId="sha256:" + "0" * 64)
    with pytest.raises(Refused, match=r"is sha256:\w+ on this host, but the plan resolved it to sha256:0"):
        await agent.participant.prepare(agent.transaction("t1", operation([spec])))


async def test_an_mtu_that_the_nic_has_not_is_refused(agent: Agent) -> None:
    with pytest.raises(Refused, match="NIC eth0 has MTU 1500, the node needs 9000; run: ip link set dev eth0 mtu 9000"):
        await agent.participant.prepare(agent.transaction("t1", operation([node_spec(mtu=9000)])))


async def test_a_foreign_container_of_that_name_is_left_alone(host: DockerHost, agent: Agent) -> None:
    host.client.create_container(WEB, name="shop-app-1")
    tx = agent.transaction("t1", operation([node_spec()]))
    with pytest.raises(Refused, match="name shop-app-1 is in use by a container that is not of Odyssey"):
        await agent.participant.prepare(tx)
    await agent.participant.abort(tx)
    assert host.names() == ["shop-app-1"]


async def test_an_abort_touches_nothing_of_another_transaction(host: DockerHost, agent: Agent) -> None:
    await agent.add("t1", node_spec(1))
    open_tx = agent.transaction("t2", operation([node_spec(2)]))
    await agent.participant.prepare(open_tx)
    before = host.identities()
    await agent.participant.abort(agent.transaction("t3", operation([node_spec(1), node_spec(2)])))
    assert host.identities() == before
    with pytest.raises(Refused, match="node shop-app-1 runs on host h1 already, from transaction t1"):
        await agent.participant.prepare(agent.transaction("t4", operation([node_spec(1)])))


async def test_an_agent_without_its_journal_deletes_nothing(
    host: DockerHost, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.participant.NAME_WAIT", 0.2)
    await agent.add("t1", node_spec(1))
    before = host.identities()
    empty = tmp_path / "empty"
    empty.mkdir()
    async with running_agent(host, empty) as other:
        await other.participant.restorer.restore()
        tx = other.transaction("t9", operation([node_spec(1)]))
        with pytest.raises(Refused, match="nothing that this agent knows explains it"):
            await other.participant.prepare(tx)
        await other.participant.abort(tx)
        assert (await other.participant.observe())["nodes"]["shop-app-1"]["committed"] is False
    assert host.identities() == before


async def test_a_name_that_an_aborted_transaction_lets_go_of_is_waited_for(host: DockerHost, agent: Agent) -> None:
    files = NodeFiles(agent.folder / "state/nodes")
    old = agent.transaction("t1", operation([node_spec(1)]))
    await agent.participant.prepare(old)
    new = asyncio.create_task(agent.participant.prepare(agent.transaction("t2", operation([node_spec(1)]))))
    await asyncio.sleep(0.2)
    claim = files.claimed("shop-app-1")
    assert claim is not None and claim.tx == "t1"
    await agent.participant.abort(old)
    await new
    claim = files.claimed("shop-app-1")
    assert claim is not None and claim.tx == "t2"
    assert host.inspect("shop-app-1")["Config"]["Labels"]["odyssey.tx"] == "t2"


async def test_neighbours_are_replaced_and_told(host: DockerHost, agent: Agent) -> None:
    told = {"command": ["sh", "-c", "grep -o 'shop-db-[0-9]*' $ODYSSEY_NEIGHBOURS >> /tmp/told"], "timeout": 5}
    await agent.add("t1", node_spec(1, onChange=told))

    async def tell(identity: str, revision: int, *addresses: str) -> str | None:
        files = {"shop-app-1": neighbours("shop-app-1", revision, *addresses)}
        tx = agent.transaction(identity, operation(neighbours={"files": files}))
        await agent.participant.prepare(tx)
        return (await agent.commit(tx))[0].degraded

    assert await tell("t2", 5, "172.16.30.2", "172.16.30.3") is None
    assert await tell("t3", 4, "172.16.30.9") is None  # older than what stands
    output = (await agent.driver._engine.execute("shop-app-1", ["cat", "/tmp/told"], 5)).output
    assert output.split() == ["shop-db-1", "shop-db-2"]
    seen = (await agent.driver._engine.execute("shop-app-1", ["cat", "/run/odyssey/neighbours.json"], 5)).output
    assert json.loads(seen) == neighbours("shop-app-1", 5, "172.16.30.2", "172.16.30.3")
    assert agent.state["node/shop-app-1"]["spec"]["neighbours"]["revision"] == 5


async def test_an_on_change_that_fails_or_hangs_degrades(agent: Agent) -> None:
    slow = {"command": ["sh", "-c", "echo begun; sleep 60"], "timeout": 0.3}
    wrong = {"command": ["sh", "-c", "echo no such server >&2; exit 4"]}
    await agent.add("t1", node_spec(1, onChange=slow), node_spec(2, onChange=wrong))
    files = {name: neighbours(name, 2) for name in ("shop-app-1", "shop-app-2", "shop-app-3")}
    tx = agent.transaction("t2", operation(neighbours={"files": files}))
    (effect,) = await agent.commit(tx)
    assert effect.degraded is not None
    assert "onChange of node shop-app-1 (sh) took longer than 0.3 s: begun" in effect.degraded
    assert "onChange of node shop-app-2 (sh) ended with 4: no such server" in effect.degraded
    assert "node shop-app-3 is not on host h1" in effect.degraded


async def test_secrets_reach_the_container_on_a_tmpfs_only(host: DockerHost, agent: Agent) -> None:
    value = "correct horse battery staple"
    secret = agent.secrets_dir / "db-password"
    secret.write_text(value)
    secret.chmod(0o644)
    spec = node_spec(secrets={"db-password": "/run/secrets/db-password"})
    with pytest.raises(Refused, match=r"has mode 0644; run: chmod 0600"):
        await agent.participant.prepare(agent.transaction("t0", operation([spec])))
    secret.chmod(0o600)
    effects = await agent.add("t1", spec)
    read = await agent.driver._engine.execute("shop-app-1", ["cat", "/run/secrets/db-password"], 5)
    assert read.output == value
    mounts = await agent.driver._engine.execute("shop-app-1", ["grep", "/run/secrets/db-password", "/proc/mounts"], 5)
    assert mounts.output.startswith("odyssey-secrets") and " tmpfs ro," in mounts.output
    for name in host.names():
        assert value not in json.dumps(host.inspect(name))
    assert value not in json.dumps(agent.state) + repr(effects)
    places = [agent.folder / "state", host.folder / "data"]
    assert await asyncio.to_thread(run, "grep", "-rl", value, *map(str, places), check=False) == ""
    stop = agent.transaction("t2", operation(stop={"nodes": ["shop-app-1"]}))
    await agent.commit(stop)
    assert list((host.folder / "run/secrets").iterdir()) == []


async def test_a_volume_outlives_its_node_but_not_the_abort_that_made_it(host: DockerHost, agent: Agent) -> None:
    volume = {"name": "shop-db-1-data", "path": "/data"}
    aborted = agent.transaction("t0", operation([node_spec(volume=volume)]))
    await agent.participant.prepare(aborted)
    await agent.participant.abort(aborted)
    assert not host.client.volumes()["Volumes"]

    await agent.add("t1", node_spec(volume=volume))
    await agent.driver._engine.execute("shop-app-1", ["sh", "-c", "echo kept > /data/file"], 5)
    await agent.commit(agent.transaction("t2", operation(stop={"nodes": ["shop-app-1"]})))
    again = agent.transaction("t3", operation([node_spec(volume=volume)]))
    await agent.participant.prepare(again)
    assert (await agent.driver._engine.execute("shop-app-1", ["cat", "/data/file"], 5)).output == "kept\n"
    await agent.participant.abort(again)
    assert [item["Name"] for item in host.client.volumes()["Volumes"]] == ["shop-db-1-data"]


async def test_standby_is_committed_and_promoted_without_a_restart(host: DockerHost, agent: Agent) -> None:
    tx = agent.transaction("t1", operation([node_spec()], admit={"standby": ["shop-app-1"]}))
    await agent.participant.prepare(tx)
    await agent.commit(tx)
    before = host.identities()
    assert (await agent.participant.observe())["nodes"]["shop-app-1"]["phase"] == "standby"
    promote = agent.transaction("t2", operation(admit={"nodes": ["shop-app-1"]}))
    await agent.participant.prepare(promote)
    (effect,) = await agent.commit(promote)
    assert effect.degraded is None and host.identities() == before
    assert agent.state["node/shop-app-1"]["phase"] == "admitted"
    assert agent.state["node/shop-app-1"]["tx"] == "t1"


@pytest.mark.parametrize(
    "health",
    [
        {"type": "tcp", "port": 8080},
        {"type": "command", "command": ["wget", "-qO", "-", "http://127.0.0.1:8080/healthz"]},
        None,
    ],
    ids=["tcp", "command", "none"],
)
async def test_other_health_checks(agent: Agent, health: dict[str, Any] | None) -> None:
    await agent.add("t1", node_spec(health=health))
    assert (await agent.participant.observe())["nodes"]["shop-app-1"]["state"] == "running"


async def test_connections_logs_and_images(host: DockerHost, agent: Agent) -> None:
    command = ["sh", "-c", "echo ready; httpd -p 8080; exec sleep 1000"]
    await agent.add("t1", node_spec(command=command))

    async def ignore(data: object) -> None: ...

    assert await agent.participant.call("connections", {"nodes": ["shop-app-1"]}, ignore) == {
        "shop-app-1": {"inbound": 0, "outbound": 0}
    }
    logs = await agent.participant.call("logs", {"node": "shop-app-1", "tail": 5}, ignore)
    assert logs == {"text": "ready\n"}
    images = await agent.participant.call("images", {"references": [WEB, "none:1"]}, ignore)
    assert images == {WEB: host.client.inspect_image(WEB)["Id"], "none:1": None}
    with pytest.raises(RpcError, match="the parameters are not valid"):
        await agent.participant.call("logs", {"node": "shop-app-1", "tail": 0}, ignore)
    with pytest.raises(RpcError, match="no method 'reboot'"):
        await agent.participant.call("reboot", {}, ignore)
    assert (await agent.participant.status("t1"))["nodes"] == {"shop-app-1": "running"}


async def test_a_sandbox_that_a_crash_left_reserved_is_removed(host: DockerHost, tmp_path: Path) -> None:
    with inside(HOST):
        async with running_agent(host, tmp_path, pool=2) as agent:
            filling = asyncio.create_task(agent.driver.background())
            await _pool(agent.driver, 2)
            reserved, kept = (host.inspect(name)["Id"] for name in host.names(pool=True))
            # What the disk holds after a crash between the claim and the renaming of its sandbox.
            NodeFiles(tmp_path / "state/nodes").claim(Claim("shop-app-1", "t1", reserved))
            await agent.participant.abort(agent.transaction("t1", operation([node_spec(1)])))
            assert kept in [host.inspect(name)["Id"] for name in host.names(pool=True)]
            with pytest.raises(docker.errors.NotFound):
                host.inspect(reserved)
            await agent.add("t2", node_spec(1))
            assert host.inspect("shop-app-1.sandbox")["Id"] == kept
            filling.cancel()
        host.clear()


async def test_the_pool_gives_sandboxes_and_fills_up(host: DockerHost, tmp_path: Path) -> None:
    with inside(HOST):
        async with running_agent(host, tmp_path, pool=2) as agent:
            filling = asyncio.create_task(agent.driver.background())
            await _pool(agent.driver, 2)
            ahead = set(host.names(pool=True))
            assert len(ahead) == 2 and all(name.startswith("odyssey-pool-") for name in ahead)
            made = {host.inspect(name)["Id"] for name in ahead}
            await agent.add("t1", node_spec())
            assert host.inspect("shop-app-1.sandbox")["Id"] in made
            assert host.inspect("shop-app-1.sandbox")["Config"]["Labels"]["odyssey.role"] == "pool"
            await _pool(agent.driver, 2)
            aborted = agent.transaction("t2", operation([node_spec(2)]))
            await agent.participant.prepare(aborted)
            await agent.participant.abort(aborted)
            assert host.names() == ["shop-app-1", "shop-app-1.sandbox"]
            await _pool(agent.driver, 2)
            filling.cancel()
            left = {name for name in host.names(pool=True) if name.startswith("odyssey-pool-")}
        async with running_agent(host, tmp_path, agent.state, pool=2) as agent:
            filling = asyncio.create_task(agent.driver.background())
            await _pool(agent.driver, 2)
            assert {name for name in host.names(pool=True) if name.startswith("odyssey-pool-")} == left
            filling.cancel()
        host.clear()


async def _pool(driver: DockerDriver, size: int) -> None:
    await eventually(lambda: len(driver._pool) == size)


def test_the_test_namespace_is_left_again() -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    with inside(HOST):
        assert os.readlink("/proc/thread-self/ns/net") != before
    assert os.readlink("/proc/thread-self/ns/net") == before
