"""The same command lines, to Docker's own engine of Debian 13 (26.1) and to ours: exit codes, and what is printed.

What is compared is what does not depend on the engine's version. Where that engine cannot run, this is skipped and
says why; the whole scenario can be pointed at any engine, see peers.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.clients.peers import Cli
from tests.images import BUSYBOX

STEPS: tuple[tuple[str, ...], ...] = (
    ("network", "create", "--subnet", "10.241.9.0/24", "-o", "com.docker.network.driver.mtu=1400", "hs-n"),
    ("volume", "create", "--label", "k=v", "hs-v"),
    ("run", "-d", "--name", "hs-c", "--network", "hs-n", "--network-alias", "al", "-v", "hs-v:/d", "-e", "A=b", "-l",
     "k=v", "-p", "127.0.0.1:38089:80", "--restart", "on-failure:2", BUSYBOX, "sleep", "600"),
    ("create", "--name", "hs-d", "-it", BUSYBOX),
    ("ps", "-a", "--filter", "name=hs-", "--format", "{{.Names}} {{.Image}} {{.Command}} {{.Ports}} {{.Networks}}"),
    ("port", "hs-c"),
    ("exec", "hs-c", "sh", "-c", "echo out; exit 4"),
    ("exec", "hs-d", "true"),
    ("pause", "hs-c"), ("pause", "hs-c"), ("unpause", "hs-c"), ("unpause", "hs-c"),
    ("cp", "hs-c:/none", "-"),
    ("volume", "rm", "hs-v"),
    ("network", "rm", "hs-n"),
    ("rm", "hs-c"),
    ("rename", "hs-c", "hs-d"),
    ("update", "--memory", "1k", "hs-c"),
    ("diff", "hs-d"),
    ("stop", "-t", "0", "hs-c"), ("stop", "hs-c"), ("kill", "hs-c"), ("wait", "hs-c"),
    ("start", "hs-c", "hs-none"),
    ("restart", "-t", "0", "hs-c"),
    ("kill", "-s", "NOSUCH", "hs-c"),
    ("inspect", "-f", "{{.State.Status}} {{.Config.Env}} {{.HostConfig.RestartPolicy}}", "hs-c"),
    ("inspect", "-f", "{{.None}}", "hs-c"),
    ("run", "--rm", BUSYBOX, "/none"), ("run", "--rm", BUSYBOX, "/etc"),
    ("run", "--rm", "-u", "nobody-here", BUSYBOX, "true"),
    ("run", "--rm", "--cpus", "1000", BUSYBOX, "true"),
    ("commit", "-c", "ENV X=y", "hs-d", "hs-made:1"),
    ("image", "inspect", "-f", "{{.Config.Env}} {{.Config.Cmd}} {{.Os}}", "hs-made:1"),
    ("rmi", "hs-none"),
    ("ps", "--filter", "none=1"), ("run", "--rm", "--name", "x", BUSYBOX, "true"), ("volume", "create", "v"),
    ("tag", "hs-made:1", "IN:VALID"))


def test_both_answer_alike(docker: Cli, ours: Cli) -> None:
    told = [(step, _answer(docker, step), _answer(ours, step)) for step in STEPS]
    assert [f"{' '.join(step)}: {theirs}, ours {here}" for step, theirs, here in told if theirs != here] == []
    for kind, name in (("container", "hs-c"), ("container", "hs-d"), ("network", "hs-n"), ("volume", "hs-v"),
                       ("image", "hs-made:1")):
        theirs, here = (json.loads(cli(kind, "inspect", name))[0] for cli in (docker, ours))
        assert set(_unlike(theirs, here)) == set(), f"{kind} {name}"


DIFFERENT: tuple[tuple[tuple[str, ...], int, int], ...] = (
    (("top", "hs-limited", "-o", "comm"), 1, 0),
    (("events", "--until", "1", "--filter", "none=1"), 0, 1))
"""What Docker answers with one exit code, and ours with another."""


def test_what_is_known_to_differ_does(docker: Cli, ours: Cli) -> None:
    """docs/docker.md says all of it."""
    for cli in (docker, ours):
        cli("network", "create", "--subnet", "10.241.10.0/24", "hs-o")
        cli("create", "--name", "hs-made", BUSYBOX)
        cli("run", "-d", "--name", "hs-limited", "-m", "64m", BUSYBOX, "sleep", "600")
    for step, theirs, here in DIFFERENT:
        assert (docker.attempt(*step).returncode, ours.attempt(*step).returncode) == (theirs, here), step
    swap = ("inspect", "-f", "{{.HostConfig.MemorySwap}}", "hs-limited")
    assert (docker(*swap), ours(*swap)) == (str(128 << 20), "0")
    built = [cli("build", "-t", "hs-made:2", "-", stdin=f"FROM {BUSYBOX}\nENV A=b\nRUN true\n".encode())
             for cli in (docker, ours)]
    assert [said.count("Running in") for said in built] == [2, 1]
    assert [cli("rmi", "hs-made:2").count("Deleted") > 1 for cli in (docker, ours)] == [True, False]


def _answer(cli: Cli, step: tuple[str, ...]) -> tuple[int, str]:
    """(exit code, output with the same word for every id)."""
    done = cli.attempt(*step)
    return done.returncode, re.sub(r"(sha256:)?[0-9a-f]{64}", "<id>", done.stdout)


def _unlike(theirs: Any, here: Any, path: str = "") -> Iterator[str]:
    """Fields that `here` lacks, or has with another type where both have a value."""
    if isinstance(theirs, dict) and isinstance(here, dict):
        for name, value in theirs.items():
            place = f"{path}.{name}".lstrip(".")
            if name in here:
                yield from _unlike(value, here[name], place)
            elif value and not re.fullmatch(r"[0-9a-f]{64}", name) and not path.startswith("GraphDriver"):
                yield place
    elif isinstance(theirs, list) and isinstance(here, list) and theirs and here:
        yield from _unlike(theirs[0], here[0], f"{path}[0]")
    elif theirs and here and type(theirs) is not type(here):
        yield path
