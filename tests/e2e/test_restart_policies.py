"""Restart policies over ends, stops and restarts of the daemon."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.docker import inspect
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX


def status(daemon: Daemon, name: str) -> str:
    return str(inspect(daemon, name)["State"]["Status"])


def test_the_daemon_s_return_starts_what_its_policy_asks_for(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    for name in ("always-stopped", "always-killed", "unless-stopped-stopped", "unless-stopped-killed", "no-killed"):
        daemon.docker_cli("run", "-d", "--name", name, "--restart", name.rpartition("-")[0], BUSYBOX, "sleep", "100000")
    daemon.docker_cli("create", "--name", "never", "--restart", "always", BUSYBOX)
    daemon.docker_cli("stop", "-t", "0", "always-stopped", "unless-stopped-stopped")
    # The others' machines end while no daemon is there to see it, as in a reboot of the host.
    wait_until(lambda: len(daemon.vms()) == 3, "those that were stopped have no machines")
    vms = daemon.vms()
    daemon.kill()
    for vm in vms:
        os.kill(vm, signal.SIGKILL)
    wait_until(lambda: daemon.vms() == {}, "the machines are gone")
    daemon.start()
    wait_until(lambda: all(status(daemon, name) == "running" for name in
                           ("always-stopped", "always-killed", "unless-stopped-killed")), "what is to run runs")
    assert {name: status(daemon, name) for name in ("no-killed", "unless-stopped-stopped", "never")} == {
        "no-killed": "exited", "unless-stopped-stopped": "exited", "never": "created"}


def test_a_pod_of_an_older_version_starts_its_container_again_in_its_vm(make_daemon: Callable[..., Daemon],
                                                                        tmp_path: Path) -> None:
    (tmp_path / "plain.toml").touch()
    daemon = make_daemon("--config", str(tmp_path / "plain.toml"))
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    # A fork's disks have other serials than their own.
    daemon.run_until(daemon.quickest, "old", "--restart", "always", "-v", "data:/data", BUSYBOX, "sh", "-c",
                     "until [ -e /data/go ]; do sleep 0.1; done; rm /data/go")
    [vm] = daemon.vms()
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.state / "engine.db")) as store, store:
        [(ident, doc)] = store.execute("SELECT id, doc FROM pod")
        known = {name: value for name, value in json.loads(doc).items() if name not in ("seated", "plugged", "owned")}
        store.execute("UPDATE pod SET doc = ? WHERE id = ?", (json.dumps(known).encode(), ident))
    daemon.start()
    daemon.docker_cli("exec", "old", "touch", "/data/go", check=False)
    wait_until(lambda: inspect(daemon, "old")["RestartCount"] == 1, "it was started again")
    wait_until(lambda: status(daemon, "old") == "running", "and runs")
    assert list(daemon.vms()) == [vm]


def test_the_back_off_grows_and_begins_anew_with_a_start(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "loser", "--restart", "on-failure:3", BUSYBOX, "sh", "-c",
                      "cut -d' ' -f1 /proc/uptime >>/times; exit 1")
    wait_until(lambda: status(daemon, "loser") == "exited", "it gave up")
    assert inspect(daemon, "loser")["RestartCount"] == 3
    assert inspect(daemon, "loser")["State"]["ExitCode"] == 1
    daemon.docker_cli("start", "loser")
    wait_until(lambda: status(daemon, "loser") == "exited", "it gave up again")
    assert inspect(daemon, "loser")["RestartCount"] == 3
    daemon.docker_cli("cp", "loser:/times", str(daemon.directory / "times"))
    assert len((daemon.directory / "times").read_text().split()) == 8


def recorded(daemon: Daemon) -> dict[str, Any]:
    """What is stored of the one container there is."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state / 'engine.db'}?mode=ro", uri=True)) as store:
        [(doc,)] = store.execute("SELECT doc FROM container")
    found: dict[str, Any] = json.loads(doc)
    return found


def test_the_next_start_is_stored_further_away_each_time_until_a_long_run(make_daemon: Callable[..., Daemon],
                                                                        tmp_path: Path) -> None:
    stay, waits = tmp_path / "stay", dict[int, float]()
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("run", "-d", "--name", "loser", "--restart", "always", "-v", f"{tmp_path}:/s", BUSYBOX, "sh", "-c",
               "while [ -e /s/stay ]; do sleep 0.1; done; exit 1")

    def waited(count: int) -> bool:
        """Whether so many waits are known, each by the number of restarts before it."""
        found = recorded(daemon)
        if found["state"] == "restarting":
            waits[found.get("restart_count", 0)] = (found["next_restart_at"] - found["finished_at"]) / 10**9
        return len(waits) >= count

    wait_until(lambda: waited(3), "it was to be started three times")
    assert waits == {count: 0.1 * 2**count for count in waits}
    stay.touch()
    wait_until(lambda: recorded(daemon)["state"] == "running", "it stays")
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.state / "engine.db")) as store, store:
        [(ident, doc)] = store.execute("SELECT id, doc FROM container")
        long_ago = {**json.loads(doc), "started_at": json.loads(doc)["started_at"] - 10 * 10**9}
        store.execute("UPDATE container SET doc = ? WHERE id = ?", (json.dumps(long_ago).encode(), ident))
    daemon.start()
    waits.clear()
    stay.unlink()
    wait_until(lambda: waited(2), "it ended and was to be started again")
    first = min(waits)
    assert waits == {count: 0.1 * 2**(count - first) for count in waits}
    daemon.ctl("rm", "-f", "loser")


def test_a_policy_is_changed_while_it_acts(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "again", "--restart", "always", BUSYBOX, "true")
    wait_until(lambda: inspect(daemon, "again")["RestartCount"] >= 2, "it was started again")
    daemon.docker_cli("update", "--restart", "no", "again")
    wait_until(lambda: status(daemon, "again") == "exited", "nobody starts it any more")
    count = inspect(daemon, "again")["RestartCount"]
    assert "cannot" in daemon.docker_cli("create", "--rm", "--restart", "always", BUSYBOX, check=False).stderr.decode()
    assert inspect(daemon, "again")["RestartCount"] == count
