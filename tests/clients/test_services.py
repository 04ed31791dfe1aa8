"""PostgreSQL, Redis and nginx of Debian: they serve real load, survive a restart, and keep their volumes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.clients.debian import Recipe, root
from tests.clients.peers import Cli
from tests.clients.services import NGINX, POSTGRES, REDIS, Images
from tests.harness import PATIENCE_S, wait_until

PSQL = ("/usr/lib/postgresql/15/bin/psql", "-h", "127.0.0.1", "-p", "35432", "-U", "postgres", "-qtA")
PGBENCH = ("/usr/lib/postgresql/15/bin/pgbench", "-h", "127.0.0.1", "-p", "35432", "-U", "postgres", "postgres")
REDIS_PORT = ("-h", "127.0.0.1", "-p", "36379")
BOOKS_BALANCE = ("select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
                 " and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)")


class Outside:
    """A recipe's programs, beside the engine: what they reach is what is published."""

    def __init__(self, cli: Cli, recipe: Recipe) -> None:
        self._cli = cli
        self._root = root(recipe)

    def try_to(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._cli.network.inside(["chroot", str(self._root), *argv]), capture_output=True,
                              text=True, timeout=PATIENCE_S, check=False)

    def run(self, *argv: str) -> str:
        done = self.try_to(*argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
        return done.stdout.strip()


def test_postgresql(docker_cli: Cli, images: Images) -> None:
    options = ("-p", "127.0.0.1:35432:5432", "-v", "hs-pg:/var/lib/postgresql/data", "-m", "256m")
    docker_cli("run", "-d", "--name", "hs-postgres", *options, images.postgres)
    client = Outside(docker_cli, POSTGRES)

    def answers() -> bool:
        return client.try_to(*PSQL, "-c", "select 1").returncode == 0

    wait_until(answers, "PostgreSQL answers")
    client.run(*PGBENCH, "-i", "-q")
    done = client.run(*PGBENCH, "-n", "-c", "4", "-t", "25")
    assert "number of transactions actually processed: 100/100" in done
    assert client.run(*PSQL, "-c", BOOKS_BALANCE) == "t"
    docker_cli("restart", "hs-postgres")
    wait_until(answers, "it answers after a restart")
    assert client.run(*PSQL, "-c", "select count(*) from pgbench_history") == "100"
    docker_cli("rm", "-f", "hs-postgres")
    docker_cli("run", "-d", "--name", "hs-postgres", *options, images.postgres)
    wait_until(answers, "another container with its volume answers")
    assert client.run(*PSQL, "-c", BOOKS_BALANCE) == "t"
    docker_cli("rm", "-f", "hs-postgres")
    docker_cli("volume", "rm", "hs-pg")


def test_redis(docker_cli: Cli, images: Images) -> None:
    docker_cli("run", "-d", "--name", "hs-redis", "-p", "127.0.0.1:36379:6379", "-v", "hs-redis:/data", images.redis)
    client = Outside(docker_cli, REDIS)

    def answers() -> bool:
        return client.try_to("redis-cli", *REDIS_PORT, "ping").stdout == "PONG\n"

    wait_until(answers, "Redis answers")
    done = client.run("redis-benchmark", *REDIS_PORT, "-n", "1000", "-c", "10", "-r", "1000", "-t", "set,get,incr",
                      "-q")
    assert done.count("requests per second") == 3
    client.run("redis-cli", *REDIS_PORT, "set", "kept", "value")
    count = client.run("redis-cli", *REDIS_PORT, "dbsize")
    assert int(count) > 100
    docker_cli("restart", "hs-redis")
    wait_until(answers, "it answers after a restart")
    assert client.run("redis-cli", *REDIS_PORT, "get", "kept") == "value"
    docker_cli("kill", "hs-redis")
    docker_cli("start", "hs-redis")
    wait_until(answers, "it answers after it was killed")
    assert client.run("redis-cli", *REDIS_PORT, "dbsize") == count
    docker_cli("rm", "-f", "hs-redis")
    docker_cli("volume", "rm", "hs-redis")


def test_nginx(docker_cli: Cli, images: Images, tmp_path: Path) -> None:
    docker_cli("create", "--name", "hs-nginx", "-p", "127.0.0.1:38080:80", "-v", "hs-www:/var/www", images.nginx)
    page = tmp_path / "index.html"
    page.write_text("<p>served</p>\n" * 500)
    page.chmod(0o644)
    docker_cli("cp", str(page), "hs-nginx:/var/www/index.html")
    docker_cli("start", "hs-nginx")
    client = Outside(docker_cli, NGINX)

    def fetched() -> str:
        return client.try_to("wget", "-qO-", "http://127.0.0.1:38080/").stdout

    wait_until(fetched, "nginx answers")
    assert fetched() == page.read_text()
    loaded = client.run("wrk", "-t", "1", "-c", "8", "-d", "2s", "http://127.0.0.1:38080/index.html")
    assert "Socket errors" not in loaded
    assert "Non-2xx" not in loaded
    docker_cli("restart", "hs-nginx")
    wait_until(fetched, "it answers after a restart")
    assert fetched() == page.read_text()
    docker_cli("rm", "-f", "hs-nginx")
    docker_cli("volume", "rm", "hs-www")
