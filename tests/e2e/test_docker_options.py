"""What docs/docker.md says is honoured differently, seen from inside a guest; what a host without a function tells."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.docker import SLEEP, complaint, inspect, text
from tests.harness import Daemon
from tests.images import BUSYBOX
from tests.reference.client import Checked, UnixConnection


def plain(daemon: Daemon, method: str, path: str) -> tuple[int, str]:
    """The status and message of an operation that the reference does not have, or calls otherwise."""
    with closing(UnixConnection(daemon.socket)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["message"]


PRIVILEGES = """
    awk '/^(CapEff|Seccomp|NoNewPrivs):/ {print $2}' /proc/self/status
    [ -c /proc/timer_list ] && echo masked || echo plain
    mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused
"""


@pytest.mark.parametrize(("options", "shown"), [
    ((), ["a80425fb", "0", "2", "masked", "refused"]),
    (("--privileged",), ["all", "0", "0", "plain", "mounted"]),
    (("--cap-drop", "ALL", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt",
      "systempaths=unconfined", "--security-opt", "label=disable", "--security-opt", "apparmor=unconfined",
      "--security-opt", "no-new-privileges"), ["200000", "1", "0", "plain", "mounted"])])
def test_privileges_are_those_that_were_asked_for_within_the_vm(daemon: Daemon, options: tuple[str, ...],
                                                                shown: list[str]) -> None:
    told = text(daemon, "run", "--rm", "--tmpfs", "/mnt", *options, BUSYBOX, "sh", "-c", PRIVILEGES).splitlines()
    capabilities = int(told[0], 16)
    assert told[1:] == shown[1:]
    assert capabilities.bit_count() > 37 if shown[0] == "all" else capabilities == int(shown[0], 16)


def test_what_holds_anyway_may_be_asked_for(daemon: Daemon) -> None:
    """And a limit of swap is kept where there is no swap."""
    script = ("wc -l </proc/swaps; cat /proc/self/uid_map | tr -s ' '; "
              "touch /a/f /b/f /c/f && echo written")
    said = text(daemon, "run", "--name", "asked", "--runtime", "hyperstack", "--userns", "host", "--cgroupns",
                "private", "--cpuset-mems", "0", "-m", "64m", "--memory-swap", "128m", "--memory-swappiness", "60",
                "-v", "one:/a:z", "-v", "two:/b:Z,cached", "-v", "three:/c:delegated", BUSYBOX, "sh", "-c", script)
    assert said.splitlines() == ["1", " 0 0 4294967295", "written"]
    found = inspect(daemon, "asked")
    assert (found["HostConfig"]["MemorySwap"], found["HostConfig"]["Runtime"]) == (128 << 20, "hyperstack")
    assert (found["LogPath"], {mount["Source"] for mount in found["Mounts"]}) == ("", {"one", "two", "three"})
    pod = json.loads(daemon.text("pod", "inspect", found["HyperStack"]["Pod"]))
    assert pod[0]["id"] == found["HyperStack"]["Pod"]
    daemon.docker_cli("rm", "asked")
    daemon.docker_cli("volume", "rm", "one", "two", "three")


def test_a_terminal_has_its_size_from_the_beginning(daemon: Daemon) -> None:
    api = Checked(daemon.socket)
    body = {"Image": BUSYBOX, "Cmd": ["stty", "size"], "Tty": True, "HostConfig": {"ConsoleSize": [33, 44]}}
    ident = api.ask("POST", "/containers/create", body).value["Id"]
    daemon.docker_cli("start", ident)
    daemon.docker_cli("wait", ident)
    assert text(daemon, "logs", ident) == "33 44"
    assert inspect(daemon, ident)["HostConfig"]["ConsoleSize"] == [33, 44]


def test_a_health_check_is_an_exec_for_events_alone(daemon: Daemon) -> None:
    since = str(time.time())
    daemon.docker_cli("run", "-d", "--name", "well", "--health-cmd", "true", "--health-interval", "100ms", BUSYBOX,
                      *SLEEP)
    actions: list[str] = []
    while "health_status: healthy" not in actions:
        actions = text(daemon, "events", "--since", since, "--until", str(time.time()), "--filter", "type=container",
                       "--format", "{{.Action}}").splitlines()
    healthy = actions.index("health_status: healthy")
    assert actions[healthy - 3:healthy] == ["exec_create: /bin/sh -c true", "exec_start: /bin/sh -c true", "exec_die"]
    assert inspect(daemon, "well")["ExecIDs"] is None


def test_a_sysctl_is_the_whole_vms(daemon: Daemon) -> None:
    """Which docker's own client would not ask for."""
    name = "vm.max_map_count"
    assert daemon.text("run", "--rm", "--sysctl", f"{name}=70001", BUSYBOX, "sysctl", "-n", name) == "70001"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory with a mount below it, and room for another one."""
    for name in ("first", "late"):
        (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "first")], check=True)
    (tmp_path / "first/f").write_text("below\n")
    yield tmp_path
    for name in ("first", "late"):
        subprocess.run(["umount", "-l", str(tmp_path / name)], check=False, capture_output=True)


def test_a_bind_has_what_was_mounted_below_it_when_it_was_made(daemon: Daemon, mounted: Path) -> None:
    daemon.docker_cli("run", "-d", "--name", "box", "-v", f"{mounted}:/s:ro", BUSYBOX, *SLEEP)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted / "late")], check=True)
    (mounted / "late/f").write_text("late\n")
    assert text(daemon, "exec", "box", "cat", "/s/first/f") == "below"
    assert "No such file" in complaint(daemon, "exec", "box", "cat", "/s/late/f")
    assert "Read-only file system" in complaint(daemon, "exec", "box", "touch", "/s/first/g")


def test_six_containers_of_one_vm_have_binds(daemon: Daemon, tmp_path: Path) -> None:
    bind = ("-v", f"{tmp_path}:/s")
    daemon.docker_cli("run", "-d", "--name", "one", *bind, BUSYBOX, *SLEEP)
    for number in range(2, 7):
        daemon.docker_cli("run", "-d", "--network", "container:one", *bind, BUSYBOX, "sh", "-c",
                          f"touch /s/{number}; sleep 100000")
    assert "can have no more ports" in complaint(daemon, "run", "-d", "--network", "container:one", *bind, BUSYBOX)
    daemon.docker_cli("exec", "one", "touch", "/s/1")
    assert len(daemon.vms()) == 1


def test_a_container_is_on_32_networks_at_most_and_a_stopped_one_keeps_its_own(daemon: Daemon) -> None:
    api = Checked(daemon.socket)
    names = [f"many-{number}" for number in range(33)]
    try:
        for number, name in enumerate(names):
            pool = {"Subnet": f"10.123.{number}.0/28"}
            assert api.ask("POST", "/networks/create", {"Name": name, "IPAM": {"Config": [pool]}}).status == 201
        for count, status in ((33, 400), (32, 201)):
            made = api.ask("POST", "/containers/create", {
                "Image": BUSYBOX, "HostConfig": {"NetworkMode": names[0]},
                "NetworkingConfig": {"EndpointsConfig": {name: {} for name in names[:count]}}},
                           query={"name": "widely"})
            assert made.status == status, made.raw
        assert api.ask("POST", "/networks/prune").value["NetworksDeleted"] == [names[32]]
        assert api.ask("POST", f"/networks/{names[0]}/connect", {"Container": "widely"}).status == 200  # as in Docker
    finally:
        api.ask("DELETE", "/containers/widely")
        api.ask("POST", "/networks/prune")


def test_the_way_out_is_the_networks_with_the_highest_priority(daemon: Daemon) -> None:
    api = Checked(daemon.socket)
    for number, name in ((8, "front"), (9, "later")):
        daemon.docker_cli("network", "create", "--subnet", f"10.9{number}.0.0/24", "--attachable", name)
    assert api.ask("GET", "/networks/front").value["Attachable"] is True
    try:
        daemon.docker_cli("run", "-d", "--name", "box", "--network", "front", "-p", "8095:80", BUSYBOX, *SLEEP)
        route = ("exec", "box", "ip", "route")
        assert text(daemon, *route).startswith("default via 10.98.0.1 ")
        joined = api.ask("POST", "/networks/later/connect", {"Container": "box", "EndpointConfig": {"GwPriority": 7}})
        assert joined.status == 200
        assert text(daemon, *route).startswith("default via 10.99.0.1 ")
        assert text(daemon, "port", "box") == "80/tcp -> 0.0.0.0:8095"
    finally:
        daemon.docker_cli("rm", "-f", "box")
        daemon.docker_cli("network", "rm", "front", "later")


def test_options_of_a_network_are_kept(daemon: Daemon) -> None:
    """What they do is seen in tests/netns."""
    prefix = "com.docker.network.bridge."
    options = {"com.docker.network.driver.mtu": "1400", f"{prefix}enable_icc": "false",
               f"{prefix}enable_ip_masquerade": "false", f"{prefix}host_binding_ipv4": "127.0.0.1",
               f"{prefix}gateway_mode_ipv4": "nat", f"{prefix}gateway_mode_ipv6": "nat"}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    daemon.docker_cli("network", "create", "--label", "a=b", "--subnet", "10.98.0.0/24", "--gateway", "10.98.0.7",
                      "--ip-range", "10.98.0.128/25", "--aux-address", "x=10.98.0.128", *words, "kept")
    try:
        shown = json.loads(text(daemon, "network", "inspect", "kept"))[0]
        assert (shown["Options"], shown["Labels"]) == (options, {"a": "b"})
        address = ("run", "--rm", "--network", "kept", BUSYBOX, "ip", "-o", "-4", "address", "show", "eth0")
        assert " 10.98.0.129/24 " in text(daemon, *address)
    finally:
        daemon.docker_cli("network", "rm", "kept")


def test_pods_have_events_of_their_own(daemon: Daemon) -> None:
    since = str(time.time())
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "told"}, "spec": {
        "containers": [{"name": "main", "image": BUSYBOX, "command": ["true"]}], "restartPolicy": "Never"}}
    daemon.ctl("pod", "create", "-f", "-", stdin=json.dumps(manifest).encode())
    daemon.ctl("pod", "rm", "-f", "told")
    told = text(daemon, "events", "--since", since, "--until", str(time.time()), "--filter", "type=pod", "--format",
                "{{.Action}} {{.Actor.Attributes.name}}").splitlines()
    assert (told[0], told[-1]) == ("create told", "destroy told")


@pytest.mark.parametrize(("method", "path", "status", "words"), [
    *((method, "/containers/any/checkpoints", 501, "checkpoints") for method in ("GET", "POST")),
    ("POST", "/grpc", 501, "DOCKER_BUILDKIT=0"), ("POST", "/session", 501, "DOCKER_BUILDKIT=0"),
    ("POST", "/build?version=2", 501, "DOCKER_BUILDKIT=0"), ("GET", "/images/search?term=nginx", 501, "Docker Hub"),
    ("POST", "/images/create?fromSrc=http://x/y", 400, "fromSrc with an URL"),
    ("POST", "/swarm/init", 501, "swarm"), ("POST", "/plugins/pull?remote=x", 501, "plugins")])
def test_what_a_host_does_not_have(shared_daemon: Daemon, method: str, path: str, status: int, words: str) -> None:
    found, message = plain(shared_daemon, method, path)
    assert (found, words in message) == (status, True), message


def test_there_are_no_other_drivers(shared_daemon: Daemon) -> None:
    api = Checked(shared_daemon.socket)
    for path in ("/volumes/create", "/networks/create"):
        answer = api.ask("POST", path, {"Name": "other", "Driver": "exotic"})
        assert answer.status >= 400
        assert "exotic" in answer.message
