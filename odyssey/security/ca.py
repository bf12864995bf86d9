# SPDX-License-Identifier: AGPL-3.0-or-later
"""The certificate authority of one cluster (X.509 by RFC 5280, EC P-256).

Every certificate carries one name that counts: the URI `odyssey://<cluster>/<role>/<name>` in its subject
alternative name. Who asks for a certificate never chooses that name: the caller of `sign` does, from a token.

The signing key is any `ec.EllipticCurvePrivateKey`. Today it comes from a file; a key in a PKCS#11 token is a
subclass whose `sign` asks the token, and nothing here changes.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rdmp.files import PRIVATE_FILE, PUBLIC_FILE, make_private_directory, write_together

ROLES = ("orchestrator", "agent", "controller", "netconf", "operator", "publisher", "switch")

CA_LIFETIME = datetime.timedelta(days=3652)
LEAF_LIFETIME = datetime.timedelta(days=90)
CLOCK_SKEW = datetime.timedelta(hours=1)
"""How far a peer's clock may lag behind the authority's before it finds a new certificate not yet valid."""

CA_CERTIFICATE_FILE = "ca.pem"
CA_KEY_FILE = "ca.key"

_CLUSTER = re.compile(r"[a-z][a-z0-9-]{0,30}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CA_URI = re.compile(r"odyssey://([a-z][a-z0-9-]{0,30})")


class CaError(Exception):
    """The authority cannot be used, or what it was asked to sign is not acceptable."""


@dataclass(frozen=True, slots=True)
class IssuedFiles:
    """Where `issue` wrote a certificate, its private key (mode 0600) and the authority's certificate."""

    cert: Path
    key: Path
    ca: Path


class CertificateAuthority:
    """Signs the certificates of one cluster."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Use `certificate` with its `key`. Raises CaError if they do not belong together."""
        if _public_bytes(certificate.public_key()) != _public_bytes(key.public_key()):
            raise CaError("the CA certificate does not belong to the CA key: the two files come from different CAs")
        self._certificate = certificate
        self._key = key
        self.cluster = _cluster_of(certificate)

    @classmethod
    def create(cls, directory: Path, cluster: str) -> CertificateAuthority:
        """Make a new authority for `cluster` and write `ca.pem` and `ca.key` (0600) into `directory`.

        Raises CaError if the name is malformed or an authority is there already; OSError if it cannot write.
        """
        if not _CLUSTER.fullmatch(cluster):
            raise CaError(f"cluster name {cluster!r} is not allowed: it must match {_CLUSTER.pattern}")
        for name in (CA_KEY_FILE, CA_CERTIFICATE_FILE):
            if (directory / name).exists():
                raise CaError(
                    f"{directory / name} exists: a new CA would make every certificate of the old one useless; "
                    "move it away first if that is what you want"
                )
        key = ec.generate_private_key(ec.SECP256R1())
        authority = cls(_self_signed(key, cluster), key)
        make_private_directory(directory)
        write_together(
            directory,
            {CA_KEY_FILE: (_key_pem(key), PRIVATE_FILE), CA_CERTIFICATE_FILE: (authority.pem, PUBLIC_FILE)},
        )
        return authority

    @classmethod
    def load(cls, directory: Path) -> CertificateAuthority:
        """Read the authority that `create` wrote. Raises CaError that says which file is wrong and why."""
        certificate_file, key_file = directory / CA_CERTIFICATE_FILE, directory / CA_KEY_FILE
        try:
            mode = key_file.stat().st_mode & 0o777
            certificate_pem, key_pem = certificate_file.read_bytes(), key_file.read_bytes()
        except OSError as error:
            raise CaError(f"cannot read the CA in {directory}: {error}; `odysseyctl ca init` makes one") from error
        if mode & 0o077:
            raise CaError(f"{key_file} has mode {mode:04o}, others can read it: chmod 0600 {key_file}")
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
            key = serialization.load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise CaError(f"{certificate_file} or {key_file} is damaged: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CaError(f"{key_file} holds no elliptic curve key")
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        """The authority's certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's certificate."""
        return self._certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate in DER, as 64 lower-case hexadecimal digits."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def issue(self, role: str, name: str, directory: Path, *, hosts: Iterable[str] = ()) -> IssuedFiles:
        """Make a key and a certificate for `role`/`name` and write `cert.pem`, `key.pem` and `ca.pem` there.

        `hosts` are DNS names and IP addresses for clients that check them (ours do not). Files that are there
        are replaced. Raises CaError for a bad role or name, OSError if it cannot write.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(key.public_key(), role, name, hosts)
        make_private_directory(directory)
        write_together(
            directory,
            {
                "key.pem": (_key_pem(key), PRIVATE_FILE),
                "cert.pem": (certificate, PUBLIC_FILE),
                "ca.pem": (self.pem, PUBLIC_FILE),
            },
        )
        return IssuedFiles(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")

    def sign(self, csr_pem: bytes, role: str, name: str) -> bytes:
        """Answer a PKCS#10 request (RFC 2986) with a certificate for `role`/`name`, PEM.

        Only the public key is taken from the request; its signature proves that the asker has the private key.
        Raises CaError for a request that is damaged, is not signed by its key, or has no P-256 key.
        """
        return self._certify(checked_request_key(csr_pem), role, name, ())

    def _certify(self, public_key: ec.EllipticCurvePublicKey, role: str, name: str, hosts: Iterable[str]) -> bytes:
        """The certificate of `public_key` for `role`/`name`, PEM."""
        uri = subject_uri(self.cluster, role, name)
        now = datetime.datetime.now(datetime.UTC)
        if now >= self._certificate.not_valid_after_utc:
            raise CaError(f"the CA's own certificate expired on {self._certificate.not_valid_after_utc:%Y-%m-%d}")
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *map(_host_name, hosts)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - CLOCK_SKEW, self._certificate.not_valid_before_utc))
            .not_valid_after(min(now + LEAF_LIFETIME, self._certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(usages, critical=False)
            .add_extension(alternatives, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(_authority_identifier(self._certificate), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def subject_uri(cluster: str, role: str, name: str) -> str:
    """The URI by which a certificate names its owner. Raises CaError for an unknown role or a malformed name."""
    if role not in ROLES:
        raise CaError(f"role {role!r} is unknown: allowed are {', '.join(ROLES)}")
    if not _NAME.fullmatch(name):
        raise CaError(f"name {name!r} is not allowed: it must match {_NAME.pattern}")
    return f"odyssey://{cluster}/{role}/{name}"


def checked_request_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request whose signature holds. Raises CaError."""
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        public_key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CaError(f"the certificate request cannot be read: {error}") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        raise CaError("the certificate request has the wrong kind of key: only EC P-256 is allowed")
    if not signed:
        raise CaError("the signature of the certificate request is wrong: the asker does not hold its private key")
    return public_key


def certificate_fingerprint(pem: bytes) -> str:
    """SHA-256 of the DER form of a PEM certificate, in hexadecimal. Raises CaError."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CaError(f"this is no PEM certificate: {error}") from error
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _self_signed(key: ec.EllipticCurvePrivateKey, cluster: str) -> x509.Certificate:
    """A root certificate that may sign leaves and no further authority."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Odyssey CA {cluster}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"odyssey://{cluster}")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """keyUsage of an authority, or of a leaf (TLS 1.3 needs the signature only)."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The key identifier by which a leaf points to `certificate`."""
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _cluster_of(certificate: x509.Certificate) -> str:
    """The cluster that an authority's certificate names. Raises CaError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CaError("the CA certificate names no cluster: it was not made by `odysseyctl ca init`") from error
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        match = _CA_URI.fullmatch(uri)
        if match:
            return match.group(1)
    raise CaError("the CA certificate names no cluster: it was not made by `odysseyctl ca init`")


def _host_name(host: str) -> x509.GeneralName:
    """`host` as an IP address if it is one, else as a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM; the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_bytes(key: object) -> bytes:
    """SubjectPublicKeyInfo in DER, to compare keys. Raises CaError for a key that is no elliptic curve key."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CaError("the CA certificate holds no elliptic curve key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
