# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lab as a whole: brought up, looked at, disturbed, taken down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from odyssey.lab import bootstrap, claim, netns, processes, topology
from odyssey.lab.daemons import ROOT, Daemons, script
from odyssey.lab.engines import Engine
from odyssey.lab.images import SOURCES, Images
from odyssey.lab.settings import MANAGEMENT_ADDRESS, Settings
from odyssey.lab.shell import LabError, Progress, tail, unmount_below, wait_until
from odyssey.lab.switches import Switch

T = TypeVar("T")

INVENTORY = ROOT / "examples" / "lab" / "inventory.json"

SWITCH_TIMEOUT = 30.0
"""Seconds until a switch is connected to a controller that listens."""

CTL_TIMEOUT = 600.0
"""Seconds that one command of odysseyctl may take."""


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
        self.daemons = Daemons(self.settings)

    def up(self, progress: Progress = silent, *, images: bool = True) -> None:
        """Bring up everything, join the hosts and set the inventory; what runs already stays as it is.

        With `images` the images of the shop example are built (once) and loaded too. Raises LabError that says what did
        not come up and why.
        """
        with claim.locked(self.settings):
            fresh = bootstrap.is_fresh(self.settings)
            bootstrap.prepare(self.settings)
            self._infrastructure(progress, with_controller=True)
            if fresh:  # an engine that was dead when the last cluster was forgotten still has its containers
                _together(Engine.clear, self.engines.values())
            with ThreadPoolExecutor(max_workers=1) as beside:
                loading = beside.submit(self.images, progress=progress) if images else None
                self._cluster(progress, fresh=fresh)
                if loading is not None:
                    loading.result()

    def infrastructure_up(self, progress: Progress = silent) -> None:
        """Bring up hosts, switches and wires, but no daemon and no controller for the switches."""
        with claim.locked(self.settings):
            self._infrastructure(progress, with_controller=False)

    def images(self, sources: Path = SOURCES, progress: Progress = silent) -> Mapping[str, str]:
        """Build the example's images unless they are in the cache, and load them where they are missing.

        Returns image ids by reference.
        """
        engines = [engine.api for engine in self.engines.values()]
        return Images(self.settings.cache, sources).ensure(engines, progress)

    def load_image(self, tar: Path) -> None:
        """Load a file that `docker save` wrote into every engine."""
        _together(lambda engine: engine.api.load(tar), self.engines.values())

    def down(self, *, wipe: bool = False, progress: Progress = silent) -> None:
        """Stop everything and forget the cluster: containers, volumes, certificates, state of all daemons.

        Logs and the engines' images stay, so that the next `up` is fast; with `wipe` the whole directory goes.
        """
        claim.check_prefix(self.settings, self._clear_namespaces)
        if self.settings.directory.exists():
            with claim.locked(self.settings):
                self._stop(progress)
        else:
            self._clear_namespaces()
        claim.release(self.settings)
        if wipe and self.settings.directory.exists():
            shutil.rmtree(self.settings.directory)
            progress(f"{self.settings.directory} is removed")

    def status(self) -> LabStatus:
        """Look at every part."""
        parts = [self._engine_status(engine) for engine in self.engines.values()]
        parts += [self._switch_status(switch) for switch in self.switches.values()]
        parts += [self._daemon_status(name) for name in self.daemons.names]
        return LabStatus(self.settings.directory, tuple(parts))

    def start_daemon(self, name: str) -> int:
        """Start `odysseyd`, `controller` or `agent-HOST` unless it runs; return its process number.

        It may take a moment until it serves: `wait_connected` waits for all.
        """
        return self.daemons.start(name)

    def stop_daemon(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal a daemon and wait for its end; nothing if it does not run."""
        self.daemons.stop(name, number)

    def kill_daemon(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a daemon without a chance to tidy up."""
        self.daemons.stop(name, number)

    def pid(self, name: str) -> int | None:
        """The process number of a daemon, or None."""
        return self.daemons.pid(name)

    def wait_connected(self) -> None:
        """Wait until odysseyd answers and all participants and switches are connected."""
        self.daemons.wait_served("odysseyd")
        self.daemons.wait_connected()
        self._wait_switches()

    def ctl(self, *arguments: str, timeout: float = CTL_TIMEOUT) -> subprocess.CompletedProcess[str]:
        """Run odysseyctl against this lab; the exit code is the caller's to judge."""
        environment = {**os.environ, "ODYSSEY_LAB": str(self.settings.directory), "NO_COLOR": "1"}
        command = [script("odysseyctl"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)

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

    def _infrastructure(self, progress: Progress, *, with_controller: bool) -> None:
        """Namespaces, cables, engines and switches."""
        started = time.monotonic()
        claim.check_prefix(self.settings, self._clear_namespaces)
        claim.hold(self.settings)
        for name in self._namespaces:
            netns.create(self.settings.netns(name))
        for engine in self.engines.values():
            engine.start()
        self._wires()
        certificates = bootstrap.pki_directory if with_controller else lambda *_: None
        _together(lambda switch: switch.up(certificates(self.settings, switch.name)), self.switches.values())
        progress(f"switches {', '.join(self.switches)} are up")
        _together(lambda engine: engine.wait(), self.engines.values())
        progress(f"Docker engines on {', '.join(self.engines)} answer ({time.monotonic() - started:.1f} s)")

    def _cluster(self, progress: Progress, *, fresh: bool) -> None:
        """Start all daemons, join the hosts, connect the switches, set the inventory."""
        started = time.monotonic()
        self.daemons.start("odysseyd")
        self.daemons.start("controller")
        self.daemons.wait_served("odysseyd")
        progress("odysseyd serves")
        _together(self.daemons.join, self.settings.hosts)
        for name in self.daemons.names:
            self.daemons.start(name)
        self.daemons.wait_served("controller")
        _together(lambda switch: switch.set_controller(), self.switches.values())
        self.daemons.wait_connected()
        self._wait_switches()
        progress(f"hosts and switches are connected ({time.monotonic() - started:.1f} s)")
        if fresh or not self.daemons.call("state.get", {"prefix": "inventory"}).get("documents"):
            document = json.loads(INVENTORY.read_text(encoding="utf-8"))
            service_call = {"SYSServiceID": "setInventory", "id": f"lab-{uuid.uuid4().hex[:12]}"}
            answer = self.daemons.call("service.call", {**service_call, "data": [{"System": {"document": document}}]})
            if answer.get("state") != "done":
                raise LabError(f"the inventory was not accepted: {json.dumps(answer.get('error'))}")
            progress(f"inventory set: {', '.join(document['hosts'])}")

    def _wait_switches(self) -> None:
        for switch in self.switches.values():
            try:
                wait_until(switch.connected, SWITCH_TIMEOUT, f"{switch.name} connected to the controller", poll=0.1)
            except LabError as error:
                raise LabError(f"{error}{tail(self.daemons.log('controller'))}") from error

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

    def _stop(self, progress: Progress) -> None:
        self.daemons.stop_all()
        progress("daemons are down")
        _together(_engine_down, self.engines.values())
        progress(f"Docker engines on {', '.join(self.engines)} are down")
        processes.stop([target for switch in self.switches.values() for target in switch.pids()])
        self._clear_namespaces()
        unmount_below(self.settings.directory)
        bootstrap.forget(self.settings)
        progress("switches and wires are gone")

    @property
    def _namespaces(self) -> tuple[str, ...]:
        return (*self.settings.hosts, *self.settings.switches, "mgmt", "edge")

    def _clear_namespaces(self) -> None:
        """End whatever runs in the lab's namespaces and control groups, and remove them."""
        for name in self._namespaces:
            namespace = self.settings.netns(name)
            processes.stop([(f"pid {pid} in {namespace}", pid) for pid in netns.processes(namespace)])
            netns.delete(namespace)
        for engine in self.engines.values():
            engine.kill_rest()

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

    def _daemon_status(self, name: str) -> Part:
        pid = self.daemons.pid(name)
        return Part(name, pid is not None, f"log {self.daemons.log(name)}" if pid is None else f"pid {pid}")


def _engine_down(engine: Engine) -> None:
    engine.clear()
    engine.stop()


def _together(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do the same to all items at once; raises the first error after all have ended."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        for result in [pool.submit(work, item) for item in items]:
            result.result()
