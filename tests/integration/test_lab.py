# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lab's hosts, switches and wires, without daemons."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from odyssey.lab import Lab, LabError, Settings, netns, processes
from odyssey.lab.shell import run, wait_until
from odyssey.lab.switches import Switch

pytestmark = pytest.mark.lab

SILENT_PING = ["ping", "-q", "-c", "1", "-W", "1"]


def silent(_: str) -> None:
    """Progress is of no interest here."""


def settings_below(directory: Path, prefix: str) -> Settings:
    return Settings(directory=directory / "lab", cache=directory / "cache", prefix=prefix)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short name: the engines' sockets lie deep below it."""
    with tempfile.TemporaryDirectory(prefix="labt-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    with tempfile.TemporaryDirectory(prefix="labt-", dir="/tmp") as directory:
        made = Lab(settings_below(Path(directory), "labt"))
        try:
            made.infrastructure_up(silent)
            yield made
        finally:
            made.down(wipe=True)


def pids(lab: Lab) -> list[int | None]:
    switches = [switch.pid(daemon) for switch in lab.switches.values() for daemon in ("ovsdb-server", "ovs-vswitchd")]
    return [*(engine.pid for engine in lab.engines.values()), *switches]


def ofctl(switch: Switch, *arguments: str) -> str:
    command, *rest = arguments
    return run(["ovs-ofctl", "-O", "OpenFlow13", command, f"unix:{switch.management_socket}", *rest])


def reaches(lab: Lab, name: str, address: str) -> bool:
    command = netns.inside(lab.settings.netns(name), [*SILENT_PING, address])
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def carrier(lab: Lab, host: str, nic: str) -> bool:
    return "LOWER_UP" in netns.links(lab.settings.netns(host))[nic]["flags"]


def test_three_engines_answer_each_with_containers_of_its_own(lab: Lab) -> None:
    assert [engine.api.ping() for engine in lab.engines.values()] == [True] * 3
    assert [engine.api.containers() for engine in lab.engines.values()] == [[]] * 3
    assert len({engine.pid for engine in lab.engines.values()}) == 3


def test_the_switches_are_as_the_inventory_says(lab: Lab) -> None:
    for switch in lab.switches.values():
        described = switch.vsctl("--format=csv", "--no-heading", "--columns=fail_mode,protocols", "list", "bridge")
        assert described.split(",") == ["secure", "[OpenFlow13]\n"]
        assert f"dpid:{switch.number:016x}" in ofctl(switch, "show")
        assert "actions=" not in ofctl(switch, "dump-flows")


def test_every_host_and_switch_reaches_the_management_address(lab: Lab) -> None:
    names = (*lab.settings.hosts, *lab.settings.switches)
    assert {name: reaches(lab, name, "192.0.2.1") for name in names} == dict.fromkeys(names, True)


def test_a_switch_without_entries_forwards_nothing(lab: Lab) -> None:
    first = lab.switches["sw1"]
    for host, address in (("h1", "198.51.100.1"), ("h2", "198.51.100.2")):
        netns.ip(lab.settings.netns(host), f"address add {address}/24 dev eth0")
    try:
        assert not reaches(lab, "h1", "198.51.100.2")
        ofctl(first, "add-flow", "in_port=1,actions=output:2")
        ofctl(first, "add-flow", "in_port=2,actions=output:1")
        wait_until(lambda: reaches(lab, "h1", "198.51.100.2"), 10, "ping through two entries")
    finally:
        ofctl(first, "del-flows")
        for host in ("h1", "h2"):
            netns.ip(lab.settings.netns(host), "address flush dev eth0")


def test_a_pulled_cable_takes_the_carrier_from_both_ends(lab: Lab) -> None:
    lab.pull_cable("h2", 0)
    wait_until(lambda: not carrier(lab, "h2", "eth0"), 5, "loss of the carrier")
    assert carrier(lab, "h2", "eth1")
    assert "LINK_DOWN" in ofctl(lab.switches["sw1"], "dump-ports-desc", "2")
    lab.plug_cable("h2", 0)
    wait_until(lambda: carrier(lab, "h2", "eth0"), 5, "return of the carrier")


def test_a_second_up_changes_nothing_and_repairs_what_is_missing(lab: Lab) -> None:
    before = pids(lab)
    lab.infrastructure_up(silent)
    assert pids(lab) == before
    lab.pull_cable("h1", 1)
    lab.infrastructure_up(silent)
    wait_until(lambda: carrier(lab, "h1", "eth1"), 5, "return of the carrier")


def test_a_host_without_power_is_gone_and_comes_back_on_the_same_ports(lab: Lab) -> None:
    others = [lab.engines[host].pid for host in ("h1", "h2")]
    lab.poweroff("h3")
    assert lab.engines["h3"].pid is None
    assert not lab.netns("h3").exists()
    assert {part.name: part.up for part in lab.status().parts}["h3"] is False
    lab.infrastructure_up(silent)
    assert lab.engines["h3"].api.ping()
    assert [lab.engines[host].pid for host in ("h1", "h2")] == others
    wait_until(lambda: carrier(lab, "h3", "eth0"), 5, "return of the carrier")


def test_a_killed_engine_is_started_again(lab: Lab) -> None:
    pid = lab.engines["h1"].pid
    assert pid is not None
    processes.stop([("dockerd", pid)], number=signal.SIGKILL)
    assert not lab.engines["h1"].api.ping()
    lab.infrastructure_up(silent)
    assert lab.engines["h1"].api.ping()
    assert lab.engines["h1"].pid != pid


def test_a_second_lab_stands_beside_the_first(lab: Lab, short_path: Path) -> None:
    second = Lab(settings_below(short_path, "labu"))
    before = pids(lab)
    try:
        second.infrastructure_up(silent)
        assert reaches(second, "h1", "192.0.2.1")
        assert set(pids(second)).isdisjoint(before)
    finally:
        second.down(wipe=True)
    assert pids(lab) == before


def test_another_lab_with_the_same_prefix_is_refused(lab: Lab, short_path: Path) -> None:
    before = pids(lab)
    for action in (Lab.infrastructure_up, Lab.down):
        with pytest.raises(LabError, match="prefix labt is used by"):
            action(Lab(settings_below(short_path, "labt")))
    assert pids(lab) == before


def test_down_leaves_nothing_behind(short_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    made = Lab(settings_below(short_path, "labd"))
    try:
        made.infrastructure_up(silent)
    finally:
        made.down(wipe=True)
    assert not made.settings.directory.exists()
    assert not [name for name in os.listdir("/run/netns") if name.startswith("labd-")]
    assert str(made.settings.directory) not in Path("/proc/mounts").read_text(encoding="utf-8")
    running = [processes.command_line(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    assert not [line for line in running if str(made.settings.directory) in line]
    assert not list(Path("/sys/fs/cgroup").glob("labd-*")) + list(Path("/sys/fs/cgroup").glob("*/labd-*"))


def test_down_of_what_is_no_lab_touches_nothing(short_path: Path) -> None:
    settings = settings_below(short_path, "labx")
    settings.directory.mkdir()
    (settings.directory / "letters.txt").write_text("dear")
    with pytest.raises(LabError, match="is no lab"):
        Lab(settings).down(wipe=True)
    assert (settings.directory / "letters.txt").read_text() == "dear"
