# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of the controller: one TOML file, unknown keys refused.

```toml
[controller]
orchestrators = ["tls:192.0.2.1:7420"]     # every odysseyd
state_dir = "/var/lib/odyssey-controller"   # the journal
pki_dir = "/etc/odyssey/pki"                # cert.pem, key.pem (mode 0600), ca.pem
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

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdmp.endpoints import Endpoint
from rdmp.limits import Limits

DEFAULT_CONFIG = Path("/etc/odyssey/controller.toml")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class ConfigError(Exception):
    """The configuration cannot be used: key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the controller needs to start.  Name and cluster stand in its certificate."""

    orchestrators: tuple[Endpoint, ...]
    state_dir: Path = Path("/var/lib/odyssey-controller")
    pki_dir: Path = Path("/etc/odyssey/pki")
    openflow_listen: tuple[str, int] = ("0.0.0.0", 6653)
    allow_absent_switches: bool = False
    switch_wait_seconds: float = 5.0
    verify_seconds: float = 30.0
    metrics_listen: tuple[str, int] | None = None
    lldp_seconds: float = 5.0
    log_level: str = "INFO"
    rdmp: Limits = field(default_factory=Limits)


def load(path: Path) -> Config:
    """Read ``path``; raises ConfigError that names the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(document)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: Mapping[str, Any]) -> Config:
    """Turn a parsed TOML document into a Config; raises ConfigError or ValueError that names the key."""
    for name in document:
        if name not in ("controller", "rdmp"):
            raise ConfigError(f"unknown table [{name}]; known are controller, rdmp")
    table = document.get("controller", {})
    readers = {
        "orchestrators": _endpoints,
        "state_dir": _folder,
        "pki_dir": _folder,
        "openflow_listen": _address,
        "allow_absent_switches": _flag,
        "switch_wait_seconds": _seconds,
        "verify_seconds": _seconds,
        "metrics_listen": _address,
        "lldp_seconds": _seconds,
        "log_level": _level,
    }
    for key in table:
        if key not in readers:
            raise ConfigError(f"[controller] unknown key {key}; known are {', '.join(readers)}")
    if "orchestrators" not in table:
        raise ConfigError('[controller] orchestrators is required, for example ["tls:192.0.2.1:7420"]')
    values: dict[str, Any] = {key: readers[key](key, value) for key, value in table.items()}
    return Config(**values, rdmp=Limits.from_table(document.get("rdmp", {})))


def _wrong(key: str, found: Any, wanted: str) -> ConfigError:
    return ConfigError(f"[controller] {key}: found {found!r}, must be {wanted}")


def _endpoints(key: str, value: Any) -> tuple[Endpoint, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise _wrong(key, value, "a list of endpoints")
    return tuple(Endpoint.parse(item) for item in value)


def _folder(key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise _wrong(key, value, "an absolute path")
    return Path(value)


def _address(key: str, value: Any) -> tuple[str, int]:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise _wrong(key, value, "ADDRESS:PORT (port 0 takes a free one)")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _seconds(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _wrong(key, value, "a number above 0")
    return float(value)


def _level(key: str, value: Any) -> str:
    if value not in LOG_LEVELS:
        raise _wrong(key, value, f"one of {', '.join(LOG_LEVELS)}")
    return str(value)
