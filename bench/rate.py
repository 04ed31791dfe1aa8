"""How fast many pods asked for at once are there: a storm of creates and starts, and no pod may fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from bench.api import Api
from bench.bed import IDLE, Bed, warm_up
from bench.report import say
from bench.samples import Samples
from tests.harness import Daemon
from tests.images import BUSYBOX

_CLOCK = "from when the first of {count} was asked for, all by {what}, until this one's process ran and its asker knew"


def measure(bed: Bed, pods: int) -> None:
    bed.report.details["pods"] = pods
    with bed.daemon() as (daemon, api):
        bed.report.details["pods come from"] = warm_up(api) or "cold"
        _ours(bed, daemon, api, pods)
    podman = bed.podman()
    if podman is None:
        bed.report.leave_out("rate.podman_per_s", reason="no podman with runc")
    else:
        say(f"{pods} containers of podman at once")
        times, failures = _storm(bed, pods, lambda: podman.run(BUSYBOX, IDLE))
        _tell(bed, "rate.podman_per_s", times, failures, pods, "a podman run -d each")
        podman.remove_all()
    bed.report.ratio("rate.vs_podman", "rate.pods_per_s", "rate.podman_per_s")


def _ours(bed: Bed, daemon: Daemon, api: Api, pods: int) -> None:
    connections = [Api(daemon.socket) for _ in range(pods)]
    try:
        say(f"{pods} pods at once")
        times, failures = _storm(bed, pods, lambda: connections.pop().run(BUSYBOX, IDLE))
    finally:
        for connection in connections:
            connection.close()
    running = sum(state == "running" for state in api.states().values())
    if running != pods and not failures:
        failures = [f"{running} of {pods} run"]
    _tell(bed, "rate.pods_per_s", times, failures, pods, "create and start on an open connection each")


def _storm(bed: Bed, count: int, job: Callable[[], str]) -> tuple[list[float], list[str]]:
    """Seconds from the first call until each was done, in that order; and what failed."""
    times: list[float] = []
    failures: list[str] = []
    threads = bed.threads(count)
    began = time.perf_counter()

    def done(future: Future[str]) -> None:
        error = future.exception() if not future.cancelled() else None
        if isinstance(error, RuntimeError | OSError):
            failures.append(str(error)[:300])
        elif error is None:
            times.append(time.perf_counter() - began)

    futures = [threads.submit(job) for _ in range(count)]
    for future in futures:
        future.add_done_callback(done)
    for future in futures:
        if (error := future.exception()) and not isinstance(error, RuntimeError | OSError):
            raise error
    return sorted(times), failures


def _tell(bed: Bed, figure: str, times: list[float], failures: list[str], count: int, what: str) -> None:
    if times:
        bed.report.details[f"{figure}: when each ran"] = Samples(
            _CLOCK.format(count=count, what=what), "s", times).summary()
    if failures:
        bed.report.leave_out(figure, reason=f"{len(failures)} of {count} failed, such as: {failures[0]}")
    else:
        bed.report.figures[figure] = round(count / times[-1], 2)
