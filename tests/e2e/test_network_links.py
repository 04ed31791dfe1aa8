"""Links of the default network: names and variables of another container, in real VMs."""

from __future__ import annotations

import json

from tests.e2e.test_network import SERVER
from tests.e2e.test_networks import ASK
from tests.harness import Daemon
from tests.images import BUSYBOX


def hosts(daemon: Daemon, name: str) -> list[str]:
    """Lines of its /etc/hosts that are of others and itself, each without its address."""
    lines = daemon.text("exec", name, "cat", "/etc/hosts").splitlines()
    return [line.partition("\t")[2] for line in lines if line.startswith("10.")]


def test_a_linked_container_is_known_by_name_and_described_by_variables(daemon: Daemon) -> None:
    daemon.docker_cli("run", "-d", "--name", "db", "--hostname", "dbhost", "--expose", "8000", "-e", "SECRET=x",
                      BUSYBOX, "sh", "-c", SERVER)
    address = json.loads(daemon.ctl("inspect", "db").stdout)[0]["NetworkSettings"]["IPAddress"]
    script = ";".join([*(ASK.format(name) for name in ("store", "dbhost", "db")), "env"]).replace("exit", "break")
    said = daemon.docker_cli("run", "--name", "web", "--link", "db:store", "-e", "STORE_ENV_MINE=1", BUSYBOX, "sh",
                             "-c", script).stdout.decode()
    assert said.count("hello-dbhost") == 3
    assert {line for line in said.splitlines() if line.startswith("STORE_")} == {
        f"STORE_PORT=tcp://{address}:8000", f"STORE_PORT_8000_TCP=tcp://{address}:8000",
        f"STORE_PORT_8000_TCP_ADDR={address}", "STORE_PORT_8000_TCP_PORT=8000", "STORE_PORT_8000_TCP_PROTO=tcp",
        "STORE_NAME=/web/store", "STORE_ENV_SECRET=x", "STORE_ENV_MINE=1"}
    assert json.loads(daemon.ctl("inspect", "web").stdout)[0]["HostConfig"]["Links"] == ["/db:/web/store"]
    shown = daemon.docker_cli("ps", "-a", "--no-trunc", "--format", "{{.Names}}").stdout.decode().split()
    assert shown == ["web", "db,web/store"]
    assert daemon.text("ps", "-a", "--format", "{{.Names}}").split() == ["web", "db"]


def test_a_link_follows_the_other_container_and_ends_with_it(daemon: Daemon) -> None:
    daemon.ctl("run", "-d", "--name", "db", "--hostname", "db", BUSYBOX, "sh", "-c", SERVER)
    daemon.ctl("run", "-d", "--name", "web", "--hostname", "web", "--link", "db", BUSYBOX, "sleep", "1000")
    assert hosts(daemon, "web") == ["db", "web"]
    first = daemon.text("exec", "web", "sh", "-c", "grep db /etc/hosts")
    daemon.ctl("stop", "-t", "0", "db")
    done = daemon.docker_cli("exec", "web", "true", check=False)
    assert b"Cannot link to a non running container: /db AS /web/db" in done.stdout + done.stderr
    daemon.ctl("run", "-d", "--name", "thief", BUSYBOX, "sleep", "1000")  # which gets the address that is free now
    daemon.ctl("start", "db")
    assert daemon.text("exec", "web", "sh", "-c", "grep db /etc/hosts") != first
    assert daemon.text("exec", "web", "sh", "-c", ASK.format("db")) == "hello-db"
    daemon.ctl("stop", "-t", "0", "web", "db")
    done = daemon.docker_cli("start", "web", check=False)
    assert (done.returncode, b"Cannot link to a non running container" in done.stderr) == (1, True)
    daemon.docker_cli("rm", "--link", "/web/db")
    daemon.ctl("start", "web")
    assert hosts(daemon, "web") == ["web"]
    done = daemon.docker_cli("rm", "--link", "web/db", check=False)
    assert done.returncode == 1
    done = daemon.docker_cli("rm", "--link", "web", check=False)
    assert b"cannot remove the default link name of the container" in done.stderr


def test_links_to_nobody_and_to_other_projects_are_refused(daemon: Daemon) -> None:
    daemon.ctl("--project", "other", "run", "-d", "--name", "theirs", BUSYBOX, "sleep", "1000")
    for run in (daemon.ctl, daemon.docker_cli):
        done = run("run", "--rm", "--link", "theirs:x", BUSYBOX, "true", check=False)
        assert done.returncode == 125
        assert b"could not get container for theirs: No such container: theirs" in done.stderr
    daemon.ctl("--project", "other", "rm", "-f", "theirs")
