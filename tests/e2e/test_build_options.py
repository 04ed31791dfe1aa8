"""What docs/build.md says of single options of builds and Dockerfiles, seen from inside a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Daemon
from tests.images import BUSYBOX


@pytest.fixture(autouse=True)
def nothing_left(daemon: Daemon) -> Iterator[None]:
    """The daemon is others' too, who count what there is."""
    yield
    daemon.docker_cli("image", "prune", "-f")
    daemon.docker_cli("builder", "prune", "-af")


def build(daemon: Daemon, dockerfile: str, *options: str, check: bool = True) -> str:
    done = daemon.ctl("build", "--no-cache", *options, "-", stdin=f"FROM {BUSYBOX}\n{dockerfile}".encode(), check=check)
    assert check or done.returncode != 0
    return (done.stdout + done.stderr).decode()


def test_a_script_is_given_to_its_interpreter(daemon: Daemon) -> None:
    said = build(daemon, 'RUN <<END\n#!/bin/busybox awk -f\nBEGIN { print "of awk", 6 * 7 }\nEND\n')
    assert "of awk 42" in said


def test_limits_are_those_of_each_step(daemon: Daemon) -> None:
    show = "RUN cd /sys/fs/cgroup && echo limits $(cat cpu.max memory.max cpu.weight) $(nproc) $(wc -l </proc/swaps)\n"
    said = build(daemon, show, "--cpu-period", "50000", "--cpu-quota", "25000", "--cpu-shares", "2", "--memory", "64m",
                 "--memory-swap", "128m", "--cpuset-cpus", "0")
    assert f"limits 25000 50000 {64 << 20} 1 1 1" in said


def test_what_another_frontend_or_a_repository_would_do_is_told(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"# syntax=example.org/any:1\nFROM {BUSYBOX}\nRUN echo read\n")
    assert "read" in daemon.text("build", "--no-cache", str(tmp_path))
    assert "is a git repository, which is not supported here" in build(
        daemon, "ADD https://example.org/a.git /a\n", check=False)


def test_a_step_is_for_the_hosts_own_processor(daemon: Daemon) -> None:
    assert "s390x" in build(daemon, "RUN true\n", "--platform", "linux/s390x", check=False)


@pytest.mark.parametrize(("options", "words"), [
    ("--network=host", "networkmode=host"), ("--network=container:x", "networkmode=container:x")])
def test_networks_that_are_not_the_steps_own_are_refused(daemon: Daemon, options: str, words: str) -> None:
    assert f"{words} is not supported" in build(daemon, "RUN true\n", options, check=False)
