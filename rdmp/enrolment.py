# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a newcomer gets its first certificate: the client of the enrolment port, for agents, controllers and operators.

The token `ODY1-<SHA-256 of the CA certificate's DER, hex>-<secret, base32>` pins the CA. The newcomer asks for the CA
without trusting anybody (`enrol.ca`), compares, connects again trusting that CA only, makes its private key here, and
sends a request for a certificate (`enrol.sign`). Messages are JSN1 frames with `call` and `reply`, without `hello`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rdmp.endpoints import Endpoint
from rdmp.frames import Decoder, FrameError, encode
from rdmp.tls import Identity, IdentityError, TlsFiles, peer_identity

CERTIFICATE_FILE = "cert.pem"
KEY_FILE = "key.pem"
CA_FILE = "ca.pem"
MAX_MESSAGE_BYTES = 64 * 1024
CONNECT_TIMEOUT = 10.0  # seconds for TCP and TLS
ANSWER_TIMEOUT = 20.0  # seconds for one answer

_Json = Mapping[str, Any]
_TOKEN = re.compile(r"ODY1-([0-9a-f]{64})-[A-Z2-7]{32}")


class EnrolmentError(Exception):
    """The newcomer did not get a certificate; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Who the newcomer is now, and its files."""

    identity: Identity
    files: TlsFiles


def pki_files(folder: Path) -> TlsFiles:
    """Return the files of a peer's folder: `cert.pem`, `key.pem`, `ca.pem`."""
    return TlsFiles(folder / CERTIFICATE_FILE, folder / KEY_FILE, folder / CA_FILE)


async def enrol(endpoint: Endpoint, token: str, role: str, name: str, folder: Path) -> Enrolled:
    """Join the cluster as `role`/`name` and write certificate, key (mode 0600) and CA into `folder`.

    The key is made here and never leaves. What stood in `folder` is replaced only once everything is there. Raises
    EnrolmentError, OSError.
    """
    match = _TOKEN.fullmatch(token.strip())
    if match is None:
        raise EnrolmentError("this is no join token; one looks like ODY1-<64 hex digits>-<32 letters and digits>")
    if endpoint.kind != "tls":
        raise EnrolmentError(f"{endpoint}: the enrolment port speaks TLS; write tls:host:port")
    ca = await _pinned_ca(endpoint, match[1])
    key = ec.generate_private_key(ec.SECP256R1())
    params = {"token": token.strip(), "role": role, "name": name, "csr": _request(key, name)}
    answer = await _ask(endpoint, _trusting(ca), "enrol.sign", params)
    certificate, cluster = _field(answer, "certificate"), _field(answer, "cluster")
    identity = Identity(cluster, role, name)
    _check_certificate(certificate, key, ca, identity)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = pki_files(folder)
    await asyncio.to_thread(
        _write_together,
        {files.key: (private, 0o600), files.cert: (certificate.encode(), 0o644), files.ca: (ca.encode(), 0o644)},
    )
    return Enrolled(identity, files)


async def _pinned_ca(endpoint: Endpoint, fingerprint: str) -> str:
    """Ask for the CA's certificate and compare it with the token."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.minimum_version = ssl.TLSVersion.TLSv1_3
    anybody.check_hostname = False
    # Nobody can be trusted before the pin is compared; nothing secret is sent on this connection.
    anybody.verify_mode = ssl.CERT_NONE
    ca = _field(await _ask(endpoint, anybody, "enrol.ca", {}), "ca")
    try:
        der = x509.load_pem_x509_certificate(ca.encode()).public_bytes(serialization.Encoding.DER)
    except ValueError as error:
        raise EnrolmentError(f"{endpoint}: what it calls its CA is no certificate: {error}") from error
    if not hmac.compare_digest(hashlib.sha256(der).hexdigest(), fingerprint):
        raise EnrolmentError(
            f"{endpoint} shows another CA than the one in the token: either the token is of another cluster, or"
            " somebody stands between here and the orchestrator; nothing was sent"
        )
    return ca


def _trusting(ca: str) -> ssl.SSLContext:
    """Return a context that accepts servers of this CA only; their role is checked after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca)
    return context


async def _ask(
    endpoint: Endpoint, context: ssl.SSLContext, method: str, params: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Make one call on a connection of its own and return its result."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=context, server_hostname="", limit=MAX_MESSAGE_BYTES
            )
    except TimeoutError as error:
        raise EnrolmentError(f"{endpoint} did not answer within {CONNECT_TIMEOUT:g} s") from error
    except (OSError, ssl.SSLError) as error:
        raise EnrolmentError(f"cannot connect to {endpoint}: {error}") from error
    try:
        if context.verify_mode is ssl.CERT_REQUIRED:
            _check_server(endpoint, writer)
        writer.write(encode({"type": "call", "id": "1", "method": method, "params": dict(params)}, MAX_MESSAGE_BYTES))
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await writer.drain()
            return _result(endpoint, method, await _read(reader))
    except TimeoutError as error:
        raise EnrolmentError(f"{endpoint} did not answer {method} within {ANSWER_TIMEOUT:g} s") from error
    except (OSError, ssl.SSLError, FrameError) as error:
        raise EnrolmentError(f"{endpoint}: {method} failed: {error}") from error
    finally:
        writer.close()


def _check_server(endpoint: Endpoint, writer: asyncio.StreamWriter) -> None:
    try:
        server = peer_identity(writer.get_extra_info("ssl_object"))
    except IdentityError as error:
        raise EnrolmentError(f"{endpoint}: {error}") from error
    if server.role != "orchestrator":
        raise EnrolmentError(f"{endpoint} is {server}, not an orchestrator")


async def _read(reader: asyncio.StreamReader) -> Mapping[str, Any]:
    decoder = Decoder(MAX_MESSAGE_BYTES)
    while data := await reader.read(MAX_MESSAGE_BYTES):
        for message in decoder.feed(data):
            return message
    raise ConnectionError("the connection was closed without an answer")


def _result(endpoint: Endpoint, method: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    result = message.get("result")
    if message.get("type") == "reply" and isinstance(result, dict):
        return result
    error = message.get("error")
    told = error.get("message") if isinstance(error, dict) else message.get("message")
    raise EnrolmentError(f"{endpoint} refused {method}: {told or 'it gave no reason'}")


def _field(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise EnrolmentError(f"the orchestrator's answer has no {name}; is it of another version?")
    return value


def _request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Return a certificate request (PKCS#10, RFC 2986), which proves that we have the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _check_certificate(pem: str, key: ec.EllipticCurvePrivateKey, ca: str, expected: Identity) -> None:
    """See that what came is for our key, from the pinned CA, and names us."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception as error:  # cryptography raises several kinds; each means the same here
        raise EnrolmentError(f"the certificate that came cannot be used: {error}") from error
    if certificate.public_key() != key.public_key():
        raise EnrolmentError("the certificate that came is for another key")
    uris = [str(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    if uris != [str(expected)]:
        raise EnrolmentError(f"the certificate that came names {uris}, expected {expected}")


def _write_together(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Write all beside, flush them, then rename: what stood before is replaced by a whole set."""
    drafts = []
    for path, (content, mode) in files.items():
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        drafts.append((draft, path))
    for draft, path in drafts:
        os.replace(draft, path)
    folder = os.open(drafts[0][1].parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
