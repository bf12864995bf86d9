# SPDX-License-Identifier: AGPL-3.0-or-later
"""An orchestrator and its simulated agents, each in processes of their own."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rdmp.tls import Identity
from tests.bench.rdmp.simulated import CLUSTER
from tests.bench.rdmp.support import Child, Json

HOST = "127.0.0.1"
_USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class Pki:
    """Issues certificates, agents with one key for all: what costs time is the handshake, and that uses the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._agents = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench CA")])
        builder = self._builder("bench CA", self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self._write_key(folder / "agents.key", self._agents)

    def agents(self, names: Sequence[str]) -> None:
        """Write the certificates of agents that have none."""
        for name in names:
            path = self.folder / f"{name}.pem"
            if not path.exists():
                path.write_bytes(self._certificate("agent", name, self._agents))

    def one(self, role: str, name: str) -> tuple[str, str, str]:
        """Certificate, key and CA files of one peer."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert, private = self.folder / f"{role}-{name}.pem", self.folder / f"{role}-{name}.key"
        cert.write_bytes(self._certificate(role, name, key))
        self._write_key(private, key)
        return str(cert), str(private), str(self.ca)

    def _certificate(self, role: str, name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
        uri = x509.UniformResourceIdentifier(str(Identity(CLUSTER, role, name)))
        builder = self._builder(name, key)
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_USAGES), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    @staticmethod
    def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
        path.touch(mode=0o600)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path.write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))


class Fleet:
    """Starts the processes; `started` is the list of `support.children`, which ends them."""

    def __init__(self, folder: Path, pki: Pki, started: list[Child], limits: Mapping[str, Any]) -> None:
        self.folder = folder
        self.pki = pki
        self.limits = dict(limits)
        self.agents: list[Child] = []
        self.port = 0
        self.names: tuple[str, ...] = ()
        self._started = started
        folder.mkdir(parents=True, exist_ok=True)
        self._tls = pki.one("orchestrator", "o1")

    def orchestrate(self) -> tuple[Child, Json]:
        """Start the orchestrator (again: on the same port); returns it and what it told first."""
        settings = {
            "folder": str(self.folder / "store"), "tls": self._tls, "host": HOST, "port": self.port,
            "limits": self.limits,
        }  # fmt: skip
        child = Child("orchestrator", settings)
        self._started.insert(0, child)
        ready = child.answer()
        self.port = ready["port"]
        return child, ready

    def man(self, count: int, processes: int) -> None:
        """Start `count` agents in `processes` processes."""
        self.names = tuple(f"a{number}" for number in range(count))
        self.pki.agents(self.names)
        for index in range(min(processes, count)):
            settings = {
                "folder": str(self.folder), "pki": str(self.pki.folder), "host": HOST, "port": self.port,
                "names": self.names[index::processes], "limits": self.limits,
            }  # fmt: skip
            child = Child("agents", settings)
            self.agents.append(child)
            self._started.append(child)
        for child in self.agents:
            child.answer()

    def usage(self, *others: Child) -> Json:
        """Processor seconds and fsyncs of all agents and of the others, summed."""
        answers = [child.ask("usage") for child in (*self.agents, *others)]
        return {name: sum(answer[name] for answer in answers) for name in ("cpu", "rss", "syncs")}
