# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who a peer is: TLS 1.3 with certificates on both sides, and the identity in them.

A certificate carries one URI subject alternative name, ``odyssey://<cluster>/<role>/<name>``.  Host names are not
checked; instead the chain must end at our CA and the role must be the expected one.
"""

from __future__ import annotations

import re
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

ROLES = ("orchestrator", "agent", "controller", "netconf", "operator", "publisher", "switch")
_URI = re.compile(r"odyssey://([A-Za-z0-9][A-Za-z0-9._-]*)/([a-z]+)/([A-Za-z0-9][A-Za-z0-9._:@-]*)")
_RESERVED = re.compile(r"(controller)(?:-.*)?|(netconf)", re.DOTALL)


def reserved_role(name: str) -> str | None:
    """Return the certificate role that alone may use ``name``, None where any may.

    ``controller``, ``controller-2`` and so on are controllers, ``netconf`` is that of switches' configurations: agents
    are named after their hosts.
    """
    match = _RESERVED.fullmatch(name)
    return match[1] or match[2] if match else None


class IdentityError(ValueError):
    """A certificate or a URI does not name an identity as RDMP needs it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is; ``str()`` gives the URI."""

    cluster: str
    role: str
    name: str

    def __str__(self) -> str:
        return f"odyssey://{self.cluster}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Read ``odyssey://<cluster>/<role>/<name>``; raises IdentityError."""
        match = _URI.fullmatch(uri)
        if match is None or match[2] not in ROLES:
            raise IdentityError(
                f"{uri!r} is no identity; use odyssey://<cluster>/<role>/<name>, a role of {', '.join(ROLES)}"
            )
        return cls(match[1], match[2], match[3])


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one peer: its certificate, its private key (mode 0600) and the CA that it trusts."""

    cert: Path
    key: Path
    ca: Path

    def client_context(self) -> ssl.SSLContext:
        """Return the context to dial with."""
        return client_context(self.cert, self.key, self.ca)

    def server_context(self) -> ssl.SSLContext:
        """Return the context to listen with."""
        return server_context(self.cert, self.key, self.ca)

    def identity(self) -> Identity:
        """Return the identity in the certificate file; raises IdentityError or OSError."""
        try:
            certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound) as error:
            raise IdentityError(f"{self.cert} is no certificate with an odyssey:// name: {error}") from error
        return _one([str(uri) for uri in names.get_values_for_type(x509.UniformResourceIdentifier)])


def server_context(cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """Return a context for listening: TLS 1.3 only, the peer must show a certificate of our CA."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, cert, key, ca)
    context.num_tickets = 0  # no peer of ours resumes a session, and tickets are a third of the server's handshake
    return context


def client_context(cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """Return a context for dialling: TLS 1.3 only, the server must show a certificate of our CA (any host name)."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, cert, key, ca)


def peer_identity(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> Identity:
    """Return the identity that the peer proved in its handshake; raises IdentityError."""
    certificate = ssl_object.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    return _one([str(entry[1]) for entry in names if entry[0] == "URI"])


def _one(uris: list[str]) -> Identity:
    if len(uris) != 1:
        raise IdentityError(f"a certificate must carry exactly one odyssey:// URI; it carries {len(uris)}: {uris}")
    return Identity.parse(uris[0])


def _context(protocol: int, cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        raise PermissionError(f"{key} has mode {mode:04o}: others may read the private key; run: chmod 0600 {key}")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise IdentityError(f"cannot use {cert}, {key} and {ca} together: {error}") from error
    return context
