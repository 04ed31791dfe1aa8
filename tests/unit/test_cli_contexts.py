"""Contexts are kept where docker keeps them; what is wrong with one is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperstack.cli import contexts, docker_config
from hyperstack.cli.errors import CliError
from hyperstack.cli.main import hyperctl


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "HYPERSTACK_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def context(*words: str) -> None:
    hyperctl.main(["context", *words], prog_name="hyperctl", standalone_mode=False)


def test_the_file_is_docker_s(home: Path) -> None:
    context("create", "--description", "ours")
    [meta] = (home / "contexts" / "meta").glob("*/meta.json")
    assert meta.parent.name == "ec5d932a9fd53ebe3f0a24e4892a5d70492be534cab2f4cc33875df3fff20631"
    assert json.loads(meta.read_bytes()) == {
        "Name": "hyperstack", "Metadata": {"Description": "ours"},
        "Endpoints": {"docker": {"Host": "unix:///run/hyperstack/docker.sock", "SkipTLSVerify": False}}}


def test_using_one_keeps_the_rest_of_the_configuration() -> None:
    docker_config.write({"auths": {"r": {"auth": "eA=="}}, "HttpHeaders": {"X": "y"}})
    context("create", "a1")
    context("use", "a1")
    assert (contexts.current(), docker_config.read()["HttpHeaders"]) == ("a1", {"X": "y"})
    context("use", "default")
    assert docker_config.read() == {"auths": {"r": {"auth": "eA=="}}, "HttpHeaders": {"X": "y"}}


def test_keys_are_for_their_owner_alone(home: Path) -> None:
    for name in contexts.MATERIAL:
        (home / name).write_text(name)
    context("create", "tls", "--cert-path", str(home), "--docker", "host=tcp://192.0.2.1:2376")
    found = contexts.load("tls")
    assert found.material == contexts.MATERIAL
    assert [(found.tls_directory / "docker" / name).stat().st_mode & 0o777 for name in found.material] == [0o600] * 3
    context("rm", "tls")
    assert not found.tls_directory.exists()


@pytest.mark.parametrize(("words", "reason"), [
    (("create", "default"), "reserved"), (("create", "a/b"), "invalid"), (("create", "x"), "invalid"),
    (("use", "nobody"), "does not exist"), (("rm", "default"), "in use"),
    (("rm", "-f", "default"), "cannot be removed"),
    (("inspect", "nobody"), "does not exist"), (("create", "ok", "--docker", "hots=x"), "unknown setting"),
    (("create", "ok", "--docker", "host=nonsense"), "invalid host"),
    (("create", "ok", "--cert-path", "/nonexistent"), "cannot read")])
def test_mistakes_are_told(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CliError, match=reason):
        context(*words)
    assert contexts.names() == ["default"]


def test_a_context_is_made_once_and_the_one_in_use_stays() -> None:
    context("create", "one")
    with pytest.raises(CliError, match="already exists"):
        context("create", "one")
    context("use", "one")
    with pytest.raises(CliError, match="in use, set -f"):
        context("rm", "one")
    context("rm", "-f", "one")
    assert contexts.current() == "default"


def test_a_broken_context_is_listed_with_its_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context("create", "broken")
    [meta] = (home / "contexts" / "meta").glob("*/meta.json")
    meta.write_text('{"Name": "broken", "Endpoints": {"kubernetes": {}}}')
    context("ls")
    assert "names no daemon of Docker's" in capsys.readouterr().out
