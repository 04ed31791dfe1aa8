"""Addresses, published ports and the fences between projects, within the daemon's own network namespace."""

from __future__ import annotations

import json
import socket

from tests.harness import REGISTRY, Daemon, wait_until
from tests.images import BUSYBOX

SERVER = "while :; do echo hello-$(hostname) | nc -l -p 8000; done"


def address_of(daemon: Daemon, name: str, *options: str) -> str:
    found: str = json.loads(daemon.ctl(*options, "inspect", name).stdout)[0]["NetworkSettings"]["IPAddress"]
    return found


def read_from(daemon: Daemon, address: str, port: int) -> bytes:
    with daemon.namespace.connect(address, port) as connection:
        connection.settimeout(10)
        return connection.makefile("rb").readline()


def answer(daemon: Daemon, address: str, port: int) -> bytes:
    """What a server says, empty where there is none; between two calls `nc` is not there for a moment."""
    try:
        return read_from(daemon, address, port)
    except OSError:
        return b""


def test_a_published_port_reaches_the_pod_and_only_while_it_runs(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "web", "--hostname", "web", "-p", "127.0.0.1:8085:8000", BUSYBOX,
               "sh", "-c", SERVER)
    wait_until(lambda: answer(daemon, "127.0.0.1", 8085) == b"hello-web\n", "the port is served")
    assert "8085" in daemon.text("ps")
    daemon.ctl("rm", "-f", "web")
    assert answer(daemon, "127.0.0.1", 8085) == b""


def test_a_taken_port_is_named(daemon: Daemon) -> None:
    with daemon.namespace.entered():
        listener = socket.create_server(("127.0.0.1", 8086))
    with listener:
        done = daemon.ctl("run", "-d", "-p", "127.0.0.1:8086:80", BUSYBOX, "sleep", "1", check=False)
    assert done.returncode == 125
    assert b"8086" in done.stderr


def test_pods_of_one_project_reach_each_other_others_do_not(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "server", "--hostname", "server", BUSYBOX, "sh", "-c", SERVER)
    address = address_of(daemon, "server")
    ask = f"for i in 1 2 3 4 5 6 7 8 9; do nc -w 2 {address} 8000 </dev/null && exit; sleep 0.3; done; echo unreachable"
    assert daemon.text("run", "--rm", BUSYBOX, "sh", "-c", ask) == "hello-server"
    stranger = daemon.ctl("--project", "other", "run", "--rm", BUSYBOX, "sh", "-c", ask)
    assert stranger.stdout.strip() == b"unreachable"


def test_a_pod_cannot_reach_the_hosts_services(daemon: Daemon) -> None:
    """The registry listens on the loopback; a service on all addresses must not be there for pods either."""
    with daemon.namespace.entered():
        listener = socket.create_server(("0.0.0.0", 8087))
    with listener:
        script = ("gateway=$(ip route | awk '/default/ {print $3}'); "
                  "nc -w 2 $gateway 8087 </dev/null && echo reached || echo fenced")
        assert daemon.text("run", "--rm", BUSYBOX, "sh", "-c", script) == "fenced"
    assert REGISTRY.startswith("127.")


def test_a_pod_reaches_what_others_of_its_network_publish_by_the_hosts_name(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "published", "--hostname", "published", "-p", "8088:8000", BUSYBOX, "sh", "-c",
               SERVER)
    ask = "for i in $(seq 20); do nc -w 2 up 8088 </dev/null && exit; sleep 0.3; done; echo unreachable"
    words = ("run", "--rm", "--add-host", "up:host-gateway", BUSYBOX, "sh", "-c", ask)
    assert daemon.text(*words) == "hello-published"
    assert daemon.ctl("--project", "other", *words).stdout.strip() == b"unreachable"
    daemon.ctl("rm", "-f", "published")


def test_without_a_network_there_is_only_the_loopback(daemon: Daemon) -> None:
    assert daemon.text("run", "--rm", "--network", "none", BUSYBOX, "sh", "-c", "ls /sys/class/net") == "lo"
