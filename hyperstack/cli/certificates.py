"""The certificates of one host: an authority of its own, the server's, and those of the clients that may come.

A directory holds them all. The authority's and the server's files lie at its top; each client's in a directory of its
own, with the three names that Docker's clients look for in DOCKER_CERT_PATH. Whatever is there and still good stays, so
making them again is safe; keys are born 0600, and a file is replaced whole or not at all.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hyperstack.cli.errors import CliError
from hyperstack.cli.files import write_whole

ADMINISTRATOR = "administrator"
"""The organizational unit that hyperd takes for an administrator's."""
AUTHORITY_DAYS = 3650
RENEW_DAYS = 30
"""A certificate that ends sooner is made anew."""

_MAX_FILE = 64 * 1024
_CLOCKS = datetime.timedelta(minutes=5)
"""How far a peer's clock may be behind ours."""


@dataclass(frozen=True)
class Subject:
    """What a certificate says of its owner."""

    common_name: str
    organization: str = ""
    unit: str = ""

    def name(self) -> x509.Name:
        parts = ((NameOID.ORGANIZATION_NAME, self.organization), (NameOID.ORGANIZATIONAL_UNIT_NAME, self.unit),
                 (NameOID.COMMON_NAME, self.common_name))
        try:
            return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text])
        except ValueError as error:
            raise CliError(f"a name in a certificate has 1 to 64 characters: {error}") from error


@dataclass(frozen=True)
class Made:
    """One certificate that is there now."""

    path: Path
    fresh: bool
    """Made just now; else it was there and is good."""
    until: datetime.datetime


class Authority:
    """Signs certificates. Its key never leaves the directory.

    :raise CliError: what is in the directory is broken, or only half there.
    """

    def __init__(self, directory: Path) -> None:
        self.path, key_path = directory / "ca.pem", directory / "ca-key.pem"
        self.made = False
        present = [path.exists() for path in (self.path, key_path)]
        if not any(present):
            self._make(key_path)
        elif not all(present):
            absent = key_path if present[0] else self.path
            raise CliError(f"{directory} has half an authority: {absent.name} is missing",
                           hint="Put it back, or remove the other file to begin with a new authority; certificates of "
                                "the old one are then refused.")
        self.certificate = _load_certificate(self.path)
        self._key = _load_key(key_path)
        if self._key.public_key() != self.certificate.public_key():
            raise CliError(f"{key_path} is not the key of {self.path}")
        if _left(self.certificate) <= datetime.timedelta(0):
            raise CliError(f"the authority in {self.path} ended on {self.certificate.not_valid_after_utc:%Y-%m-%d}",
                           hint="Remove ca.pem and ca-key.pem, and make all certificates anew.")

    def _make(self, key_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = Subject(f"HyperStack on {os.uname().nodename}"[:64]).name()
        certificate = (_builder(name, key.public_key(), AUTHORITY_DAYS).issuer_name(name)
                       .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                       .add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA256()))
        _write_pair(self.path, certificate, key_path, key)
        self.made = True

    def issue(self, path: Path, key_path: Path, subject: Subject, *, server: bool, days: int,
              hosts: Sequence[str] = ()) -> Made:
        """A certificate at `path`, made anew unless a good one for the same is there."""
        old = self._good(path, key_path, subject, hosts)
        if old is not None:
            return Made(path, False, old.not_valid_after_utc)
        key = ec.generate_private_key(ec.SECP256R1())
        days = min(days, _left(self.certificate).days)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (_builder(subject.name(), key.public_key(), days).issuer_name(self.certificate.subject)
                   .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                   .add_extension(_usage(signs=False), critical=True)
                   .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), False))
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write_pair(path, certificate, key_path, key)
        return Made(path, True, certificate.not_valid_after_utc)

    def _good(self, path: Path, key_path: Path, subject: Subject, hosts: Sequence[str]) -> x509.Certificate | None:
        if not path.exists() or not key_path.exists():
            return None
        found = _load_certificate(path)
        try:
            found.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return None
        same = found.subject == subject.name() and _load_key(key_path).public_key() == found.public_key()
        return found if same and _covers(found, hosts) and _left(found).days >= RENEW_DAYS else None


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise CliError(f"{text!r} is neither a host name nor an IP address") from error


def _covers(certificate: x509.Certificate, hosts: Sequence[str]) -> bool:
    if not hosts:
        return True
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return {_host(host) for host in hosts} <= set(names)


def _builder(name: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (x509.CertificateBuilder().subject_name(name).public_key(key).serial_number(x509.random_serial_number())
            .not_valid_before(now - _CLOCKS).not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False))


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=not signs, content_commitment=False, key_encipherment=False,
                         data_encipherment=False, key_agreement=False, key_cert_sign=signs, crl_sign=signs,
                         encipher_only=False, decipher_only=False)


def _left(certificate: x509.Certificate) -> datetime.timedelta:
    return certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        raise CliError(f"{path} is no certificate: {error}") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise CliError(f"{path} is no private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CliError(f"{path} is no key of an elliptic curve, as this program makes them")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error


def _write_pair(path: Path, certificate: x509.Certificate, key_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """The key first: a certificate that is there has its key."""
    write_whole(key_path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                            serialization.NoEncryption()))
    write_whole(path, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
