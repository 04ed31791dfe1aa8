"""Limits that change while a container runs, beyond what its VM was started with too."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.kernels import cache_with_a_kernel
from tests.harness import Daemon
from tests.images import BUSYBOX

SETTINGS = {"cold": '[hypervisor]\ntemplates = "off"\n', "template": "[hypervisor]\nforks = false\n", "fork": ""}
MIB = 1 << 20


@pytest.fixture(params=SETTINGS)
def grown(request: pytest.FixtureRequest, make_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """A daemon with a container `box` that has a sixteenth of the memory and half of the processor that it gets."""
    settings = tmp_path / "hyperd.toml"
    settings.write_text(SETTINGS[request.param])
    daemon = make_daemon("--config", str(settings))
    daemon.start()
    if request.param == "fork" != daemon.quickest:
        pytest.skip("machines are not forked here")
    daemon.ctl("pull", BUSYBOX)
    daemon.run_until(request.param, "box", "-m", "64m", "--cpus", "0.5", BUSYBOX, "sleep", "100000")
    return daemon


def inside(daemon: Daemon, script: str) -> list[str]:
    return daemon.text("exec", "box", "sh", "-c", script).split()


def limits(daemon: Daemon) -> list[str]:
    return inside(daemon, "cd /sys/fs/cgroup; cat memory.max; nproc; cat cpu.max")


def refusal(daemon: Daemon, *options: str) -> str:
    done = daemon.docker_cli("update", *options, "box", check=False)
    assert done.returncode != 0
    return done.stderr.decode()


def test_a_running_machine_grows(grown: Daemon) -> None:
    processors = min(2, os.cpu_count() or 1)
    vms = grown.vms()
    assert limits(grown) == [str(64 * MIB), "1", "50000", "100000"]
    # Within its class, then beyond it.
    for size in (96, 1024):
        grown.docker_cli("update", "-m", f"{size}m", "--memory-swap", f"{size}m", "box")
        assert limits(grown)[0] == str(size * MIB)
    grown.docker_cli("update", "--cpus", str(processors), "box")
    assert limits(grown) == [str(1024 * MIB), str(processors), str(processors * 100_000), "100000"]
    # It has what it says, on the host too.
    assert inside(grown, "dd if=/dev/zero of=/dev/null bs=700M count=1 2>&1 | head -n 1") == ["1+0", "records", "in"]
    assert "range of CPUs is from 0.01 to" in refusal(grown, "--cpus", "1000")
    assert "a limit of 1048576 MiB does not fit" in refusal(grown, "-m", "1t", "--memory-swap", "1t")
    # A daemon that comes after knows of it, and it shrinks again.
    grown.kill()
    grown.start()
    assert limits(grown)[:2] == [str(1024 * MIB), str(processors)]
    grown.docker_cli("update", "-m", "1200m", "--memory-swap", "1200m", "box")
    grown.docker_cli("update", "-m", "32m", "--memory-swap", "32m", "--cpus", "0.25", "box")
    assert limits(grown) == [str(32 * MIB), str(processors), "25000", "100000"]
    assert grown.vms() == vms
    grown.docker_cli("restart", "-t", "0", "box")
    assert limits(grown) == [str(32 * MIB), "1", "25000", "100000"]
    [found] = json.loads(grown.docker_cli("inspect", "box").stdout)
    assert (found["HostConfig"]["Memory"], found["HostConfig"]["NanoCpus"]) == (32 * MIB, 250_000_000)


def test_a_kernel_that_takes_no_memory_is_named(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.options = ("--cache-dir", str(cache_with_a_kernel(daemon.directory, "small",
                                                             "{command_line} memhp_default_state=offline")))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "box", "--kernel", "small", "-m", "64m", BUSYBOX, "sleep", "100000")
    # Within what the machine was started with, it can be changed.
    daemon.docker_cli("update", "-m", "80m", "--memory-swap", "80m", "box")
    told = refusal(daemon, "-m", "1g", "--memory-swap", "1g")
    assert "the machine's kernel does not support more memory while it runs" in told, told
    assert "stop the pod's containers and start them again" in told
    assert limits(daemon)[0] == str(80 * MIB), "nothing has changed"
    daemon.ctl("stop", "-t", "0", "box")
    daemon.docker_cli("update", "-m", "1g", "--memory-swap", "1g", "box")
    daemon.ctl("start", "box")
    assert limits(daemon)[0] == str(1024 * MIB)
