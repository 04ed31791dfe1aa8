"""Clients that would have BuildKit: Docker's own, as it is today, takes it wherever buildx is installed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Engine, clean
from tests.clients.dockerd import UNPACKED
from tests.clients.peers import DEBIAN_13, FOREIGN
from tests.harness import PATIENCE_S
from tests.images import BUSYBOX

PLUGINS = UNPACKED / "usr/libexec/docker/cli-plugins"
INSTEAD = "set DOCKER_BUILDKIT=0 and build again"

pytestmark = [pytest.mark.skipif(bool(FOREIGN), reason="it is about what ours has not"),
              pytest.mark.skipif(not DEBIAN_13.exists(), reason="Debian 13's docker is not unpacked: run ./test.sh")]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(engine: Engine, tmp_path: Path) -> Iterator[Run]:
    """`docker ARGS`, of Debian 13, with buildx and Compose v2 as plugins, in a directory with something to build."""
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo made >/made\n")
    (tmp_path / "compose.yml").write_text("name: hs-bk\nservices: {one: {build: ., image: hs-built:compose}}\n")
    with tempfile.TemporaryDirectory(prefix="hs-home-") as home:
        plugins = Path(home) / ".docker/cli-plugins"
        plugins.mkdir(parents=True)
        for plugin in PLUGINS.iterdir():
            (plugins / plugin.name).symlink_to(plugin)
        clear = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))}

        def docker(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(engine.network.inside([str(DEBIAN_13), *args]), cwd=tmp_path, check=False, text=True,
                                  env={**clear, "HOME": home, "DOCKER_HOST": engine.host, **environment},
                                  capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)

        yield docker
    clean(engine.host)


@pytest.mark.parametrize("words", [
    ("build", "-t", "hs-built:1", "."), ("buildx", "build", "--load", "-t", "hs-built:1", "."), ("buildx", "du"),
    ("buildx", "prune", "-f"), ("compose", "build"), ("compose", "up", "-d", "--build")], ids=" ".join)
def test_who_wants_buildkit_is_told_what_to_use(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.returncode != 0, INSTEAD in done.stderr) == (True, True), done.stdout + done.stderr
    assert "moby/buildkit" not in done.stdout + done.stderr, "it does not fetch a BuildKit of its own"
    assert run("ps", "-aq").stdout == ""


def test_builders_are_listed_with_what_is_wrong(run: Run) -> None:
    for words in (("buildx", "ls"), ("buildx", "inspect")):
        done = run(*words)
        assert done.returncode == 0, done.stderr
        assert INSTEAD in done.stdout + done.stderr


def test_told_so_it_builds(run: Run) -> None:
    done = run("build", "-t", "hs-built:1", ".", DOCKER_BUILDKIT="0")
    assert "Successfully tagged hs-built:1" in done.stdout, done.stderr
    done = run("compose", "build", DOCKER_BUILDKIT="0")
    assert "Successfully tagged hs-built:compose" in done.stdout, done.stderr
    for name in ("hs-built:1", "hs-built:compose"):
        assert run("run", "--rm", name, "cat", "/made").stdout == "made\n"
    assert "Total reclaimed space" in run("builder", "prune", "-f", DOCKER_BUILDKIT="0").stdout
