# SPDX-License-Identifier: AGPL-3.0-or-later
"""Enrolment over real TLS sockets: who gets a certificate, who does not, and why."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from odyssey.cli.commands.host import join_command
from odyssey.security.ca import CertificateAuthority
from odyssey.security.enrol import EnrolLimits, EnrolServer, enrol_context
from odyssey.security.tokens import JoinTokens, MemoryTokenStore, TokenRecord, split_token
from rdmp.endpoints import Endpoint
from rdmp.enrolment import ROLES, EnrolmentError, enrol, pki_files
from rdmp.frames import Decoder, encode

SMALL = EnrolLimits(handshake_timeout=0.5, idle_timeout=0.5, burst=1000, lifetime=5)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """One orchestrator's enrolment server with its authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = CertificateAuthority.create(folder / "ca", "lab")
        self.files = self.authority.issue("orchestrator", "o1", folder / "o1")
        self.clock = Clock()
        self.tokens = JoinTokens(MemoryTokenStore(), "lab", self.authority.fingerprint, self.clock)
        self.issued: list[Mapping[str, Any]] = []
        self.port = 0
        self._servers: list[EnrolServer] = []

    async def start(self, limits: EnrolLimits = SMALL, tokens: JoinTokens | None = None) -> None:
        context = enrol_context(self.files.cert, self.files.key)
        server = EnrolServer(self.authority, tokens or self.tokens, context, limits=limits, report=self._report)
        self.port = await server.serve("127.0.0.1", 0)
        self._servers.append(server)

    async def _report(self, issued: Mapping[str, Any]) -> None:
        self.issued.append(issued)

    async def close(self) -> None:
        for server in self._servers:
            await server.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    started = Site(tmp_path)
    await started.start()
    yield started
    await started.close()


def untrusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trusting(ca_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ca_pem)
    return context


class Newcomer:
    """One connection of a newcomer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._decoder = Decoder(1 << 20)
        self._waiting: list[dict[str, Any]] = []

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext | None = None) -> Newcomer:
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context or untrusting()))

    async def send(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer, or None if the server closed."""
        self.writer.write(encode(message, 1 << 20))
        return await self.receive()

    async def receive(self) -> dict[str, Any] | None:
        while not self._waiting:
            data = await self._reader.read(65536)
            if not data:
                return None
            self._waiting.extend(self._decoder.feed(data))
        return self._waiting.pop(0)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        reply = await self.send({"type": "call", "id": "1", "method": method, "params": params})
        assert reply is not None
        return reply

    def close(self) -> None:
        self.writer.close()


def request() -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


async def join(port: int, token: str, name: str = "h1", csr: str | None = None) -> dict[str, Any]:
    """The whole flow of a careful newcomer: pin the CA, connect again trusting only it, ask."""
    first = await Newcomer.connect(port)
    ca = (await first.call("enrol.ca"))["result"]["ca"]
    first.close()
    pinned, _ = split_token(token)
    if hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca)).hexdigest() != pinned:
        raise ssl.SSLCertVerificationError("the CA is not the one that the token pins")
    second = await Newcomer.connect(port, trusting(ca))
    try:
        return await second.call("enrol.sign", token=token, role="agent", name=name, csr=csr or request())
    finally:
        second.close()


async def test_a_good_token_gives_a_certificate_of_the_pinned_ca(site: Site) -> None:
    token = await site.tokens.create("agent", "h1")
    result = (await join(site.port, token.text))["result"]
    assert result["cluster"] == "lab"
    assert result["ca"].encode() == site.authority.pem
    certificate = x509.load_pem_x509_certificate(result["certificate"].encode())
    certificate.verify_directly_issued_by(site.authority.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["odyssey://lab/agent/h1"]
    assert site.issued == [{"role": "agent", "name": "h1", "address": "127.0.0.1"}]


async def test_the_agents_enrolment_gets_files_for_mutual_tls(site: Site, tmp_path: Path) -> None:
    token = await site.tokens.create("agent", "h1")
    endpoint = Endpoint.parse(f"tls:127.0.0.1:{site.port}")
    joined = await enrol(endpoint, token.text, "agent", "h1", tmp_path / "h1")
    assert str(joined.identity) == "odyssey://lab/agent/h1"
    assert joined.files.identity() == joined.identity
    joined.files.client_context()
    with pytest.raises(EnrolmentError, match="already used"):
        await enrol(endpoint, token.text, "agent", "h1", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("role", ROLES)
async def test_the_printed_command_joins_with_every_role(site: Site, tmp_path: Path, role: str) -> None:
    token = await site.tokens.create(role, "x1")
    command = join_command("x1", token.text, f"127.0.0.1:{site.port}", role)
    folder = tmp_path / role
    folder.mkdir(mode=0o700)
    os.chown(folder, 4321, 4321)  # as of a daemon's own user
    process = await asyncio.create_subprocess_shell(
        f"{command} --pki {folder}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert (process.returncode, f"joined as odyssey://lab/{role}/x1" in output.decode()) == (0, True), output
    assert str(pki_files(folder).identity()) == f"odyssey://lab/{role}/x1"
    for name, mode in (("key.pem", 0o600), ("cert.pem", 0o644), ("ca.pem", 0o644)):
        status = (folder / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (4321, mode)


async def test_a_certificate_of_another_role_is_not_replaced(site: Site, tmp_path: Path) -> None:
    endpoint = Endpoint.parse(f"tls:127.0.0.1:{site.port}")
    await enrol(endpoint, (await site.tokens.create("agent", "h1")).text, "agent", "h1", tmp_path)
    token = await site.tokens.create("operator", "alice")
    with pytest.raises(EnrolmentError, match=r"holds the certificate of odyssey://lab/agent/h1; .* \(--pki\)"):
        await enrol(endpoint, token.text, "operator", "alice", tmp_path)
    assert pki_files(tmp_path).identity().role == "agent"
    await enrol(endpoint, token.text, "operator", "alice", tmp_path / "alice")
    await enrol(endpoint, (await site.tokens.create("agent", "h2")).text, "agent", "h2", tmp_path)
    assert pki_files(tmp_path).identity().name == "h2"


async def test_the_agents_enrolment_stops_at_an_impostor(site: Site, tmp_path: Path) -> None:
    impostor = Site(tmp_path / "impostor")
    await impostor.start()
    token = await site.tokens.create("agent", "h1")
    with pytest.raises(EnrolmentError, match="another CA"):
        await enrol(Endpoint.parse(f"tls:127.0.0.1:{impostor.port}"), token.text, "agent", "h1", tmp_path / "h1")
    await impostor.close()


async def test_reuse_is_refused(site: Site) -> None:
    token = await site.tokens.create("agent", "h1")
    await join(site.port, token.text)
    error = (await join(site.port, token.text))["error"]
    assert error["code"] == "used"
    assert "127.0.0.1" in error["message"]
    assert len(site.issued) == 1


async def test_of_many_at_once_one_wins(site: Site) -> None:
    token = await site.tokens.create("agent", "h1")
    replies = await asyncio.gather(*(join(site.port, token.text) for _ in range(3)))
    assert sorted("result" in reply for reply in replies) == [False, False, True]


async def test_an_expired_token_is_refused(site: Site) -> None:
    token = await site.tokens.create("agent", "h1", lifetime=10)
    site.clock.now += 11
    assert (await join(site.port, token.text))["error"]["code"] == "expired"


async def test_another_name_is_refused_and_the_token_stays_good(site: Site) -> None:
    token = await site.tokens.create("agent", "h1")
    assert (await join(site.port, token.text, name="h2"))["error"]["code"] == "mismatch"
    assert "result" in await join(site.port, token.text)


async def test_a_bad_request_leaves_the_token_good(site: Site) -> None:
    token = await site.tokens.create("agent", "h1")
    error = (await join(site.port, token.text, csr="nonsense"))["error"]
    assert error["code"] == "request"
    assert "still good" in error["message"]
    assert "result" in await join(site.port, token.text)


async def test_a_server_of_another_ca_is_not_believed(site: Site, tmp_path: Path) -> None:
    impostor = Site(tmp_path / "impostor")
    await impostor.start()
    token = await site.tokens.create("agent", "h1")
    with pytest.raises(ssl.SSLCertVerificationError, match="not the one that the token pins"):
        await join(impostor.port, token.text)
    with pytest.raises(ssl.SSLCertVerificationError):
        await Newcomer.connect(impostor.port, trusting(site.authority.pem.decode()))
    await impostor.close()
    assert "result" in await join(site.port, token.text)


async def test_a_token_of_another_cluster_is_refused(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other")
    token = await other.tokens.create("agent", "h1")
    newcomer = await Newcomer.connect(site.port)
    error = (await newcomer.call("enrol.sign", token=token.text, role="agent", name="h1", csr=request()))["error"]
    newcomer.close()
    assert error["code"] == "cluster"


async def test_only_the_two_methods_are_there(site: Site) -> None:
    newcomer = await Newcomer.connect(site.port)
    assert (await newcomer.call("service.call"))["error"]["code"] == "unknown_method"
    assert (await newcomer.call("enrol.sign", token="x"))["error"]["message"].startswith("$.params.role")
    hello = await newcomer.send({"type": "hello", "id": 1})
    assert hello is not None
    assert hello["code"] == "bad_message"
    newcomer.close()


async def test_bytes_that_are_no_frame_end_the_connection(site: Site) -> None:
    newcomer = await Newcomer.connect(site.port)
    newcomer.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    answer = await newcomer.receive()
    assert answer is not None
    assert answer["code"] == "bad_frame"
    assert await newcomer.receive() is None
    newcomer.close()


async def test_a_message_above_the_limit_ends_the_connection(site: Site) -> None:
    newcomer = await Newcomer.connect(site.port)
    message = {"type": "call", "id": 1, "method": "enrol.ca", "params": {"x": "x" * 70000}}
    # The kernel may throw the answer away: what was sent and never read makes the close a reset (RFC 1122, 4.2.2.13).
    with contextlib.suppress(ConnectionResetError):
        answer = await newcomer.send(message)
        assert answer is not None
        assert answer["code"] == "message_too_large"
    with contextlib.suppress(ConnectionResetError):
        assert await newcomer.receive() is None
    newcomer.close()


async def test_the_rate_of_one_address_is_limited(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start(EnrolLimits(burst=2, per_minute=1))
    newcomer = await Newcomer.connect(site.port)
    for _ in range(2):
        assert "result" in await newcomer.call("enrol.ca")
    error = (await newcomer.call("enrol.ca"))["error"]
    assert (error["code"], "wait" in error["message"]) == ("rate", True)
    newcomer.close()
    await site.close()


async def test_a_silent_peer_is_dropped_and_frees_its_place(site: Site) -> None:
    silent = [
        await asyncio.open_connection("127.0.0.1", site.port) for _ in range(SMALL.connections_per_address)
    ]  # no TLS hello ever comes
    for reader, writer in silent:
        assert await reader.read(1) == b""
        writer.close()
    idle = await Newcomer.connect(site.port)
    assert await idle.receive() is None
    idle.close()
    token = await site.tokens.create("agent", "h1")
    assert "result" in await join(site.port, token.text)


async def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start(EnrolLimits(connections=2, connections_per_address=2))
    held = [await Newcomer.connect(site.port) for _ in range(2)]
    with pytest.raises((OSError, EOFError)):
        await Newcomer.connect(site.port)
    for newcomer in held:
        assert "result" in await newcomer.call("enrol.ca")
        newcomer.close()
    await site.close()


async def test_a_connection_answers_a_bounded_number_of_messages(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start(EnrolLimits(messages_per_connection=2))
    newcomer = await Newcomer.connect(site.port)
    for _ in range(2):
        assert "result" in await newcomer.call("enrol.ca")
    assert await newcomer.send({"type": "call", "id": 3, "method": "enrol.ca", "params": {}}) is None
    newcomer.close()
    await site.close()


async def test_old_tls_is_refused(site: Site) -> None:
    context = untrusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        await Newcomer.connect(site.port, context)


async def test_a_store_that_fails_gives_no_certificate(tmp_path: Path) -> None:
    class Broken(MemoryTokenStore):
        async def mark_used(self, token_id: str, used: float, used_by: str) -> bool:
            raise RuntimeError("the disk is full")

        async def find(self, token_id: str) -> TokenRecord | None:
            return await super().find(token_id)

    site = Site(tmp_path)
    tokens = JoinTokens(Broken(), "lab", site.authority.fingerprint, site.clock)
    await site.start(tokens=tokens)
    token = await tokens.create("agent", "h1")
    reply = await join(site.port, token.text)
    assert reply["error"]["code"] == "internal"
    assert "disk" not in reply["error"]["message"]
    assert site.issued == []
    await site.close()
