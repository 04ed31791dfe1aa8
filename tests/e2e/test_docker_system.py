"""What `docker system`, `docker events` and the prunes tell and take; and an engine that is no part of a swarm."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.harness import Daemon
from tests.images import BUSYBOX, SECOND


def test_events_of_the_past_are_filtered(daemon: Daemon) -> None:
    since = str(time.time())
    daemon.docker_cli("volume", "create", "told-volume")
    for name, label in (("told-a", "side=left"), ("told-b", "side=right")):
        daemon.docker_cli("run", "--name", name, "--label", label, BUSYBOX, "true")
    daemon.docker_cli("rm", "told-a", "told-b")
    daemon.docker_cli("volume", "rm", "told-volume")
    middle = str(time.time())

    def told(*filters: str, until: str = middle) -> list[str]:
        options = [word for item in filters for word in ("--filter", item)]
        out = daemon.docker_cli("events", "--since", since, "--until", until, "--format",
                                "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}", *options).stdout.decode()
        return [line.removesuffix(" <no value>") for line in out.splitlines()]

    life = ["create", "attach", "start", "die", "destroy"]
    assert told("container=told-a") == [f"container {action} told-a" for action in life]
    assert told("label=side=right", "event=die", "event=start") == ["container start told-b", "container die told-b"]
    assert told("type=volume") == ["volume create", "volume destroy"]
    assert told("volume=told-volume") == ["volume create", "volume destroy"]
    assert told("volume=told-volume", "container=told-a") == [], "nothing is both"
    assert set(told("container=told-", "event=die")) == {"container die told-a", "container die told-b"}
    assert told(f"image={BUSYBOX}", "event=destroy") == ["container destroy told-a", "container destroy told-b"]
    assert told("service=any") == []
    assert told("container=told-a", until=since) == []
    bad = daemon.docker_cli("events", "--since", since, "--until", middle, "--filter", "color=red", check=False)
    assert b"invalid filter" in bad.stderr


def test_disk_usage_has_dockers_shape(daemon: Daemon) -> None:
    daemon.ctl("pull", SECOND)
    daemon.docker_cli("run", "-d", "--name", "big", "-v", "used:/data", BUSYBOX, "sh", "-c",
                      "head -c 3000000 /dev/urandom > /f; sync; sleep 600")
    daemon.docker_cli("volume", "create", "unused")
    with daemon.sdk("1.51") as client:
        usage: dict[str, Any] = client.df()
        [container] = [one for one in usage["Containers"] if one["Names"] == ["/big"]]
        assert container["SizeRootFs"] > container["SizeRw"] >= 0
        volumes = {one["Name"]: one["UsageData"] for one in usage["Volumes"]}
        assert (volumes["used"]["RefCount"], volumes["unused"]["RefCount"]) == (1, 0)
        assert volumes["used"]["Size"] > 0
        images = {tag: one for one in usage["Images"] for tag in one["RepoTags"]}
        assert images[BUSYBOX]["SharedSize"] == images[BUSYBOX]["Size"] == images[SECOND]["SharedSize"]
        assert images[BUSYBOX]["Containers"] == 1
        assert usage["LayersSize"] > 0
        assert usage["BuildCache"] == []
    rows = [json.loads(line) for line in daemon.docker_cli("system", "df", "--format", "json").stdout.splitlines()]
    found = {row["Type"]: (row["TotalCount"], row["Active"]) for row in rows}
    assert found["Containers"] == ("1", "1")
    assert found["Local Volumes"][1] == "1"
    assert b"big" in daemon.docker_cli("system", "df", "-v").stdout
    daemon.docker_cli("rm", "-f", "big")
    daemon.docker_cli("volume", "rm", "used", "unused")
    daemon.docker_cli("rmi", SECOND)


def test_prunes_take_what_their_filters_say(daemon: Daemon) -> None:
    for name, labels in (("keep", ["keep=1"]), ("drop", ["drop=1"]), ("plain", [])):
        options = [word for label in labels for word in ("--label", label)]
        daemon.docker_cli("create", "--name", name, *options, BUSYBOX)
        daemon.docker_cli("volume", "create", *options, name)

    def names(*command: str) -> set[str]:
        return set(daemon.docker_cli(*command).stdout.decode().split())

    daemon.docker_cli("container", "prune", "-f", "--filter", "until=1h")
    assert names("ps", "-a", "--format", "{{.Names}}") == {"keep", "drop", "plain"}
    daemon.docker_cli("container", "prune", "-f", "--filter", "label=drop")
    assert names("ps", "-a", "--format", "{{.Names}}") == {"keep", "plain"}
    daemon.docker_cli("container", "prune", "-f", "--filter", "label!=keep=1")
    assert names("ps", "-a", "--format", "{{.Names}}") == {"keep"}
    daemon.docker_cli("volume", "prune", "-af", "--filter", "label!=keep")
    assert names("volume", "ls", "-q") == {"keep"}
    daemon.docker_cli("rm", "keep")
    for name, label in (("left:1", "side=left"), ("right:1", "side=right")):
        made = daemon.docker_cli("create", "--label", label, BUSYBOX).stdout.decode().strip()
        daemon.docker_cli("commit", made, name)
        daemon.docker_cli("rm", made)
    daemon.docker_cli("image", "prune", "-af", "--filter", "label!=side=left", "--filter", "label=side")
    assert {"left"} == names("images", "--format", "{{.Repository}}") & {"left", "right"}
    assert b"Total reclaimed space" in daemon.docker_cli("image", "prune", "-af", "--filter", "label=side").stdout
    assert not names("images", "--format", "{{.Repository}}") & {"left", "right"}
    daemon.docker_cli("volume", "rm", "keep")
    assert b"Total reclaimed space" in daemon.docker_cli("system", "prune", "-f").stdout


def test_it_is_no_part_of_a_swarm_and_has_no_plugins(daemon: Daemon) -> None:
    for command in ("node ls", "service ls", "secret ls", "config ls", "stack ls"):
        done = daemon.docker_cli(*command.split(), check=False)
        assert done.returncode == 1, command
        assert b"This node is not a swarm manager" in done.stderr, command
    assert b"does not support being part of a swarm" in daemon.docker_cli("swarm", "init", check=False).stderr
    assert b"This node is not part of a swarm" in daemon.docker_cli("swarm", "leave", check=False).stderr
    assert daemon.docker_cli("info", "--format", "{{.Swarm.LocalNodeState}}").stdout == b"inactive\n"
    assert daemon.docker_cli("plugin", "ls", "-q").stdout == b""
    assert b"not found" in daemon.docker_cli("plugin", "inspect", "some/thing", check=False).stderr


def test_another_platform_than_that_of_an_image_is_refused(daemon: Daemon) -> None:
    for command in ("image inspect", "history", "save"):
        assert daemon.docker_cli(*command.split(), "--platform", "linux/amd64", BUSYBOX).returncode == 0
        done = daemon.docker_cli(*command.split(), "--platform", "linux/s390x", BUSYBOX, check=False)
        assert done.returncode == 1, command
        assert b"does not match the specified platform (linux/s390x)" in done.stderr, command


def test_a_containers_ways_are_told_in_dockers_words_and_order(daemon: Daemon) -> None:
    since = str(time.time())
    daemon.docker_cli("run", "-d", "--name", "ways", "--label", "own=1", BUSYBOX, "sleep", "600")
    daemon.docker_cli("top", "ways")
    daemon.docker_cli("cp", "ways:/etc/passwd", "-")
    daemon.docker_cli("cp", "-", "ways:/tmp", stdin=bytes(1024))
    daemon.docker_cli("pause", "ways")
    daemon.docker_cli("unpause", "ways")
    daemon.docker_cli("stop", "-t", "0", "ways")
    daemon.docker_cli("start", "ways")
    daemon.docker_cli("kill", "ways")
    daemon.docker_cli("rm", "ways")
    told = daemon.docker_cli("events", "--since", since, "--until", str(time.time()), "--filter", "label=own",
                             "--format", "{{.Action}} {{.Actor.Attributes.signal}}").stdout.decode()
    found = [line.removesuffix(" <no value>") for line in told.splitlines()]
    assert found == ["create", "start", "top", "archive-path", "extract-to-dir", "pause", "unpause", "kill 15",
                     "kill 9", "die", "stop", "start", "kill 9", "die", "destroy"]
