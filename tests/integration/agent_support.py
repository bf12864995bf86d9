# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Docker host for the agent's tests: a network namespace with two NICs, the other ends of their cables, an engine."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import pytest

from agents.docker.containers import Owner
from agents.docker.driver import DockerDriver
from agents.docker.engine import Engine
from agents.participant import AgentLimits, AgentParticipant
from agents.secrets import Secrets
from rdmp.participant import Effect, Transaction

HOST = f"agt-{os.getpid()}-h1"  # network namespaces; two test runs on one machine must not meet
WIRE = f"agt-{os.getpid()}-net"
CGROUP = HOST
WEB = "agt-web:1"
CLUSTER = "test"
FABRIC_MAC = "02:fa:00:00:00:01"
GATEWAY = "169.254.1.1"
START_TIMEOUT = 30.0
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, check: bool = True) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """Put this thread, and every thread it starts meanwhile, into a network namespace, as the agent is on its host."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        _setns(there)
        yield
    finally:
        _setns(home)
        os.close(home)
        os.close(there)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


async def eventually(holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until something holds. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("it did not come true")
        await asyncio.sleep(0.05)


class DockerHost:
    """One host with its engine. The peers of its NICs eth0 and eth1 are wire0 and wire1 in the namespace WIRE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = f"unix://{folder}/docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    def up(self) -> None:
        """Make namespaces and cables and start the engine."""
        for netns in (HOST, WIRE):
            run("ip", "netns", "del", netns, check=False)
            run("ip", "netns", "add", netns)
            run("ip", "-n", netns, "link", "set", "lo", "up")
        self.cable()
        self.start_engine()
        self.client.import_image_from_data(_web_archive(), *WEB.split(":"), changes=['CMD ["httpd","-f","-p","8080"]'])

    def cable(self) -> None:
        """Connect both NICs; checksums are filled in by the sender, as on a real cable.

        Were the indices of both ends equal, the kernel would tell of a lost carrier up to a second late
        (net/core/link_watch.c).
        """
        for number in (0, 1):
            nic, peer, index = f"eth{number}", f"wire{number}", str(100 + number)
            run(
                "ip", "link", "add", nic, "index", index, "netns", HOST, "type", "veth", "peer", "name", peer,
                "netns", WIRE,
            )  # fmt: skip
            for netns, name in ((HOST, nic), (WIRE, peer)):
                run("nsenter", f"--net=/run/netns/{netns}", "ethtool", "-K", name, "tx", "off")
                run("ip", "-n", netns, "link", "set", name, "up")

    def uncable(self) -> None:
        """Take both NICs out of the host."""
        for number in (0, 1):
            run("ip", "-n", HOST, "link", "del", f"eth{number}")

    def set_wire(self, number: int, state: str) -> None:
        """Set the far end of a cable `up` or `down`."""
        run("ip", "-n", WIRE, "link", "set", f"wire{number}", state)

    def start_engine(self) -> None:
        """Start dockerd and wait until it answers."""
        containerd = self.folder / "exec/containerd/containerd.pid"
        # A dead containerd that nobody has reaped yet would make dockerd wait for it.
        containerd.unlink(missing_ok=True)
        (self.folder / "docker.pid").unlink(missing_ok=True)
        arguments = [
            "nsenter", f"--net=/run/netns/{HOST}", "dockerd", "-H", self.socket,
            "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec",
            "--pidfile", f"{self.folder}/docker.pid", "--storage-driver", "overlay2", "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--userland-proxy=false",
            "--exec-opt", "native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{CGROUP}", "--live-restore",
        ]  # fmt: skip
        with (self.folder / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._client = docker.APIClient(base_url=self.socket, version="auto", timeout=30)
                return
            except docker.errors.DockerException:
                if time.monotonic() > end or self._daemon.poll() is not None:
                    raise
                time.sleep(0.05)

    def kill_engine(self) -> None:
        """End dockerd as a crash would; containers live on."""
        assert self._daemon is not None
        pid = int((self.folder / "docker.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self._daemon.wait(10)
        self.client.close()

    def power_off(self) -> None:
        """End everything of the host at once, and take its NICs."""
        self.kill_engine()
        containerd = self.folder / "exec/containerd/containerd.pid"
        pids = [int(containerd.read_text())] if containerd.exists() else []
        pids += [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_shim(entry)]
        pids += [int(line) for path in _cgroups() for line in path.read_text().split()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.uncable()

    def _is_shim(self, entry: Path) -> bool:
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return False
        return "containerd-shim" in words and f"{self.folder}/exec/" in words

    def down(self) -> None:
        """End the engine and its containers and remove the namespaces."""
        self.clear()
        assert self._daemon is not None
        self._daemon.terminate()
        self._daemon.wait(20)
        for netns in (HOST, WIRE):
            run("ip", "netns", "del", netns, check=False)
        for group in Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"):
            for path in sorted(group.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
            group.rmdir()
        self.unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def unmount(self, folder: Path) -> None:
        """Unmount everything below a folder."""
        points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in sorted(points, reverse=True):
            if point.startswith(f"{folder}/"):
                run("umount", point)

    def clear(self) -> None:
        """Remove all containers and volumes."""
        for item in self.client.containers(all=True):
            self.client.remove_container(item["Id"], v=True, force=True)
        for volume in self.client.volumes()["Volumes"] or ():
            self.client.remove_volume(volume["Name"])

    @property
    def client(self) -> Any:
        """docker-py's client of this engine."""
        return self._client

    def names(self, *, pool: bool = False) -> list[str]:
        """Return the names of all containers, those of the pool only if asked for."""
        names = [item["Names"][0].lstrip("/") for item in self.client.containers(all=True)]
        return sorted(name for name in names if pool or not name.startswith("odyssey-pool-"))

    def inspect(self, name: str) -> dict[str, Any]:
        """Return a container."""
        found: dict[str, Any] = self.client.inspect_container(name)
        return found

    def identities(self) -> dict[str, str]:
        """Return the ids of all containers but the pool's, by name."""
        return {name: self.inspect(name)["Id"] for name in self.names()}

    def pid(self, name: str) -> int:
        """Return the first process of a container."""
        return int(self.inspect(name)["State"]["Pid"])

    def in_node(self, node: str, *command: str, check: bool = True) -> str:
        """Run a program of this machine in a node's network namespace."""
        return run("nsenter", "-t", str(self.pid(f"{node}.sandbox")), "-n", *command, check=check)

    def link_names(self, node: str) -> list[str]:
        """Return the links in a node's network namespace."""
        return sorted(item["ifname"] for item in json.loads(self.in_node(node, "ip", "-j", "link")))


def _cgroups() -> list[Path]:
    return list(Path(f"/sys/fs/cgroup/pids/{CGROUP}").rglob("cgroup.procs"))


def _web_archive() -> bytes:
    """An image of busybox with its commands and a page, as a tar archive."""
    program = Path("/bin/busybox").read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content, mode in (
            ("bin/busybox", program, 0o755),
            ("healthz", b"well\n", 0o644),
            ("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644),
        ):
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(content), mode
            tar.addfile(file, io.BytesIO(content))
        for name in run("busybox", "--list").split():
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        tmp = tarfile.TarInfo("tmp")
        tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(tmp)
    return buffer.getvalue()


def node_spec(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the specification of a web node; `changes` replace fields."""
    document: dict[str, Any] = {
        "node": f"shop-app-{number}",
        "platform": "shop",
        "network": "app",
        "address": f"172.16.20.{number}",
        "mac": f"02:00:ac:10:14:{number:02x}",
        "image": WEB,
        "imageId": None,
        "command": None,
        "environment": {"LOG_LEVEL": "info"},
        "secrets": {},
        "volume": None,
        "resources": {"cpus": 0.5, "memoryMiB": 32},
        "health": {"type": "http", "port": 8080, "path": "/healthz", "interval": 0.2, "timeout": 1.0, "deadline": 20},
        "onChange": None,
        "nics": ["eth0", "eth1"],
        "gateway": GATEWAY,
        "fabricMac": FABRIC_MAC,
        "mtu": 1500,
        "neighbours": neighbours(f"shop-app-{number}", 1),
    }
    return {**document, **changes}


def neighbours(node: str, revision: int, *addresses: str) -> dict[str, Any]:
    """Return a neighbours document."""
    nodes = [{"node": f"shop-db-{number}", "address": address} for number, address in enumerate(addresses, 1)]
    ports = [{"protocol": "tcp", "port": 5432}]
    return {"node": node, "revision": revision, "dependencies": {"db": {"ports": ports, "nodes": nodes}}}


def operation(start: Sequence[Mapping[str, Any]] = (), **stages: Any) -> dict[str, Any]:
    """Return an operation."""
    return {"prepare": {"start": list(start)} if start else None, "stages": stages}


class Agent:
    """One run of the agent's participant in this process; `state` is what its journal would hold."""

    def __init__(
        self, host: DockerHost, folder: Path, state: Mapping[str, Mapping[str, Any]], *, pool: int = 0
    ) -> None:
        self.folder = folder
        self.secrets_dir = folder / "secrets-source"
        self.secrets_dir.mkdir(exist_ok=True)
        self.driver = DockerDriver(
            Engine(host.socket),
            Owner(CLUSTER, "h1"),
            folder / "state",
            Secrets(self.secrets_dir, host.folder / "run/secrets"),
            pool_size=pool,
            stop_grace=1.0,
        )
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        limits = AgentLimits(restore_interval=0.5)
        self.participant = AgentParticipant(self.driver, "h1", self._publish, limits)
        self.state: dict[str, Mapping[str, Any]] = dict(state)
        self._seq = 0

    async def _publish(self, topic: str, data: Mapping[str, Any]) -> None:
        self.events.append((topic, data))

    async def open(self) -> None:
        """Do what the daemon does before it serves."""
        await self.driver.open()
        await self.participant.restore(self.state, ())

    def transaction(self, identity: str, document: Mapping[str, Any], deadline: float = 60.0) -> Transaction:
        """Return a transaction with the next number."""
        self._seq += 1
        return Transaction(identity, self._seq, 1, document, deadline)

    async def commit(self, tx: Transaction) -> list[Effect]:
        """Carry out every stage and keep the state documents."""
        effects = []
        for stage in tx.operation["stages"]:
            effect = await self.participant.commit(tx, stage)
            for key, document in effect.state.items():
                if document is None:
                    self.state.pop(key, None)
                else:
                    self.state[key] = json.loads(json.dumps(document))
            effects.append(effect)
        return effects

    async def add(self, identity: str, *specs: Mapping[str, Any]) -> list[Effect]:
        """Prepare and commit new nodes."""
        names = [spec["node"] for spec in specs]
        tx = self.transaction(identity, operation(specs, admit={"nodes": names}))
        return [await self.participant.prepare(tx), *await self.commit(tx)]


@contextlib.contextmanager
def docker_host(folder: Path) -> Iterator[DockerHost]:
    """A host that is up, for the tests of one module."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    host = DockerHost(folder)
    host.up()
    try:
        yield host
    finally:
        host.down()


@contextlib.asynccontextmanager
async def running_agent(
    host: DockerHost, folder: Path, state: Mapping[str, Mapping[str, Any]] | None = None, *, pool: int = 0
) -> AsyncIterator[Agent]:
    """An agent without its background work; it lets go of the host at the end."""
    agent = Agent(host, folder, state or {}, pool=pool)
    await agent.open()
    try:
        yield agent
    finally:
        await agent.driver.close()
