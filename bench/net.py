"""How fast a pod's network is: to the host and between two pods; beside podman's default network on the same host."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from bench import gauge
from bench.bed import IDLE, Bed, Box
from bench.io import clock_ratio
from bench.report import say
from bench.samples import Samples

_FLOW = "bytes over one TCP connection in {seconds} s, counted and timed by the program that dialled, {where}"
_PING = "one byte there and back on an open TCP connection without delay, timed by the program that dialled, {where}"
_CONNECT = "a new TCP connection and one byte there and back, timed by the program that dialled, {where}"
_PATIENCE_S = 120.0

Client = Callable[[list[str]], str]
"""Runs the measuring program with these words somewhere, and returns what it printed."""


def measure(bed: Bed, seconds: int, rounds: int, count: int) -> None:
    """:param seconds: of each throughput. :param rounds: of each. :param count: of single round trips."""
    gauge.push_image(bed.namespace, bed.gauge)
    with bed.daemon(image=gauge.IMAGE) as (_, api):
        client = _box(bed, "net.", api, seconds, rounds, count)
        bed.report.details["guest's clock over the host's"] = round(clock_ratio(api, client), 4)
    podman = bed.podman(image=gauge.IMAGE)
    if podman is None:
        bed.report.leave_out("net.podman_*", reason="no podman with runc")
        return
    _box(bed, "net.podman_", podman, seconds, rounds, count)


def _box(bed: Bed, prefix: str, box: Box, seconds: int, rounds: int, count: int) -> str:
    """Of ours, or of podman's; the container that dialled."""
    server = box.run(gauge.IMAGE, [gauge.PATH, "serve", gauge.PORT])
    client = box.run(gauge.IMAGE, IDLE)
    address = box.address(server)

    def on_host(words: list[str]) -> str:
        argv = bed.namespace.inside([str(bed.gauge), *words])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"gauge {words[0]} on the host: {done.stderr.strip()}")
        return done.stdout

    def in_pod(words: list[str]) -> str:
        return box.exec(client, [gauge.PATH, *words])

    # Between two pods it is the same both ways.
    ends: tuple[tuple[str, str, Client, dict[str, str]], ...] = (
        ("host", "on the host", on_host, {"send": "host_to_pod", "receive": "pod_to_host"}),
        ("pods", "in another pod (or container)", in_pod, {"send": "pod_to_pod"}))
    for name, where, run, flows in ends:
        say(f"{prefix}{name}")
        for verb, figure in flows.items():
            bed.report.median(f"{prefix}{figure}_mb_s", Samples(_FLOW.format(seconds=seconds, where=where), "MB/s", [
                gauge.mb_per_s(run([verb, address, gauge.PORT, str(seconds)])) for _ in range(rounds)]))
        for verb, clock in (("ping", _PING), ("connect", _CONNECT)):
            output = run([verb, address, gauge.PORT, str(count)])
            bed.report.median(f"{prefix}{name}_{verb}_us", gauge.microseconds(clock.format(where=where), output))
    return client
