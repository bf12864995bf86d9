# SPDX-License-Identifier: AGPL-3.0-or-later
"""A NETCONF server like a switch's: Debian's netconfd behind a real sshd, with the modules of a model."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from controller.netconf.device import Management
from controller.netconf.session import Session
from controller.netconf.ssh import SshSession, Waits
from controller.netconf.tree import BASE, Element
from tests.imports import ROOT

OURS = ROOT / "tests/netconf/yang"
YUMA = Path("/usr/share/yuma/modules")
NEEDED = ("/usr/sbin/netconfd", "/usr/sbin/netconf-subsystem", "/usr/sbin/sshd", "/usr/bin/ssh-keygen")
PACKAGES = "apt-get install netconfd openssh-server"
MODULES = {
    "nexus9000": ("Cisco-NX-OS-device",),
    "alliedtelesis": (
        "openconfig-interfaces",
        "openconfig-if-ethernet",
        "openconfig-vlan",
        "openconfig-system",
        "openconfig-openflow",
        "at-openconfig-openflow-ext",
    ),
}
START_SECONDS = 30.0
MODELS = [OURS, *map(Path, filter(None, [os.environ.get("ODYSSEY_YANG_DIR")]))]
"""Where modules lie: ours, and the vendors' where the environment names a folder with them."""


class NetconfServer:
    """netconfd and sshd for one switch; the user is root, known by a key of this folder."""

    def __init__(self, folder: Path, profile: str, models: Path = OURS) -> None:
        self.folder = folder
        self.profile = profile
        self.models = models
        self.port = free_port()
        self.key = folder / "client_key"
        self.host_key = folder / "host_key"
        self._socket = folder / "ncx.sock"
        self.subsystem = f"/usr/sbin/netconf-subsystem --ncxserver-sockname={self.port}@{self._socket}"
        """What sshd runs for a session."""
        self.max_sessions = 10
        """How many sessions sshd opens on one connection."""
        self._netconfd: subprocess.Popen[bytes] | None = None
        self._sshd: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for key in (self.key, self.host_key):
            if not key.exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        shutil.copy(f"{self.key}.pub", folder / "authorized_keys")

    @property
    def access(self) -> dict[str, Any]:
        """How it is reached, as it stands in the inventory."""
        return {
            "address": "127.0.0.1", "port": self.port, "username": "root", "keyFile": str(self.key),
            "hostKey": self.host_key_b64,
        }  # fmt: skip

    def session(self) -> SshSession:
        """A session of somebody else."""
        return SshSession(Management.parse(self.access), WAITS)

    def seed(self, config: str) -> None:
        """Let somebody else configure it: ``config`` is what stands in the ``<config>`` of an edit."""
        session = self.session()
        element = ElementTree.fromstring(f'<config xmlns="{BASE}">{config}</config>')
        session.edit_config("candidate" if self.profile == "nexus9000" else "running", element)
        if self.profile == "nexus9000":
            session.commit()
        session.close()

    @property
    def host_key_b64(self) -> str:
        """The public host key as it stands in the inventory."""
        return Path(f"{self.host_key}.pub").read_text(encoding="ascii").split()[1]

    def start(self) -> None:
        """Start what does not run, and wait until it listens."""
        if self._netconfd is None or self._netconfd.poll() is not None:
            self.start_netconfd()
        if self._sshd is None or self._sshd.poll() is not None:
            self.start_sshd()

    def start_netconfd(self) -> None:
        """Start netconfd with what was saved to startup, if anything was."""
        self._socket.unlink(missing_ok=True)
        saved = self.folder / "data/startup-cfg.xml"
        saved.parent.mkdir(exist_ok=True)
        target = "candidate" if self.profile == "nexus9000" else "running"
        arguments = [
            "/usr/sbin/netconfd",
            *(f"--module={name}" for name in MODULES[self.profile]),
            f"--modpath={self.models}:{YUMA}",
            f"--startup={saved}" if saved.exists() else "--no-startup",
            f"--target={target}",
            "--with-startup=true",
            "--with-validate=true",
            "--superuser=root",
            f"--port={self.port}",
            f"--ncxserver-sockname={self._socket}",
            "--log-level=info",
        ]
        # netconfd keeps its startup file and a transaction number in $YUMA_HOME/data.
        environment = {**os.environ, "HOME": str(self.folder), "YUMA_HOME": str(self.folder)}
        with (self.folder / "netconfd.log").open("ab") as log:
            self._netconfd = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=environment
            )
        self._wait("netconfd", self._socket.exists)

    def start_sshd(self) -> None:
        """Start sshd."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PermitRootLogin prohibit-password\nMaxSessions {self.max_sessions}\n"
            f'Subsystem netconf "{self.subsystem}"\n',
            encoding="utf-8",
        )
        with (self.folder / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait("sshd", lambda: listens(self.port))

    def cut(self) -> None:
        """Kill sshd with all of its sessions; netconfd lives."""
        if self._sshd is not None:
            children(self._sshd.pid)
            stop(self._sshd)

    def kill(self) -> None:
        """Kill netconfd: what was not saved to startup is gone."""
        if self._netconfd is not None:
            stop(self._netconfd)

    def pause(self) -> None:
        """Let netconfd be silent: it neither answers nor ends."""
        assert self._netconfd is not None
        self._netconfd.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        assert self._netconfd is not None
        self._netconfd.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End both."""
        self.cut()
        self.kill()

    def _wait(self, who: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                log = (self.folder / f"{who}.log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"{who} of {self.folder} does not start:\n{log[-3000:]}")
            time.sleep(0.02)


StartServer = Callable[[str], NetconfServer]
"""Starts a server like a switch of a profile."""


def run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, timeout=60, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as trial:
        trial.settimeout(1)
        return trial.connect_ex(("127.0.0.1", port)) == 0


def children(pid: int) -> None:
    """Kill what a process started, oldest first, so that no session outlives it."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    for child in listed.stdout.split():
        children(int(child))
        subprocess.run(["kill", "-9", child], capture_output=True, check=False)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)


class Wire(Session):
    """A session that counts what is sent, and where a test wants it, lies or breaks."""

    def __init__(self, inner: Session) -> None:
        self.inner = inner
        self.sent: list[str] = []
        self.lies: set[str] = set()
        """Requests that are answered with ok and not sent."""
        self.before: dict[str, Callable[[], None]] = {}
        """What happens before a request is sent."""

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    @property
    def connected(self) -> bool:
        return self.inner.connected

    def get_config(self, source: str, chosen: Element | None = None, *, defaults: bool = False) -> Element:
        self._about_to("get_config")
        return self.inner.get_config(source, chosen, defaults=defaults)

    def edit_config(
        self, target: str, config: Element, *, test: str | None = None, on_error: str | None = None
    ) -> None:
        if self._about_to("edit_config"):
            self.inner.edit_config(target, config, test=test, on_error=on_error)

    def lock(self, target: str) -> None:
        if self._about_to("lock"):
            self.inner.lock(target)

    def unlock(self, target: str) -> None:
        if self._about_to("unlock"):
            self.inner.unlock(target)

    def commit(self, *, timeout: int | None = None, persist: str | None = None, persist_id: str | None = None) -> None:
        if self._about_to("commit" if timeout is not None else "confirm"):
            self.inner.commit(timeout=timeout, persist=persist, persist_id=persist_id)

    def cancel_commit(self, persist_id: str | None = None) -> None:
        if self._about_to("cancel_commit"):
            self.inner.cancel_commit(persist_id)

    def discard_changes(self) -> None:
        if self._about_to("discard_changes"):
            self.inner.discard_changes()

    def copy_config(self, source: str | Element, target: str) -> None:
        if self._about_to("copy_config"):
            self.inner.copy_config(source, target)

    def close(self) -> None:
        self.inner.close()

    def _about_to(self, name: str) -> bool:
        self.sent.append(name)
        if name in self.before:
            self.before[name]()
        return name not in self.lies


class Switchboard:
    """Connects to servers through wires, and remembers the newest wire of each by its port."""

    def __init__(self) -> None:
        self.wires: dict[int, Wire] = {}
        self.dialled = 0
        self.on_connect: Callable[[Wire], None] = lambda wire: None

    def connect(self, management: Management) -> Session:
        """What a participant takes as its ``connect``."""
        self.dialled += 1
        wire = Wire(SshSession(management, WAITS))
        self.on_connect(wire)
        self.wires[management.port] = wire
        return wire

    def to(self, server: NetconfServer) -> Wire:
        """The newest wire to a server."""
        return self.wires[server.port]


WAITS = Waits(connect=10.0, request=20.0)
