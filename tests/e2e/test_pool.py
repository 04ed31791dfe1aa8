"""Pods that take machines which stood ready: they are as any other, and nothing is left of what nobody took."""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_templates import SELF
from tests.faults.inventory import leaks, records
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

SIZE = 2
_MIB = 1 << 20
_KILLS = 4
_HOG_MIB = 2600
_SLACK_MIB = 1400
"""What other processes of the host may take or free meanwhile, at most."""


def settings(path: Path, **more: Any) -> Path:
    lines = [f"{name} = {value}" for name, value in {"pool": SIZE, **more}.items()]
    path.write_text("\n".join(["[hypervisor]", *lines, ""]))
    return path


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    return start(make_daemon, settings(tmp_path / "hyperd.toml"))


def start(make_daemon: Callable[..., Daemon], file: Path) -> Daemon:
    made = make_daemon("--config", str(file))
    made.start()
    made.ctl("pull", BUSYBOX)
    return made


def pooled(daemon: Daemon, name: str, *options: str, command: tuple[str, ...] = ("sleep", "600")) -> None:
    """A running pod that took a ready machine; the first of its class are started otherwise."""
    daemon.run_until("pool", name, *options, BUSYBOX, *command)


def full(daemon: Daemon, size: int = SIZE) -> set[int]:
    """The ready machines, when there are as many as there should be."""
    wait_until(lambda: len(daemon.ready()) == size, "the pool is full")
    return daemon.ready()


def nothing_leaks(daemon: Daemon) -> None:
    wait_until(lambda: not leaks(daemon), "nothing is leaked", timeout=60)


def pid_of(daemon: Daemon, name: str) -> int:
    [ident] = [ident for ident, pod in records(daemon, "pod").items() if pod["name"] == name]
    [pid] = [pid for pid, owner in daemon.vms().items() if owner == ident]
    return pid


def test_a_pod_that_took_one_is_as_any_other(daemon: Daemon) -> None:
    pooled(daemon, "peer")
    pooled(daemon, "web", "-m", "150m", "--hostname", "little", "-p", "18080:80", "--tmpfs", "/scratch",
           command=("sh", "-c", "mkdir /www; echo well > /www/index.html; echo served; httpd -f -h /www"))
    assert daemon.text("exec", "web", "hostname") == "little"
    assert daemon.text("exec", "web", "cat", "/sys/fs/cgroup/memory.max") == str(150 * _MIB)
    [pod] = [pod for pod in records(daemon, "pod").values() if pod["name"] == "web"]
    assert daemon.text("exec", "web", "cat", "/sys/class/net/eth0/address") == pod["binding"]["mac"]
    address = pod["binding"]["address"].partition("/")[0]
    assert daemon.text("exec", "peer", "wget", "-qO-", f"http://{address}/") == "well"
    with daemon.namespace.connect("127.0.0.1", 18080) as published:
        published.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert published.recv(64).startswith(b"HTTP/1.")
    assert daemon.text("logs", "web") == "served"
    daemon.ctl("exec", "web", "sh", "-c", "echo kept > /file")
    daemon.ctl("stop", "-t", "0", "web")
    daemon.ctl("start", "web")
    assert daemon.text("exec", "web", "cat", "/file") == "kept"
    nothing_leaks(daemon)


def test_its_limits_are_a_pods_own(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "first", BUSYBOX, "sleep", "600")
    assert daemon.origin("first") != "pool"
    pooled(daemon, "pooled")
    limits = {name: limit(daemon, pid_of(daemon, name)) for name in ("first", "pooled")}
    assert limits["first"] == limits["pooled"]


def limit(daemon: Daemon, pid: int) -> list[str]:
    """Of the memory and the processes of a machine."""
    mine = [path for path in daemon.cgroups() if str(pid) in (path / "cgroup.procs").read_text().split()]
    files = [path / name for path in mine for name in ("memory.limit_in_bytes", "memory.max", "pids.max")]
    return [file.read_text() for file in files if file.exists()]


def test_two_have_nothing_of_each_other(daemon: Daemon) -> None:
    pooled(daemon, "warm")
    full(daemon)
    found = []
    for name in ("one", "two"):
        daemon.ctl("run", "-d", "--name", name, BUSYBOX, "sleep", "600")
        assert daemon.origin(name) == "pool"
        found.append(daemon.text("exec", name, "sh", "-c", SELF).splitlines())
    *different, clocks = zip(*found, strict=True)
    assert len(different) == 6
    assert all(one != two for one, two in different), different
    assert all(abs(int(clock) - time.time()) < 60 for clock in clocks)
    assert len({pod["agent_key"] for pod in records(daemon, "pod").values()}) == 3
    status = [Path(f"/proc/{pid}/status").read_text() for pid in (*daemon.vms(), *daemon.ready())]
    owners = [next(line.split()[1] for line in text.splitlines() if line.startswith("Uid:")) for text in status]
    assert len(set(owners)) == len(owners), "two machines run under one uid"


def test_a_killed_daemon_leaves_those_that_were_taken_and_none_else(daemon: Daemon) -> None:
    pooled(daemon, "kept", "-p", "18081:80", command=("httpd", "-f"))
    ready, vms = full(daemon), daemon.vms()
    daemon.kill()
    daemon.start()
    assert daemon.vms() == vms
    assert not ready & daemon.ready()
    assert daemon.text("exec", "kept", "echo", "still here") == "still here"
    daemon.namespace.connect("127.0.0.1", 18081).close()
    nothing_leaks(daemon)
    daemon.ctl("rm", "-f", "kept")
    nothing_leaks(daemon)
    assert not daemon.vms()


def test_a_daemon_killed_while_a_pod_takes_one_leaks_nothing(daemon: Daemon, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(_KILLS):
        pooled(daemon, f"warm{number}")
        full(daemon)
        client = daemon.ctl_popen("run", "-d", "--name", f"taken{number}", BUSYBOX, "sleep", "600")
        # Most of it is hyperctl's own start; the pod's is what follows.
        time.sleep(chance.uniform(0.2, 0.6))
        daemon.kill()
        client.communicate(timeout=60)
        daemon.start()
        nothing_leaks(daemon)


def test_a_stopped_daemon_ends_those_that_nobody_took(daemon: Daemon) -> None:
    pooled(daemon, "kept")
    vms = daemon.vms()
    full(daemon)
    assert daemon.stop() == 0
    assert daemon.ready() == set()
    assert daemon.vms() == vms


def test_one_that_is_killed_harms_nobody_and_is_replaced(daemon: Daemon) -> None:
    pooled(daemon, "unharmed")
    ready = full(daemon)
    for pid in ready:
        os.kill(pid, signal.SIGKILL)
    assert daemon.text("exec", "unharmed", "echo", "well") == "well"
    wait_until(lambda: len(daemon.ready() - ready) == SIZE, "they are replaced")
    nothing_leaks(daemon)


def test_where_one_does_not_answer_the_pod_is_started_without(daemon: Daemon) -> None:
    pooled(daemon, "warm")
    stuck = full(daemon)
    for pid in stuck:
        os.kill(pid, signal.SIGSTOP)
    daemon.ctl("run", "-d", "--name", "second", BUSYBOX, "sleep", "600")
    assert daemon.origin("second") == daemon.quickest
    assert daemon.text("exec", "second", "echo", "well") == "well"
    assert len({*stuck} & daemon.ready()) == SIZE - 1, "the one that was to be taken is gone"
    for pid in stuck & daemon.ready():
        os.kill(pid, signal.SIGCONT)
    nothing_leaks(daemon)


def test_where_memory_gets_short_they_make_room(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    reserve = available_mib() - _SLACK_MIB
    if reserve < _SLACK_MIB:
        pytest.skip(f"the host has only {available_mib()} MiB available")
    daemon = start(make_daemon, settings(tmp_path / "hyperd.toml", memory_reserve=f'"{reserve}MiB"'))
    pooled(daemon, "kept", "-m", "64m")
    full(daemon)
    with mmap.mmap(-1, _HOG_MIB * _MIB) as hog:
        for offset in range(0, len(hog), mmap.PAGESIZE):
            hog[offset] = 1
        wait_until(lambda: not daemon.ready(), "they are given up")
        assert daemon.text("exec", "kept", "echo", "well") == "well"
    full(daemon)
    nothing_leaks(daemon)


def available_mib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable"))


def test_info_tells_how_many_stand_ready(daemon: Daemon) -> None:
    pooled(daemon, "warm")
    full(daemon)
    nothing_leaks(daemon)
    pool = json.loads(daemon.text("info", "--format", "{{json .HyperStack.pool}}"))
    assert (pool["size"], pool["ready"]) == (SIZE, SIZE)
    assert 0 < pool["memory"] < SIZE * 64 * _MIB
    assert f"Ready: {SIZE}" in daemon.text("info")
