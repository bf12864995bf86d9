# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lab as a whole: brought up, looked at, disturbed, taken down."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from odyssey.lab import netns, processes, topology
from odyssey.lab.engines import Engine
from odyssey.lab.settings import MANAGEMENT_ADDRESS, Settings
from odyssey.lab.shell import LabError, Progress, run
from odyssey.lab.switches import Switch

T = TypeVar("T")

MARKER = ".odyssey-lab"
"""A file that tells a lab's directory from any other; `down --wipe` removes nothing without it."""

CLAIMS = Path("/run")
"""Here a file says which lab has a prefix."""

LOCK_TIMEOUT = 60.0
"""Seconds to wait for another lab command that is at work on the same directory."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the lab in a status report."""

    name: str
    up: bool
    detail: str


@dataclass(frozen=True, slots=True)
class LabStatus:
    """What runs, part by part."""

    directory: Path
    parts: tuple[Part, ...]

    @property
    def up(self) -> bool:
        """True if every part is up."""
        return all(part.up for part in self.parts)


def silent(_: str) -> None:
    """A progress listener that says nothing."""


class Lab:
    """Docker hosts, switches, the border client, the management network and all daemons."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_environment()
        self.engines: Mapping[str, Engine] = {host: Engine(self.settings, host) for host in self.settings.hosts}
        self.switches: Mapping[str, Switch] = {name: Switch(self.settings, name) for name in self.settings.switches}

    def up(self, progress: Progress = silent) -> None:
        """Bring up hosts, switches and wires; what runs already stays as it is."""
        with self._locked():
            self._infrastructure(progress)

    def infrastructure_up(self, progress: Progress = silent) -> None:
        """Bring up hosts, switches and wires, but no daemon."""
        with self._locked():
            self._infrastructure(progress)

    def _infrastructure(self, progress: Progress) -> None:
        self._check_prefix()
        self._claim.write_text(str(self.settings.directory), encoding="utf-8")
        started = time.monotonic()
        self._namespaces()
        for engine in self.engines.values():
            engine.start()
        self._wires()
        self._together(lambda switch: switch.up(None), self.switches.values())
        progress(f"switches {', '.join(self.switches)} are up")
        self._together(lambda engine: engine.wait(), self.engines.values())
        progress(f"Docker engines on {', '.join(self.engines)} answer ({time.monotonic() - started:.1f} s)")

    def down(self, *, wipe: bool = False, progress: Progress = silent) -> None:
        """Stop everything, remove all containers and namespaces; with `wipe` the lab's directory too."""
        self._check_prefix()
        if not self.settings.directory.exists():
            self._remove_namespaces()
            return
        with self._locked():
            self._together(self._engine_down, self.engines.values())
            progress(f"Docker engines on {', '.join(self.engines)} are down")
            processes.stop([target for switch in self.switches.values() for target in switch.pids()])
            self._remove_namespaces()
            progress("switches and wires are gone")
        if wipe:
            self._wipe()
            progress(f"{self.settings.directory} is removed")

    def status(self) -> LabStatus:
        """Look at every part."""
        parts = [self._engine_status(engine) for engine in self.engines.values()]
        parts += [self._switch_status(switch) for switch in self.switches.values()]
        return LabStatus(self.settings.directory, tuple(parts))

    def netns(self, name: str) -> Path:
        """The namespace file of a host, a switch, `mgmt` or `edge`."""
        return netns.path(self.settings.netns(name))

    def docker_socket(self, host: str) -> Path:
        """The Unix socket of a host's engine."""
        return self.settings.docker_socket(host)

    def pull_cable(self, host: str, number: int) -> None:
        """Unplug a host's card (0 or 1) from its switch: both ends lose their carrier."""
        netns.set_link(topology.attachment(self.settings, host, number).b, up=False)

    def plug_cable(self, host: str, number: int) -> None:
        """Plug a host's card in again."""
        netns.set_link(topology.attachment(self.settings, host, number).b, up=True)

    def poweroff(self, host: str) -> None:
        """Take a host's power away: everything on it dies at once, its cables go dark; `up` brings it back."""
        namespace = self.settings.netns(host)
        for pid in netns.processes(namespace):
            processes.send(pid, signal.SIGKILL)
        self.engines[host].kill()
        netns.delete(namespace)

    def _namespaces(self) -> None:
        for name in (*self.settings.hosts, *self.settings.switches, "mgmt", "edge"):
            netns.create(self.settings.netns(name))

    def _wires(self) -> None:
        """Lay all cables, the management bridge and the addresses."""
        settings = self.settings
        for cable in topology.fabric_cables(settings):
            netns.connect(cable)
        management = settings.netns("mgmt")
        netns.create_bridge(management, topology.BRIDGE, f"{MANAGEMENT_ADDRESS}/24")
        for name in (*settings.hosts, *settings.switches):
            cable = topology.management(settings, name)
            netns.connect(cable)
            netns.join_bridge(cable.b, topology.BRIDGE)
            netns.set_address(cable.a, f"{settings.management_address(name)}/24")
        client = topology.edge(settings).a
        netns.set_address(client, topology.EDGE_ADDRESS)
        netns.ip(client.netns, f"route replace default via {topology.EDGE_GATEWAY} dev {client.interface}")

    def _engine_down(self, engine: Engine) -> None:
        engine.remove_containers()
        engine.stop()

    def _remove_namespaces(self) -> None:
        for name in (*self.settings.hosts, *self.settings.switches, "mgmt", "edge"):
            namespace = self.settings.netns(name)
            left = [(f"pid {pid} in {namespace}", pid) for pid in netns.processes(namespace)]
            processes.stop(left)
            netns.delete(namespace)
        self._claim.unlink(missing_ok=True)

    def _engine_status(self, engine: Engine) -> Part:
        pid = engine.pid
        if pid is None or not engine.api.ping():
            return Part(engine.host, False, "no engine")
        running = sum(1 for container in engine.api.containers() if container["State"] == "running")
        return Part(engine.host, True, f"dockerd pid {pid}, {running} running containers")

    def _switch_status(self, switch: Switch) -> Part:
        pid = switch.pid("ovs-vswitchd")
        if pid is None or switch.pid("ovsdb-server") is None:
            return Part(switch.name, False, "no switch")
        connected = "connected to the controller" if switch.connected() else "no controller"
        return Part(switch.name, True, f"ovs-vswitchd pid {pid}, {connected}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other lab commands off the same directory. Raises LabError if one stays at work."""
        directory = self.settings.directory
        try:
            if not directory.exists():
                directory.mkdir(parents=True)
                (directory / MARKER).touch()
            if not (directory / MARKER).exists():
                raise LabError(f"{directory} exists and is no lab: choose another by ODYSSEY_LAB")
            lock = (directory / MARKER).open("w")
        except OSError as error:
            raise LabError(f"{directory}: cannot be used: {error}; a lab needs root") from error
        with lock:
            deadline = time.monotonic() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise LabError(f"{directory}: another lab command is at work on it") from error
                    time.sleep(0.2)
            yield

    @property
    def _claim(self) -> Path:
        return CLAIMS / f"odyssey-lab-{self.settings.prefix}"

    def _check_prefix(self) -> None:
        """Raise LabError if another lab has this prefix; end what a lab left whose directory is gone."""
        mine = str(self.settings.directory)
        holder = self._claim.read_text(encoding="utf-8") if self._claim.exists() else mine
        if holder != mine and Path(holder).exists():
            raise LabError(
                f"the prefix {self.settings.prefix} is used by the lab in {holder}: take that down "
                f"(ODYSSEY_LAB={holder}), or choose another by ODYSSEY_LAB_PREFIX"
            )
        if holder != mine:
            self._remove_namespaces()
            for engine in self.engines.values():
                engine.kill_rest()

    def _wipe(self) -> None:
        directory = self.settings.directory
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        for mount in sorted((place for place in mounts if place.startswith(f"{directory}/")), reverse=True):
            run(["umount", mount])
        shutil.rmtree(directory)

    @staticmethod
    def _together(work: Callable[[T], object], items: Iterable[T]) -> None:
        """Do the same to all items at once; raises the first error after all have ended."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            for result in [pool.submit(work, item) for item in items]:
                result.result()
