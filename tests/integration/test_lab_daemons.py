# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole lab with its daemons: up, up again, daemons killed, down and forgotten."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from odyssey.lab import Lab, LabError, Settings, bootstrap
from odyssey.lab.shell import run
from rdmp.tls import TlsFiles

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

OTHERS = ("controller", "agent-h1", "agent-h3")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    with tempfile.TemporaryDirectory(prefix="labv-", dir="/tmp") as directory:
        made = Lab(Settings(directory=Path(directory) / "lab", cache=Path(directory) / "cache", prefix="labv"))
        try:
            made.up(images=False)
            yield made
        finally:
            made.down(wipe=True)


def test_everything_is_up_and_connected(lab: Lab) -> None:
    status = lab.status()
    assert {part.name for part in status.parts if not part.up} == set()
    assert {part.name for part in status.parts} == {*lab.engines, *lab.switches, *lab.daemons.names}
    assert all(switch.connected() for switch in lab.switches.values())
    peers = {str(peer["name"]): str(peer["role"]) for peer in lab.daemons.call("status", {})["peers"]}
    assert peers.items() >= {"controller": "controller", "h1": "agent", "h2": "agent", "h3": "agent"}.items()


def test_every_agent_joined_under_its_own_name(lab: Lab) -> None:
    for host in lab.settings.hosts:
        pki = bootstrap.agent_directory(lab.settings, host) / "pki"
        identity = TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem").identity()
        assert str(identity) == f"odyssey://lab/agent/{host}"
        assert stat.S_IMODE((pki / "key.pem").stat().st_mode) == 0o600


def test_the_hosts_share_a_secret_that_only_root_can_read(lab: Lab) -> None:
    files = [bootstrap.agent_directory(lab.settings, host) / "secrets" / "db-password" for host in lab.settings.hosts]
    assert len({file.read_text() for file in files}) == 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_odysseyctl_works_against_the_lab(lab: Lab) -> None:
    answer = lab.ctl("host", "ls", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    assert all(host in answer.stdout for host in lab.settings.hosts)


def test_a_second_up_leaves_every_daemon_as_it_is(lab: Lab) -> None:
    before = {name: lab.pid(name) for name in lab.daemons.names}
    lab.up(images=False)
    assert {name: lab.pid(name) for name in lab.daemons.names} == before


def test_killed_daemons_come_back_with_their_state(lab: Lab) -> None:
    before = {name: lab.pid(name) for name in OTHERS}
    epoch = lab.daemons.call("status", {})["epoch"]
    for name in ("odysseyd", "agent-h2"):
        lab.kill_daemon(name)
        assert lab.pid(name) is None
    lab.up(images=False)
    assert {name: lab.pid(name) for name in OTHERS} == before
    status = lab.daemons.call("status", {})
    assert status["epoch"] > epoch
    assert lab.daemons.call("inventory.show", {})["document"]["cluster"] == "lab"


def test_an_unknown_daemon_is_named(lab: Lab) -> None:
    with pytest.raises(LabError, match="there is no daemon agent-h9; there are odysseyd, controller"):
        lab.start_daemon("agent-h9")


def test_down_forgets_the_cluster_and_keeps_the_logs(lab: Lab) -> None:
    lab.down()
    assert bootstrap.is_fresh(lab.settings)
    assert lab.daemons.log("odysseyd").stat().st_size > 0
    assert list(lab.settings.directory.glob("*/**/*.pem")) == []
    lab.up(images=False)
    assert lab.status().up


def test_containers_of_a_dead_engine_are_forgotten_too(lab: Lab, tmp_path: Path) -> None:
    engine = lab.engines["h1"]
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    engine.api.import_rootfs(tmp_path / "empty.tar", "empty:1")
    run(["docker", "--host", f"unix://{engine.api.path}", "create", "--name", "left-over", "empty:1", "/nothing"])
    lab.poweroff("h1")
    lab.down()
    lab.up(images=False)
    assert [one["Names"] for one in engine.api.containers() if "/left-over" in one["Names"]] == []
    assert lab.status().up
