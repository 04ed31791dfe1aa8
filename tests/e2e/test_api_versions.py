"""Old and new clients alike: docker speaks the version that it is told to."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.harness import PATIENCE_S, Daemon
from tests.images import BUSYBOX

VERSIONS = ("1.24", "1.29", "1.41", "1.44", "1.50")
"""Of what docker 28 speaks, around what it does differently."""


def docker(daemon: Daemon, version: str, *words: str, stdin: bytes = b"", code: int = 0) -> bytes:
    done = subprocess.run(["docker", *words], env={**daemon.environment, "DOCKER_API_VERSION": version}, input=stdin,
                          capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == code, (version, words, done.stderr[-1000:], daemon.log_tail())
    return done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_docker_works_with_every_version(daemon: Daemon, version: str) -> None:
    assert docker(daemon, version, "run", "--rm", BUSYBOX, "echo", "hi") == b"hi\n"
    assert docker(daemon, version, "run", "-i", "--rm", BUSYBOX, "wc", "-c", stdin=b"12345") == b"5\n"
    docker(daemon, version, "run", "--rm", BUSYBOX, "sh", "-c", "exit 7", code=7)
    assert docker(daemon, version, "ps", "-aq") == b"", "--rm left something"
    docker(daemon, version, "run", "-d", "--name", "one", "-e", "A=b", BUSYBOX, "sleep", "1000")
    assert docker(daemon, version, "ps", "--format", "{{.Names}} {{.State}}") == b"one running\n"
    assert docker(daemon, version, "exec", "one", "sh", "-c", "echo in; exit 0") == b"in\n"
    [shown] = json.loads(docker(daemon, version, "inspect", "one"))
    assert "A=b" in shown["Config"]["Env"]
    assert ("IPAddress" in shown["NetworkSettings"]) is True
    [image] = json.loads(docker(daemon, version, "image", "inspect", BUSYBOX))
    assert ("VirtualSize" in image) is (tuple(map(int, version.split("."))) < (1, 44))
    assert b"busybox" in docker(daemon, version, "images")
    docker(daemon, version, "stop", "-t", "0", "one")
    docker(daemon, version, "rm", "one")


def test_a_version_that_nobody_speaks_is_refused_in_docker_s_words(daemon: Daemon) -> None:
    environment = {**daemon.environment, "DOCKER_API_VERSION": "1.99"}
    done = subprocess.run(["docker", "ps"], env=environment, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"client version 1.99 is too new. Maximum supported API version is 1.55" in done.stderr
