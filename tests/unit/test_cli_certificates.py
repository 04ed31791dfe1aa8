"""What `hyperctl tls` makes, and what it does where something is there already."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509

from hyperstack.cli.certificates import Authority, Subject
from hyperstack.cli.errors import CliError
from hyperstack.cli.main import hyperctl


def tls(*words: str) -> None:
    hyperctl.main(["tls", *words], prog_name="hyperctl", standalone_mode=False)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def names(path: Path) -> set[str]:
    found = x509.load_pem_x509_certificate(path.read_bytes()).extensions
    return {str(name.value) for name in found.get_extension_for_class(x509.SubjectAlternativeName).value}


def test_keys_are_their_owner_s_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    tls("init", "--directory", str(tmp_path), "--host", "192.0.2.7", "--host", "box.example")
    made = files(tmp_path)
    assert {"192.0.2.7", "box.example", "localhost", "::1"} <= names(tmp_path / "server-cert.pem")
    keys = list(tmp_path.rglob("*key.pem"))
    assert len(keys) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    tls("init", "--directory", str(tmp_path))
    assert files(tmp_path) == made


def test_only_what_must_be_is_made_anew(tmp_path: Path) -> None:
    tls("init", "--directory", str(tmp_path))
    made = files(tmp_path)
    tls("init", "--directory", str(tmp_path), "--host", "new.example")
    changed = {name for name, content in files(tmp_path).items() if made[name] != content}
    assert changed == {"server-cert.pem", "server-key.pem"}


def test_a_certificate_that_ends_soon_is_renewed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    paths = (tmp_path / "cert.pem", tmp_path / "key.pem")
    for days, fresh in ((5, True), (5, True), (365, True), (365, False)):
        assert authority.issue(*paths, Subject("ann"), server=False, days=days).fresh is fresh
    assert authority.issue(*paths, Subject("ann", "beta"), server=False, days=365).fresh


def test_a_client_s_certificate_names_its_project(tmp_path: Path) -> None:
    tls("init", "--directory", str(tmp_path))
    tls("client", "--directory", str(tmp_path), "--for", "beta", "bob")
    found = x509.load_pem_x509_certificate((tmp_path / "clients" / "bob" / "cert.pem").read_bytes())
    assert found.subject.rfc4514_string() == "CN=bob,O=beta"
    with pytest.raises(CliError, match="invalid client name"):
        tls("client", "--directory", str(tmp_path), "../bob")
    with pytest.raises(CliError, match="invalid project name"):
        tls("client", "--directory", str(tmp_path), "--for", "a/b", "bob")


@pytest.mark.parametrize("lost", ["ca.pem", "ca-key.pem"])
def test_half_an_authority_is_never_replaced(tmp_path: Path, lost: str) -> None:
    tls("init", "--directory", str(tmp_path))
    (tmp_path / lost).unlink()
    with pytest.raises(CliError, match=f"{lost} is missing"):
        tls("init", "--directory", str(tmp_path))
    assert not (tmp_path / lost).exists()


def test_another_authority_s_certificate_is_replaced(tmp_path: Path) -> None:
    for side in ("a", "b"):
        tls("init", "--directory", str(tmp_path / side))
    (tmp_path / "a" / "ca.pem").write_bytes((tmp_path / "b" / "ca.pem").read_bytes())
    with pytest.raises(CliError, match="is not the key of"):
        tls("init", "--directory", str(tmp_path / "a"))
    (tmp_path / "a" / "ca-key.pem").write_bytes((tmp_path / "b" / "ca-key.pem").read_bytes())
    tls("init", "--directory", str(tmp_path / "a"))
    issuer = x509.load_pem_x509_certificate((tmp_path / "b" / "ca.pem").read_bytes())
    x509.load_pem_x509_certificate((tmp_path / "a" / "server-cert.pem").read_bytes()).verify_directly_issued_by(issuer)
