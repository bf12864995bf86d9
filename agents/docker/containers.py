# SPDX-License-Identifier: AGPL-3.0-or-later
"""Containers as the Docker API sees them: what the agent asks for, and what it finds. Pure.

A node is two containers: `<node>.sandbox` holds the network namespace and sleeps, `<node>` is the workload and joins
it, so that a workload that crashes comes back with its address while no agent is there. A sandbox made ahead gets its
name when it gets its node; its labels stay those of the pool, because Docker cannot change them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.attachment import SANDBOX_SYSCTLS, SANDBOX_SYSCTLS_IPV6
from agents.files import NEIGHBOURS_IN_CONTAINER, RUN_IN_CONTAINER, SANDBOX_HOSTNAME
from agents.spec import NodeSpec

CLUSTER, HOST, NODE, TX, ROLE = ("odyssey.cluster", "odyssey.host", "odyssey.node", "odyssey.tx", "odyssey.role")
IMAGE = "odyssey.image"
POOL, SANDBOX, WORKLOAD, VOLUME = "pool", "sandbox", "workload", "volume"
RESTART_COMMITTED = "unless-stopped"
POOL_PREFIX = "odyssey-pool-"

SANDBOX_IMAGE = "odyssey-sandbox:1"
SANDBOX_MEMORY = 16 * 1024 * 1024  # bytes; it holds a shell that sleeps
SANDBOX_PIDS = 16

DEFAULT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose containers: nothing that does not carry both is ever touched."""

    cluster: str
    host: str

    def labels(self, role: str, node: str | None = None, tx: str | None = None) -> dict[str, str]:
        """Return the labels of a new container."""
        labels = {CLUSTER: self.cluster, HOST: self.host, ROLE: role}
        if node is not None:
            labels[NODE] = node
        if tx is not None:
            labels[TX] = tx
        return labels

    def filters(self) -> list[str]:
        """Return the label filters that find this owner's containers."""
        return [f"{CLUSTER}={self.cluster}", f"{HOST}={self.host}"]

    @property
    def alias(self) -> str:
        """Return what marks a network interface of the host as this owner's."""
        return f"odyssey:{self.cluster}:{self.host}"

    def owns(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels are of this cluster and host."""
        return labels.get(CLUSTER) == self.cluster and labels.get(HOST) == self.host


@dataclass(frozen=True, slots=True)
class Policy:
    """What every workload container gets."""

    capabilities: Sequence[str] = DEFAULT_CAPABILITIES
    pids: int = 512
    log_size: str = "10m"
    log_files: int = 2


@dataclass(frozen=True, slots=True)
class Container:
    """A container as `inspect` shows it."""

    id: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    status: str = ""  # created, running, paused, restarting, removing, exited, dead
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    network_mode: str = ""
    restart_policy: str = "no"
    image_id: str = ""

    @property
    def running(self) -> bool:
        """Whether its first process runs."""
        return self.status in ("running", "paused") and self.pid > 0

    @property
    def tx(self) -> str | None:
        """The transaction in its label."""
        return self.labels.get(TX)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Container:
        """Read the answer of GET /containers/{id}/json."""
        state = document["State"]
        host = document["HostConfig"]
        return cls(
            id=document["Id"],
            name=str(document["Name"]).lstrip("/"),
            labels=document["Config"].get("Labels") or {},
            status=state["Status"],
            pid=int(state.get("Pid") or 0),
            exit_code=int(state.get("ExitCode") or 0),
            error=str(state.get("Error") or ""),
            network_mode=host.get("NetworkMode") or "",
            restart_policy=(host.get("RestartPolicy") or {}).get("Name") or "no",
            image_id=document.get("Image") or "",
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A container as the list shows it."""

    id: str
    name: str
    labels: Mapping[str, str]
    status: str
    image_id: str

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Listed:
        """Read one item of GET /containers/json."""
        return cls(
            id=document["Id"],
            name=str(document["Names"][0]).lstrip("/") if document.get("Names") else "",
            labels=document.get("Labels") or {},
            status=document["State"],
            image_id=document.get("ImageID") or "",
        )

    @property
    def role(self) -> str:
        """What it is now: `pool` only while it has no node."""
        if self.labels.get(ROLE) == POOL and self.name.endswith(f".{SANDBOX}"):
            return SANDBOX
        return self.labels.get(ROLE, "")

    @property
    def node(self) -> str | None:
        """The node that it belongs to, None for one in the pool."""
        if self.role == SANDBOX:
            return self.name.removesuffix(f".{SANDBOX}")
        return self.labels.get(NODE)


def sandbox_name(node: str) -> str:
    """Return the name of a node's sandbox container."""
    return f"{node}.{SANDBOX}"


def sandbox_config(labels: Mapping[str, str], *, ipv6: bool) -> dict[str, Any]:
    """Return the API document of a sandbox; `ipv6` tells whether the kernel has IPv6, which is then switched off."""
    return {
        "Image": SANDBOX_IMAGE,
        "Hostname": SANDBOX_HOSTNAME,
        "Labels": dict(labels),
        "HostConfig": {
            "NetworkMode": "none",
            "Sysctls": {**SANDBOX_SYSCTLS, **(SANDBOX_SYSCTLS_IPV6 if ipv6 else {})},
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "Memory": SANDBOX_MEMORY,
            "MemorySwap": SANDBOX_MEMORY,
            "PidsLimit": SANDBOX_PIDS,
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
        },
    }


@dataclass(frozen=True, slots=True)
class Paths:
    """The host's files that a workload sees."""

    run: Path
    hosts: Path
    resolv: Path
    secrets: Mapping[str, Path] = field(default_factory=dict)  # by path in the container


def workload_config(
    spec: NodeSpec, image_id: str, sandbox: str, labels: Mapping[str, str], paths: Paths, policy: Policy
) -> dict[str, Any]:
    """Return the API document of a workload that joins the network namespace of the container `sandbox` (an id)."""
    config: dict[str, Any] = {
        "Image": image_id,
        "Labels": {**labels, IMAGE: spec.image},
        "Env": [f"{key}={value}" for key, value in _environment(spec).items()],
        "HostConfig": {
            "NetworkMode": f"container:{sandbox}",
            "CapDrop": ["ALL"],
            "CapAdd": list(policy.capabilities),
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": policy.pids,
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": policy.log_size, "max-file": str(policy.log_files)},
            },
            "Mounts": _mounts(spec, paths, labels),
            "RestartPolicy": {"Name": "no"},
            **_limits(spec),
        },
    }
    if spec.command is not None:
        config["Cmd"] = list(spec.command)
    return config


def _environment(spec: NodeSpec) -> dict[str, str]:
    ours = {
        "HOSTNAME": spec.node,
        "ODYSSEY_NODE": spec.node,
        "ODYSSEY_ADDRESS": spec.attachment.address,
        **({"ODYSSEY_ADDRESS6": spec.attachment.address6} if spec.attachment.address6 else {}),
        "ODYSSEY_NEIGHBOURS": NEIGHBOURS_IN_CONTAINER,
    }
    return {**ours, **spec.environment}


def _limits(spec: NodeSpec) -> dict[str, int]:
    limits: dict[str, int] = {}
    if spec.memory_mib is not None:
        # Swap included, so that a node never swaps.
        limits["Memory"] = limits["MemorySwap"] = spec.memory_mib * 1024 * 1024
    if spec.cpus is not None:
        limits["NanoCpus"] = round(spec.cpus * 1_000_000_000)
    return limits


def _mounts(spec: NodeSpec, paths: Paths, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    mounts = [
        _read_only(paths.run, RUN_IN_CONTAINER),
        _read_only(paths.hosts, "/etc/hosts"),
        _read_only(paths.resolv, "/etc/resolv.conf"),
        *(_read_only(source, target) for target, source in paths.secrets.items()),
    ]
    if spec.volume is not None:
        # The labels count only where Docker makes the volume now: they tell an abort that it is of this transaction.
        mounts.append(
            {
                "Type": "volume",
                "Source": spec.volume.name,
                "Target": spec.volume.path,
                "VolumeOptions": {"Labels": {**labels, ROLE: VOLUME}},
            }
        )
    return mounts


def _read_only(source: Path, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True}
