"""`kill -9 hyperd` at random instants during mixed work: nothing lost, nothing leaked.

The work and the instants come from one seed, which a failure prints: ./test.sh --kills N --seed SEED repeats them.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker.errors
import pytest

from tests.clients.peers import binaries
from tests.faults.attached import Attached
from tests.faults.inventory import leaks
from tests.faults.workload import COUNTER, STEADY, Ledger, Owned, Stage, Worker, build, check_consecutive
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX, SECOND

WORKERS = 2
LONGEST_S = (4.0, 4.0, 12.0)
"""From the start of the work to the kill: some within the start of a VM, some after all kinds of work were done."""
KILL_WHILE_RECOVERING = 0.2
PROGRESS = 10
"""Kills between two lines that tell how far it is."""

POOL = "[hypervisor]\npool = 1\n"
"""So that kills meet machines that stand ready, or were taken a moment ago, and others that were not."""

_STAGES = {"created": Stage.CREATED, "running": Stage.RUNNING, "exited": Stage.EXITED}


class Siege:
    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.ledger = Ledger()
        self._seed = seed
        self._rng = random.Random(seed)
        self._steady_lines = dict.fromkeys(STEADY, 0)
        self._attached: Attached | None = None

    def begin(self) -> None:
        self.daemon.start()
        self.daemon.ctl("pull", BUSYBOX)
        for name in STEADY:
            self.daemon.ctl("run", "-d", "--name", name, BUSYBOX, "sh", "-c", COUNTER)
        self._steady_vms = self.daemon.vms()

    def strike(self, step: int) -> None:
        """Work, kill, start again."""
        workers = [Worker(self.daemon, self.ledger, number, random.Random(f"{self._seed}/{step}/{number}"))
                   for number in range(WORKERS)]
        if self._attached is not None:
            self._attached.remove()
        self._attached = Attached(self.daemon, self.ledger, step)
        for worker in workers:
            worker.start()
        time.sleep(self._rng.uniform(0, self._rng.choice(LONGEST_S)))
        self.daemon.kill()
        for worker in workers:
            worker.join(timeout=180)
            assert not worker.is_alive(), f"{worker.name} hangs after the daemon's death"
        for name, lines in self._attached.ended().items():
            self._steady_lines[name] = max(self._steady_lines[name], lines)
        while self._rng.random() < KILL_WHILE_RECOVERING:
            self.daemon.spawn()
            time.sleep(self._rng.uniform(0, 1.5))
            self.daemon.kill()
        self.daemon.start()

    def check(self) -> None:
        """Every promise holds, and the host holds nothing else."""
        assert self.ledger.failures == []
        with contextlib.closing(docker.DockerClient(base_url=f"unix://{self.daemon.socket}", timeout=120)) as client:
            self._check_steady(client)
            for owned in self.ledger.containers:
                if owned.reached is not Stage.GONE:
                    self._check_container(client, owned)
            self._check_image(client)
            for tag in self.ledger.builds:
                self._check_build(client, tag)
            self._check_nothing_else(client)
        found: list[str] = []

        def at_rest() -> bool:
            found[:] = leaks(self.daemon)
            return not found

        try:
            wait_until(at_rest, "nothing is leaked", timeout=30)
        except TimeoutError:
            raise AssertionError("leaked: " + "; ".join(found)) from None

    def end(self) -> None:
        """Remove everything, the ordinary way; then nothing at all may be left."""
        with contextlib.closing(docker.DockerClient(base_url=f"unix://{self.daemon.socket}", timeout=120)) as client:
            build(client.api, self.ledger, "built-0", "at-last")
            self.ledger.builds["built-0"] = ("", "at-last")
            self._check_build(client, "built-0")
        names = self.daemon.text("ps", "-aq").split()
        if names:
            self.daemon.ctl("rm", "-f", *names)
        self.check_empty()

    def check_empty(self) -> None:
        wait_until(lambda: not leaks(self.daemon), "nothing is leaked", timeout=30)
        assert self.daemon.vms() == {}
        assert list((self.daemon.state / "pods").glob("*")) == []

    def _check_steady(self, client: docker.DockerClient) -> None:
        mine = {pid: pod for pid, pod in self.daemon.vms().items() if pid in self._steady_vms}
        assert mine == self._steady_vms, "a VM that nobody touched is another one now"
        for name in STEADY:
            container = client.containers.get(name)
            assert container.status == "running"
            assert container.exec_run(["echo", "here"]).output == b"here\n"
            lines = self._check_log(container.logs(), name)
            assert lines >= self._steady_lines[name], f"the log of {name} got shorter"
            self._steady_lines[name] = lines

    def _check_container(self, client: docker.DockerClient, owned: Owned) -> None:
        try:
            container = client.containers.get(owned.name)
        except docker.errors.NotFound:
            assert Stage.GONE in owned.allowed, f"{owned.name} is gone: {owned}"
            owned.reached = owned.asked = Stage.GONE
            return
        assert container.status in _STAGES, f"{owned.name} is {container.status}"
        stage = _STAGES[container.status]
        assert stage in owned.allowed, f"{owned.name} is {container.status}: {owned}"
        if stage is Stage.RUNNING and owned.exit_code is not None:
            container.wait(timeout=120)
            stage = Stage.EXITED
            container.reload()
        elif stage is Stage.RUNNING:
            assert container.exec_run(["echo", "here"]).output == b"here\n"
        if stage is Stage.EXITED and owned.exit_code is not None:
            assert container.attrs["State"]["ExitCode"] == owned.exit_code, container.attrs["State"]
            assert container.logs() == b"done\n"
        elif stage in (Stage.RUNNING, Stage.EXITED):
            lines = self._check_log(container.logs(), owned.name)
            assert lines >= owned.lines, f"the log of {owned.name} got shorter"
            owned.lines = lines
        if stage is Stage.CREATED:  # A start that came to nothing: it must be possible to make it come to something.
            container.remove()
            stage = Stage.GONE
        owned.reached = owned.asked = stage

    def _check_log(self, output: bytes, name: str) -> int:
        assert output == b"" or output.startswith(b"0\n"), f"the log of {name} begins with {output[:20]!r}"
        return check_consecutive(output, name)

    def _check_image(self, client: docker.DockerClient) -> None:
        try:
            client.images.get(SECOND)
            here = True
        except docker.errors.ImageNotFound:
            here = False
        assert here in self.ledger.image, f"the second image is {'' if here else 'not '}here: {self.ledger.image}"
        self.ledger.image = (here, here)

    def _check_build(self, client: docker.DockerClient, tag: str) -> None:
        """An image is there as a whole, of the last build that was acknowledged or of the one that was asked for."""
        acknowledged, asked = self.ledger.builds[tag]
        try:
            made_from = client.images.get(tag).labels["made.from"]
        except docker.errors.ImageNotFound:
            made_from = ""
        assert made_from in (acknowledged, asked), f"{tag} is made from {made_from}, not {acknowledged} or {asked}"
        if made_from and acknowledged != asked:
            said = client.containers.run(tag, name=f"of-{tag}", remove=True)
            assert said.decode().split() == [made_from, made_from, "seen"], f"{tag} of {made_from} holds {said!r}"
        self.ledger.builds[tag] = (made_from, made_from)

    def _check_nothing_else(self, client: docker.DockerClient) -> None:
        """No container of a step that a build died in."""
        known = {*STEADY, *(owned.name for owned in self.ledger.containers)}
        found = {container.name for container in client.containers.list(all=True)} - known
        assert not found, f"containers that nobody made: {found}"


@pytest.mark.timeout(0)
def test_kills_at_random_instants_lose_and_leak_nothing(make_daemon: Callable[..., Daemon], seed: int,
                                                        pytestconfig: pytest.Config, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    kills = pytestconfig.getoption("--kills")
    settings = tmp_path / "hyperd.toml"
    settings.write_text(POOL)
    siege, step = Siege(make_daemon("--config", str(settings)), seed), 0
    siege.begin()
    try:
        for step in range(1, kills + 1):
            siege.strike(step)
            siege.check()
            if step % PROGRESS == 0:
                words = f"{len(siege.ledger.containers)} containers, {siege.ledger.done}"
                with capsys.disabled():
                    print(f"\nkill {step}/{kills}: {words}", end="", flush=True)
        siege.end()
    except BaseException:
        print(f"failed at kill {step} of {kills}; repeat with: ./test.sh --kills {kills} --seed {seed}\n"
              f"--- hyperd's log:\n{siege.daemon.log_tail(60)}", file=sys.stderr)
        raise


def test_clients_in_the_middle_of_something_are_told_and_come_back(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    began = time.time()
    binary = str(next(iter(binaries().values())))

    def docker_popen(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([binary, *words], env=daemon.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def docker_says(*words: str) -> bytes:
        """Nothing where it fails: what is asked for may not be there yet."""
        return subprocess.run([binary, *words], env=daemon.environment, check=False, capture_output=True).stdout

    clients = [docker_popen("run", "--name", "counter", BUSYBOX, "sh", "-c", COUNTER)]
    wait_until(lambda: b"9\n" in docker_says("logs", "counter"), "it counts")
    clients += [docker_popen(*words) for words in (
        ("logs", "-f", "counter"), ("attach", "--no-stdin", "counter"), ("exec", "counter", "sh", "-c", COUNTER),
        ("wait", "counter"), ("events", "--since", f"{began:.6f}", "--format", "{{.Action}}"))]
    time.sleep(1)  # However far they come: nothing depends on it.
    machines = daemon.vms()
    daemon.kill()
    ran, followed, attached, executed, waited, told = (client.communicate(timeout=60)[0] for client in clients)
    for output in (ran, followed, attached, executed):
        check_consecutive(output, "what a client was shown")
    assert followed.startswith(b"0\n")
    assert waited == b""
    assert told.splitlines()[:2] == [b"create", b"attach"]

    daemon.start()
    assert daemon.vms() == machines
    again = [docker_popen("logs", "-f", "counter"), docker_popen("wait", "counter")]
    assert again[0].stdout is not None
    wait_until(lambda: len(docker_says("logs", "counter")) > len(ran), "it counts on")
    docker_says("kill", "counter")
    log, code = (client.communicate(timeout=60)[0] for client in again)
    assert code == b"137\n"
    assert check_consecutive(log, "the log") > 10
    whole = max(ran, followed, key=len)
    assert log.startswith(whole[:whole.rfind(b"\n") + 1]), "what was shown is there, and all before it"
    actions = docker_says("events", "--since", f"{began:.6f}", "--until", f"{time.time():.6f}", "--filter",
                          "container=counter", "--format", "{{.Action}}").splitlines()
    assert actions[:3] == [b"create", b"attach", b"start"]
    assert actions[-1] == b"die"


def test_a_vm_that_is_killed_while_no_daemon_runs_is_buried_with_a_reason(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "victim", BUSYBOX, "sleep", "600")
    [pid] = daemon.vms()
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    daemon.start()
    assert daemon.text("inspect", "--format", "{{.State.Status}}", "victim") == "exited"
    assert daemon.text("inspect", "--format", "{{.State.Error}}", "victim") != ""
    wait_until(lambda: not leaks(daemon), "nothing is leaked")


def test_a_removal_that_a_kill_cut_off_is_finished(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    ident = daemon.text("create", "--name", "half-gone", BUSYBOX)
    daemon.kill()
    removing = "UPDATE container SET doc = json_set(CAST(doc AS TEXT), '$.state', 'removing') WHERE id = ?"
    with contextlib.closing(sqlite3.connect(daemon.state / "engine.db")) as store, store:
        store.execute(removing, (ident,))
    daemon.start()
    assert daemon.text("ps", "-aq") == ""
    assert list((daemon.state / "pods").iterdir()) == []
