# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of odysseyd: one TOML file, every limit with its name, unknown keys refused."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class ConfigError(Exception):
    """The configuration cannot be used: file, key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class OrchestratorLimits:
    """Bounds of the orchestrator's own work. Times in seconds."""

    lock_wait: float = 120.0
    """How long a call waits for networks that another call is changing."""
    calls: int = 64
    """Service calls that may be in work at once."""
    start_grace: float = 10.0
    """After a start, how long a call waits for the members of the cluster to connect again before it is planned."""
    drain_poll: float = 0.25
    """How often the connections of draining nodes are counted."""
    agent_timeout: float = 5.0
    """How long one question to an agent or the controller may take."""
    settle_interval: float = 5.0
    """How often left-over draining nodes are looked for."""
    leader_wait: float = 2.0
    """How long the leading controller may be away before another one is appointed."""
    leader_interval: float = 0.5
    """How often the controllers are asked how they stand; one that comes or goes is looked at at once."""
    leader_timeout: float = 15.0
    """How long a transaction waits for a controller that leads, and a new leader may take to fill the switches."""
    events_kept: int = 100_000
    """Events that the log keeps."""
    events_max_age: float = 30 * 86400.0
    """How old a kept event may become."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) <= 0:
                raise ConfigError(f"[limits] {item.name}: found {getattr(self, item.name)}, must be above 0")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that odysseyd needs to start."""

    cluster: str
    state_dir: Path
    pki_dir: Path
    """Holds cert.pem, key.pem (mode 0600) and ca.pem of this orchestrator."""
    ca_dir: Path | None
    """Holds the CA with its key; without it this orchestrator cannot enrol."""
    unix_socket: Path
    tls_listen: tuple[str, int] | None
    enrol_listen: tuple[str, int] | None
    name: str = "odysseyd"
    log_level: str = "INFO"
    limits: OrchestratorLimits = field(default_factory=OrchestratorLimits)
    rdmp: dict[str, Any] = field(default_factory=dict)
    """The table `[rdmp]`, limits of the protocol; read by `rdmp.limits`."""
    roles: dict[str, Any] = field(default_factory=dict)
    """The table `[roles]`; empty means the defaults of `odyssey.api.roles`."""


_STRINGS = {
    "cluster": True, "state_dir": True, "pki_dir": True, "ca_dir": False, "unix_socket": False,
    "tls_listen": False, "enrol_listen": False, "name": False, "log_level": False,
}  # fmt: skip


def load(path: Path) -> Config:
    """Read `path`. Raises ConfigError that names the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: dict[str, Any]) -> Config:
    """Turn a parsed TOML document into a Config. Raises ConfigError that names the key."""
    unknown = set(document) - {"odysseyd", "limits", "rdmp", "roles"}
    if unknown:
        raise ConfigError(f"unknown table [{sorted(unknown)[0]}]; known are odysseyd, limits, rdmp, roles")
    table = document.get("odysseyd", {})
    for key, value in table.items():
        if key not in _STRINGS:
            raise ConfigError(f"[odysseyd] unknown key {key}; known are {', '.join(_STRINGS)}")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"[odysseyd] {key}: found {value!r}, must be a text")
    missing = [key for key, required in _STRINGS.items() if required and key not in table]
    if missing:
        raise ConfigError(f"[odysseyd] {missing[0]} is required")
    if (level := table.get("log_level", "INFO")) not in LOG_LEVELS:
        raise ConfigError(f"[odysseyd] log_level: found {level!r}, must be one of {', '.join(LOG_LEVELS)}")
    state_dir = Path(table["state_dir"])
    return Config(
        cluster=table["cluster"],
        state_dir=state_dir,
        pki_dir=Path(table["pki_dir"]),
        ca_dir=Path(table["ca_dir"]) if "ca_dir" in table else None,
        unix_socket=Path(table.get("unix_socket", state_dir / "odysseyd.sock")),
        tls_listen=_address("tls_listen", table.get("tls_listen")),
        enrol_listen=_address("enrol_listen", table.get("enrol_listen")),
        name=table.get("name", "odysseyd"),
        log_level=level,
        limits=_limits(document.get("limits", {})),
        rdmp=document.get("rdmp", {}),
        roles=document.get("roles", {}),
    )


def _limits(table: dict[str, Any]) -> OrchestratorLimits:
    known = {item.name for item in fields(OrchestratorLimits)}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"[limits] unknown key {key}; known are {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"[limits] {key}: found {value!r}, must be a number")
    return OrchestratorLimits(**table)


def _address(key: str, text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"[odysseyd] {key}: found {text!r}, must be ADDRESS:PORT")
    return host.strip("[]"), int(port)
