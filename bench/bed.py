"""What a bench runs in: a network namespace with a registry, a hyperd of its own, peers; all ends with the bench."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from bench import gauge
from bench.api import Api
from bench.podman import Podman
from bench.proc import available_mib
from bench.report import Report, say
from tests.harness import Daemon, Namespace, Registry
from tests.images import BUSYBOX, fill_registry

IDLE = ["sleep", "1000000"]
"""The process of an idle pod."""
_ECHO = ["/bin/echo", "hi"]
_TEMPLATE_WAIT_S = 180.0
"""For the daemon to make its templates, which it does in the background."""
_TOLD = ("hypervisor", "accelerator", "guest_kernel", "storage", "cgroup_version", "warnings")
_ENDINGS = {signal.SIGINT, signal.SIGTERM}


class Box(Protocol):
    """Where a container runs: in a pod of ours, or with podman. Each call raises RuntimeError where it fails."""

    def run(self, image: str, command: list[str], *, binds: tuple[str, ...] = ()) -> str: ...

    def exec(self, ident: str, argv: list[str]) -> str: ...

    def address(self, ident: str) -> str: ...


class Bed:
    """Made by `made`."""

    def __init__(self, stack: ExitStack, report: Report) -> None:
        self._stack = stack
        self.report = report
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hs-bench-")))
        with _held():
            self.namespace = Namespace()
            stack.callback(self.namespace.close)
            stack.callback(Registry(self.directory / "registry", self.namespace).close)
        fill_registry(self.namespace)
        self.gauge = gauge.compiled(self.directory)
        self.accelerator = "tcg"
        """What the last daemon chose."""

    @contextlib.contextmanager
    def daemon(self, *, settings: str = "", image: str = BUSYBOX) -> Iterator[tuple[Daemon, Api]]:
        """A new hyperd that has pulled the image. :param settings: its configuration file.

        :raise RuntimeError: it ends; with its last words.
        """
        with ExitStack() as stack:
            file = self.directory / "hyperd.toml"
            file.write_text(settings)
            daemon = Daemon(self.namespace, "--log-level", "warning", "--config", str(file))
            stack.callback(daemon.close)
            daemon.start()
            daemon.ctl("pull", image)
            api = stack.enter_context(contextlib.closing(Api(daemon.socket)))
            info = api.ask("GET", "/info")["HyperStack"]
            self.report.details["hyperd"] = {name: info[name] for name in _TOLD if name in info}
            self.accelerator = str(info["accelerator"])
            yield daemon, api

    def podman(self, runtime: str = "runc", image: str = BUSYBOX) -> Podman | None:
        """Podman with the image, proven to run; None, and the reason among the details, where it cannot."""
        with ExitStack() as stack:
            try:
                podman = Podman(self.directory / runtime, self.namespace, runtime)
                stack.callback(podman.close)
                podman.pull(image)
                podman.run_ms(image, _ECHO)
            except (FileNotFoundError, RuntimeError) as error:
                self.report.leave_out(f"podman with {runtime}", reason=str(error))
                say(f"no podman with {runtime}: {error}")
                return None
            self._stack.push(stack.pop_all())
            return podman

    def threads(self, count: int) -> ThreadPoolExecutor:
        """Threads that an interrupt does not wait for: what they wait for ends with the daemon."""
        pool = ThreadPoolExecutor(count)
        self._stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        return pool


def origin(api: Api, ident: str) -> str:
    """What a container's pod was started from: "fork", "template", "pool", "cold"; "" where the daemon does not say."""
    return str(api.pod_of(ident).get("start", ""))


def warm_up(api: Api, *, wanted: str = "fork", kernel: str = "", patience_s: float = _TEMPLATE_WAIT_S) -> str:
    """Run pods until one comes from `wanted`, or the daemon has none to offer; what the last came from."""
    deadline = time.monotonic() + patience_s
    while True:
        ident = api.run(BUSYBOX, IDLE, kernel=kernel)
        found = origin(api, ident)
        api.remove(ident)
        if found in ("", wanted) or time.monotonic() > deadline:
            return found
        say(f"the daemon started a pod from {found}; waiting for {wanted}")
        time.sleep(2)


def settled_mib(*, patience_s: float = 30.0) -> int:
    """MemAvailable once it moves no more than 8 MiB in a second."""
    deadline = time.monotonic() + patience_s
    before = available_mib()
    while True:
        time.sleep(1)
        after = available_mib()
        if abs(after - before) <= 8 or time.monotonic() > deadline:
            return after
        before = after


@contextlib.contextmanager
def made(report: Report) -> Iterator[Bed]:
    """A bed, whose end Ctrl-C or SIGTERM brings on, but does not disturb."""
    def stop(_number: int, _frame: FrameType | None) -> Any:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in _ENDINGS}
    try:
        with ExitStack() as stack:
            try:
                yield Bed(stack, report)
            finally:
                for number in _ENDINGS:
                    signal.signal(number, signal.SIG_IGN)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """Ctrl-C waits meanwhile: what is half made could not be found."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDINGS)
