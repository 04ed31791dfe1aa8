"""How many idle pods a host holds: started until its memory is used up, and each of them asked whether it lives."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.api import Api
from bench.bed import IDLE, Bed, settled_mib, warm_up
from bench.proc import available_mib
from bench.report import say
from tests.harness import Daemon
from tests.images import BUSYBOX

_CONCURRENCY = 4
_PEERS = 30
_STEP = 20
"""Pods between two lines of progress."""


def measure(bed: Bed, limit: int, memory_mib: int, reserve_mib: int) -> None:
    """:param limit: of pods. :param memory_mib: how much of the host's memory they may take, all together.
    :param reserve_mib: what must stay available on the host."""
    report = bed.report
    with bed.daemon() as (daemon, api):
        report.details["pods come from"] = warm_up(api) or "cold"
        before = settled_mib()
        crowd = _Crowd(bed, daemon)
        report.details["stopped by"] = crowd.fill(limit, lambda: before - available_mib() >= memory_mib
                                                  or available_mib() < reserve_mib)
        after = settled_mib()
        answering = crowd.ask_all()
        running = sum(state == "running" for state in api.states().values())
        report.details |= {
            "failures": crowd.failures, "started": len(crowd.idents), "answering": answering, "running": running,
            "vms": len(daemon.vms()), "mem_available_mib": {"before": before, "after": after, "reserve": reserve_mib},
            "curve": crowd.curve, "density.pods": "idle pods that run and answer exec with a host name of their own; "
            "at least so many, where a limit of pods stopped it"}
        started = len(crowd.idents)
        if crowd.failures or not started == answering == running == len(daemon.vms()):
            report.leave_out("density.pods", reason=f"{started} started, {running} run, {answering} answer; "
                             f"failures: {crowd.failures[:3]}")
        else:
            report.figures["density.pods"] = started
        report.figures["density.mib_per_pod"] = round((before - after) / max(1, started), 1)
    _podman(bed)
    report.ratio("density.vs_podman", "density.mib_per_pod", "density.podman_mib_per_container")


class _Crowd:
    """The pods of one daemon."""

    def __init__(self, bed: Bed, daemon: Daemon) -> None:
        self._bed = bed
        self._daemon = daemon
        self.idents: list[str] = []
        self.failures: list[str] = []
        self.curve: list[tuple[int, int, float]] = []
        """Pods, MiB available then, seconds since the first was asked for."""

    def fill(self, limit: int, full: Callable[[], bool]) -> str:
        """Start pods, a few at once; what made an end of it."""
        began = time.monotonic()
        threads = self._bed.threads(_CONCURRENCY)
        while len(self.idents) < limit:
            if full():
                return "memory"
            if self.failures:
                return "a failure"
            count = min(_CONCURRENCY, limit - len(self.idents))
            self._start(threads, count)
            self.curve.append((len(self.idents), available_mib(), round(time.monotonic() - began, 1)))
            if len(self.idents) % _STEP < count:
                say(f"{len(self.idents)} pods, {self.curve[-1][1]} MiB available")
        return "the limit of pods"

    def _start(self, threads: ThreadPoolExecutor, count: int) -> None:
        for future in [threads.submit(self._start_one) for _ in range(count)]:
            try:
                self.idents.append(future.result())
            except (RuntimeError, OSError) as error:
                self.failures.append(str(error)[:300])

    def _start_one(self) -> str:
        with contextlib.closing(Api(self._daemon.socket)) as api:
            return api.run(BUSYBOX, IDLE)

    def ask_all(self) -> int:
        """How many answer with a host name that no other has."""
        say(f"asking {len(self.idents)} pods")
        return len({*self._bed.threads(_CONCURRENCY).map(self._ask_one, self.idents)} - {""})

    def _ask_one(self, ident: str) -> str:
        try:
            with contextlib.closing(Api(self._daemon.socket)) as api:
                return api.exec(ident, ["hostname"]).strip()
        except (RuntimeError, OSError) as error:
            self.failures.append(str(error)[:300])
            return ""


def _podman(bed: Bed) -> None:
    """A few containers are enough to know what each takes."""
    podman = bed.podman()
    if podman is None:
        bed.report.leave_out("density.podman_mib_per_container", reason="no podman with runc")
        return
    before = settled_mib()
    for _ in range(_PEERS):
        podman.run(BUSYBOX, IDLE)
    each = (before - settled_mib()) / _PEERS
    podman.remove_all()
    if each > 0:
        bed.report.figures["density.podman_mib_per_container"] = round(each, 1)
    else:
        bed.report.leave_out("density.podman_mib_per_container", reason="the host's memory moved for other reasons")
