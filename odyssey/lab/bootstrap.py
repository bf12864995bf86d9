# SPDX-License-Identifier: AGPL-3.0-or-later
"""What daemons need before they start: certificates, secrets and configuration files."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odyssey.lab.settings import ENROL_PORT, MANAGEMENT_ADDRESS, OPENFLOW_PORT, RDMP_PORT, Settings
from odyssey.security.ca import CertificateAuthority

SECRETS = ("db-password",)
"""Secrets that every host has: random, the same on all hosts."""

PASSWORD_BYTES = 24

OPERATOR = "lab"

Table = Mapping[str, Any]


def ca_directory(settings: Settings) -> Path:
    """The CA with its key."""
    return settings.directory / "pki" / "ca"


def pki_directory(settings: Settings, name: str) -> Path:
    """cert.pem, key.pem and ca.pem of `odysseyd`, `controller`, `operator` or a switch."""
    return settings.directory / "pki" / name


def agent_directory(settings: Settings, host: str) -> Path:
    """Everything that a host's agent has."""
    return settings.directory / host / "agent"


def is_fresh(settings: Settings) -> bool:
    """Tell whether this lab has no cluster yet."""
    return not ca_directory(settings).exists()


def prepare(settings: Settings) -> None:
    """Make the CA, certificates and secrets of a fresh lab; write all configuration files.

    The agents get no certificate here: they join with a token, as a newcomer does.
    """
    if is_fresh(settings):
        authority = CertificateAuthority.create(ca_directory(settings), settings.cluster)
        authority.issue("orchestrator", "odysseyd", pki_directory(settings, "odysseyd"))
        authority.issue("controller", "controller", pki_directory(settings, "controller"))
        authority.issue("operator", OPERATOR, pki_directory(settings, "operator"))
        for switch in settings.switches:
            authority.issue("switch", switch, pki_directory(settings, switch))
        for name in SECRETS:
            value = secrets.token_urlsafe(PASSWORD_BYTES)
            for host in settings.hosts:
                _write_private(agent_directory(settings, host) / "secrets" / name, value + "\n")
    _write(settings.directory / "odysseyd" / "odysseyd.toml", toml(odysseyd_config(settings)))
    _write(settings.directory / "controller" / "controller.toml", toml(controller_config(settings)))
    for host in settings.hosts:
        _write(agent_directory(settings, host) / "agent.toml", toml(agent_config(settings, host)))


def forget(settings: Settings) -> None:
    """Remove the cluster: certificates, secrets, the daemons' and the switches' state. Logs stay."""
    parts = [settings.directory / name for name in ("odysseyd", "controller", "pki", *settings.switches)]
    for part in [*parts, *(agent_directory(settings, host) for host in settings.hosts)]:
        if not part.exists():
            continue
        for entry in part.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.suffix != ".log":
                entry.unlink()


def odysseyd_config(settings: Settings) -> Mapping[str, Table]:
    """Configuration of odysseyd; read by `odyssey.config`."""
    return {
        "odysseyd": {
            "cluster": settings.cluster,
            "state_dir": str(settings.directory / "odysseyd" / "state"),
            "pki_dir": str(pki_directory(settings, "odysseyd")),
            "ca_dir": str(ca_directory(settings)),
            "unix_socket": str(settings.unix_socket),
            "tls_listen": f"{MANAGEMENT_ADDRESS}:{RDMP_PORT}",
            "enrol_listen": f"{MANAGEMENT_ADDRESS}:{ENROL_PORT}",
        }
    }


def controller_config(settings: Settings) -> Mapping[str, Table]:
    """Configuration of the controller; read by `controller.config`."""
    return {
        "controller": {
            "orchestrators": [f"tls:{MANAGEMENT_ADDRESS}:{RDMP_PORT}"],
            "state_dir": str(settings.directory / "controller" / "state"),
            "pki_dir": str(pki_directory(settings, "controller")),
            "openflow_listen": f"{MANAGEMENT_ADDRESS}:{OPENFLOW_PORT}",
        }
    }


def agent_config(settings: Settings, host: str) -> Mapping[str, Table]:
    """Configuration of a host's agent; read by `agents.config`."""
    directory = agent_directory(settings, host)
    return {
        "agent": {
            "orchestrators": [f"tls:{MANAGEMENT_ADDRESS}:{RDMP_PORT}"],
            "docker": f"unix://{settings.docker_socket(host)}",
            "state_dir": str(directory / "state"),
            "run_dir": str(directory / "run"),
            "secrets_dir": str(directory / "secrets"),
            "pki_dir": str(directory / "pki"),
        }
    }


def toml(tables: Mapping[str, Table]) -> str:
    """Tables of texts, numbers and lists of texts as TOML; JSON writes such values in the same way (TOML 1.0)."""
    blocks = []
    for name, table in tables.items():
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        blocks.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")
