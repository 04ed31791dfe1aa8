"""Where logins are kept: Docker's own file, or the helper that it names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hyperstack.cli.credentials import forget, headers_for, remember
from hyperstack.cli.errors import CliError

HELPER = """#!/bin/sh
kept=$(dirname "$0")/kept
case $1 in
store) cat > "$kept";;
get) test -e "$kept" && cat "$kept" || exit 1;;
erase) cat > "$kept.erased"; rm "$kept";;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_the_file_is_made_for_its_owner_alone_and_keeps_the_rest(home: Path) -> None:
    remember("host:5000", "me", "pass:wörd")
    remember("docker.io", "hub", "x")
    file = home / "docker" / "config.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(file.read_text())["auths"]) == {"host:5000", "https://index.docker.io/v1/"}
    assert headers_for("host:5000/x")
    assert headers_for("alpine")
    assert (forget("host:5000"), forget("host:5000"), forget("docker.io")) == (True, False, True)
    assert json.loads(file.read_text()) == {"auths": {}}
    assert [path.name for path in file.parent.iterdir()] == ["config.json"]


def test_a_link_to_the_file_stays_one(home: Path) -> None:
    (home / "docker").mkdir()
    (home / "real.json").write_text("{}")
    (home / "docker" / "config.json").symlink_to(home / "real.json")
    remember("host:5000", "me", "x")
    assert (home / "docker" / "config.json").is_symlink()
    assert "host:5000" in (home / "real.json").read_text()


def test_a_helper_keeps_what_would_be_in_the_file(home: Path) -> None:
    (home / "docker").mkdir()
    (home / "docker" / "config.json").write_text('{"credsStore": "test"}')
    helper = home / "docker-credential-test"
    helper.write_text(HELPER)
    helper.chmod(0o755)
    remember("host:5000", "me", "secret")
    assert json.loads((home / "kept").read_text()) == {"ServerURL": "host:5000", "Username": "me", "Secret": "secret"}
    assert "secret" not in (home / "docker" / "config.json").read_text()
    assert headers_for("host:5000/x")
    assert (forget("host:5000"), forget("host:5000")) == (True, False)
    assert (home / "kept.erased").read_text() == "host:5000"
    helper.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(CliError, match="refuses to store"):
        remember("host:5000", "me", "secret")


def test_a_file_that_is_broken_is_left_alone(home: Path) -> None:
    (home / "docker").mkdir()
    (home / "docker" / "config.json").write_text("{broken")
    with pytest.raises(CliError, match="cannot read"):
        remember("host:5000", "me", "x")
    assert (home / "docker" / "config.json").read_text() == "{broken"
