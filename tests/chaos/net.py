# SPDX-License-Identifier: AGPL-3.0-or-later
"""One network namespace for each process, each with a link to a bridge beside the hub; a link can be cut."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.chaos.processes import ADDRESS

PREFIX = "chs"


def run(*command: str) -> None:
    """Run a command; raises RuntimeError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Network:
    """The namespaces of one run; ``chs-<process>-<name>``."""

    def __init__(self) -> None:
        self._made: list[str] = []

    def namespace(self, name: str) -> str:
        """Return the full name of the namespace of a process."""
        return f"{PREFIX}-{os.getpid()}-{name}"

    def add_hub(self, name: str) -> None:
        """Make the hub's namespace with the bridge."""
        self._hub = self._add(name)
        run("ip", "-n", self._hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self._hub, "addr", "add", f"{ADDRESS}/24", "dev", "br0")
        run("ip", "-n", self._hub, "link", "set", "br0", "up")

    def add(self, name: str, number: int) -> None:
        """Make the namespace of one process and its link; ``number`` is the last byte of its address."""
        space = self._add(name)
        address = f"{ADDRESS.rpartition('.')[0]}.{number}/24"
        run("ip", "-n", self._hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "-n", self._hub, "link", "set", name, "master", "br0", "up")
        run("ip", "-n", space, "addr", "add", address, "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")

    def cut(self, name: str, silently: bool) -> None:
        """Cut the link of one process: it is told that the carrier is gone, or packets vanish silently."""
        run("ip", "-n", self._hub, "link", "set", name, "nomaster" if silently else "down")

    def mend(self, name: str) -> None:
        """Undo ``cut``."""
        run("ip", "-n", self._hub, "link", "set", name, "master", "br0", "up")

    def _add(self, name: str) -> str:
        space = self.namespace(name)
        run("ip", "netns", "add", space)
        self._made.append(space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        return space

    def close(self) -> None:
        """Remove what was made."""
        for space in self._made:
            subprocess.run(("ip", "netns", "del", space), check=False, capture_output=True)


def remove_leftovers() -> None:
    """Remove namespaces and file systems of runs that were killed."""
    spaces = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=False).stdout
    for space, owner in re.findall(rf"^({PREFIX}-(\d+)-\S+)", spaces, re.M):
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(("ip", "netns", "del", space), check=False, capture_output=True)
    for mount, owner in re.findall(rf"^tmpfs (\S*/{PREFIX}-(\d+)-\S*)", Path("/proc/mounts").read_text(), re.M):
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(("umount", "-l", mount), check=False, capture_output=True)
