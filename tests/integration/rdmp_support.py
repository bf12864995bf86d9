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

from rdmp.endpoints import Endpoint
from rdmp.limits import Limits
from rdmp.participant import Effect, Participant, Transaction
from rdmp.records import TxRecord
from rdmp.rpc import RpcError, RpcHandler
from rdmp.runner import ParticipantRunner
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
    return TxRecord(
        id=tx, seq=0, epoch=0, revision=0, state="preparing", participants=dict.fromkeys(names, operation),
        stages=tuple(stages), **values,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def running(
    participant: Participant, journal: Path, tls: TlsFiles, ports: Sequence[int], limits: Limits = FAST
) -> AsyncIterator[ParticipantRunner]:
    """Run a participant between enter and exit; it is connected at enter."""
    endpoints = [Endpoint("tls", "127.0.0.1", port) for port in ports]
    runner = ParticipantRunner(participant, journal, tls.identity(), endpoints, tls, limits)
    task = asyncio.create_task(runner.run())
    waiting = asyncio.create_task(runner.connected())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield runner
    finally:
        await runner.stop()
        await task
