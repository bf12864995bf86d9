# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small certificate authority and a recording participant for the integration tests of rdmp."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rdmp.client import Client
from rdmp.decisionlog import MemoryDecisionLog
from rdmp.dialler import Dialler
from rdmp.endpoints import Endpoint
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.messages import Hello, Message, Welcome
from rdmp.participant import Effect, Participant, Transaction
from rdmp.records import TxRecord
from rdmp.rpc import ProgressSender, RpcError, RpcHandler
from rdmp.runner import ParticipantRunner
from rdmp.session import Session
from rdmp.tls import Identity, TlsFiles

CLUSTER = "test"
FAST = Limits(
    heartbeat=0.2, reconnect_min=0.02, reconnect_max=0.2, peer_wait=0.5, repeat_interval=0.5, inquire_interval=0.2,
    effect_retry_min=0.02, effect_retry_max=0.2, write_retry_min=0.02,
)  # fmt: skip


class Pki:
    """Issues certificates as the cluster's CA would."""

    def __init__(self, folder: Path, cluster: str = CLUSTER) -> None:
        self.folder = folder
        self.cluster = cluster
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster} CA")])
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, role: str, name: str, uri: str | None = None) -> TlsFiles:
        """Return certificate and key files of one identity."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uri = uri or str(Identity(self.cluster, role, name))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, key)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert, private = self.folder / f"{role}-{name}.pem", self.folder / f"{role}-{name}.key"
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return TlsFiles(cert, private, self.ca)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


@dataclass
class Recorder(Participant):
    """A participant that notes what it is asked; hooks change what happens."""

    log: list[tuple[str, ...]] = field(default_factory=list)
    restored: tuple[Mapping[str, Any], tuple[str, ...]] = field(default_factory=lambda: ({}, ()))
    on_prepare: Callable[[Transaction], Awaitable[None]] | None = None
    on_commit: Callable[[Transaction, str], Awaitable[None]] | None = None
    on_call: Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]] | None = None

    def of(self, tx: str) -> list[str]:
        """Return what was done for one transaction, as words."""
        return [" ".join(item[:1] + item[2:]) for item in self.log if item[1] == tx]

    async def prepare(self, tx: Transaction) -> Effect:
        self.log.append(("prepare", tx.id))
        if self.on_prepare is not None:
            await self.on_prepare(tx)
        return Effect(detail={"prepared": tx.id})

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        self.log.append(("commit", tx.id, stage))
        if self.on_commit is not None:
            await self.on_commit(tx, stage)
        return Effect(state={f"tx/{tx.id}": {"stage": stage, "seq": tx.seq}})

    async def abort(self, tx: Transaction) -> Effect:
        self.log.append(("abort", tx.id))
        return Effect()

    async def status(self, tx_id: str) -> Mapping[str, Any]:
        return {"tx": tx_id}

    async def observe(self) -> Mapping[str, Any]:
        return {"revision": 0, "log": [list(item) for item in self.log]}

    async def call(
        self, method: str, params: Mapping[str, Any], progress: Callable[[Mapping[str, Any]], Awaitable[None]]
    ) -> Mapping[str, Any]:
        if self.on_call is not None:
            return await self.on_call(method, params)
        if method != "echo":
            raise RpcError("unknown_method", f"there is no method {method!r}")
        await progress({"half": True})
        return params

    async def restore(self, state: Mapping[str, Mapping[str, Any]], in_doubt: Sequence[Transaction]) -> None:
        self.restored = (dict(state), tuple(tx.id for tx in in_doubt))


class Echo(RpcHandler):
    """Answers calls of peers: echo, whoami, slow, boom."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def call(
        self,
        peer: Identity,
        method: str,
        params: Mapping[str, Any],
        progress: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> Mapping[str, Any]:
        match method:
            case "echo":
                return params
            case "whoami":
                return {"identity": str(peer)}
            case "count":
                for number in range(params["to"]):
                    await progress({"number": number})
                return {"counted": params["to"]}
            case "slow":
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
                return {}
            case "boom":
                raise ZeroDivisionError("by intent")
            case _:
                raise RpcError("unknown_method", f"there is no method {method!r}")


def record(tx: str, names: Sequence[str], stages: Sequence[str] = ("admit", "neighbours"), **more: Any) -> TxRecord:
    """Return a new record in which each participant takes part in each stage."""
    operation = {"prepare": {"start": []}, "stages": {stage: {} for stage in stages}}
    values: dict[str, Any] = {"deadline": 5.0, **more}
    return TxRecord(tx, 0, 0, 0, "preparing", dict.fromkeys(names, operation), tuple(stages), **values)


@dataclass
class Cluster:
    """A CA, a decision log and an event log that outlive hubs."""

    folder: Path
    pki: Pki
    log: MemoryDecisionLog = field(default_factory=MemoryDecisionLog)
    events: MemoryEventLog = field(default_factory=MemoryEventLog)
    handler: Echo = field(default_factory=Echo)

    @contextlib.asynccontextmanager
    async def hub(
        self, epoch: int = 1, port: int = 0, limits: Limits = FAST, name: str = "o1"
    ) -> AsyncIterator[tuple[Hub, int]]:
        """Run a hub between enter and exit; gives it and its TLS port."""
        files = self.pki.issue("orchestrator", name)
        hub = Hub(files.identity(), self.log, self.events, self.handler, epoch, "i1", limits)
        await hub.recover()
        port = await hub.serve_tls("127.0.0.1", port, files.server_context())
        try:
            yield hub, port
        finally:
            await hub.close()

    @contextlib.asynccontextmanager
    async def participants(
        self, port: int, *names: str, limits: Limits = FAST
    ) -> AsyncIterator[dict[str, tuple[Recorder, ParticipantRunner]]]:
        """Run recording participants; their journals are kept in the folder."""
        async with contextlib.AsyncExitStack() as stack:
            started = {}
            for name in names:
                recorder = Recorder()
                files = self.pki.issue("controller" if name == "controller" else "agent", name)
                runner = await stack.enter_async_context(
                    running(recorder, self.folder / f"{name}.journal", files, [port], limits)
                )
                started[name] = (recorder, runner)
            yield started

    async def dial_raw(self, port: int, files: TlsFiles, epoch: int = 0, boot: str = "raw") -> Session:
        """Return a session that has shaken hands and does nothing else."""

        class Raw(Dialler):
            def session_opened(self, session: Session) -> None:
                session.send(Hello((1, 1), self.me.name, self.me.role, boot, epoch))

            def welcomed(self, session: Session, welcome: Welcome) -> None:
                pass

            def received(self, session: Session, message: Message) -> None:
                pass

            def lost(self, session: Session, reason: str) -> None:
                pass

            async def session_call(
                self, session: Session, method: str, params: Mapping[str, Any], progress: ProgressSender
            ) -> Mapping[str, Any]:
                return {}

        return await Raw(Endpoint("tls", "127.0.0.1", port), files, files.identity(), FAST).dial(epoch)

    async def client(self, port: int, role: str = "operator", name: str = "alice", limits: Limits = FAST) -> Client:
        """Return a connected client."""
        client = Client(limits)
        await client.connect(Endpoint("tls", "127.0.0.1", port), self.pki.issue(role, name))
        return client


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(
    participant: Participant,
    journal: Path,
    tls: TlsFiles,
    ports: Sequence[int],
    limits: Limits = FAST,
    groups: Sequence[str] = (),
) -> AsyncIterator[ParticipantRunner]:
    """Run a participant between enter and exit; it is connected at enter."""
    endpoints = [Endpoint("tls", "127.0.0.1", port) for port in ports]
    runner = ParticipantRunner(participant, journal, tls.identity(), endpoints, tls, limits, groups)
    task = asyncio.create_task(runner.run())
    waiting = asyncio.create_task(runner.connected())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield runner
    finally:
        await runner.stop()
        await task
