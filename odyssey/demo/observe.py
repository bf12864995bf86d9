# SPDX-License-Identifier: AGPL-3.0-or-later
"""What really is there, asked without Odyssey: containers from the Docker engines, flow entries from the switches.

The Docker API is spoken directly (API 1.41), so that no part under test reports about itself.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
import subprocess
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

API = "/v1.41"
TIMEOUT = 10.0  # s for one question

COOKIE_ODYSSEY = 0x0D
COOKIE_BINDING = 1  # the kind of cookie whose owner is a node's IPv4 address

CLUSTER_LABEL, NODE_LABEL, TX_LABEL = "odyssey.cluster", "odyssey.node", "odyssey.tx"
SANDBOX, WORKLOAD, POOL = "sandbox", "workload", "pool"
SANDBOX_SUFFIX, POOL_PREFIX = ".sandbox", "odyssey-pool-"  # a pooled sandbox keeps its labels when a node gets it


class ObserveError(Exception):
    """An engine or a switch did not answer: what was asked and what came back."""


class GoneError(ObserveError):
    """What was asked for does not exist any more."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container that carries Odyssey's label. `pid` is 0 unless it was inspected and runs.

    `node` is empty for a pooled sandbox, `tx` for whatever was made ahead.
    """

    host: str
    id: str
    name: str
    node: str
    role: str
    tx: str
    running: bool
    pid: int = 0
    started: str = ""


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow entry of a switch. `rule` is table, priority, match and actions without counters; `age` in seconds."""

    switch: str
    cookie: int
    packets: int
    age: float
    rule: str

    @property
    def node_address(self) -> str | None:
        """The address of the node that the entry belongs to, or None if it is no node's."""
        if self.cookie >> 56 != COOKIE_ODYSSEY or self.cookie >> 48 & 0xFF != COOKIE_BINDING:
            return None
        return str(ipaddress.IPv4Address(self.cookie >> 16 & 0xFFFFFFFF))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_engine(engine: Path, path: str) -> Any:
    """GET from the engine that listens on this Unix socket. Raises `ObserveError`."""
    connection = _UnixConnection(engine)
    try:
        connection.request("GET", API + path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ObserveError(f"the Docker engine at {engine} does not answer GET {path}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        kind = GoneError if answer.status == http.HTTPStatus.NOT_FOUND else ObserveError
        raise kind(f"the Docker engine at {engine} answers GET {path} with {answer.status}: {body[:200]!r}")
    return json.loads(body)


def containers(host: str, engine: Path, *, inspect: bool = False) -> tuple[Container, ...]:
    """Odyssey's containers on one host, in all states; `inspect` fills in process number and time of the last start."""
    filters = urllib.parse.quote(json.dumps({"label": [CLUSTER_LABEL]}))
    found = []
    for entry in ask_engine(engine, f"/containers/json?all=true&filters={filters}"):
        labels: Mapping[str, str] = entry["Labels"]
        try:
            state: Mapping[str, Any] = ask_engine(engine, f"/containers/{entry['Id']}/json")["State"] if inspect else {}
        except GoneError:
            continue  # removed since it was listed
        name = entry["Names"][0].lstrip("/")
        node, role = classify(name, labels)
        found.append(
            Container(
                host=host,
                id=entry["Id"],
                name=name,
                node=node,
                role=role,
                tx=labels.get(TX_LABEL, ""),
                running=entry["State"] == "running",
                pid=int(state.get("Pid", 0)),
                started=str(state.get("StartedAt", "")),
            )
        )
    return tuple(sorted(found, key=lambda container: container.name))


def classify(name: str, labels: Mapping[str, str]) -> tuple[str, str]:
    """Node and role of a container, from its name and labels."""
    if name.startswith(POOL_PREFIX):
        return "", POOL
    if name.endswith(SANDBOX_SUFFIX):
        return name.removesuffix(SANDBOX_SUFFIX), SANDBOX
    return labels.get(NODE_LABEL, name), WORKLOAD


_COUNTERS = re.compile(r"\b(cookie|duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]*,? ?")


def parse_flows(switch: str, text: str) -> tuple[Flow, ...]:
    """The entries in the output of `ovs-ofctl dump-flows`."""
    found = []
    for line in text.splitlines():
        cookie = re.search(r"cookie=(0x[0-9a-f]+)", line)
        packets = re.search(r"n_packets=(\d+)", line)
        age = re.search(r"duration=([\d.]+)s", line)
        if cookie is None or packets is None or age is None:
            continue
        rule = _COUNTERS.sub("", line).strip()
        found.append(Flow(switch, int(cookie[1], 16), int(packets[1]), float(age[1]), rule))
    return tuple(found)


def flows(switch: str, management: Path) -> tuple[Flow, ...]:
    """The flow entries of a switch, read from the switch itself through its local management socket."""
    command = ["ovs-ofctl", "-O", "OpenFlow13", "dump-flows", f"unix:{management}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0:
        raise ObserveError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return parse_flows(switch, done.stdout)


def rules(entries: Iterable[Flow]) -> frozenset[tuple[str, int, str]]:
    """The entries without their counters, for comparing two readings."""
    return frozenset((flow.switch, flow.cookie, flow.rule) for flow in entries)
