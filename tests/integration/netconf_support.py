# SPDX-License-Identifier: AGPL-3.0-or-later
"""A NETCONF server like a switch's: Debian's netconfd behind a real sshd, with the modules of a model."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

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
        self._netconfd: subprocess.Popen[bytes] | None = None
        self._sshd: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for key in (self.key, self.host_key):
            if not key.exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        shutil.copy(f"{self.key}.pub", folder / "authorized_keys")

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
            "PermitRootLogin prohibit-password\n"
            f'Subsystem netconf "/usr/sbin/netconf-subsystem --ncxserver-sockname={self.port}@{self._socket}"\n',
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
