"""Docker's API and its clients: requests a second, answers beside many containers, and docker beside podman."""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.api import Api
from bench.bed import Bed, warm_up
from bench.podman import Podman
from bench.report import Report, say
from bench.samples import Samples
from tests.harness import Daemon
from tests.images import BUSYBOX

_COMMAND = ["/bin/echo", "hi"]
_PING = b"GET /_ping HTTP/1.1\r\nHost: bench\r\n\r\n"
_CONNECTIONS = 8
_CONTAINERS = 100
_MB = 10**6
_PATIENCE_S = 600
_CLI_CLOCK = "CLI: before the process is started, until it has ended"


class Docker:
    """The docker command line as a client of the daemon."""

    def __init__(self, daemon: Daemon) -> None:
        if shutil.which("docker") is None:
            raise FileNotFoundError("no docker: apt-get install --no-install-recommends docker-cli")
        self._environment = daemon.environment

    def words(self, *words: str) -> list[str]:
        return ["docker", *words]

    def call(self, *words: str) -> str:
        return _output(self.words(*words), self._environment)

    def ms(self, words: Sequence[str]) -> float:
        return _wall_ms(self.words(*words), self._environment)


def measure(bed: Bed, samples: int, megabytes: int) -> None:
    report = bed.report
    podman = bed.podman()
    with bed.daemon() as (daemon, api):
        warm_up(api)
        _requests(api, daemon, report)
        try:
            docker = Docker(daemon)
        except FileNotFoundError as error:
            report.leave_out("api.run_vs_podman", reason=str(error))
            return
        _runs(docker, podman, report, samples)
        _bytes(bed, docker, podman, samples, megabytes * _MB)
        report.figures["api.hyperd_mb"] = round(daemon.rss_bytes() / _MB, 1)


# -- requests

def _requests(api: Api, daemon: Daemon, report: Report) -> None:
    say("pings")
    report.median("api.ping_rps", _pings(daemon.socket), digits=0)
    say(f"{_CONTAINERS} containers")
    idents = [api.create(BUSYBOX, _COMMAND) for _ in range(_CONTAINERS)]
    _p99(report, "api.list100_p99_ms", f"GET /containers/json?all=1, {_CONTAINERS} containers, on an open connection",
         lambda number: api.ask("GET", "/containers/json?all=1"), 300)
    _p99(report, "api.inspect_p99_ms", "GET /containers/ID/json, on an open connection",
         lambda number: api.ask("GET", f"/containers/{idents[number % len(idents)]}/json"), 1000)
    for ident in idents:
        api.remove(ident)


def _pings(path: Path, *, rounds: int = 10, round_s: float = 0.5) -> Samples:
    """Each connection waits for its answer before it asks again."""
    series = Samples(f"answers to GET /_ping a second, {_CONNECTIONS} connections, each asking again once answered",
                     "requests/s")
    connections = []
    try:
        for _ in range(_CONNECTIONS):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(str(path))
            connections.append(connection)
        for _ in range(rounds):
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < round_s:
                for connection in connections:
                    connection.sendall(_PING)
                for connection in connections:
                    answer = b""
                    while not answer.endswith(b"OK"):
                        answer += connection.recv(4096)
                count += len(connections)
            series.values.append(count / (time.perf_counter() - began))
    finally:
        for connection in connections:
            connection.close()
    return series


def _p99(report: Report, name: str, clock: str, ask: Callable[[int], object], count: int) -> None:
    series = Samples(clock)
    for number in range(count + 20):
        began = time.perf_counter()
        ask(number)
        if number >= 20:
            series.values.append((time.perf_counter() - began) * 1000)
    report.median(name.replace("_p99_", "_median_"), series, digits=2)
    report.figures[name] = round(statistics.quantiles(series.values, n=100)[98], 2)


# -- beside podman

def _runs(docker: Docker, podman: Podman | None, report: Report, samples: int) -> None:
    def run(one: Podman | None) -> float:
        if one is None:
            return docker.ms(["run", "--rm", BUSYBOX, *_COMMAND])
        return _wall_ms(one.words("run", "--rm", *one.limits, BUSYBOX, *_COMMAND))

    _compare(report, "run", samples, podman, run)


def _bytes(bed: Bed, docker: Docker, podman: Podman | None, samples: int, size: int) -> None:
    """The same file through both: into a running container and out of it, as attached output, and out of a log. What
    prints it is `cat`, so that the way is measured, not the maker; making, filling and removing are off the clock."""
    samples = max(samples // 3, 3)
    report = bed.report
    local = bed.directory / "payload"
    with local.open("wb") as file:
        file.writelines(b"%063d\n" % number for number in range(size // 64))

    def call(one: Podman | None, *words: str) -> str:
        return docker.call(*words) if one is None else _output(one.words(*words))

    def ms(one: Podman | None, *words: str) -> float:
        return docker.ms(words) if one is None else _wall_ms(one.words(*words))

    def made(one: Podman | None, verb: str, *command: str) -> str:
        options = [] if one is None else [*one.limits, "--log-driver", "k8s-file"]
        return call(one, verb, *options, *(("-d",) if verb == "run" else ()), BUSYBOX, *command)

    def printing(one: Podman | None) -> str:
        ident = made(one, "create", "cat", "/payload")
        call(one, "cp", str(local), f"{ident}:/payload")
        return ident

    both: list[Podman | None] = [None, *([podman] if podman is not None else [])]
    running = {one: made(one, "run", "sleep", "100000") for one in both}
    printed = {one: printing(one) for one in both}
    for one, ident in printed.items():
        ms(one, "start", "-a", ident)

    def copied(one: Podman | None) -> float:
        ident = running[one]
        return ms(one, "cp", str(local), f"{ident}:/payload") + ms(one, "cp", f"{ident}:/payload", "-")

    def attached(one: Podman | None) -> float:
        ident = printing(one)
        took = ms(one, "start", "-a", ident)
        call(one, "rm", ident)
        return took

    def logged(one: Podman | None) -> float:
        return ms(one, "logs", printed[one])

    for name, measured in (("cp", copied), ("attach", attached), ("logs", logged)):
        _compare(report, name, samples, podman, measured)


def _compare(report: Report, name: str, samples: int, podman: Podman | None,
             measured: Callable[[Podman | None], float]) -> None:
    """Docker and podman in turns, so that they meet the same host; one round goes uncounted before.

    :param measured: milliseconds of podman's, or of docker's for None.
    """
    mine, peer = Samples(_CLI_CLOCK), Samples(_CLI_CLOCK)
    for number in range(1 + samples):
        say(f"{name} {number} of {samples}")
        took, peer_took = measured(None), measured(podman) if podman is not None else 0.0
        if number:
            mine.values.append(took)
            if podman is not None:
                peer.values.append(peer_took)
    report.median(f"api.{name}_ms", mine)
    report.median(f"api.podman_{name}_ms", peer)
    report.ratio(f"api.{name}_vs_podman", f"api.{name}_ms", f"api.podman_{name}_ms")


def _wall_ms(argv: Sequence[str], environment: dict[str, str] | None = None) -> float:
    """:raise RuntimeError: it failed."""
    began = time.perf_counter()
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, timeout=_PATIENCE_S, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[-6:])} failed: {done.stderr[-400:].decode(errors='replace').strip()}")
    return took * 1000


def _output(argv: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S,
                          check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[-6:])} failed: {done.stderr[-400:].decode(errors='replace').strip()}")
    return done.stdout.decode().strip()
