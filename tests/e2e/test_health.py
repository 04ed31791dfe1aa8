"""Health checks as Docker's clients see them: states, log, events, and a daemon that comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.harness import REGISTRY, Daemon, Namespace, wait_until
from tests.images import BUSYBOX, Pusher, base_layer

SLEEP = ("sleep", "600")


def health(daemon: Daemon, name: str) -> dict[str, Any]:
    with daemon.sdk() as client:
        found: dict[str, Any] = client.api.inspect_container(name)["State"].get("Health", {})
    return found


def status(daemon: Daemon, name: str) -> str:
    return str(health(daemon, name).get("Status", "none"))


def run(daemon: Daemon, name: str, *options: str) -> None:
    daemon.docker_cli("run", "-d", "--name", name, "--health-interval", "300ms", *options, BUSYBOX, *SLEEP)


def shown(daemon: Daemon, name: str) -> str:
    return daemon.docker_cli("ps", "-a", "--filter", f"name={name}", "--format", "{{.Status}}").stdout.decode()


def test_a_container_is_starting_then_healthy_then_unhealthy(daemon: Daemon) -> None:
    since = str(time.time())
    run(daemon, "well", "--health-cmd", "echo checked; test -e /tmp/well", "--health-retries", "3",
        "--health-start-period", "1h", "--health-start-interval", "300ms")
    wait_until(lambda: len(health(daemon, "well")["Log"]) == 5, "the log is full")
    found = health(daemon, "well")
    assert (found["Status"], found["FailingStreak"]) == ("starting", 0)
    assert (found["Log"][-1]["ExitCode"], found["Log"][-1]["Output"]) == (1, "checked\n")
    assert found["Log"][-1]["Start"] < found["Log"][-1]["End"]
    assert "(health: starting)" in shown(daemon, "well")
    daemon.docker_cli("exec", "well", "touch", "/tmp/well")
    wait_until(lambda: status(daemon, "well") == "healthy", "it is healthy")
    assert "(healthy)" in shown(daemon, "well")
    daemon.docker_cli("exec", "well", "rm", "/tmp/well")
    wait_until(lambda: status(daemon, "well") == "unhealthy", "it is unhealthy")
    assert health(daemon, "well")["FailingStreak"] >= 3
    assert daemon.docker_cli("ps", "-q", "--filter", "health=unhealthy").stdout.count(b"\n") == 1
    assert daemon.docker_cli("ps", "-q", "--filter", "health=healthy").stdout == b""
    told = daemon.docker_cli("events", "--since", since, "--until", str(time.time()), "--format", "{{.Action}}",
                             "--filter", "container=well").stdout.decode().splitlines()
    assert [line for line in told if "status" in line] == ["health_status: healthy", "health_status: unhealthy"]
    probe = "/bin/sh -c echo checked; test -e /tmp/well"
    first = told.index(f"exec_create: {probe}")
    assert told[first:first + 3] == [f"exec_create: {probe}", f"exec_start: {probe}", "exec_die"], "a probe is an exec"


def test_a_probe_that_takes_too_long_is_killed_and_counts_as_failed(daemon: Daemon) -> None:
    run(daemon, "slow", "--health-cmd", "echo begun; exec sleep 100", "--health-timeout", "500ms",
        "--health-retries", "2")
    wait_until(lambda: status(daemon, "slow") == "unhealthy", "it is unhealthy")
    last = health(daemon, "slow")["Log"][-1]
    assert (last["ExitCode"], last["Output"]) == (-1, "Health check exceeded timeout (0.5s): begun\n")
    wait_until(lambda: daemon.docker_cli("top", "slow").stdout.count(b"sleep 100") <= 1, "killed probes are gone")


def test_a_probe_that_cannot_be_started_says_why(daemon: Daemon) -> None:
    with daemon.sdk() as client:
        client.containers.run(BUSYBOX, list(SLEEP), detach=True, name="absent", healthcheck={
            "test": ["CMD", "no-such-program"], "interval": 300_000_000, "retries": 1})
    wait_until(lambda: status(daemon, "absent") == "unhealthy", "it is unhealthy")
    assert "no-such-program" in health(daemon, "absent")["Log"][-1]["Output"]


def test_an_images_check_is_run_and_can_be_switched_off(daemon: Daemon, namespace: Namespace) -> None:
    image = f"{REGISTRY}/checked:1"
    Pusher(namespace).push("checked", "1", [base_layer()], {
        "Cmd": list(SLEEP), "Env": ["PATH=/bin"], "Shell": ["/bin/ash", "-e", "-c"],
        "Healthcheck": {"Test": ["CMD-SHELL", "tr '\\0' ' ' < /proc/self/cmdline >/dev/null; echo $0"],
                        "Interval": 300_000_000}})
    daemon.docker_cli("pull", image)
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube"},
                "spec": {"containers": [{"name": "one", "image": image}]}}
    daemon.ctl("pod", "create", "-f", "-", stdin=json.dumps(manifest).encode())
    daemon.docker_cli("run", "-d", "--name", "image", image)
    daemon.ctl("run", "-d", "--name", "off", "--no-healthcheck", image)
    wait_until(lambda: status(daemon, "image") == "healthy", "it is healthy")
    assert health(daemon, "image")["Log"][-1]["Output"] == "/bin/ash\n"
    assert status(daemon, "off") == "none"
    [of_pod] = daemon.text("ps", "--format", "{{.Names}}", "--filter", "name=one").split()
    assert status(daemon, of_pod) == "none", "a pod from a manifest is not probed"
    assert "health" not in shown(daemon, "off")
    daemon.docker_cli("stop", "-t", "0", "image")
    assert status(daemon, "image") == "unhealthy"
    daemon.docker_cli("start", "image")
    assert status(daemon, "image") in ("starting", "healthy")


def test_a_paused_container_is_not_probed(daemon: Daemon) -> None:
    run(daemon, "held", "--health-cmd", "true")
    wait_until(lambda: status(daemon, "held") == "healthy", "it is healthy")
    daemon.docker_cli("pause", "held")
    time.sleep(1.0)  # a probe that was on its way when it was paused ends by its own deadline
    before = health(daemon, "held")["Log"][-1]["Start"]
    time.sleep(1.5)
    assert (status(daemon, "held"), health(daemon, "held")["Log"][-1]["Start"]) == ("healthy", before)
    daemon.docker_cli("unpause", "held")
    wait_until(lambda: health(daemon, "held")["Log"][-1]["Start"] > before, "it is probed again")


def test_a_new_daemon_goes_on_with_the_checks(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    run(daemon, "kept", "--health-cmd", "test ! -e /tmp/ill", "--health-retries", "2")
    wait_until(lambda: status(daemon, "kept") == "healthy", "it is healthy")
    daemon.kill()
    daemon.start()
    assert status(daemon, "kept") == "healthy"
    daemon.docker_cli("exec", "kept", "touch", "/tmp/ill")
    wait_until(lambda: status(daemon, "kept") == "unhealthy", "it is unhealthy")
    daemon.docker_cli("rm", "-f", "kept")
    assert json.loads(daemon.docker_cli("ps", "-a", "--format", "json").stdout or b"[]") == []
