# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration of the agent: one TOML file, every limit with its name, unknown keys refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from agents.docker.containers import Policy
from agents.docker.engine import EngineLimits
from agents.participant import AgentLimits
from rdmp.endpoints import Endpoint
from rdmp.enrolment import default_folder
from rdmp.limits import Limits

DEFAULT_CONFIG = Path("/etc/odyssey/agent.toml")
DEFAULT_DOCKER = "unix:///var/run/docker.sock"
DEFAULT_STATE = Path("/var/lib/odyssey-agent")
DEFAULT_RUN = Path("/run/odyssey-agent")
DEFAULT_SECRETS = Path("/etc/odyssey/secrets")
DEFAULT_PKI = default_folder("agent")
DEFAULT_POOL = 2

T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used: key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that an agent needs to start. The name of the host and the cluster stand in its certificate."""

    orchestrators: tuple[Endpoint, ...]
    docker: str = DEFAULT_DOCKER
    state_dir: Path = DEFAULT_STATE
    run_dir: Path = DEFAULT_RUN
    secrets_dir: Path = DEFAULT_SECRETS
    pki_dir: Path = DEFAULT_PKI
    log_level: str = "INFO"
    pool: int = DEFAULT_POOL
    agent: AgentLimits = field(default_factory=AgentLimits)
    engine: EngineLimits = field(default_factory=EngineLimits)
    workload: Policy = field(default_factory=Policy)
    rdmp: Limits = field(default_factory=Limits)


def load(path: Path) -> Config:
    """Read `path`. Raises ConfigError that names the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(document)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(document: Mapping[str, Any]) -> Config:
    """Turn a parsed TOML document into a Config. Raises ConfigError or ValueError that names the key."""
    _known("file", document, ("agent", "limits", "docker", "workload", "rdmp"))
    table = _Table("agent", document.get("agent", {}))
    _known("[agent]", table.values, ("orchestrators", "docker", "log_level", *_FOLDERS))
    limits = dict(document.get("limits", {}))
    pool = limits.pop("pool", DEFAULT_POOL)
    if isinstance(pool, bool) or not isinstance(pool, int) or pool < 0:
        raise ConfigError(f"[limits] pool: found {pool!r}, must be a whole number, 0 or more")
    return Config(
        orchestrators=tuple(Endpoint.parse(text) for text in table.texts("orchestrators")),
        docker=table.text("docker", DEFAULT_DOCKER),
        **{name: _folder(table, name, default) for name, default in _FOLDERS.items()},
        log_level=table.choice("log_level", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        pool=pool,
        agent=_numbers("limits", limits, AgentLimits),
        engine=_numbers("docker", document.get("docker", {}), EngineLimits),
        workload=_workload(document.get("workload", {})),
        rdmp=Limits.from_table(document.get("rdmp", {})),
    )


_FOLDERS: Mapping[str, Path] = {
    "state_dir": DEFAULT_STATE,
    "run_dir": DEFAULT_RUN,
    "secrets_dir": DEFAULT_SECRETS,
    "pki_dir": DEFAULT_PKI,
}


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table that names itself in errors."""

    name: str
    values: Mapping[str, Any]

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, value, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, value, "a list with at least one text")
        return tuple(value)

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key, default).upper()
        if value not in allowed:
            raise self.wrong(key, value, f"one of {', '.join(allowed)}")
        return value

    def wrong(self, key: str, found: Any, expected: str) -> ConfigError:
        return ConfigError(f"[{self.name}] {key}: found {found!r}, must be {expected}")


def _folder(table: _Table, key: str, default: Path) -> Path:
    path = Path(table.text(key, str(default)))
    if not path.is_absolute():
        raise table.wrong(key, str(path), "an absolute path")
    return path


def _workload(values: Mapping[str, Any]) -> Policy:
    table = _Table("workload", values)
    defaults = Policy()
    _known("[workload]", values, tuple(item.name for item in fields(Policy)))
    numbers = {}
    for key in ("pids", "log_files"):
        value = values.get(key, getattr(defaults, key))
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise table.wrong(key, value, "a whole number above 0")
        numbers[key] = value
    capabilities = table.texts("capabilities") if "capabilities" in values else tuple(defaults.capabilities)
    return Policy(capabilities=capabilities, log_size=table.text("log_size", defaults.log_size), **numbers)


def _numbers(name: str, values: Mapping[str, Any], kind: type[T]) -> T:
    """Build a dataclass of numbers, each above 0, from a table."""
    defaults: Any = kind()
    known = tuple(item.name for item in fields(defaults))
    _known(f"[{name}]", values, known)
    for key, value in values.items():
        whole = isinstance(getattr(defaults, key), int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
            expected = "a whole number above 0" if whole else "a number above 0"
            raise ConfigError(f"[{name}] {key}: found {value!r}, must be {expected}")
    return kind(**values)


def _known(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key}; known are {', '.join(known)}")
