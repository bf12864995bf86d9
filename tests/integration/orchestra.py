# SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole odysseyd with agents and a controller that keep what they were told in memory, over real TLS sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemas
from odyssey.config import Config, OrchestratorLimits
from odyssey.daemon import running
from odyssey.model.naming import is_controller
from odyssey.security.ca import CertificateAuthority
from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.participant import Effect, Participant, Refused, Transaction
from rdmp.rpc import RpcError
from rdmp.runner import ParticipantRunner
from rdmp.tls import Identity, TlsFiles

ROOT = Path(__file__).resolve().parents[2]
PLATFORM: dict[str, Any] = json.loads((ROOT / "examples/shop/platform.json").read_text())
INVENTORY: dict[str, Any] = json.loads((ROOT / "examples/lab/inventory.json").read_text())
HOSTS = tuple(INVENTORY["hosts"])
RDMP = {"peer_wait": 0.5, "stage_wait": 1.0, "repeat_interval": 0.2, "reconnect_max": 0.2, "inquire_interval": 0.2}
LIMITS = OrchestratorLimits(
    settle_interval=0.2, lock_wait=5.0, drain_poll=0.02, leader_wait=0.3, leader_interval=0.1, leader_timeout=5.0
)
Json = Mapping[str, Any]


@dataclass
class Recorder(Participant):
    """Votes yes (or no, with `refusal`), keeps what it carried out, and waits at `gates` to be let on."""

    name: str
    refusal: str | None = None
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    generation: int = 0
    leads: bool = False
    documents: dict[str, Any] = field(default_factory=dict)
    """What a controller holds."""
    rate: int = 0
    """Packets by which the counters of every port rise from one question to the next."""
    absent: frozenset[str] = frozenset()
    """Switches that are not connected."""
    _packets: int = 0

    async def _pass(self, gate: str) -> None:
        if gate in self.gates:
            self.reached.set()
            await self.gates[gate].wait()

    async def prepare(self, tx: Transaction) -> Effect:
        self.seen.append((tx.id, "prepare", ""))
        await self._pass("prepare")
        if self.refusal:
            raise Refused(self.refusal)
        return Effect()

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        await self._pass(stage)
        self.seen.append((tx.id, "commit", stage))
        for key, document in tx.operation["stages"][stage].get("changes", {}).items():
            self.documents[key] = document
            if document is None:
                del self.documents[key]
        return Effect(state={f"{tx.id}/{stage}": tx.operation["stages"][stage]})

    async def abort(self, tx: Transaction) -> Effect:
        self.seen.append((tx.id, "abort", ""))
        return Effect()

    async def status(self, tx_id: str) -> Json:
        return {"tx": tx_id}

    async def observe(self) -> Json:
        return {"revision": 0, "nodes": {}, "host": self.name}

    async def call(self, method: str, params: Json, progress: Any) -> Json:
        match method:
            case "images":
                return dict.fromkeys(params["references"], "sha256:" + "a" * 64)
            case "connections":
                return {node: {"inbound": self.connections, "outbound": 0} for node in params["nodes"]}
            case "echo":
                return {"by": self.name, **params}
            case "compile":
                return {"switches": {}, "refusals": []}
            case "standing":
                digest = schemas.digest(self._marks())
                leading = {"leads": self.leads, "generation": self.generation}
                return {**leading, "intentDigest": digest, "reach": 2, "open": []}
            case "intent":
                return {"marks": self._marks(), "open": []}
            case "lead" | "follow":
                assert params["generation"] >= self.generation
                self.generation, self.leads = params["generation"], method == "lead"
                return {"failed": {}}
            case "switches":
                known = INVENTORY["fabric"]["switches"]
                return {"switches": {name: {"connected": name not in self.absent} for name in known}}
            case "switch_ports":
                self._packets += self.rate
                counters = {"rxPackets": self._packets, "txPackets": 0, "up": True}
                return {"switch": params["switch"], "ports": {str(port): counters for port in range(1, 202)}}
        raise RpcError("unknown_method", method)

    def _marks(self) -> dict[str, str]:
        return {key: schemas.mark(document) for key, document in self.documents.items()}

    async def restore(self, state: Mapping[str, Json], in_doubt: Sequence[Transaction]) -> None:
        return None


class Orchestra:
    """odysseyd in this process; `stop` and `start` are a restart with everything on disk kept."""

    def __init__(self, folder: Path, controllers: Sequence[str] = ("controller",)) -> None:
        self.folder = folder
        self.port = _free_port()
        self.authority = CertificateAuthority.create(folder / "ca", "lab")
        self.authority.issue("orchestrator", "odysseyd", folder / "pki")
        self.members = {name: Recorder(name) for name in (*HOSTS, *controllers)}
        self.hub: Hub | None = None
        self.rdmp: dict[str, Any] = dict(RDMP)
        self.roles: dict[str, Any] = {}
        self._stack = contextlib.AsyncExitStack()
        self._runners: dict[str, tuple[ParticipantRunner, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        config = Config(
            cluster="lab", state_dir=self.folder / "state", pki_dir=self.folder / "pki", ca_dir=self.folder / "ca",
            unix_socket=self.folder / "odysseyd.sock", tls_listen=("127.0.0.1", self.port), enrol_listen=None,
            limits=LIMITS, rdmp=self.rdmp, roles=self.roles,
        )  # fmt: skip
        self.hub = await self._stack.enter_async_context(running(config))

    async def stop(self) -> None:
        await self._stack.aclose()
        self._stack = contextlib.AsyncExitStack()

    async def join(self, *names: str) -> None:
        for name in names or tuple(self.members):
            role = "controller" if is_controller(name) else "agent"
            folder = self.folder / "members" / name
            self.authority.issue(role, name, folder)
            files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
            endpoint = Endpoint.parse(f"tls:127.0.0.1:{self.port}")

            runner = ParticipantRunner(
                self.members[name], folder / "journal.db", Identity("lab", role, name), [endpoint], files,
                Limits.from_table(RDMP), groups=["all", role],
            )  # fmt: skip
            self._runners[name] = runner, asyncio.create_task(runner.run())
            await asyncio.wait_for(runner.connected(), 5)

    async def leave(self, *names: str) -> None:
        for name in names or tuple(self._runners):
            runner, task = self._runners.pop(name)
            await runner.stop()
            await task

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[Client]:
        async with Client() as client:
            await client.connect(Endpoint.parse(f"unix:{self.folder / 'odysseyd.sock'}"))
            yield client

    async def serve(self, service: str, call_id: str, system: Json, **options: Any) -> Json:
        """Make one service call over the Unix socket."""
        request = {"SYSServiceID": service, "id": call_id, "data": [{"System": system}], "options": options}
        async with self.operator() as client:
            return await client.call("service.call", request, timeout=30)

    async def ask(self, method: str, **params: Any) -> Json:
        async with self.operator() as client:
            return await client.call(method, params)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
