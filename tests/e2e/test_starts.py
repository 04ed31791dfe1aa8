"""Many starts at once, and starts for which the host has no memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyperstack.cli.client import PROJECT_HEADER
from tests.faults.inventory import leaks
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

STORM = 10
TOTAL_MIB = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20


@pytest.fixture
def started(make_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[[str], Daemon]:
    """A daemon with these lines under [hypervisor]."""
    def start(settings: str) -> Daemon:
        (tmp_path / "hyperd.toml").write_text(f"[hypervisor]\n{settings}\n")
        daemon = make_daemon("--config", str(tmp_path / "hyperd.toml"))
        daemon.start()
        daemon.ctl("pull", BUSYBOX)
        return daemon

    return start


def starts(daemon: Daemon) -> dict[str, int]:
    found: dict[str, int] = json.loads(daemon.text("info", "--format", "json"))["HyperStack"]["starts"]
    return found


def begin(daemon: Daemon, name: str) -> Any:
    """Start it in the background; the process ends with the start."""
    return daemon.ctl_popen("start", name)


def test_a_storm_is_worked_off_and_does_not_hold_up_another_project(started: Callable[[str], Daemon]) -> None:
    daemon = started('concurrent_starts = 2\ntemplates = "off"')
    daemon.ctl("--project", "calm", "pull", BUSYBOX)
    names = [f"storm-{number}" for number in range(STORM)]
    for name in names:
        daemon.ctl("create", "--name", name, BUSYBOX, "sleep", "600")
    daemon.ctl("--project", "calm", "create", "--name", "calm", BUSYBOX, "sleep", "600")
    with daemon.sdk() as storm, daemon.sdk() as calm, ThreadPoolExecutor(STORM + 1) as pool:
        calm.api.headers[PROJECT_HEADER] = "calm"
        pending = [pool.submit(storm.api.start, name) for name in names]
        wait_until(lambda: starts(daemon)["waiting"] >= STORM // 2, "most of the storm waits")
        assert starts(daemon)["running"] == 1, "one slot is left for another project's first"
        assert f"{starts(daemon)['slots']}" in daemon.text("info", "--format", "{{json .DriverStatus}}")
        calm.api.start("calm")
        assert not all(one.done() for one in pending), "who came last was not served last"
        for one in pending:
            one.result()
        assert storm.containers.get(names[-1]).attrs["State"]["Running"]
    assert starts(daemon) == {"slots": 2, "running": 0, "waiting": 0, "short_of_memory": 0}
    assert len(daemon.vms()) == STORM + 1
    daemon.ctl("rm", "-f", *names)
    daemon.ctl("--project", "calm", "rm", "-f", "calm")
    wait_until(lambda: not leaks(daemon), "nothing is leaked")


def test_what_the_host_has_no_memory_for_waits_can_be_stopped_and_is_refused(started: Callable[[str], Daemon]) -> None:
    # So near to all of it that no host ever has it free, and a small machine would fit if it had.
    daemon = started(f'memory_reserve = "{TOTAL_MIB - 300}MiB"\ntemplates = "off"')
    for name in ("refused", "stopped", "removed"):
        daemon.ctl("create", "-m", "100m", "--name", name, BUSYBOX, "sleep", "600")
    began = time.monotonic()
    clients = {name: begin(daemon, name) for name in ("refused", "stopped", "removed")}
    wait_until(lambda: starts(daemon)["waiting"] == 3, "all wait")
    assert "3 waiting, " in daemon.text("info")
    assert starts(daemon)["short_of_memory"] >= 1
    daemon.ctl("stop", "stopped", timeout=10)
    daemon.ctl("rm", "-f", "removed", timeout=10)
    for name in ("stopped", "removed"):
        assert b"stopped while its start waited" in clients[name].communicate(timeout=10)[1]
    _, said = clients["refused"].communicate(timeout=100)
    assert 60 <= time.monotonic() - began < 90
    assert clients["refused"].returncode != 0
    assert b"MiB of memory" in said
    assert b"ask for less with -m" in said
    assert daemon.text("inspect", "--format", "{{.State.Status}}", "refused") == "created"
    assert not daemon.vms()
    never = daemon.ctl("run", "-m", f"{TOTAL_MIB}m", BUSYBOX, "true", check=False)
    assert never.returncode == 125
    assert b"hypervisor.memory_reserve" in never.stderr
    wait_until(lambda: not leaks(daemon), "nothing is leaked")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_starts_that_wait_end_with_the_daemon_and_can_be_asked_for_again(started: Callable[[str], Daemon], end: str,
                                                                         tmp_path: Path) -> None:
    daemon = started(f'memory_reserve = "{TOTAL_MIB - 300}MiB"\ntemplates = "off"')
    for name in ("one", "two"):
        daemon.ctl("create", "-m", "100m", "--name", name, BUSYBOX, "sleep", "600")
    clients = [begin(daemon, name) for name in ("one", "two")]
    wait_until(lambda: starts(daemon)["waiting"] == 2, "both wait")
    began = time.monotonic()
    getattr(daemon, end)()
    assert time.monotonic() - began < 30
    for client in clients:
        client.communicate(timeout=30)
        assert client.returncode != 0
    (tmp_path / "hyperd.toml").write_text("")
    daemon.start()
    assert starts(daemon)["waiting"] == 0
    assert daemon.text("ps", "-a", "--format", "{{.State}}").split() == ["created", "created"]
    daemon.ctl("start", "one", "two")
    assert len(daemon.vms()) == 2
    daemon.ctl("rm", "-f", "one", "two")
