"""Containers that share a network, PIDs or IPC with another one: they are in its VM."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.docker import SLEEP, complaint, inspect, text
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX, SECOND


@pytest.fixture
def host(daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon with a container `web` that listens on its loopback."""
    daemon.docker_cli("run", "-d", "--name", "web", "--ipc", "shareable", "-v", "web-data:/data", BUSYBOX, "sh", "-c",
                      "echo shared >/dev/shm/file; while :; do echo answer | nc -l -p 8000; done")
    yield daemon
    containers = daemon.text("ps", "-aq").split()
    if containers:
        daemon.ctl("rm", "-f", *containers)
    daemon.ctl("volume", "rm", "web-data", "own-data", check=False)


def test_a_container_joins_the_network_of_one_that_runs(host: Daemon) -> None:
    ask = "for i in $(seq 60); do nc -w 2 127.0.0.1 8000 </dev/null && exit; sleep 0.2; done; exit 9"
    # Another image, whose disks the VM has not, and a volume of its own: they come while it runs.
    assert text(host, "run", "--rm", "--net", "container:web", SECOND, "sh", "-c", ask) == "answer"
    host.docker_cli("run", "-d", "--name", "side", "--net", "container:web", "-v", "own-data:/own", "-v",
                    "web-data:/data", SECOND, "sh", "-c", "echo mine >/own/file; echo both >/data/side; sleep 100000")
    assert len(host.vms()) == 1
    web, side = inspect(host, "web"), inspect(host, "side")
    assert side["HostConfig"]["NetworkMode"] == f"container:{web['Id']}"
    assert side["HyperStack"]["Pod"] == web["HyperStack"]["Pod"]
    assert (side["Config"]["Hostname"], side["NetworkSettings"]["Networks"]) == (web["Config"]["Hostname"], {})
    addresses = "ip -4 addr show eth0 | grep inet; cat /etc/hosts /etc/resolv.conf; hostname"
    assert text(host, "exec", "side", "sh", "-c", addresses) == text(host, "exec", "web", "sh", "-c", addresses)
    wait_until(lambda: text(host, "exec", "web", "ls", "/data").split()[-1:] == ["side"], "both have the volume")
    # What it did not ask for is its own.
    look = "readlink /proc/self/ns/{}"
    for namespace in ("pid", "ipc", "mnt"):
        command = ("sh", "-c", look.format(namespace))
        assert text(host, "exec", "side", *command) != text(host, "exec", "web", *command)
    assert "file" not in text(host, "exec", "side", "ls", "/dev/shm")


def test_pids_and_ipc_are_shared_where_asked_for(host: Daemon) -> None:
    host.docker_cli("run", "-d", "--name", "debug", "--pid", "container:web", "--ipc", "container:web", BUSYBOX, *SLEEP)
    assert "nc -l" in text(host, "exec", "debug", "ps", "-o", "args")
    assert "100000" in text(host, "exec", "web", "ps", "-o", "args")
    assert text(host, "exec", "debug", "cat", "/dev/shm/file") == "shared"
    found = inspect(host, "debug")["HostConfig"]
    web = inspect(host, "web")["Id"]
    assert (found["PidMode"], found["IpcMode"], found["NetworkMode"]) == (f"container:{web}",) * 3
    # Processes of a PID namespace end with its first one.
    host.docker_cli("kill", "web")
    assert text(host, "wait", "debug") == "137"
    wait_until(lambda: host.vms() == {}, "nobody needs the VM")


def test_hyperctl_joins_too(host: Daemon) -> None:
    script = "cat /dev/shm/file; hostname; cat /proc/self/oom_score_adj; ps -o args | grep -c '[n]c -l'"
    said = host.text("run", "--rm", "--network", "container:web", "--pid", "container:web", "--ipc", "container:web",
                     "--oom-score-adj", "100", BUSYBOX, "sh", "-c", script).split()
    assert said[:3] == ["shared", inspect(host, "web")["Config"]["Hostname"], "100"]
    assert int(said[3]) > 0
    host.ctl("run", "-d", "--name", "pinned", "--cpuset-cpus", "0", "--add-host", "up:host-gateway", BUSYBOX, *SLEEP)
    found = inspect(host, "pinned")["HostConfig"]
    assert (found["CpusetCpus"], found["ExtraHosts"]) == ("0", ["up:host-gateway"])


def test_ipc_modes_of_its_own(host: Daemon) -> None:
    host.docker_cli("run", "-d", "--name", "alone", BUSYBOX, *SLEEP)
    assert inspect(host, "alone")["HostConfig"]["IpcMode"] == "private"
    assert "non-shareable IPC" in complaint(host, "create", "--ipc", "container:alone", BUSYBOX)
    script = "grep -c ' /dev/shm ' /proc/mounts || true"
    assert text(host, "run", "--rm", "--ipc", "none", BUSYBOX, "sh", "-c", script) == "0"


def test_who_is_joined_must_run_and_either_may_go_first(host: Daemon) -> None:
    host.docker_cli("run", "-d", "--name", "side", "--net", "container:web", BUSYBOX, *SLEEP)
    host.docker_cli("stop", "-t", "0", "web")
    assert inspect(host, "side")["State"]["Running"] is True
    host.docker_cli("stop", "-t", "0", "side")
    web = inspect(host, "web")["Id"]
    assert f"cannot join network of a non running container: {web}" in complaint(host, "start", "side")
    assert f"cannot join network of a non running container: {web}" in inspect(host, "side")["State"]["Error"]
    # A machine that is started for both has the disks of both from the beginning.
    host.docker_cli("start", "web")
    host.docker_cli("start", "side")
    assert len(host.vms()) == 1
    host.docker_cli("rm", "-f", "web")
    assert text(host, "exec", "side", "hostname") == web[:12]
    # Its name is free again, and who is left goes its way to its own end.
    host.docker_cli("run", "-d", "--name", "web", BUSYBOX, *SLEEP)
    assert len(host.vms()) == 2
    host.docker_cli("stop", "-t", "0", "side")
    assert f"No such container: {web}" in complaint(host, "start", "side")
    host.docker_cli("rm", "side")
    assert len(host.vms()) == 1


def test_who_goes_gives_its_address_and_its_ports_back(host: Daemon) -> None:
    """Though the VM stays: for who joined it, or for who reads a volume whose disk it has."""
    stays = (("--network", "container:first"), ("-v", "web-data:/data"))
    try:
        host.docker_cli("network", "create", "--subnet", "10.241.77.0/24", "net77")
        host.docker_cli("rm", "-f", "web")
        for options in stays:
            place = ("--network", "net77", "--ip", "10.241.77.9", "-p", "127.0.0.1:38177:80", "-v", "web-data:/data")
            host.docker_cli("run", "-d", "--name", "first", *place, BUSYBOX, *SLEEP)
            host.docker_cli("run", "-d", "--name", "other", *options, BUSYBOX, *SLEEP)
            host.docker_cli("rm", "-f", "first")
            host.docker_cli("run", "-d", "--name", "first", *place, BUSYBOX, *SLEEP)
            if options[0] == "--network":
                assert text(host, "exec", "other", "sh", "-c", "ip -4 addr show eth0 2>&1 | grep inet || true") == ""
            assert list(inspect(host, "first")["NetworkSettings"]["Ports"]) == ["80/tcp"]
            host.docker_cli("rm", "-f", "first", "other")
    finally:
        host.docker_cli("rm", "-f", "first", "other", check=False)
        host.docker_cli("network", "rm", "net77")


def test_the_removal_of_who_joined_leaves_the_other_and_gives_its_disk_back(host: Daemon) -> None:
    for _ in range(2):
        host.docker_cli("run", "--name", "side", "--net", "container:web", "-v", "own-data:/own", SECOND, "true")
        host.docker_cli("rm", "side")
        host.docker_cli("volume", "rm", "own-data")
    assert inspect(host, "web")["State"]["Running"] is True
    pod = inspect(host, "web")["HyperStack"]["Pod"]
    disks = [path.name for path in (host.state / "pods" / pod).iterdir() if path.suffix == ".disk"]
    assert disks == [f"{inspect(host, 'web')['Id']}.disk"]


def test_a_running_vm_grows_for_who_joins_it(host: Daemon) -> None:
    host.docker_cli("run", "-d", "--name", "small", "-m", "64m", BUSYBOX, *SLEEP)
    [vm] = [pid for pid, pod in host.vms().items() if pod == inspect(host, "small")["HyperStack"]["Pod"]]
    host.docker_cli("run", "-d", "--name", "large", "--net", "container:small", "-m", "300m", BUSYBOX, *SLEEP)
    assert vm in host.vms()
    assert text(host, "exec", "large", "cat", "/sys/fs/cgroup/memory.max") == str(300 << 20)
    # The first gives nothing of its own away.
    assert text(host, "exec", "small", "cat", "/sys/fs/cgroup/memory.max") == str(64 << 20)
    assert text(host, "exec", "large", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1") == ""
    assert "range of CPUs is from 0.01 to" in complaint(
        host, "run", "--net", "container:small", "--cpus", "1000", BUSYBOX, *SLEEP)
    assert ", and others hold limits of 364 MiB: a limit of" in complaint(
        host, "run", "--net", "container:small", "-m", "4t", BUSYBOX, *SLEEP)


@pytest.mark.parametrize(("options", "words"), [
    (("--net", "container:nobody"), "No such container: nobody"),
    (("--net", "container:web", "-p", "80"), "port publishing and the container type network mode"),
    (("--net", "container:web", "--expose", "80"), "port exposing and the container type network mode"),
    (("--net", "container:web", "--hostname", "x"), "conflicting options: hostname and the network mode"),
    (("--net", "container:web", "--add-host", "x:1.2.3.4"), "custom host-to-IP mapping and the network mode"),
    (("--net", "container:web", "--dns", "1.2.3.4"), "conflicting options: dns and the network mode"),
    (("--pid", "container:web", "--net", "none"), "HostConfig.NetworkMode=none is not supported"),
    (("--pid", "container:web", "--net", "container:lone"), "VMs of their own"),
    (("--pid", "host"), "HostConfig.PidMode=host is not supported"),
    (("--ipc", "host"), "HostConfig.IpcMode=host is not supported"),
])
def test_what_cannot_be_shared_is_refused(host: Daemon, options: tuple[str, ...], words: str) -> None:
    host.docker_cli("create", "--name", "lone", BUSYBOX)
    assert words in complaint(host, "create", *options, BUSYBOX)


POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"}, "spec": {"containers": [
    {"name": "web", "image": BUSYBOX, "command": ["sh", "-c", "echo shared >/dev/shm/file; exec sleep 100000"]},
    {"name": "log", "image": BUSYBOX, "command": ["sh", "-c", "exec sleep 100001"]}]}}


def test_a_container_of_a_manifest_s_pod_is_joined(host: Daemon) -> None:
    host.ctl("pod", "create", "-f", "-", stdin=json.dumps(POD).encode())
    host.docker_cli("run", "-d", "--name", "own", "--net", "container:app_web", SECOND, *SLEEP)
    host.docker_cli("run", "-d", "--name", "debug", "--pid", "container:app_web", "--ipc", "container:app_web", SECOND,
                    *SLEEP)
    pod = inspect(host, "app_web")["HyperStack"]["Pod"]
    assert {inspect(host, name)["HyperStack"]["Pod"] for name in ("own", "debug")} == {pod}
    assert text(host, "exec", "own", "hostname") == text(host, "exec", "app_web", "hostname")
    assert text(host, "exec", "debug", "cat", "/dev/shm/file") == "shared"
    assert "sleep 100000" in text(host, "exec", "debug", "ps", "-o", "args")
    assert "file" not in text(host, "exec", "own", "ls", "/dev/shm")
    assert "sleep 100000" not in text(host, "exec", "own", "ps", "-o", "args").replace(" ".join(SLEEP), "", 1)
    # They come and go without the pod's doing.
    host.docker_cli("rm", "-f", "own")
    host.docker_cli("create", "--name", "own", "--net", "container:app_web", BUSYBOX, *SLEEP)
    assert "belongs to pod app" in complaint(host, "rm", "-f", "app_log")
    host.ctl("pod", "stop", "-t", "0", "app")
    assert not inspect(host, "debug")["State"]["Running"]
    wait_until(lambda: pod not in host.vms().values(), "the pod's VM has ended")
    assert "non running container" in complaint(host, "start", "own")
    host.ctl("pod", "start", "app")
    assert inspect(host, "own")["State"]["Status"] == "created"
    host.docker_cli("start", "own")
    host.ctl("pod", "rm", "-f", "app")
    assert host.text("ps", "-a", "--format", "{{.Names}}").split() == ["web"]


def test_it_outlives_the_daemon(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.ctl("pull", BUSYBOX)
    daemon.ctl("pull", SECOND)
    daemon.docker_cli("run", "-d", "--name", "web", BUSYBOX, *SLEEP)
    daemon.docker_cli("run", "-d", "--name", "side", "--pid", "container:web", "--restart", "always", SECOND, "sh",
                      "-c", "echo begun; sleep 99999")
    [vm] = daemon.vms()
    daemon.kill()
    daemon.start()
    assert list(daemon.vms()) == [vm]
    assert "sleep 99999" in text(daemon, "exec", "web", "ps", "-o", "args")
    assert text(daemon, "exec", "side", "echo", "here") == "here"
    # What was plugged is known to the new daemon as well: it is there for the next start, and goes with its owner.
    daemon.docker_cli("restart", "-t", "0", "side")
    daemon.docker_cli("rm", "-f", "side")
    daemon.docker_cli("rm", "-f", "web")
    wait_until(lambda: daemon.vms() == {}, "nothing is left")
    assert list((daemon.state / "pods").iterdir()) == []
