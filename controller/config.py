# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of the controller: one TOML file, unknown keys refused.

```toml
[controller]
orchestrators = ["tls:192.0.2.1:7420"]     # every odysseyd
state_dir = "/var/lib/odyssey-controller"   # the journal
pki_dir = "/etc/odyssey/pki/controller"     # cert.pem, key.pem (mode 0600), ca.pem
openflow_listen = "0.0.0.0:6653"            # switches connect here with TLS
allow_absent_switches = false               # true: a switch that is away neither refuses a prepare nor holds a commit
switch_wait_seconds = 5.0                   # how long a prepare waits for a switch that is away
verify_seconds = 30.0                       # how often every entry of every switch is read back
metrics_listen = "127.0.0.1:9464"           # Prometheus; without it none.  Other addresses: mutual TLS
lldp_seconds = 5.0                          # how often each port says by LLDP who it is
log_level = "INFO"

[rdmp]                                      # limits of the protocol: rdmp.limits
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
DEFAULT_CONFIG = Path("/etc/odyssey/controller.toml")
DEFAULT_PKI = default_folder("controller")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the controller needs to start.  Name and cluster stand in its certificate."""

    orchestrators: tuple[Endpoint, ...]
    state_dir: Path = Path("/var/lib/odyssey-controller")
    pki_dir: Path = DEFAULT_PKI
    openflow_listen: tuple[str, int] = ("0.0.0.0", 6653)
    allow_absent_switches: bool = False
    switch_wait_seconds: float = 5.0
    verify_seconds: float = 30.0
    metrics_listen: tuple[str, int] | None = None
    lldp_seconds: float = 5.0
    log_level: str = "INFO"
    rdmp: Limits = field(default_factory=Limits)


_READERS: Mapping[str, settings.Reader] = {
    "orchestrators": settings.endpoints,
    "state_dir": settings.folder,
    "pki_dir": settings.folder,
    "openflow_listen": settings.address,
    "allow_absent_switches": settings.flag,
    "switch_wait_seconds": settings.seconds,
    "verify_seconds": settings.seconds,
    "metrics_listen": settings.address,
    "lldp_seconds": settings.seconds,
    "log_level": settings.level,
}


def load(path: Path) -> Config:
    """Read ``path``; raises ConfigError that names the file and the key."""
    return Config(**settings.load(path, "controller", _READERS))
