"""push, login, search and the like, with Docker's own command line and a registry that wants a password."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import REGISTRY, Daemon, Namespace, Registry
from tests.images import BUSYBOX

GUARDED = "127.0.0.1:5001"
USER, PASSWORD = "alice", "correct horse"
HTPASSWD = "alice:$2b$04$Yuq1TGW56pq8j5Rwp5pdXuU8zCN4C.uH7vifX/9.noCAwrfeanT4i"
"""Of that password, by bcrypt."""


@pytest.fixture
def guarded(namespace: Namespace, tmp_path: Path) -> Iterator[str]:
    registry = Registry(tmp_path / "guarded", namespace, address=GUARDED, htpasswd=HTPASSWD)
    yield GUARDED
    registry.close()


def test_an_image_made_here_is_pushed_and_pulled(daemon: Daemon) -> None:
    daemon.docker_cli("run", "--name", "maker", BUSYBOX, "sh", "-c", "echo mine > /mine")
    name = f"{REGISTRY}/made/here"
    daemon.docker_cli("commit", "maker", f"{name}:1")
    daemon.docker_cli("tag", f"{name}:1", f"{name}:2")
    pushed = daemon.docker_cli("push", f"{name}:1").stdout.decode()
    assert f"The push refers to repository [{name}]" in pushed
    assert "1: digest: sha256:" in pushed
    assert daemon.docker_cli("push", "--all-tags", name).stdout.count(b"digest: sha256:") == 2
    found = json.loads(daemon.docker_cli("image", "inspect", f"{name}:1").stdout)[0]
    digest = found["RepoDigests"][0].partition("@")[2]
    daemon.docker_cli("rm", "maker")
    daemon.docker_cli("rmi", "-f", found["Id"])
    assert daemon.docker_cli("run", "--rm", f"{name}:2", "cat", "/mine").stdout == b"mine\n"
    assert json.loads(daemon.docker_cli("image", "inspect", f"{name}@{digest}").stdout)[0]["Id"] == found["Id"]
    with daemon.sdk() as client:
        described = client.api.inspect_distribution(f"{name}:1")
        assert described["Descriptor"]["digest"] == digest
        assert [platform["os"] for platform in described["Platforms"]] == ["linux"]
        last = list(client.images.push(name, tag="2", stream=True, decode=True))[-1]
        assert (last["aux"]["Tag"], last["aux"]["Digest"]) == ("2", digest)
    assert "made/here" in daemon.docker_cli("search", f"{REGISTRY}/made").stdout.decode()
    assert daemon.text("search", f"{REGISTRY}/made") == name
    hub = daemon.docker_cli("search", "busybox", check=False)
    assert b"Docker Hub" in hub.stderr
    daemon.docker_cli("rmi", "-f", found["Id"])


def test_a_login_is_checked_and_used(make_daemon: Callable[..., Daemon], guarded: str) -> None:
    daemon = make_daemon("--insecure-registry", guarded)
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    name = f"{guarded}/team/app:1"
    daemon.docker_cli("tag", BUSYBOX, name)
    refused = daemon.docker_cli("push", name, check=False)
    assert refused.returncode == 1
    assert b"no basic auth credentials" in refused.stderr
    wrong = daemon.docker_cli("login", "-u", USER, "--password-stdin", guarded, stdin=b"wrong", check=False)
    assert wrong.returncode == 1
    assert b"401 Unauthorized" in wrong.stderr
    done = daemon.docker_cli("login", "-u", USER, "--password-stdin", guarded, stdin=PASSWORD.encode())
    assert b"Login Succeeded" in done.stdout
    daemon.docker_cli("push", name)
    daemon.docker_cli("rmi", name)
    daemon.ctl("pull", name)
    daemon.ctl("push", name)
    daemon.docker_cli("logout", guarded)
    assert daemon.ctl("push", name, check=False).returncode == 1


def test_our_own_login_is_kept_where_docker_keeps_its(make_daemon: Callable[..., Daemon], guarded: str) -> None:
    daemon = make_daemon("--insecure-registry", guarded)
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    name = f"{guarded}/team/own:1"
    daemon.ctl("tag", BUSYBOX, name)
    kept = daemon.directory / ".docker" / "config.json"
    kept.parent.mkdir()
    kept.write_text('{"psFormat": "x", "auths": {"other:1": {"auth": "eDp5"}}}')
    wrong = daemon.ctl("login", "-u", USER, "--password-stdin", guarded, stdin=b"wrong", check=False)
    assert (wrong.returncode, b"401 Unauthorized" in wrong.stderr) == (1, True)
    assert daemon.ctl("login", "-u", USER, guarded, check=False).returncode == 1
    done = daemon.ctl("login", "-u", USER, "--password-stdin", f"https://{guarded}/v2/", stdin=PASSWORD.encode())
    assert done.stdout == b"Login Succeeded\n"
    found = json.loads(kept.read_text())
    assert (found["psFormat"], set(found["auths"])) == ("x", {"other:1", guarded})
    assert kept.stat().st_mode & 0o777 == 0o600
    daemon.ctl("push", name)
    daemon.docker_cli("push", name)
    assert daemon.text("logout", guarded) == f"Removing login credentials for {guarded}"
    assert daemon.text("logout", guarded) == f"Not logged in to {guarded}"
    assert set(json.loads(kept.read_text())["auths"]) == {"other:1"}
    assert daemon.docker_cli("push", name, check=False).returncode == 1
