# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of ``odyssey-netconf``: one TOML file, unknown keys refused.

```toml
[netconf]
orchestrators = ["tls:192.0.2.1:7420"]   # every odysseyd
state_dir = "/var/lib/odyssey-netconf"    # the journal, and backups of the switches' configurations
pki_dir = "/etc/odyssey/pki"              # cert.pem, key.pem (mode 0600), ca.pem
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

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rdmp.endpoints import Endpoint
from rdmp.limits import Limits

DEFAULT_CONFIG = Path("/etc/odyssey/netconf.toml")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class ConfigError(Exception):
    """The configuration cannot be used: key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the daemon needs to start.  Name and cluster stand in its certificate."""

    orchestrators: tuple[Endpoint, ...]
    state_dir: Path = Path("/var/lib/odyssey-netconf")
    pki_dir: Path = Path("/etc/odyssey/pki")
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
        if name not in ("netconf", "rdmp"):
            raise ConfigError(f"unknown table [{name}]; known are netconf, rdmp")
    table = document.get("netconf", {})
    known = [item.name for item in fields(Config) if item.name != "rdmp"]
    for key in table:
        if key not in known:
            raise ConfigError(f"[netconf] unknown key {key}; known are {', '.join(known)}")
    if "orchestrators" not in table:
        raise ConfigError('[netconf] orchestrators is required, for example ["tls:192.0.2.1:7420"]')
    values: dict[str, Any] = {}
    for key, value in table.items():
        reader: Callable[[str, Any], Any] = _READERS.get(key, _number)
        values[key] = reader(key, value)
    return Config(**values, rdmp=Limits.from_table(document.get("rdmp", {})))


def _wrong(key: str, found: Any, wanted: str) -> ConfigError:
    return ConfigError(f"[netconf] {key}: found {found!r}, must be {wanted}")


def _endpoints(key: str, value: Any) -> tuple[Endpoint, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise _wrong(key, value, "a list of endpoints")
    return tuple(Endpoint.parse(item) for item in value)


def _folder(key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise _wrong(key, value, "an absolute path")
    return Path(value)


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _level(key: str, value: Any) -> str:
    if value not in LOG_LEVELS:
        raise _wrong(key, value, f"one of {', '.join(LOG_LEVELS)}")
    return str(value)


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _wrong(key, value, "a number above 0")
    return value


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(key, value, "a whole number of at least 1")
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "orchestrators": _endpoints,
    "state_dir": _folder,
    "pki_dir": _folder,
    "mend_drift": _flag,
    "log_level": _level,
    "keepalive_seconds": _whole,
    "connect_attempts": _whole,
    "confirm_seconds": _whole,
    "lock_attempts": _whole,
    "backups_kept": _whole,
}
