"""What clients do while the daemon is being killed, and what they were promised.

Each worker owns its containers, so what it was told about them is all there is to know. A container goes through its
stages in one direction; the ledger keeps the stage that the daemon has acknowledged and the one that was asked for, and
after a kill the truth must lie between the two.
"""

from __future__ import annotations

import contextlib
import enum
import io
import itertools
import random
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import docker
import docker.errors
import requests.exceptions
import urllib3.exceptions

from tests.harness import Daemon
from tests.images import BUSYBOX, SECOND

COUNTER = ("i=0; while :; do j=0; while [ $j -lt 10 ]; do echo $i; i=$((i+1)); j=$((j+1)); done; sleep 0.2; done")
"""Prints 0, 1, 2 ...: a lost or doubled byte shows."""
STEADY = ("steady-0", "steady-1")
"""Counters that are only looked into and never touched: they must never notice. Every worker uses them, so that there
is work in guests from the first instant, while the workers' own are still booting."""
DAEMON_GONE = (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError,
               urllib3.exceptions.ProtocolError, ConnectionError)
"""What a client sees of a kill."""
WAIT_FOR_TASK = 0.2


class Stage(enum.IntEnum):
    NOWHERE = 0
    CREATED = 1
    RUNNING = 2
    EXITED = 3
    GONE = 4


@dataclass
class Owned:
    """A container as its worker knows it."""

    name: str
    exit_code: int | None
    """Of a task that ends by itself; None for a counter, which does not."""
    reached: Stage = Stage.NOWHERE
    asked: Stage = Stage.NOWHERE
    lines: int = 0
    """How many lines of a counter were seen; the log never gets shorter."""

    @property
    def allowed(self) -> set[Stage]:
        stages = {stage for stage in Stage if self.reached <= stage <= self.asked}
        if self.exit_code is not None and Stage.RUNNING in stages:
            stages.add(Stage.EXITED)
        if Stage.GONE in stages or Stage.NOWHERE in stages:
            stages |= {Stage.GONE, Stage.NOWHERE}  # Not there is not there.
        return stages


@dataclass
class Ledger:
    """All promises, and all that went against one."""

    containers: list[Owned] = field(default_factory=list)
    image: tuple[bool, bool] = (False, False)
    """Whether the second image is here: acknowledged, asked for."""
    builds: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What the image of a tag was made from: acknowledged, asked for."""
    failures: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    """How often each kind of work was finished."""


class Worker(threading.Thread):
    """One client. Works until the daemon is gone."""

    MOST = 3
    """Containers at a time; VMs are what the host has least of."""

    def __init__(self, daemon: Daemon, ledger: Ledger, number: int, rng: random.Random) -> None:
        super().__init__(name=f"worker-{number}", daemon=True)
        self._api = docker.APIClient(base_url=f"unix://{daemon.socket}", timeout=120)
        self._ledger = ledger
        self._number = number
        self._rng = rng
        self._network = f"net-{number}"

    @property
    def mine(self) -> list[Owned]:
        return [c for c in self._ledger.containers
                if c.name.startswith(f"w{self._number}-") and c.reached is not Stage.GONE]

    def run(self) -> None:
        try:
            self._make_network(self._network)
            while True:
                self._one()
        except DAEMON_GONE:
            return
        except Exception as error:  # Whatever else a client sees is a broken promise, to be told by the test.
            self._ledger.failures.append(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(*DAEMON_GONE):
                self._api.close()

    def _one(self) -> None:
        choices = [self._run] * (len(self.mine) < self.MOST) * 2 + [self._image] * (self._number == 0)
        choices += [self._networks] + [self._build, self._exec, self._follow] * 2
        choices += [self._end] * bool(self._counters)
        if any(c.reached is Stage.EXITED for c in self.mine):
            choices += [self._remove] * 2
        self._settle_tasks()
        work = self._rng.choice(choices)
        work()
        self._ledger.done[work.__name__] = self._ledger.done.get(work.__name__, 0) + 1

    # -- the kinds of work

    def _run(self) -> None:
        task = self._rng.random() < 0.5
        name = f"w{self._number}-{self._rng.randrange(1 << 32):08x}"
        owned = Owned(name, self._rng.randrange(1, 120) if task else None)
        script = f"sleep {self._rng.uniform(0, 2):.1f}; echo done; exit {owned.exit_code}" if task else COUNTER
        self._ledger.containers.append(owned)
        with self._step(owned, Stage.CREATED):
            mode = self._rng.choice((self._network, "bridge", f"container:{STEADY[1]}"))
            self._api.create_container(BUSYBOX, ["sh", "-c", script], name=owned.name,
                                       host_config=self._api.create_host_config(network_mode=mode))
        with self._step(owned, Stage.RUNNING):
            self._api.start(owned.name)

    def _networks(self) -> None:
        """One that comes and goes. A kill may leave it, whole; whoever asks again finds it, or makes it."""
        name = f"{self._network}-spare"
        self._make_network(name)
        self._api.remove_network(name)

    def _make_network(self, name: str) -> None:
        try:
            self._api.create_network(name)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise

    def _exec(self) -> None:
        name = self._looked_into()
        token = f"{self._rng.randrange(1 << 64):x}"
        ident = self._api.exec_create(name, ["sh", "-c", f"echo {token}; exit 5"])["Id"]
        output = self._api.exec_start(ident)
        # Asked before the output is judged: a stream that a kill cut off looks like one that ended.
        code = self._api.exec_inspect(ident)["ExitCode"]
        if output != f"{token}\n".encode():
            raise AssertionError(f"exec in {name} printed {output!r}, not {token}")
        if code != 5:
            raise AssertionError(f"exec in {name} ended with {code}")

    def _follow(self) -> None:
        name = self._looked_into()
        stop, seen = time.monotonic() + self._rng.uniform(0.2, 1.5), b""
        stream = self._api.logs(name, stream=True, follow=True, tail=3)
        try:
            for chunk in stream:
                seen += chunk
                if time.monotonic() > stop:
                    break
        finally:
            stream.close()
            check_consecutive(seen, name)

    def _end(self) -> None:
        owned = self._rng.choice(self._counters)
        with self._step(owned, Stage.EXITED):
            self._api.stop(owned.name, timeout=self._rng.choice([0, 1]))

    def _remove(self) -> None:
        owned = self._rng.choice([c for c in self.mine if c.reached is Stage.EXITED])
        with self._step(owned, Stage.GONE):
            self._api.remove_container(owned.name, v=True)

    def _image(self) -> None:
        here, _ = self._ledger.image
        self._ledger.image = (here, not here)
        if here:
            self._api.remove_image(SECOND)
        else:
            for line in self._api.pull(SECOND, stream=True, decode=True):
                if "error" in line:
                    raise AssertionError(f"pull: {line['error']}")
        self._ledger.image = (not here, not here)

    def _build(self) -> None:
        build(self._api, self._ledger, f"built-{self._number}", f"{self._rng.randrange(1 << 64):x}")

    # -- helpers

    @property
    def _counters(self) -> list[Owned]:
        return [c for c in self.mine if c.reached is Stage.RUNNING and c.exit_code is None]

    def _looked_into(self) -> str:
        return self._rng.choice([*STEADY, *(c.name for c in self._counters)])

    def _settle_tasks(self) -> None:
        """Wait now and then for a task to end, as a client does."""
        for owned in self.mine:
            if owned.exit_code is not None and owned.reached is Stage.RUNNING and self._rng.random() < WAIT_FOR_TASK:
                code = self._api.wait(owned.name)["StatusCode"]
                if code != owned.exit_code:
                    raise AssertionError(f"{owned.name} ended with {code}, not {owned.exit_code}")
                owned.reached = owned.asked = Stage.EXITED

    @contextlib.contextmanager
    def _step(self, owned: Owned, stage: Stage) -> Iterator[None]:
        owned.asked = stage
        yield
        owned.reached = stage


def build(api: docker.APIClient, ledger: Ledger, tag: str, token: str) -> None:
    """The image of a tag anew, of which label, copied file and what a step made of that file agree."""
    before, _ = ledger.builds.get(tag, ("", ""))
    ledger.builds[tag] = (before, token)
    for line in api.build(fileobj=_context(token), custom_context=True, tag=tag, rm=True, decode=True):
        if "error" in line:
            raise AssertionError(f"build: {line['error']}")
    ledger.builds[tag] = (token, token)


def _context(token: str) -> io.BytesIO:
    dockerfile = (f"FROM {BUSYBOX}\nLABEL made.from={token}\nCOPY token /copied\n"
                  "RUN (cat /copied; echo seen) >/seen\nCMD cat /copied /seen\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in (("Dockerfile", dockerfile), ("token", token + "\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    packed.seek(0)
    return packed


def check_consecutive(output: bytes, name: str) -> int:
    """How many whole lines there are. :raise AssertionError: a number is missing or doubled."""
    numbers = [int(line) for line in output.split(b"\n")[:-1]]
    for before, after in itertools.pairwise(numbers):
        if after != before + 1:
            raise AssertionError(f"the output of {name} goes from {before} to {after}")
    return len(numbers)
