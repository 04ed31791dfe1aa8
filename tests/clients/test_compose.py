"""Debian's docker-compose with a real application: a database, a cache, and a web site that finds both by name."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.peers import Cli
from tests.clients.services import Images
from tests.harness import PATIENCE_S, wait_until

APPLICATION = """
version: "3.8"
services:
  database:
    image: {postgres}
    volumes: ["orders:/var/lib/postgresql/data"]
    networks: [back]
  cache:
    image: {redis}
    networks: [back]
    healthcheck: {{test: ["CMD", "redis-cli", "ping"], interval: 1s}}
  web:
    image: {shop}
    depends_on: [database, cache]
    networks: [back]
    ports: ["127.0.0.1::80"]
    environment: {{FLAVOUR: plain}}
    labels: {{org.hyperstack.tier: front}}
networks:
  back: {{}}
volumes:
  orders: {{}}
"""

FORMS = """
version: "3.8"
services:
  one: &service
    image: {redis}
    command: [sleep, "600"]
    volumes: ["memory:/memory", "data:/data", "disk:/disk"]
  two: *service
volumes:
  memory:
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size=1m,uid=1000,mode=1770"}}
  data:
    driver_opts: {{type: none, o: bind, device: {directory}}}
  disk:
    driver_opts: {{size: 32m}}
"""

pytestmark = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose on this host")


class Compose:
    def __init__(self, cli: Cli, directory: Path) -> None:
        self._cli = cli
        self._directory = directory

    def run(self, *args: str) -> str:
        argv = ["docker-compose", "--ansi", "never", "--project-name", "hs-shop", *args]
        done = subprocess.run(self._cli.network.inside(argv), cwd=self._directory, env=self._cli.environment,
                              capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, f"{args}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def containers(self) -> set[str]:
        return set(self._cli.lines("ps", "-a", "--filter", "name=hs-shop", "--format", "{{.Names}}"))

    def visit(self, index: int = 1) -> str:
        """What the web site says through the port that is published for its container of that number."""
        address, port = self._cli("port", f"hs-shop_web_{index}", "80").split(":")
        try:
            with self._cli.network.connect(address, int(port)) as connection:
                connection.sendall(b"GET /cgi-bin/visit HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: connection.recv(4096), b"")).decode().rpartition("\r\n\r\n")[2].strip()
        except OSError:
            return ""


@pytest.fixture
def forms(docker_cli: Cli, images: Images, tmp_path: Path) -> Iterator[Compose]:
    """Two services with volumes of each form; `data` is the directory beside."""
    (tmp_path / "data").mkdir()
    (tmp_path / "docker-compose.yml").write_text(FORMS.format(redis=images.redis, directory=tmp_path / "data"))
    made = Compose(docker_cli, tmp_path)
    yield made
    made.run("down", "-v", "-t", "0")


@pytest.fixture
def compose(docker_cli: Cli, images: Images, tmp_path: Path) -> Iterator[Compose]:
    (tmp_path / "docker-compose.yml").write_text(APPLICATION.format(
        postgres=images.postgres, redis=images.redis, shop=images.shop))
    made = Compose(docker_cli, tmp_path)
    yield made
    if made.containers():
        made.run("down", "-v", "-t", "1")


def test_an_application_of_three_services(compose: Compose, docker_cli: Cli) -> None:
    compose.run("up", "-d")
    names = {"hs-shop_database_1", "hs-shop_cache_1", "hs-shop_web_1"}
    assert compose.containers() == names
    wait_until(lambda: "visit" in compose.visit(), "the web site is open")
    before = re.match(r"visit (\d+) order (\d+) by \w+\Z", compose.visit())
    assert before is not None, compose.visit()
    visits, orders = int(before[1]), int(before[2])

    compose.run("up", "-d", "--scale", "web=2")
    assert compose.containers() == names | {"hs-shop_web_2"}
    wait_until(lambda: "visit" in compose.visit(2), "the second is open too")
    assert compose.visit(1).split()[-1] != compose.visit(2).split()[-1], "each is a machine of its own"
    assert compose.run("port", "--index", "2", "web", "80").startswith("127.0.0.1:")

    assert "Up (healthy)" in compose.run("ps") or "Up (health: starting)" in compose.run("ps")
    assert compose.run("ps", "-q", "web").split() == docker_cli.lines(
        "ps", "-q", "--no-trunc", "--filter", "label=org.hyperstack.tier=front")[::-1]
    assert re.search(r"web_1 +\| open", compose.run("logs", "web"))
    assert compose.run("exec", "-T", "web", "sh", "-c", "echo $FLAVOUR").strip() == "plain"
    assert compose.run("exec", "-T", "cache", "redis-cli", "get", "visits").strip().isdecimal()

    compose.run("restart", "-t", "10", "database")
    wait_until(lambda: re.search(r"order \d", compose.visit()), "it takes orders after its database came again")
    after = re.match(r"visit (\d+) order (\d+) by", compose.visit())
    assert after is not None
    assert int(after[1]) > visits
    assert int(after[2]) > orders, "the database kept its volume"

    compose.run("stop", "-t", "1", "web")
    compose.run("start", "web")
    wait_until(lambda: "visit" in compose.visit(2), "it is open again")
    assert compose.run("run", "--rm", "-T", "--no-deps", "web", "echo", "one-off") == "one-off\n"
    compose.run("down", "-v", "-t", "1")
    assert compose.containers() == set()
    assert "hs-shop_orders" not in docker_cli.lines("volume", "ls", "-q")
    assert "hs-shop_back" not in docker_cli.lines("network", "ls", "--format", "{{.Name}}")


def test_volumes_with_options_of_their_driver(forms: Compose, docker_cli: Cli, tmp_path: Path) -> None:
    """Each is one thing for both services."""
    forms.run("up", "-d")
    assert docker_cli("volume", "inspect", "-f", "{{.Options.o}}", "hs-shop_memory") == "size=1m,uid=1000,mode=1770"
    assert forms.run("exec", "-T", "one", "stat", "-c", "%u:%a", "/memory").strip() == "1000:1770"
    forms.run("exec", "-T", "one", "sh", "-c", "for d in memory data disk; do echo $d >/$d/f; done")
    found = forms.run("exec", "-T", "two", "cat", "/memory/f", "/data/f", "/disk/f")
    assert found.split() == ["memory", "data", "disk"]
    assert (tmp_path / "data/f").read_text() == "data\n"
    forms.run("down", "-t", "0")
    forms.run("up", "-d")
    assert forms.run("exec", "-T", "two", "sh", "-c", "cd /; ls memory; cat data/f disk/f").split() == ["data", "disk"]
