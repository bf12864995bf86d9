# SPDX-License-Identifier: AGPL-3.0-or-later
"""Docker hosts: for each a dockerd of its own in the host's network namespace, with a control group of its own."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from odyssey.lab import netns, processes
from odyssey.lab.engineapi import EngineApi
from odyssey.lab.processes import Process
from odyssey.lab.settings import Settings
from odyssey.lab.shell import LabError, tail, unmount_below, wait_until

START_TIMEOUT = 60.0
"""Seconds until an engine answers: 0.5 on an idle machine."""

STOP_TIMEOUT = 20.0

CGROUPS = Path("/sys/fs/cgroup")


class Engine:
    """The Docker engine of one host."""

    def __init__(self, settings: Settings, host: str) -> None:
        self.host = host
        self.directory = settings.directory / host
        self.netns = settings.netns(host)
        self.api = EngineApi(settings.docker_socket(host))
        self._pidfile = self.directory / "docker.pid"
        self._containerd_pidfile = self.directory / "exec" / "containerd" / "containerd.pid"
        self._log = self.directory / "dockerd.log"
        self._cgroup = self.netns
        self._starting: int | None = None

    @property
    def pid(self) -> int | None:
        """The process number of the engine, or None."""
        return processes.pid_of(self._pidfile, str(self.directory))

    def start(self) -> None:
        """Start the engine unless it runs; `wait` waits until it answers."""
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self.api.path.unlink(missing_ok=True)
        # The pid file of a containerd that is dead, or dying after its engine, holds a new dockerd up for 15 s; then it
        # gives up.
        containerd = processes.pid_of(self._containerd_pidfile, str(self.directory))
        if containerd is not None:
            processes.stop([(f"{self.host} containerd", containerd)], number=signal.SIGKILL)
        self._containerd_pidfile.unlink(missing_ok=True)
        self._starting = processes.start(self._process())

    def wait(self) -> None:
        """Wait until the engine answers. Raises LabError with the end of its log if it does not."""

        def ready() -> bool:
            if self._starting is not None and not processes.alive(self._starting):
                raise LabError(f"{self.host}: dockerd ended at once{tail(self._log)}")
            return self.api.ping()

        wait_until(ready, START_TIMEOUT, f"{self.host}: Docker engine answers", self._log)

    def clear(self) -> None:
        """Kill and remove all containers and volumes; nothing if the engine does not answer."""
        if not self.api.ping():
            return
        for container in self.api.containers():
            self.api.remove_container(container["Id"])
        self.api.remove_volumes()

    def stop(self) -> None:
        """End the engine and what is left of its containers."""
        if self.pid is not None:
            processes.stop([(f"{self.host} dockerd", self.pid)], timeout=STOP_TIMEOUT)
        self.kill_rest()

    def kill(self) -> None:
        """End everything of the host at once, as a loss of power does; what lay in memory (mounts, /run) goes too."""
        pid = self.pid
        if pid is not None:
            processes.send(pid, signal.SIGKILL)
        self.kill_rest()
        if pid is not None:
            processes.stop([(f"{self.host} dockerd", pid)], number=signal.SIGKILL)
        unmount_below(self.directory)
        shutil.rmtree(self.directory / "exec", ignore_errors=True)

    def kill_rest(self) -> None:
        """Kill containerd, its shims and all processes in the host's control group; remove the group."""
        targets = [(f"{self.host} pid {pid}", pid) for pid in {*self._helpers(), *self._contained()}]
        processes.stop(targets, number=signal.SIGKILL)
        self._containerd_pidfile.unlink(missing_ok=True)
        for group in self._groups():
            for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                with suppress(OSError):
                    folder.rmdir()
            with suppress(OSError):
                group.rmdir()

    def _helpers(self) -> Iterator[int]:
        """containerd and its shims: their command lines name the engine's exec folder."""
        mark = f"{self.directory}/exec/"
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                line = processes.command_line(int(entry.name))
                if mark in line and line.split()[0].rpartition("/")[2].startswith("containerd"):
                    yield int(entry.name)

    def _contained(self) -> Iterator[int]:
        for group in self._groups():
            for file in group.rglob("cgroup.procs"):
                with suppress(OSError):
                    yield from (int(pid) for pid in file.read_text().split())

    def _groups(self) -> list[Path]:
        """The host's control group in every hierarchy (one with cgroup v2, one for each controller with v1)."""
        places = [CGROUPS, *(path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink())]
        return [group for place in places if (group := place / self._cgroup).is_dir()]

    def _process(self) -> Process:
        directory = self.directory
        dockerd = shutil.which("dockerd") or "/usr/sbin/dockerd"
        argv = [
            dockerd,
            f"--host=unix://{self.api.path}",
            f"--data-root={directory}/data",
            f"--exec-root={directory}/exec",
            f"--pidfile={self._pidfile}",
            "--live-restore",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--userland-proxy=false",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self._cgroup}",
            f"--label=host={self.host}",
            "--max-concurrent-downloads=1",
            "--log-opt=max-size=10m",
        ]
        return Process(
            name=f"{self.host} dockerd",
            argv=tuple(netns.inside(self.netns, argv)),
            pidfile=self._pidfile,
            log=self._log,
            mark=str(directory),
            writes_pidfile=True,
        )
