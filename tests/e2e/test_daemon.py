"""The daemon as a process: one per directory, ends without its pods, comes back to them."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

COUNTER = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"


def test_a_second_daemon_on_the_same_state_is_told_who_holds_it(daemon: Daemon) -> None:
    second = Daemon(daemon.namespace, "--run-dir", str(daemon.directory / "run2"), directory=daemon.directory)
    second.log = daemon.directory / "second.log"
    second.spawn()
    assert second.process is not None
    assert second.process.wait(timeout=60) == 1
    assert f"pid {daemon.pid}" in second.log_tail()
    assert daemon.text("ps", "-q") == ""


def test_the_socket_is_not_for_everybody(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_a_wrong_option_is_named_before_anything_is_made(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--registry-mirror", "docker.io=ftp://x")
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(timeout=60) == 1
    assert "registries.mirrors" in daemon.log_tail()
    assert not list(daemon.state.iterdir())


def test_a_stopped_daemon_leaves_its_pods_running_and_finds_them_again(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "counter", BUSYBOX, "sh", "-c", COUNTER)
    wait_until(lambda: daemon.text("logs", "counter"), "it counts")
    vms = daemon.vms()
    assert daemon.stop() == 0
    assert daemon.vms() == vms
    assert not daemon.socket.exists()
    daemon.start()
    assert daemon.vms() == vms
    assert daemon.text("exec", "counter", "echo", "here") == "here"
    numbers = [int(line) for line in daemon.text("logs", "counter").split()]
    assert numbers == list(range(len(numbers)))


def test_a_daemon_without_pods_leaves_nothing_but_its_lock(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "--rm", BUSYBOX, "true")
    assert daemon.stop() == 0
    assert [path.name for path in daemon.run_dir.rglob("*")] == ["hyperd.lock"]


def test_what_ended_while_no_daemon_ran_is_known(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "sleeps", BUSYBOX, "sh", "-c", "sleep 3; echo last words; exit 13")
    daemon.ctl("run", "-d", "--name", "dies", BUSYBOX, "sleep", "600")
    pids = set(daemon.vms())
    daemon.kill()
    victim = newest(pids)
    os.kill(victim, signal.SIGKILL)
    daemon.start()
    assert daemon.text("wait", "sleeps") == "13"
    assert daemon.text("logs", "sleeps") == "last words"
    status = daemon.text("inspect", "--format", "{{.State.Status}}", "dies")
    assert status == "exited"


def newest(pids: set[int]) -> int:
    """The one that started last."""
    def started(pid: int) -> int:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    return max(pids, key=started)


def test_sighup_reads_the_log_level_and_the_registries_again(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    settings = daemon.directory / "hyperd.toml"
    settings.write_text('log_level = "info"\n')
    daemon.options = ("--config", str(settings))
    daemon.start()
    settings.write_text('log_levle = "info"\n')
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: "not reloaded" in daemon.log.read_text(), "the bad file was refused")
    settings.write_text('[registries]\ninsecure = ["example.test:5000"]\n')
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: "configuration reloaded" in daemon.log.read_text(), "the good one was taken")
    assert daemon.text("version")


def test_doctor_names_a_remedy_for_all_that_is_not_well(daemon: Daemon) -> None:
    lines = daemon.ctl("doctor", "--format", "json", check=False).stdout.splitlines()
    findings = [{key.lower(): value for key, value in json.loads(line).items()} for line in lines]
    names = {finding["name"] for finding in findings}
    assert {"kernel", "cgroups", "accelerator", "qemu"} <= names
    assert [finding for finding in findings if finding["status"] != "ok" and not finding["remedy"]] == []
    assert [finding for finding in findings if finding["status"] == "fail"] == [], "and yet all other tests pass here?"
