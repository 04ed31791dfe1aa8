"""Compose v2 of Debian 13, the same command lines to Docker's own engine and to ours: exit codes, what is printed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.dockerd import UNPACKED
from tests.clients.peers import Cli
from tests.harness import PATIENCE_S
from tests.images import BUSYBOX

PLUGIN = UNPACKED / "usr/libexec/docker/cli-plugins/docker-compose"
APPLICATION = f"""
name: hs-two
services:
  base:
    image: {BUSYBOX}
    command: ["sh", "-c", "echo base up $$(ulimit -n); trap 'exit 0' TERM; touch /tmp/ok; while :; do sleep 0.2; done"]
    healthcheck: {{test: ["CMD", "test", "-f", "/tmp/ok"], interval: 300ms, retries: 50}}
    volumes: ["data:/data", {{type: tmpfs, target: /scratch, tmpfs: {{size: 1048576}}}}]
    networks: {{back: {{aliases: [store]}}}}
    environment: {{FLAVOUR: plain}}
    secrets: [word]
    configs: [{{source: app, target: /etc/app.conf}}]
    ulimits: {{nofile: {{soft: 100, hard: 200}}}}
    mem_limit: 64m
    init: true
  seed:
    image: {BUSYBOX}
    command: ["sh", "-c", "echo seeded >/data/seed; echo sown"]
    volumes: ["data:/data"]
    network_mode: none
    depends_on: {{base: {{condition: service_healthy}}}}
  web:
    build: {{context: site, args: {{FLAVOUR: plum}}}}
    image: hs-two-web:built
    depends_on: {{seed: {{condition: service_completed_successfully}}, base: {{condition: service_healthy}}}}
    ports: ["127.0.0.1:38120:80"]
    networks: {{back: {{ipv4_address: 10.241.78.20}}, front: {{}}}}
    extra_hosts: ["somewhere:10.1.2.3"]
    labels: {{tier: front}}
    stop_signal: SIGKILL
  debug:
    image: {BUSYBOX}
    profiles: [looking]
    command: ["sleep", "600"]
    network_mode: "service:base"
    depends_on: [base]
  side:
    image: {BUSYBOX}
    profiles: [looking]
    entrypoint: ["sleep"]
    command: ["600"]
    networks: [front]
    hostname: sidekick
    user: "1000:1000"
    read_only: true
    cap_drop: [ALL]
    working_dir: /tmp
    stop_signal: SIGKILL
networks:
  back: {{ipam: {{config: [{{subnet: 10.241.78.0/24, gateway: 10.241.78.1}}]}}, labels: {{l: m}}}}
  front: {{}}
volumes:
  data: {{labels: {{v: w}}}}
secrets:
  word: {{file: ./word}}
configs:
  app: {{file: ./app.conf}}
"""
STATES = ("ps", "-a", "--format", "{{.Name}} {{.State}} {{.ExitCode}}")
STEPS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("config", "--services")),
    (0, ("build", "-q")),
    (0, ("up", "-d", "--wait")),
    (0, ("ps", "-a", "--format", "{{.Name}} {{.Image}} {{.State}} {{.Health}} {{.ExitCode}} {{.Ports}}")),
    (0, ("--profile", "looking", "up", "-d", "--scale", "side=2")),
    (0, STATES),
    (0, ("ls",)), (0, ("ps", "--services")), (0, ("port", "web", "80")),
    (0, ("logs", "--no-color", "base", "seed")), (0, ("logs", "--no-log-prefix", "--tail", "1", "base")),
    (0, ("exec", "-T", "base", "sh", "-c", "cat /run/secrets/word /etc/app.conf /data/seed; echo $FLAVOUR")),
    (0, ("exec", "-T", "web", "sh", "-c", "grep somewhere /etc/hosts; cat /flavour; nslookup store | grep -c Name")),
    (0, ("exec", "-T", "-e", "X=y", "-u", "1000", "-w", "/tmp", "base", "sh", "-c", "echo $X $(id -u) $(pwd)")),
    (1, ("exec", "-T", "--index", "2", "side", "sh", "-c", "hostname; id -u; pwd; touch /x")),
    (0, ("exec", "-T", "debug", "hostname", "-s")),
    (0, ("cp", "base:/etc/app.conf", "got.conf")), (0, ("cp", "got.conf", "web:/tmp/s")),
    (0, ("exec", "-T", "web", "cat", "/tmp/s")),
    (0, ("run", "--rm", "-T", "--no-deps", "-e", "Q=z", "base", "sh", "-c", "echo one-off $Q")),
    (5, ("run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "base", "-c", "exit 5")),
    (0, ("pause", "base")), (0, ("ps", "--status", "paused", "--format", "{{.Name}}")), (0, ("unpause", "base")),
    (0, ("kill", "-s", "KILL", "web")), (0, STATES), (0, ("start", "web")),
    (0, ("--profile", "looking", "rm", "-f", "-s", "-v", "debug")),
    (0, ("up", "-d", "--force-recreate", "--no-deps", "base", "web")), (0, STATES),
    (0, ("stop", "-t", "1", "base")), (0, STATES),
    (1, ("up", "-d", "none-such")), (1, ("exec", "-T", "none-such", "true")),
    (0, ("--profile", "looking", "down", "-v", "--rmi", "local", "-t", "0")), (0, STATES), (0, ("ls", "-a")))

pytestmark = pytest.mark.skipif(not PLUGIN.exists(), reason="Compose v2 is not unpacked: run ./test.sh")


class Compose:
    """Of one engine, with a directory of its own."""

    def __init__(self, cli: Cli, stack: ExitStack) -> None:
        self._cli = cli
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-two-")))
        self._home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-home-")))
        (self._home / ".docker/cli-plugins").mkdir(parents=True)
        (self._home / ".docker/cli-plugins/docker-compose").symlink_to(PLUGIN)
        (self._directory / "site").mkdir()
        for name, text in (("compose.yml", APPLICATION), ("word", "secret\n"), ("app.conf", "conf=1\n"),
                           ("site/Dockerfile", f"FROM {BUSYBOX}\nARG FLAVOUR\nRUN echo $FLAVOUR >/flavour\n"
                                               'CMD ["httpd", "-f", "-h", "/"]\n')):
            (self._directory / name).write_text(text)
        stack.callback(self, "--profile", "looking", "down", "-v", "--rmi", "local", "-t", "0")

    def __call__(self, *args: str) -> tuple[int, str]:
        """(exit code, output with the same word for every id, in order; of a build without its intermediate images,
        whose number differs)."""
        done = subprocess.run(self._cli.argv("compose", "--ansi", "never", *args), cwd=self._directory, text=True,
                              env={**self._cli.environment, "HOME": str(self._home), "COMPOSE_PARALLEL_LIMIT": "4"},
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)
        said = re.sub(r"\b[0-9a-f]{12,64}\b", "<id>", done.stdout).replace(str(self._directory), "<directory>")
        lines = sorted(line for line in said.splitlines() if not line.startswith(" ---> "))
        return done.returncode, "\n".join(lines) or ("" if done.returncode == 0 else done.stderr)


@pytest.fixture
def both(docker: Cli, ours: Cli) -> Iterator[tuple[Compose, Compose]]:
    with ExitStack() as stack:
        yield Compose(docker, stack), Compose(ours, stack)


def test_an_application_is_alike_on_both(both: tuple[Compose, Compose]) -> None:
    unlike = []
    with ThreadPoolExecutor(2) as pool:
        for code, args in STEPS:
            theirs, here = pool.map(lambda compose, args=args: compose(*args), both)
            if theirs != here or here[0] != code:
                unlike.append(f"compose {' '.join(args)}: Docker {theirs}, ours {here}, expected {code}")
    assert unlike == [], "\n".join(unlike)
