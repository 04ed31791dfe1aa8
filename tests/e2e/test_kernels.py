"""Kernels that do not bring a pod up: the user is told, with the kernel's own last words, and nothing is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.inventory import leaks
from tests.harness import CACHE, Daemon, wait_until
from tests.images import BUSYBOX


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of kernels: the default one, one that panics, and one that hangs."""
    cache = tmp_path_factory.mktemp("kernels") / "cache"
    shutil.copytree(CACHE / "daemon", cache, symlinks=True)
    directory = cache / "kernels"
    default = directory / (directory / "default").read_text()
    for name, command_line in (("panics", "rdinit=/nonexistent"), ("hangs", "rdinit=/nonexistent panic=0")):
        shutil.copytree(default, directory / name)
        record = json.loads((default / "kernel.json").read_text())
        record["command_line"] += f" {command_line}"
        (directory / name / "kernel.json").write_text(json.dumps(record))
    yield cache
    shutil.rmtree(cache)


def started(make_daemon: Callable[..., Daemon], kernels: Path, timeout_s: int) -> Daemon:
    settings = kernels.parent / f"{timeout_s}.toml"
    settings.write_text(f"[pods]\nboot_timeout_s = {timeout_s}\n")
    daemon = make_daemon("--cache-dir", str(kernels), "--config", str(settings))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    return daemon


def test_a_kernel_that_panics_is_told_with_its_last_words(make_daemon: Callable[..., Daemon], kernels: Path) -> None:
    daemon = started(make_daemon, kernels, 90)
    done = daemon.ctl("run", "--name", "p", "--kernel", "panics", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert b"Kernel panic" in done.stderr
    assert b"panics" in done.stderr
    wait_until(lambda: not leaks(daemon), "nothing is leaked")
    assert daemon.vms() == {}
    assert daemon.text("run", "--rm", BUSYBOX, "echo", "fine") == "fine"


def test_a_kernel_that_hangs_is_given_up_at_the_deadline(make_daemon: Callable[..., Daemon], kernels: Path) -> None:
    daemon = started(make_daemon, kernels, 8)
    done = daemon.ctl("run", "--name", "h", "--kernel", "hangs", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert b"did not bring up the agent" in done.stderr
    assert b"Kernel panic" in done.stderr
    assert daemon.vms() == {}
    assert daemon.text("inspect", "--format", "{{.State.Status}}", "h") == "created"
    daemon.ctl("rm", "h")
    wait_until(lambda: not leaks(daemon), "nothing is leaked")
