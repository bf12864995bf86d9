# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a lab lives and what its parts are called."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from odyssey.lab.shell import LabError

DEFAULT_DIRECTORY = Path("/var/lib/odyssey-lab")
DEFAULT_CACHE = Path("/var/cache/odyssey")
DEFAULT_PREFIX = "ody"

MANAGEMENT_ADDRESS = "192.0.2.1"
"""Address of odysseyd and the controller on the management bridge (RFC 5737, TEST-NET-1)."""

RDMP_PORT = 7420
ENROL_PORT = 7421
OPENFLOW_PORT = 6653

DIRECTORY_LENGTH = 60
"""Characters: a socket's path may have 107 (unix(7)), and containerd's lies 42 below the lab's directory."""

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,7}")


@dataclass(frozen=True, slots=True)
class Settings:
    """One lab. Two labs with different `directory` and `prefix` stand beside each other."""

    directory: Path = DEFAULT_DIRECTORY
    """All state, sockets, logs and pid files are below it."""
    cache: Path = DEFAULT_CACHE
    """Built images, shared by all labs."""
    prefix: str = DEFAULT_PREFIX
    """The names of network namespaces and control groups start with it."""
    cluster: str = "lab"
    hosts: tuple[str, ...] = ("h1", "h2", "h3")
    switches: tuple[str, ...] = ("sw1", "sw2")

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise LabError(f"lab prefix {self.prefix!r} is not allowed: it must match {_PREFIX.pattern}")
        if not self.directory.is_absolute():
            raise LabError(f"lab directory {self.directory} must be an absolute path")
        if len(str(self.directory)) > DIRECTORY_LENGTH:
            raise LabError(
                f"lab directory {self.directory} is longer than {DIRECTORY_LENGTH} characters: "
                "the paths of the engines' sockets below it would be longer than the kernel allows"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ODYSSEY_LAB, ODYSSEY_LAB_PREFIX and ODYSSEY_CACHE; raises LabError for values that cannot be used.

        The cache stands beside the lab (`../odyssey-cache`) when only ODYSSEY_LAB is set.
        """
        settings = cls(prefix=environment.get("ODYSSEY_LAB_PREFIX") or DEFAULT_PREFIX)
        if environment.get("ODYSSEY_LAB"):
            directory = Path(environment["ODYSSEY_LAB"])
            settings = replace(settings, directory=directory, cache=directory.parent / "odyssey-cache")
        if environment.get("ODYSSEY_CACHE"):
            settings = replace(settings, cache=Path(environment["ODYSSEY_CACHE"]))
        return settings

    def netns(self, name: str) -> str:
        """The network namespace of a host, a switch, `mgmt` or `edge`."""
        return f"{self.prefix}-{name}"

    def host_number(self, host: str) -> int:
        """1 for the first host: its port on every switch and the last digit of its address."""
        return self.hosts.index(host) + 1

    def management_address(self, name: str) -> str:
        """The management address of a host (192.0.2.11 and up) or a switch (192.0.2.21 and up)."""
        if name in self.hosts:
            return f"192.0.2.{10 + self.host_number(name)}"
        return f"192.0.2.{21 + self.switches.index(name)}"

    def docker_socket(self, host: str) -> Path:
        """The Unix socket of a host's Docker engine."""
        return self.directory / host / "docker.sock"

    @property
    def unix_socket(self) -> Path:
        """The Unix socket of odysseyd."""
        return self.directory / "odysseyd" / "odysseyd.sock"
