# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of each node on its host: who owns it (its claim), its neighbours, its /etc/hosts and /etc/resolv.conf.

A claim is durable before anything of the node exists, and goes after everything of it has gone. So whatever carries a
node's name can be traced to one transaction after any crash, also a sandbox whose labels were fixed before it had a
node.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.spec import NodeSpec

NEIGHBOURS_IN_CONTAINER = "/run/odyssey/neighbours.json"
RUN_IN_CONTAINER = "/run/odyssey"
SANDBOX_HOSTNAME = "node"  # the workload inherits it; it is fixed before a sandbox made ahead has a node

_CLAIM = "claim.json"
_NEIGHBOURS = "neighbours.json"
_RESOLV_CONF = "# Nothing is resolved here: the nodes this one may use stand in " + NEIGHBOURS_IN_CONTAINER + "\n"


@dataclass(frozen=True, slots=True)
class Claim:
    """The transaction that a node's name on this host belongs to, and what it takes of the host.

    `sandbox` is the one that it took from the pool, `vlans` are the host's VLAN interfaces below its NICs.
    """

    node: str
    tx: str
    sandbox: str | None = None
    vlans: frozenset[str] = frozenset()


class NodeFiles:
    """One folder for each node below `root`. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def run_folder(self, node: str) -> Path:
        """The folder that the container sees as RUN_IN_CONTAINER."""
        return self._root / node / "run"

    def hosts_file(self, node: str) -> Path:
        """The container's /etc/hosts."""
        return self._root / node / "hosts"

    def resolv_file(self, node: str) -> Path:
        """The container's /etc/resolv.conf."""
        return self._root / node / "resolv.conf"

    def claim(self, claim: Claim) -> None:
        """Note a claim durably."""
        folder = self._root / claim.node
        folder.mkdir(mode=0o700, exist_ok=True)
        document = {"node": claim.node, "tx": claim.tx, "sandbox": claim.sandbox, "vlans": sorted(claim.vlans)}
        _replace(folder / _CLAIM, json.dumps(document), 0o600, durable=True)
        _sync_folder(self._root)

    def claimed(self, node: str) -> Claim | None:
        """Return the claim of a node, None if there is none."""
        try:
            document = json.loads((self._root / node / _CLAIM).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return Claim(document["node"], document["tx"], document["sandbox"], frozenset(document.get("vlans", ())))

    def claims(self) -> tuple[Claim, ...]:
        """Return the claims of all nodes."""
        claims = (self.claimed(folder.name) for folder in sorted(self._root.iterdir()))
        return tuple(claim for claim in claims if claim is not None)

    def write(self, spec: NodeSpec) -> None:
        """Write what the container of `spec` sees; a newer neighbours document that stands already is kept."""
        folder = self._root / spec.node
        folder.mkdir(mode=0o700, exist_ok=True)
        self.run_folder(spec.node).mkdir(mode=0o755, exist_ok=True)
        attachment = spec.attachment
        own = (attachment.address, *([attachment.address6] if attachment.address6 else []))
        names = "127.0.0.1 localhost\n" + "".join(f"{address} {spec.node} {SANDBOX_HOSTNAME}\n" for address in own)
        _once(self.hosts_file(spec.node), names)
        _once(self.resolv_file(spec.node), _RESOLV_CONF)
        self.write_neighbours(spec.node, spec.neighbours)

    def write_neighbours(self, node: str, document: Mapping[str, Any]) -> bool:
        """Replace the neighbours document by a rename; False if the one that stands is newer. The folder must exist."""
        path = self.run_folder(node) / _NEIGHBOURS
        standing = _revision(path)
        if standing is not None and standing > int(document["revision"]):
            return False
        _replace(path, json.dumps(document, indent=1, sort_keys=True) + "\n", 0o644, durable=False)
        return True

    def remove(self, node: str) -> None:
        """Remove everything of a node, its claim last."""
        folder = self._root / node
        if not folder.exists():
            return
        if self.run_folder(node).exists():
            shutil.rmtree(self.run_folder(node))
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _CLAIM):
            path.unlink()
        folder.rmdir()
        _sync_folder(self._root)


def _revision(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["revision"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # torn by a power cut: it is not newer than anything


def _once(path: Path, text: str) -> None:
    """Write a file that containers hold bound: it must not be replaced while it is right."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        _replace(path, text, 0o644, durable=False)


def _replace(path: Path, text: str, mode: int, *, durable: bool) -> None:
    """Write beside and rename, so that a reader sees the old or the new file, never a part."""
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        if durable:
            os.fsync(descriptor)
    os.replace(beside, path)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
