# SPDX-License-Identifier: AGPL-3.0-or-later
"""The daemons of the lab: `odysseyd`, `controller` and one `agent-HOST` for each host."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odyssey.lab import bootstrap, netns, processes
from odyssey.lab.processes import Process
from odyssey.lab.settings import ENROL_PORT, MANAGEMENT_ADDRESS, OPENFLOW_PORT, Settings
from odyssey.lab.shell import LabError, run, tail, wait_until
from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.rpc import RpcError

ROOT = Path(__file__).resolve().parents[2]

READY_TIMEOUT = 60.0
"""Seconds until a started daemon serves."""

CONNECT_TIMEOUT = 60.0
"""Seconds until all participants are connected."""

CALL_TIMEOUT = 60.0

CALL_POLL = 0.1
"""Seconds between two questions to odysseyd while the lab waits for something."""

JOIN_TIMEOUT = 60.0

TOKEN_LIFETIME = 600
"""Seconds for which a join token is good."""

LISTENING = "0A"
"""State of a listening socket in /proc/net/tcp (proc(5), include/net/tcp_states.h)."""


class Daemons:
    """All daemons of one lab."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        agents = {f"agent-{host}": self._agent(host) for host in settings.hosts}
        self._processes: Mapping[str, Process] = {
            "odysseyd": self._management("odysseyd", "odysseyd"),
            "controller": self._management("controller", "odyssey-controller"),
            **agents,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """All daemons, odysseyd first."""
        return tuple(self._processes)

    def log(self, name: str) -> Path:
        """The log file of a daemon."""
        return self._process(name).log

    def pid(self, name: str) -> int | None:
        """The process number of a daemon, or None."""
        process = self._process(name)
        return processes.pid_of(process.pidfile, process.mark)

    def start(self, name: str) -> int:
        """Start a daemon unless it runs; return its process number. It may take a moment until it serves."""
        return processes.start(self._process(name))

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal a daemon and wait for its end; nothing if it does not run."""
        pid = self.pid(name)
        if pid is not None:
            processes.stop([(name, pid)], number=number)

    def stop_all(self) -> None:
        """End all daemons, agents and controller before odysseyd."""
        running = [(name, pid) for name in reversed(self.names) if (pid := self.pid(name)) is not None]
        processes.stop(running)

    def wait_served(self, name: str) -> None:
        """Wait until odysseyd answers, or the controller listens for switches. Raises LabError with the log's end."""
        pid = self.pid(name)

        def ready() -> bool:
            if pid is None or not processes.alive(pid):
                raise LabError(f"{name} ended at once{tail(self.log(name))}")
            return self._answers() if name == "odysseyd" else listens(pid, OPENFLOW_PORT)

        wait_until(ready, READY_TIMEOUT, f"{name} serves", self.log(name), poll=CALL_POLL)

    def wait_connected(self) -> None:
        """Wait until the controller and all agents are connected to odysseyd. Raises LabError that says who is not."""
        wanted = {"controller", *self._settings.hosts}
        missing: set[str] = set(wanted)

        def all_there() -> bool:
            nonlocal missing
            missing = wanted - {str(peer["name"]) for peer in self.call("status", {}).get("peers", [])}
            return not missing

        try:
            wait_until(all_there, CONNECT_TIMEOUT, "all participants connected", poll=CALL_POLL)
        except LabError as error:
            first = sorted(missing)[0]
            name = first if first == "controller" else f"agent-{first}"
            raise LabError(f"not connected to odysseyd: {', '.join(sorted(missing))}{tail(self.log(name))}") from error

    def join(self, host: str) -> None:
        """Let a host's agent join with a one-time token through the enrolment port; nothing if it has joined."""
        pki = bootstrap.agent_directory(self._settings, host) / "pki"
        if (pki / "cert.pem").exists():
            return
        answer = self.call("token.create", {"role": "agent", "name": host, "ttl": TOKEN_LIFETIME})
        server = f"{MANAGEMENT_ADDRESS}:{ENROL_PORT}"
        arguments = ["join", "--server", server, "--name", host, "--token", "-", "--pki", str(pki)]
        command = [script("odyssey-agent"), *arguments]
        inside = netns.inside(self._settings.netns(host), command)
        run(inside, stdin=f"{answer['token']}\n", timeout=JOIN_TIMEOUT)

    def call(self, method: str, params: Mapping[str, Any], timeout: float = CALL_TIMEOUT) -> Mapping[str, Any]:
        """Ask odysseyd something over its Unix socket. Raises LabError with its words."""

        async def ask() -> Mapping[str, Any]:
            async with Client() as client:
                await client.connect(Endpoint("unix", path=str(self._settings.unix_socket)))
                return await client.call(method, params, timeout=timeout)

        try:
            return asyncio.run(ask())
        except (RpcError, OSError) as error:
            raise LabError(f"odysseyd, {method}: {error}") from error

    def _answers(self) -> bool:
        try:
            self.call("status", {}, timeout=5.0)
        except LabError:
            return False
        return True

    def _process(self, name: str) -> Process:
        try:
            return self._processes[name]
        except KeyError:
            raise LabError(f"there is no daemon {name}; there are {', '.join(self.names)}") from None

    def _management(self, name: str, program: str) -> Process:
        """A daemon in the management namespace."""
        directory = self._settings.directory / name
        return self._daemon(name, directory, "mgmt", [program, "--config", str(directory / f"{name}.toml")])

    def _agent(self, host: str) -> Process:
        directory = bootstrap.agent_directory(self._settings, host)
        words = ["odyssey-agent", "run", "--config", str(directory / "agent.toml")]
        return self._daemon(f"agent-{host}", directory, host, words, log=directory.parent / "agent.log")

    def _daemon(self, name: str, directory: Path, place: str, words: list[str], log: Path | None = None) -> Process:
        program, *arguments = words
        return Process(
            name=name,
            argv=tuple(netns.inside(self._settings.netns(place), [script(program), *arguments])),
            pidfile=directory / f"{name}.pid",
            log=log or directory / f"{name}.log",
            mark=f"{directory}/",
        )


def script(name: str) -> str:
    """A program of this package, beside the Python that runs the lab (`.venv/bin`)."""
    return str(Path(sys.executable).with_name(name))


def listens(pid: int, port: int) -> bool:
    """Tell whether somebody listens on a TCP port (IPv4) in the network namespace of a process."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == LISTENING for line in lines)
