"""Networks that users make: names, addresses, fences, and what is left of them, in real VMs."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import dns.message
import pytest

from hyperstack.daemon.config import Config
from hyperstack.network.bridge.names import Names
from tests.e2e.test_network import SERVER, answer
from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

ASK = "for i in $(seq 40); do nc -w 2 {} 8000 </dev/null | grep hello- && exit; sleep 0.3; done; echo unreachable"


@pytest.fixture
def networks(daemon: Daemon) -> Iterator[Daemon]:
    """The shared daemon, without networks of users before and after."""
    yield daemon
    containers = daemon.text("ps", "-aq").split()
    if containers:
        daemon.ctl("rm", "-f", *containers)
    made = daemon.text("network", "ls", "-q", "--filter", "type=custom").split()
    if made:
        daemon.ctl("network", "rm", *made)


def settings(daemon: Daemon, name: str) -> dict[str, object]:
    (only,) = json.loads(daemon.ctl("inspect", name).stdout)[0]["NetworkSettings"]["Networks"].values()
    assert isinstance(only, dict)
    return only


def devices(daemon: Daemon, name: str) -> str:
    return " ".join(daemon.text("exec", name, "ls", "/sys/class/net").split())


def test_containers_find_each_other_by_name_and_nobody_else_does(networks: Daemon) -> None:
    daemon = networks
    daemon.docker_cli("network", "create", "--subnet", "10.99.0.0/24", "front")
    daemon.ctl("network", "create", "back")
    daemon.docker_cli("run", "-d", "--name", "web", "--network", "front", "--network-alias", "store", "--ip",
                      "10.99.0.77", "--mac-address", "02:11:22:33:44:55", BUSYBOX, "sh", "-c", SERVER)
    place = settings(daemon, "web")
    assert (place["IPAddress"], place["MacAddress"]) == ("10.99.0.77", "02:11:22:33:44:55")
    assert "store" in place["Aliases"]  # type: ignore[operator] # a list
    ident = daemon.text("inspect", "-f", "{{.Id}}", "web")[:12]
    script = ";".join([*(ASK.format(name) for name in ("web", "store", ident, "web.front", "other")),
                       "cat /etc/resolv.conf"]).replace("exit", "break")
    said = daemon.text("run", "--rm", "--network", "front", "--link", "web:other", BUSYBOX, "sh", "-c", script)
    assert said.count(f"hello-{ident}") == 5
    assert "nameserver 127.0.0.11\noptions ndots:0" in said
    strange = "nslookup web >/dev/null 2>&1 && echo found; nc -w 2 10.99.0.77 8000 </dev/null || echo no"
    for network in ("back", "bridge"):
        assert daemon.text("run", "--rm", "--network", network, BUSYBOX, "sh", "-c", strange) == "no"


def test_a_network_can_be_inspected_pruned_and_removed_and_nothing_of_it_is_left(networks: Daemon) -> None:
    daemon = networks
    ident = daemon.text("network", "create", "--label", "tier=x", "front")
    daemon.ctl("network", "create", "spare")
    daemon.ctl("run", "-d", "--name", "web", "--network", ident[:12], BUSYBOX, "sleep", "1000")
    shown = json.loads(daemon.docker_cli("network", "inspect", "front").stdout)[0]
    (member,) = shown["Containers"].values()
    assert (member["Name"], shown["Labels"], shown["IPAM"]["Config"][0]["Gateway"]) == (
        "web", {"tier": "x"}, member["IPv4Address"].replace(".2/24", ".1"))
    done = daemon.docker_cli("network", "rm", "front", check=False)
    assert (done.returncode, b"has active endpoints" in done.stderr) == (1, True)
    assert daemon.text("network", "prune", "-f") == "Deleted Networks:\nspare"
    bridge = Names(Config(run_dir=str(daemon.run_dir)).instance).bridge(ident)
    assert bridge in daemon.namespace.links()
    daemon.ctl("rm", "-f", "web")
    assert daemon.text("network", "rm", "front") == "front"
    assert bridge not in daemon.namespace.links()
    assert bridge not in daemon.namespace.run("nft", "list", "ruleset").stdout.decode()


def test_a_published_port_of_a_network_of_ones_own(networks: Daemon) -> None:
    daemon = networks
    daemon.ctl("network", "create", "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "front")
    daemon.ctl("run", "-d", "--name", "web", "--network", "front", "-p", "8091:8000", BUSYBOX, "sh", "-c", SERVER)
    assert daemon.text("port", "web") == "8000/tcp -> 127.0.0.1:8091"
    wait_until(lambda: answer(daemon, "127.0.0.1", 8091).startswith(b"hello-"), "the port is served")


def test_a_stopped_container_changes_its_networks_and_starts_on_all_of_them(networks: Daemon) -> None:
    daemon = networks
    daemon.docker_cli("network", "create", "front")
    daemon.docker_cli("network", "create", "--subnet", "10.99.0.0/24", "--internal", "back")
    show = "ip -4 -o address; ip route | head -1; grep -c $(hostname) /etc/hosts; nslookup self | grep -c ^Address"
    daemon.docker_cli("create", "--name", "job", "--network", "front", BUSYBOX, "sh", "-c", show)
    daemon.docker_cli("network", "connect", "--alias", "self", "--ip", "10.99.0.99", "back", "job")
    said = daemon.text("start", "-a", "job")
    assert "10.99.0.99/24" in said
    assert said.splitlines()[-3].startswith("default via ")
    assert said.splitlines()[-3].rstrip().endswith("dev eth0"), "an internal network is no way out"
    assert said.splitlines()[-2:] == ["2", "2"], "two lines in /etc/hosts; the resolver's address, and the answer"
    daemon.docker_cli("network", "disconnect", "front", "job")
    said = daemon.text("start", "-a", "job")
    assert ("10.99.0.99/24" in said, "eth1" in said, "default" in said) == (True, False, False)


def test_a_running_container_joins_and_leaves_networks(networks: Daemon) -> None:
    """Names, addresses and reach in both directions, while a connection over the first network goes on."""
    daemon = networks
    daemon.docker_cli("network", "create", "--subnet", "10.98.0.0/24", "front")
    daemon.docker_cli("network", "create", "--subnet", "10.99.0.0/24", "back")
    server = ("run", "-d", BUSYBOX, "sh", "-c", SERVER)
    daemon.ctl(*server[:2], "--name", "store", "--network", "back", *server[2:])
    daemon.ctl(*server[:2], "--name", "web", "--network", "front", *server[2:])
    daemon.ctl("run", "-d", "--name", "peer", "--network", "front", BUSYBOX, "sh", "-c",
               "tail -f /dev/null | nc -l -p 9000 | while read line; do echo $line; done")
    daemon.ctl("exec", "-d", "web", "sh", "-c", "mkfifo /tmp/f; exec 3<>/tmp/f; "
               "(until nc peer 9000 <&3; do sleep 0.2; done) & while sleep 0.2; do echo tick >&3; done")
    wait_until(lambda: "tick" in daemon.text("logs", "peer"), "the connection stands")
    strange = "nc -w 2 {} 8000 </dev/null || echo no"
    assert daemon.text("exec", "web", "sh", "-c", strange.format("10.99.0.2")) == "no"
    events = daemon.docker_cli("network", "connect", "--alias", "w", "--ip", "10.99.0.77", "back", "web")
    assert events.returncode == 0
    assert daemon.text("exec", "web", "sh", "-c", ASK.format("store")).startswith("hello-")
    assert daemon.text("exec", "store", "sh", "-c", ASK.format("w")).startswith("hello-")
    assert daemon.text("exec", "store", "sh", "-c", strange.format("10.98.0.2")) == "no", "web is no router"
    shown = json.loads(daemon.docker_cli("inspect", "web").stdout)[0]["NetworkSettings"]["Networks"]
    assert {name: place["IPAddress"] for name, place in shown.items()} == {"front": "10.98.0.2", "back": "10.99.0.77"}
    members = json.loads(daemon.docker_cli("network", "inspect", "back").stdout)[0]["Containers"].values()
    assert {member["Name"]: member["IPv4Address"] for member in members} == {
        "store": "10.99.0.2/24", "web": "10.99.0.77/24"}
    assert "10.99.0.77" in daemon.text("exec", "web", "cat", "/etc/hosts")
    # The first by name has the way out.
    assert daemon.text("exec", "web", "ip", "route").startswith("default via 10.99.0.1 dev eth1")
    daemon.kill()
    daemon.start()
    assert daemon.text("exec", "store", "sh", "-c", ASK.format("web")).startswith("hello-")
    before = daemon.text("logs", "peer").count("tick")
    wait_until(lambda: daemon.text("logs", "peer").count("tick") > before, "the first connection goes on")
    daemon.docker_cli("network", "disconnect", "front", "web")
    assert devices(daemon, "web") == "eth1 lo"
    assert daemon.text("exec", "web", "sh", "-c", strange.format("10.98.0.3")) == "no"
    assert daemon.text("exec", "peer", "sh", "-c", strange.format("10.98.0.2")) == "no"
    assert daemon.text("exec", "store", "sh", "-c", ASK.format("web")).startswith("hello-")
    daemon.ctl("network", "connect", "front", "web")
    assert devices(daemon, "web") == "eth0 eth1 lo"
    assert daemon.text("exec", "peer", "sh", "-c", ASK.format("web")).startswith("hello-")
    assert daemon.text("exec", "store", "sh", "-c", ASK.format("web")).startswith("hello-")
    daemon.ctl("network", "disconnect", "front", "web")
    assert daemon.text("exec", "store", "sh", "-c", ASK.format("web")).startswith("hello-")
    read = json.loads(daemon.docker_cli("stats", "--no-stream", "--format", "{{json .NetIO}}", "web").stdout)
    assert not read.startswith("0B"), "of what it is connected to"
    daemon.ctl("network", "disconnect", "back", "web")
    assert devices(daemon, "web") == "lo", "as in Docker"
    assert daemon.text("exec", "web", "sh", "-c", "ip -4 -o address; ip route").count("inet") == 1, "lo alone"
    assert daemon.text("exec", "store", "sh", "-c", strange.format("10.99.0.77")) == "no"
    daemon.ctl("network", "connect", "front", "web")
    assert devices(daemon, "web") == "eth0 lo"
    assert daemon.text("exec", "peer", "sh", "-c", ASK.format("web")).startswith("hello-")
    done = daemon.docker_cli("network", "connect", "front", "web", check=False)
    assert b"endpoint with name web already exists in network front" in done.stderr
    ends = daemon.text("events", "--since", "1h", "--until", "0s", "--filter", "type=network", "--filter",
                       "network=back", "--format", "{{.Action}}").split()
    assert ends[-4:] == ["create", "connect", "connect", "disconnect"]


def test_a_container_of_the_default_network_learns_names_when_it_joins_another(networks: Daemon) -> None:
    daemon = networks
    daemon.ctl("network", "create", "front")
    daemon.ctl("run", "-d", "--name", "web", "--network", "front", BUSYBOX, "sh", "-c", SERVER)
    daemon.ctl("run", "-d", "--name", "plain", "-p", "8092:8000", BUSYBOX, "sh", "-c", SERVER)
    daemon.ctl("network", "connect", "front", "plain")
    assert daemon.text("exec", "plain", "sh", "-c", ASK.format("web")).startswith("hello-")
    assert daemon.text("exec", "web", "sh", "-c", ASK.format("plain")).startswith("hello-")
    assert "127.0.0.11" in daemon.text("exec", "plain", "cat", "/etc/resolv.conf")
    assert daemon.text("port", "plain") == "8000/tcp -> 0.0.0.0:8092"
    daemon.ctl("network", "disconnect", "bridge", "plain")
    daemon.ctl("network", "disconnect", "front", "plain")
    assert "127.0.0.11" not in daemon.text("exec", "plain", "cat", "/etc/resolv.conf")
    assert json.loads(daemon.docker_cli("inspect", "plain").stdout)[0]["NetworkSettings"]["Networks"] == {}
    done = daemon.ctl("run", "--rm", "--network", "none", "--network", "front", BUSYBOX, "true", check=False)
    assert b"multiple networks" in done.stderr
    daemon.ctl("run", "-d", "--name", "alone", "--network", "none", BUSYBOX, "sleep", "1000")
    done = daemon.docker_cli("network", "connect", "front", "alone", check=False)
    assert b"multiple networks with one of the networks in private (none) mode" in done.stderr
    daemon.docker_cli("network", "disconnect", "none", "alone")
    done = daemon.docker_cli("network", "connect", "front", "alone", check=False)
    assert b"its VM was started without a network interface" in done.stderr
    said = daemon.text("run", "--rm", "--network", "bridge", "--network", "front", BUSYBOX, "ip", "-4", "-o", "address")
    assert ("eth0" in said, "eth1" in said) == (True, True)


def test_names_and_addresses_outlive_the_daemon(networks: Daemon) -> None:
    daemon = networks
    daemon.ctl("network", "create", "front")
    daemon.ctl("network", "create", "unused")
    daemon.ctl("run", "-d", "--name", "web", "--network", "front", BUSYBOX, "sh", "-c", SERVER)
    daemon.ctl("run", "-d", "--name", "other", "--network", "front", BUSYBOX, "sleep", "1000")
    daemon.kill()
    daemon.start()
    assert daemon.text("exec", "other", "sh", "-c", ASK.format("web")).startswith("hello-")
    daemon.ctl("rename", "web", "fresh")
    assert daemon.text("exec", "other", "sh", "-c", ASK.format("fresh")).startswith("hello-")
    kept = daemon.text("network", "ls", "--format", "{{.Name}}", "--filter", "type=custom")
    assert kept.split() == ["front", "unused"]


def test_who_connects_to_dockers_name_server_reaches_the_networks(networks: Daemon) -> None:
    """A question over TCP, byte by byte; the image's own tools ask over UDP, by sockets that they do not connect."""
    daemon = networks
    daemon.ctl("network", "create", "--subnet", "10.99.0.0/24", "-o", "com.docker.network.driver.mtu=1400", "front")
    asked = dns.message.make_query("web", "A").to_wire()
    escaped = "".join(f"\\{byte:03o}" for byte in struct.pack("!H", len(asked)) + asked)
    said = daemon.text("run", "--rm", "--name", "web", "--network", "front", "--ip", "10.99.0.77", BUSYBOX, "sh", "-c",
                       f"printf '{escaped}' | nc -w 5 127.0.0.11 53 | hexdump -v -e '1/1 \"%02x\"'; "
                       "cat /sys/class/net/eth0/mtu; nc -w 2 127.0.0.11 54 </dev/null || echo closed")
    answer, mtu, closed = said.split()[0][:-4], said.split()[0][-4:], said.split()[-1]
    assert (answer[-8:], mtu, closed) == ("0a63004d", "1400", "closed")


def test_a_network_that_is_not_there_is_named_and_no_image_is_pulled(networks: Daemon) -> None:
    for run in (networks.ctl, networks.docker_cli):
        done = run("run", "--rm", "--network", "absent", BUSYBOX, "true", check=False)
        assert done.returncode == 125
        assert b"network absent not found" in done.stderr
        assert b"Pulling" not in done.stderr


def test_an_internal_network_has_no_way_out_but_names(networks: Daemon) -> None:
    networks.ctl("network", "create", "--internal", "shut")
    networks.ctl("run", "-d", "--name", "web", "--network", "shut", BUSYBOX, "sh", "-c", SERVER)
    said = networks.text("run", "--rm", "--network", "shut", BUSYBOX, "sh", "-c",
                         f"{ASK.format('web').replace('exit', 'break')}; ip route | grep default || echo no way out")
    assert said.startswith("hello-")
    assert said.endswith("no way out")
    done = networks.ctl("run", "--rm", "--network", "shut", "-p", "80", BUSYBOX, "true", check=False)
    assert b"shut is internal" in done.stderr


def test_a_network_with_ipv6_has_addresses_names_and_ports_of_both_kinds(networks: Daemon) -> None:
    daemon = networks
    daemon.docker_cli("network", "create", "--ipv6", "--subnet", "10.99.0.0/24", "--subnet", "fd00:99::/64", "front")
    daemon.ctl("network", "create", "--ipv6", "back")
    shown = json.loads(daemon.docker_cli("network", "inspect", "front").stdout)[0]
    assert (shown["EnableIPv6"], ["Gateway" in pool for pool in shown["IPAM"]["Config"]]) == (True, [False, False])
    daemon.docker_cli("run", "-d", "--name", "web", "--network", "front", "--ip6", "fd00:99::77", "-p", "8093:8000",
                      BUSYBOX, "sh", "-c", SERVER)
    place = settings(daemon, "web")
    assert (place["GlobalIPv6Address"], place["GlobalIPv6PrefixLen"], place["IPv6Gateway"]) == (
        "fd00:99::77", 64, "fd00:99::1")
    assert set(daemon.text("port", "web").splitlines()) == {"8000/tcp -> 0.0.0.0:8093", "8000/tcp -> [::]:8093"}
    wait_until(lambda: answer(daemon, "fd00:99::1", 8093).startswith(b"hello-"), "the port is served over IPv6")
    show = "ip -6 route show default; nslookup web; cat /etc/hosts; " + ASK.format("fd00:99::77")
    said = daemon.text("run", "--rm", "--network", "front", BUSYBOX, "sh", "-c", show)
    assert said.startswith("default via fd00:99::1 dev eth0")
    assert "Address: fd00:99::77" in said
    assert "fd00:99::2\t" in said
    assert "\nhello-" in said
    said = daemon.text("run", "--rm", "--network", "back", BUSYBOX, "sh", "-c",
                       "ip -6 -o address show dev eth0 scope global; nc -w 2 fd00:99::77 8000 </dev/null || echo no")
    assert "inet6 fd" in said
    assert said.endswith("no")
    daemon.ctl("network", "connect", "--ip6", "fd00:99::88", "front", "web", check=False)
    daemon.ctl("run", "-d", "--name", "plain", BUSYBOX, "sleep", "1000")
    daemon.ctl("network", "connect", "--ip6", "fd00:99::88", "front", "plain")
    assert daemon.text("exec", "plain", "sh", "-c", ASK.format("fd00:99::77")).startswith("hello-")
    daemon.ctl("network", "disconnect", "front", "plain")
    said = daemon.text("exec", "plain", "sh", "-c", "ip -6 -o address; nc -w 2 fd00:99::77 8000 </dev/null || echo no")
    assert "fd00:99" not in said
    assert said.endswith("no")


def test_a_port_of_a_range_of_the_hosts_is_the_first_that_is_free(networks: Daemon) -> None:
    daemon = networks
    for name, port in (("one", 8150), ("two", 8151)):
        daemon.docker_cli("run", "-d", "--name", name, "-p", "8150-8151:8000", BUSYBOX, "sleep", "1000")
        assert daemon.text("port", name) == f"8000/tcp -> 0.0.0.0:{port}"
    done = daemon.docker_cli("run", "-d", "-p", "8150-8151:8000", BUSYBOX, "true", check=False)
    assert b"all tcp ports of 8150-8151 are taken" in done.stderr
    daemon.docker_cli("run", "-d", "--name", "many", "-p", "8160-8162:80-82", "-p", "127.0.0.1::53/udp", BUSYBOX,
                      "sleep", "1000")
    lines = daemon.text("port", "many").splitlines()
    assert [line for line in lines if "tcp" in line] == [f"{80 + n}/tcp -> 0.0.0.0:{8160 + n}" for n in range(3)]
    assert any(line.startswith("53/udp -> 127.0.0.1:") for line in lines)
    done = daemon.docker_cli("run", "-d", "-p", "8170:80/sctp", BUSYBOX, "true", check=False)
    assert b"sctp ports are not published" in done.stderr
