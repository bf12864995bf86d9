# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of ``odyssey-netconf``: one TOML file, unknown keys refused.

```toml
[netconf]
orchestrators = ["tls:192.0.2.1:7420"]   # every odysseyd
state_dir = "/var/lib/odyssey-netconf"    # the journal, and backups of the switches' configurations
pki_dir = "/etc/odyssey/pki/netconf"      # cert.pem, key.pem (mode 0600), ca.pem
connect_seconds = 10.0                    # how long connecting to a switch may take
request_seconds = 30.0                    # how long a switch may take for one answer
keepalive_seconds = 10                    # between two SSH keepalive packets
connect_attempts = 3                      # in one piece of work; the wait between them doubles
confirm_seconds = 60                      # when a switch reverts a commit that nobody confirmed
lock_attempts = 3                         # how often a lock that somebody holds is asked for
lock_wait_seconds = 1.0                   # between two attempts
hold_seconds = 5.0                        # how often it is looked whether a vote's hold still stands
verify_seconds = 300.0                    # how often every switch is compared with what was decided
mend_drift = true                         # false: what differs is told and left
backups_kept = 20                         # of each switch, besides the first
log_level = "INFO"

[rdmp]                                    # limits of the protocol: rdmp.limits
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controller import settings
from controller.settings import ConfigError
from rdmp.endpoints import Endpoint
from rdmp.enrolment import default_folder
from rdmp.limits import Limits

__all__ = ["DEFAULT_CONFIG", "Config", "ConfigError", "load"]
DEFAULT_CONFIG = Path("/etc/odyssey/netconf.toml")
DEFAULT_PKI = default_folder("netconf")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the daemon needs to start.  Name and cluster stand in its certificate."""

    orchestrators: tuple[Endpoint, ...]
    state_dir: Path = Path("/var/lib/odyssey-netconf")
    pki_dir: Path = DEFAULT_PKI
    connect_seconds: float = 10.0
    request_seconds: float = 30.0
    keepalive_seconds: int = 10
    connect_attempts: int = 3
    confirm_seconds: int = 60
    lock_attempts: int = 3
    lock_wait_seconds: float = 1.0
    hold_seconds: float = 5.0
    verify_seconds: float = 300.0
    mend_drift: bool = True
    backups_kept: int = 20
    log_level: str = "INFO"
    rdmp: Limits = field(default_factory=Limits)


_READERS: Mapping[str, settings.Reader] = {
    "orchestrators": settings.endpoints,
    "state_dir": settings.folder,
    "pki_dir": settings.folder,
    "connect_seconds": settings.seconds,
    "request_seconds": settings.seconds,
    "keepalive_seconds": settings.whole,
    "connect_attempts": settings.whole,
    "confirm_seconds": settings.whole,
    "lock_attempts": settings.whole,
    "lock_wait_seconds": settings.seconds,
    "hold_seconds": settings.seconds,
    "verify_seconds": settings.seconds,
    "mend_drift": settings.flag,
    "backups_kept": settings.whole,
    "log_level": settings.level,
}


def load(path: Path) -> Config:
    """Read ``path``; raises ConfigError that names the file and the key."""
    return Config(**settings.load(path, "netconf", _READERS))
