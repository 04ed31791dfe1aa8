"""Containers come, stop, start again and go; policies act; failures have reasons."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

TRAP = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"


def state(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.text("inspect", name))[0]["State"]
    return found


def test_stop_asks_first_and_kills_after_the_grace(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "polite", BUSYBOX, "sh", "-c", TRAP)
    daemon.ctl("run", "-d", "--name", "deaf", BUSYBOX, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    wait_until(lambda: daemon.text("logs", "polite") == "up", "the trap is set")
    daemon.ctl("stop", "polite")
    daemon.ctl("stop", "-t", "1", "deaf")
    assert state(daemon, "polite")["ExitCode"] == 7
    assert state(daemon, "deaf")["ExitCode"] == 137


def test_a_stopped_container_keeps_its_disk_and_gives_up_its_vm(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "keeper", BUSYBOX, "sh", "-c", "date >>/kept; wc -l </kept; sleep 600")
    wait_until(lambda: daemon.text("logs", "keeper") == "1", "the first life wrote")
    daemon.ctl("stop", "-t", "0", "keeper")
    wait_until(lambda: daemon.vms() == {}, "the VM is gone")
    daemon.ctl("start", "keeper")
    wait_until(lambda: daemon.text("logs", "keeper").split() == ["1", "2"], "the second life found the file")
    daemon.ctl("restart", "-t", "0", "keeper")
    wait_until(lambda: daemon.text("logs", "keeper").split() == ["1", "2", "3"], "and the third")


def test_pause_stops_time_for_the_container_alone(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "ticker", BUSYBOX, "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    wait_until(lambda: "tick" in daemon.text("logs", "ticker"), "it ticks")
    daemon.ctl("pause", "ticker")
    assert state(daemon, "ticker")["Status"] == "paused"
    before = daemon.text("logs", "ticker")
    assert daemon.text("logs", "ticker") == before
    daemon.ctl("unpause", "ticker")
    wait_until(lambda: len(daemon.text("logs", "ticker")) > len(before), "it ticks again")


def test_kill_sends_the_named_signal(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "listener", BUSYBOX, "sh", "-c",
               "trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done")
    wait_until(lambda: daemon.text("logs", "listener") == "up", "the trap is set")
    daemon.ctl("kill", "-s", "USR1", "listener")
    wait_until(lambda: "usr1" in daemon.text("logs", "listener"), "the handler ran")
    daemon.ctl("kill", "listener")
    wait_until(lambda: state(daemon, "listener")["Status"] == "exited", "SIGKILL ended it")
    assert state(daemon, "listener")["ExitCode"] == 137


def test_wait_tells_the_exit_code_also_afterwards(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "short", BUSYBOX, "sh", "-c", "sleep 0.5; exit 11")
    assert daemon.text("wait", "short") == "11"
    assert daemon.text("wait", "short") == "11"


def test_on_failure_tries_as_often_as_asked(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "loser", "--restart", "on-failure:2", BUSYBOX, "sh", "-c", "echo try; exit 1")
    wait_until(lambda: daemon.text("logs", "loser").split() == ["try"] * 3, "one run and two more")
    wait_until(lambda: state(daemon, "loser")["Status"] == "exited", "it gave up")
    restarts = json.loads(daemon.text("inspect", "loser"))[0]["RestartCount"]
    assert restarts == 2


def test_a_container_that_a_user_stopped_stays_stopped(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "stubborn", "--restart", "always", BUSYBOX, "sh", "-c", TRAP)
    wait_until(lambda: "up" in daemon.text("logs", "stubborn"), "it runs")
    daemon.ctl("stop", "stubborn")
    assert state(daemon, "stubborn")["Status"] == "exited"


def test_a_killed_vm_is_a_failed_pod_with_a_reason_and_the_policy_acts(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "mortal", BUSYBOX, "sleep", "600")
    os.kill(only_vm(daemon), signal.SIGKILL)
    wait_until(lambda: state(daemon, "mortal")["Status"] == "exited", "the death is known")
    found = state(daemon, "mortal")
    assert "SIGKILL" in found["Error"] or "signal 9" in found["Error"], found
    assert found["ExitCode"] != 0
    daemon.ctl("rm", "mortal")

    daemon.ctl("run", "-d", "--name", "phoenix", "--restart", "always", BUSYBOX, "sleep", "600")
    first = only_vm(daemon)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: daemon.vms() and first not in daemon.vms() and state(daemon, "phoenix")["Status"] == "running",
               "the restart policy started it again")
    assert daemon.text("exec", "phoenix", "echo", "reborn") == "reborn"


def test_a_guest_that_fell_silent_fails_what_waits_for_it_and_can_be_removed(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "mute", BUSYBOX, "sleep", "600")
    mute = only_vm(daemon)
    daemon.ctl("run", "-d", "--name", "other", BUSYBOX, "sleep", "600")
    os.kill(mute, signal.SIGSTOP)
    waiting = daemon.ctl_popen("exec", "mute", "true")
    assert daemon.text("exec", "other", "echo", "fine") == "fine"
    daemon.ctl("rm", "-f", "mute")
    words = b"".join(waiting.communicate(timeout=120))  # Why an exec does not start comes with its output.
    assert waiting.returncode != 0
    assert words != b""
    assert mute not in daemon.vms()


def test_memory_pressure_kills_inside_never_the_vm(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "eater", "-m", "64m", BUSYBOX, "sh", "-c",
               "sh -c 'x=a; while :; do x=$x$x; done'; echo survived $?; sleep 600")
    wait_until(lambda: "survived 137" in daemon.text("logs", "eater"), "the greedy process was killed in the guest")
    assert daemon.text("exec", "eater", "echo", "alive") == "alive"
    done = daemon.ctl("run", "--name", "whole", "-m", "64m", BUSYBOX, "sh", "-c",
                      "exec sh -c 'x=a; while :; do x=$x$x; done'", check=False)
    assert done.returncode == 137
    assert state(daemon, "whole")["OOMKilled"] is True


def test_a_full_disk_is_the_containers_problem(daemon: Daemon) -> None:
    script = ("dd if=/dev/zero of=/fill bs=1M 2>&1 | grep -o 'No space left on device'; "
              "rm /fill; echo x >/y && echo free")
    lines = daemon.text("run", "--rm", "--storage-opt", "size=64m", BUSYBOX, "sh", "-c", script).splitlines()
    assert lines == ["No space left on device", "free"]


def test_rm_refuses_what_runs_unless_forced(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "busy", BUSYBOX, "sleep", "600")
    done = daemon.ctl("rm", "busy", check=False)
    assert done.returncode == 1
    assert b"running" in done.stderr
    daemon.ctl("rm", "-f", "busy")
    assert daemon.text("ps", "-aq") == ""


def test_cp_goes_both_ways(daemon: Daemon) -> None:
    source = daemon.directory / "there"
    source.mkdir()
    (source / "file").write_bytes(b"content\0\xff")
    daemon.ctl("run", "-d", "--name", "box", BUSYBOX, "sleep", "600")
    daemon.ctl("cp", str(source), "box:/tmp")
    daemon.ctl("cp", "box:/tmp/there/file", str(daemon.directory / "back"))
    assert (daemon.directory / "back").read_bytes() == b"content\0\xff"


def test_a_volume_outlives_its_containers(daemon: Daemon) -> None:
    daemon.ctl("run", "--rm", "-v", "data:/data", BUSYBOX, "sh", "-c", "echo kept >/data/file")
    try:
        assert daemon.text("run", "--rm", "-v", "data:/data:ro", BUSYBOX, "cat", "/data/file") == "kept"
    finally:
        daemon.ctl("volume", "rm", "data")


def only_vm(daemon: Daemon) -> int:
    pids = list(daemon.vms())
    assert len(pids) == 1, daemon.vms()
    return pids[0]
