"""What is left of a daemon that goes for good: nothing of its own, and everything of others'."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import PATIENCE_S, Daemon, Namespace
from tests.images import BUSYBOX

ROOT = Path(__file__).parents[2]
FOREIGN = ("add table inet others; add set inet others peers { type ipv4_addr; }; "
           "add element inet others peers { 192.0.2.7 }; "
           "add chain inet others forward { type filter hook forward priority 5; policy accept; }; "
           "add rule inet others forward ip saddr @peers counter accept")


@pytest.fixture
def lonely(shared_daemon: Daemon) -> Iterator[Daemon]:
    """A daemon on a host of its own, where others have rules, routes and devices too; it has the busybox image."""
    namespace = Namespace()
    daemon = Daemon(namespace)
    try:
        for command in ("ip link add others0 type veth peer name others1", "ip address add 192.0.2.1/24 dev others0",
                        "ip link set others0 up", "ip route add 198.51.100.0/24 via 192.0.2.7",
                        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
                        "iptables-nft -N OTHERS", "iptables-nft -A FORWARD -j OTHERS"):
            namespace.run(*command.split())
        namespace.run("nft", FOREIGN)
        yield daemon
    finally:
        daemon.close()
        namespace.close()


def state(namespace: Namespace) -> dict[str, object]:
    """Of the host's network, all that a daemon could change."""
    def said(*command: str) -> str:
        return namespace.run(*command).stdout.decode()

    settings = [line for line in said("sysctl", "-a").splitlines()
                if line.startswith(("net.ipv4.conf.", "net.ipv6.conf.", "net.bridge.", "net.ipv4.ip_forward"))]
    return {"rules": said("nft", "-s", "list", "ruleset"), "links": namespace.links(), "settings": settings,
            "routes": [json.loads(said("ip", "-json", family, "route", "show", "table", "all"))
                       for family in ("-4", "-6")],
            "policies": said("ip", "rule"), "policies6": said("ip", "-6", "rule")}


def pods(daemon: Daemon, image: bytes) -> None:
    daemon.ctl("load", stdin=image)
    daemon.ctl("network", "create", "--ipv6", "front")
    daemon.ctl("network", "create", "back")
    daemon.ctl("run", "-d", "--name", "web", "--network", "front", "-p", "8090:80", "-p", "8090:80/udp", BUSYBOX,
               "sleep", "1000")
    daemon.ctl("network", "connect", "back", "web")


@pytest.mark.parametrize("end", [Daemon.stop, Daemon.kill])
def test_a_purge_takes_all_rules_devices_and_settings_away_and_no_others(
        lonely: Daemon, shared_daemon: Daemon, end: Callable[[Daemon], object]) -> None:
    daemon, before = lonely, state(lonely.namespace)
    daemon.start()
    pods(daemon, shared_daemon.ctl("save", BUSYBOX).stdout)
    during = state(daemon.namespace)
    assert all(during[what] != before[what] for what in ("rules", "links", "routes", "settings"))
    (daemon.run_dir / "quickstart.pid").write_text(f"{daemon.pid}\n")
    end(daemon)
    assert state(daemon.namespace)["rules"] != before["rules"], "its pod runs on"
    environment = daemon.environment | {"HYPERSTACK_STATE": str(daemon.state), "HYPERSTACK_RUN": str(daemon.run_dir),
                                        "HYPERSTACK_CACHE": str(daemon.argv()[daemon.argv().index("--cache-dir") + 1])
                                        .removesuffix("/daemon")}
    done = subprocess.run(daemon.namespace.inside([str(ROOT / "quickstart.sh"), "--purge"]), env=environment,
                          capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert state(daemon.namespace) == before
    assert not daemon.state.exists()
