# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.docker.containers import Container, Listed, Owner, Paths, Policy, sandbox_config, workload_config
from agents.docker.engine import demultiplexed
from agents.docker.events import parse
from agents.docker.image import ImageError, archive, is_static
from agents.driver import NodeEvent
from tests.unit.agents.documents import spec

OWNER = Owner("lab", "h1")
PATHS = Paths(Path("/n/run"), Path("/n/hosts"), Path("/n/resolv.conf"), {"/run/secrets/key": Path("/s/key")})


def workload(**changes: Any) -> dict[str, Any]:
    labels = OWNER.labels("workload", "shop-app-3", "t1")
    return workload_config(spec(**changes), "sha256:1", "5a4d", labels, PATHS, Policy())


def test_a_workload_joins_its_sandbox_and_is_hardened() -> None:
    config = workload(resources={"cpus": 0.5, "memoryMiB": 64}, command=["serve", "-v"])
    host = config["HostConfig"]
    assert config["Image"] == "sha256:1" and config["Cmd"] == ["serve", "-v"]
    assert config["Labels"]["odyssey.image"] == "shop-app:1"
    assert host["NetworkMode"] == "container:5a4d" and host["RestartPolicy"] == {"Name": "no"}
    assert host["CapDrop"] == ["ALL"] and not {"NET_RAW", "NET_ADMIN", "SYS_ADMIN"} & set(host["CapAdd"])
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["PidsLimit"] == 512
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 64 << 20, 64 << 20)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}}
    assert all(mount["ReadOnly"] for mount in host["Mounts"])
    assert {mount["Target"] for mount in host["Mounts"]} == {
        "/run/odyssey", "/etc/hosts", "/etc/resolv.conf", "/run/secrets/key",
    }  # fmt: skip


def test_without_limits_and_command_nothing_is_said_of_them() -> None:
    config = workload()
    assert "Cmd" not in config and not {"Memory", "NanoCpus"} & set(config["HostConfig"])


def test_environment_tells_the_node_its_name() -> None:
    assert set(workload(environment={"A": "b=c"})["Env"]) == {
        "HOSTNAME=shop-app-3", "ODYSSEY_NODE=shop-app-3", "ODYSSEY_ADDRESS=172.16.20.3",
        "ODYSSEY_NEIGHBOURS=/run/odyssey/neighbours.json", "A=b=c",
    }  # fmt: skip


def test_a_new_volume_carries_its_transaction() -> None:
    mount = workload(volume={"name": "shop-db-1-data", "path": "/data"})["HostConfig"]["Mounts"][-1]
    assert (mount["Type"], mount["Source"], mount["Target"]) == ("volume", "shop-db-1-data", "/data")
    labels = mount["VolumeOptions"]["Labels"]
    assert labels["odyssey.tx"] == "t1" and labels["odyssey.role"] == "volume" and OWNER.owns(labels)


def test_a_sandbox_can_do_nothing() -> None:
    config = sandbox_config(OWNER.labels("pool"), ipv6=True)
    host = config["HostConfig"]
    assert host["NetworkMode"] == "none" and host["CapDrop"] == ["ALL"] and host["ReadonlyRootfs"]
    assert host["Sysctls"]["net.ipv4.conf.default.ignore_routes_with_linkdown"] == "1"
    assert host["Sysctls"]["net.ipv6.conf.all.disable_ipv6"] == "1"
    assert not any("ipv6" in key for key in sandbox_config({}, ipv6=False)["HostConfig"]["Sysctls"])


def test_only_both_labels_make_it_ours() -> None:
    assert OWNER.owns(OWNER.labels("pool"))
    assert not OWNER.owns(Owner("lab", "h2").labels("pool"))
    assert not OWNER.owns(Owner("test", "h1").labels("pool"))
    assert not OWNER.owns({})


def listed(name: str, labels: dict[str, str]) -> Listed:
    return Listed.parse({"Id": "1", "Names": [f"/{name}"], "Labels": labels, "State": "running", "ImageID": "sha256:1"})


def test_a_sandbox_of_the_pool_is_one_until_it_is_named() -> None:
    labels = OWNER.labels("pool")
    assert (listed("odyssey-pool-1", labels).role, listed("odyssey-pool-1", labels).node) == ("pool", None)
    assert (listed("a-b-1.sandbox", labels).role, listed("a-b-1.sandbox", labels).node) == ("sandbox", "a-b-1")
    assert listed("a-b-1", OWNER.labels("workload", "a-b-1", "t1")).node == "a-b-1"


@pytest.mark.parametrize(
    ("status", "pid", "running"),
    [("running", 7, True), ("paused", 7, True), ("restarting", 0, False), ("exited", 0, False), ("created", 0, False)],
)
def test_what_inspect_shows(status: str, pid: int, running: bool) -> None:
    found = Container.parse(
        {
            "Id": "1", "Name": "/a", "Image": "sha256:1", "Config": {"Labels": None},
            "State": {"Status": status, "Pid": pid, "ExitCode": 3, "Error": "no space"},
            "HostConfig": {"NetworkMode": "container:2", "RestartPolicy": {"Name": ""}},
        }
    )  # fmt: skip
    assert found.running is running
    assert (found.name, found.exit_code, found.error, found.restart_policy) == ("a", 3, "no space", "no")


def event(action: str, name: str, labels: dict[str, str], **more: str) -> dict[str, Any]:
    return {"Type": "container", "Action": action, "Actor": {"Attributes": {"name": name, **labels, **more}}}


def test_events() -> None:
    node = OWNER.labels("workload", "a-b-1", "t1")
    assert parse(event("die", "a-b-1", node, exitCode="137")) == NodeEvent("died", "a-b-1", False, 137)
    assert parse(event("start", "a-b-1", node)) == NodeEvent("started", "a-b-1")
    pool = OWNER.labels("pool")
    assert parse(event("die", "a-b-1.sandbox", pool)) == NodeEvent("died", "a-b-1", True)
    assert parse(event("die", "odyssey-pool-1", pool)) is None
    assert parse(event("exec_die", "a-b-1", node)) is None
    assert parse({"Action": "die"}) is None


def test_the_attach_stream_is_demultiplexed() -> None:
    raw = b"\x01\0\0\0\0\0\0\x03out" + b"\x02\0\0\0\0\0\0\x03err" + b"\x01\0\0\0\0\0\0\x09cut"
    assert demultiplexed(raw) == b"outerrcut"
    assert demultiplexed(b"\x01\0") == b""


def test_the_sandbox_image_needs_a_static_busybox(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="busybox, which is missing; run: apt-get install busybox-static"):
        archive((tmp_path / "none",))
    script = tmp_path / "busybox"
    script.write_bytes(b"#!/bin/sh\n" + b" " * 100)
    with pytest.raises(ImageError, match="needs shared libraries"):
        archive((script,))
    static = bytearray(200)
    static[:6] = b"\x7fELF\x02\x01"
    static[32:40] = (64).to_bytes(8, "little")
    static[54:56], static[56:58] = (56).to_bytes(2, "little"), (1).to_bytes(2, "little")
    static[64:68] = (1).to_bytes(4, "little")
    assert is_static(bytes(static))
    static[64:68] = (3).to_bytes(4, "little")
    assert not is_static(bytes(static))
