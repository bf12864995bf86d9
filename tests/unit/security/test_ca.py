# SPDX-License-Identifier: AGPL-3.0-or-later
"""The certificate authority: what it writes, what it signs and what it refuses."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from odyssey.security import ca as ca_module
from odyssey.security.ca import CaError, CertificateAuthority, certificate_fingerprint


def request(key: ec.EllipticCurvePrivateKey, common_name: str = "anything") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    uri = x509.UniformResourceIdentifier("odyssey://lab/operator/root")
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "pki", "lab")


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_an_authority_can_be_loaded_again(authority: CertificateAuthority, tmp_path: Path) -> None:
    again = CertificateAuthority.load(tmp_path / "pki")
    assert (again.cluster, again.fingerprint) == ("lab", authority.fingerprint)
    assert certificate_fingerprint(again.pem) == authority.fingerprint
    assert (tmp_path / "pki" / "ca.key").stat().st_mode & 0o777 == 0o600


def test_an_issued_certificate_names_its_owner_once(authority: CertificateAuthority, tmp_path: Path) -> None:
    files = authority.issue("agent", "h1", tmp_path / "h1", hosts=["192.0.2.11", "h1.example"])
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert uris(certificate) == ["odyssey://lab/agent/h1"]
    assert certificate.subject.rfc4514_string() == "CN=h1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert files.key.stat().st_mode & 0o777 == 0o600
    assert files.ca.read_bytes() == authority.pem
    certificate.verify_directly_issued_by(authority.certificate)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == ca_module.LEAF_LIFETIME + ca_module.CLOCK_SKEW


def test_python_accepts_the_files_for_tls(authority: CertificateAuthority, tmp_path: Path) -> None:
    files = authority.issue("orchestrator", "o1", tmp_path / "o1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(files.cert, files.key)


def test_files_are_replaced_whole_and_leave_nothing_behind(authority: CertificateAuthority, tmp_path: Path) -> None:
    first = authority.issue("agent", "h1", tmp_path / "h1").cert.read_bytes()
    second = authority.issue("agent", "h1", tmp_path / "h1").cert.read_bytes()
    assert first != second
    assert sorted(path.name for path in (tmp_path / "h1").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_the_names_of_a_request_are_ignored(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = x509.load_pem_x509_certificate(authority.sign(request(key, "root"), "agent", "h2"))
    assert uris(certificate) == ["odyssey://lab/agent/h2"]
    assert certificate.subject.rfc4514_string() == "CN=h2"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.public_key() == key.public_key()


def test_a_request_that_its_key_did_not_sign_is_refused(authority: CertificateAuthority) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    der = x509.load_pem_x509_csr(request(key)).public_bytes(encoding)
    forged = der.replace(key.public_key().public_bytes(encoding, form), other.public_key().public_bytes(encoding, form))
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CaError, match="does not hold its private key"):
        authority.sign(pem, "agent", "h1")


def test_other_keys_and_damaged_requests_are_refused(authority: CertificateAuthority) -> None:
    with pytest.raises(CaError, match="only EC P-256"):
        authority.sign(request(ec.generate_private_key(ec.SECP384R1())), "agent", "h1")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    edwards = builder.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CaError, match="only EC P-256"):
        authority.sign(edwards, "agent", "h1")
    with pytest.raises(CaError, match="cannot be read"):
        authority.sign(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "agent", "h1")


@pytest.mark.parametrize(("role", "name"), [("root", "h1"), ("agent", ""), ("agent", "../h1"), ("agent", "h" * 64)])
def test_bad_roles_and_names_are_refused(authority: CertificateAuthority, tmp_path: Path, role: str, name: str) -> None:
    with pytest.raises(CaError, match=r"role|name"):
        authority.issue(role, name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_second_authority_does_not_replace_the_first(authority: CertificateAuthority, tmp_path: Path) -> None:
    with pytest.raises(CaError, match="move it away"):
        CertificateAuthority.create(tmp_path / "pki", "lab")
    assert CertificateAuthority.load(tmp_path / "pki").fingerprint == authority.fingerprint


def test_a_bad_cluster_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaError, match="cluster name"):
        CertificateAuthority.create(tmp_path, "Lab/1")


def test_an_authority_whose_key_others_can_read_is_refused(authority: CertificateAuthority, tmp_path: Path) -> None:
    (tmp_path / "pki" / "ca.key").chmod(0o640)
    with pytest.raises(CaError, match="chmod 0600"):
        CertificateAuthority.load(tmp_path / "pki")


def test_what_cannot_be_loaded_is_named(authority: CertificateAuthority, tmp_path: Path) -> None:
    with pytest.raises(CaError, match="odysseyctl ca init"):
        CertificateAuthority.load(tmp_path / "nothing")
    other = tmp_path / "other"
    CertificateAuthority.create(other, "lab")
    (tmp_path / "pki" / "ca.pem").write_bytes((other / "ca.pem").read_bytes())
    with pytest.raises(CaError, match="does not belong"):
        CertificateAuthority.load(tmp_path / "pki")
    (tmp_path / "pki" / "ca.pem").write_text("nonsense")
    with pytest.raises(CaError, match="damaged"):
        CertificateAuthority.load(tmp_path / "pki")


def test_a_leaf_is_no_authority(authority: CertificateAuthority, tmp_path: Path) -> None:
    files = authority.issue("agent", "h1", tmp_path / "h1")
    (tmp_path / "pki" / "ca.pem").write_bytes(files.cert.read_bytes())
    (tmp_path / "pki" / "ca.key").write_bytes(files.key.read_bytes())
    with pytest.raises(CaError, match="names no cluster"):
        CertificateAuthority.load(tmp_path / "pki")


def test_no_certificate_outlives_the_authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ca_module, "CA_LIFETIME", datetime.timedelta(days=5))
    authority = CertificateAuthority.create(tmp_path / "pki", "lab")
    files = authority.issue("agent", "h1", tmp_path / "h1")
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_expired_authority_signs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ca_module, "CA_LIFETIME", datetime.timedelta(seconds=-1))
    authority = CertificateAuthority.create(tmp_path / "pki", "lab")
    with pytest.raises(CaError, match="expired"):
        authority.issue("agent", "h1", tmp_path / "h1")
