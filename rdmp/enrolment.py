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
from rdmp.files import PRIVATE_FILE, PUBLIC_FILE, make_private_directory, write_together
from rdmp.frames import Decoder, FrameError, encode
from rdmp.tls import Identity, IdentityError, TlsFiles, peer_identity

ROLES = ("agent", "controller", "netconf", "operator", "publisher")
"""Who joins by a token. Orchestrators and switches get their certificates where the CA is."""
TOKEN_VARIABLE = "ODYSSEY_TOKEN"
"""Environment variable with the token."""
SYSTEM_FOLDER = Path("/etc/odyssey/pki")
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


def own_identity(folder: Path, role: str) -> Identity:
    """Return who the program with this folder is; raises IdentityError that says what to do, OSError."""
    files = pki_files(folder)
    try:
        found = files.identity()
    except FileNotFoundError as error:
        how = "prints the command that fetches it"
        makes = f"`odysseyctl host join NAME{'' if role == 'agent' else f' --role {role}'}` {how}"
        if role not in ROLES:
            makes = f"`odysseyctl ca issue {role} NAME --out {folder}` makes it"
        who = "host" if role == "agent" else role
        raise IdentityError(f"{error.filename} is missing: this {who} has not joined; {makes}") from error
    if found.role != role:
        raise IdentityError(f"{files.cert} is of {found}; it must have the role {role}")
    return found


def default_folder(role: str) -> Path:
    """Return where programs of a role look for their files: one folder each, for they run as different users.

    A host's agent is its first; those of people, and of systems that publish, lie below their home.
    """
    match role:
        case "agent":
            return SYSTEM_FOLDER
        case "operator" | "publisher":
            return Path.home() / ".config/odyssey" / role
    return SYSTEM_FOLDER / role


async def enrol(endpoint: Endpoint, token: str, role: str, name: str, folder: Path) -> Enrolled:
    """Join the cluster as `role`/`name` and write certificate, key (mode 0600) and CA into `folder`.

    The key is made here and never leaves. What stood in `folder` is replaced only once everything is there. Raises
    EnrolmentError, OSError.
    """
    _check_folder(folder, role)
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
    make_private_directory(folder)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    written = {
        KEY_FILE: (private, PRIVATE_FILE),
        CERTIFICATE_FILE: (certificate.encode(), PUBLIC_FILE),
        CA_FILE: (ca.encode(), PUBLIC_FILE),
    }
    await asyncio.to_thread(write_together, folder, written)
    return Enrolled(identity, pki_files(folder))


def _check_folder(folder: Path, role: str) -> None:
    """See that nobody else's identity is replaced: a host whose agent lost its own would not come back."""
    try:
        stands = pki_files(folder).identity()
    except (OSError, IdentityError):
        return  # nothing that is good for anything
    if stands.role != role:
        raise EnrolmentError(f"{folder} holds the certificate of {stands}; write that of a {role} elsewhere (--pki)")


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
