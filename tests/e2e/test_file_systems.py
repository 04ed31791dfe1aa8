"""What POSIX and Linux promise of files, held in each place where a container can have them (tests/files/fstest.c)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Daemon, wait_until
from tests.images import BUSYBOX

SOURCE = Path(__file__).parents[1] / "files/fstest.c"
STEPS = 150
"""Of the random half, in each place."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the compiled suite is in."""
    directory = tmp_path_factory.mktemp("program")
    subprocess.run(["musl-gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-idirafter", "/usr/include",
                    "-idirafter", "/usr/include/x86_64-linux-gnu", "-o", str(directory / "fstest"), str(SOURCE)],
                   check=True)
    return directory


@pytest.fixture(params=["bind", "volume", "served", "layer"])
def place(request: pytest.FixtureRequest, daemon: Daemon, tmp_path: Path) -> Iterator[list[str]]:
    """Options of `run` by which the container has /place."""
    match request.param:
        case "bind":
            (tmp_path / "place").mkdir()
            yield ["-v", f"{tmp_path}/place:/place"]
        case "served":
            daemon.ctl("run", "-d", "--name", "server", "-v", "suite:/place", BUSYBOX, "sleep", "600")
            yield ["-v", "suite:/place"]
            daemon.ctl("rm", "-f", "suite", "server")
            daemon.ctl("volume", "rm", "suite")
        case "volume":
            yield ["-v", "suite:/place"]
            daemon.ctl("rm", "-f", "suite")
            daemon.ctl("volume", "rm", "suite")
        case _:
            yield []


def test_files_are_as_they_are_anywhere(daemon: Daemon, program: Path, place: list[str], seed: int) -> None:
    done = daemon.ctl("run", "--name", "suite", "-v", f"{program}:/program:ro", *place, BUSYBOX, "sh", "-c",
                      "mkdir -p /place && /program/fstest cases /place; /program/fstest random /place "
                      f"{seed} {STEPS}; ls -A /place", check=False)
    lines = done.stdout.decode(errors="replace").splitlines()
    assert [line for line in lines if not line.startswith("ok ")] in ([], ["lost+found"])
    assert lines.count("ok random") == 1
    assert len(lines) > 30


def test_locks_hold_between_two_machines_and_the_host(daemon: Daemon, program: Path, tmp_path: Path) -> None:
    """What one container has locked in a shared directory, another one and the host cannot lock."""
    (tmp_path / "lock").touch()
    options = ["-v", f"{tmp_path}:/s", "-v", f"{program}:/program:ro", BUSYBOX, "/program/fstest"]
    on_host = [str(program / "fstest"), "try", str(tmp_path / "lock")]
    daemon.ctl("run", "-d", "--name", "holder", *options, "hold", "/s/lock")
    wait_until(lambda: daemon.text("logs", "holder") == "held", "it has the locks")
    assert daemon.ctl("run", "--rm", *options, "try", "/s/lock", check=False).returncode == 1
    assert subprocess.run(on_host, check=False).returncode == 1
    daemon.ctl("rm", "-f", "holder")
    wait_until(lambda: subprocess.run(on_host, check=False).returncode == 0, "the locks went with the holder")
    daemon.ctl("run", "--rm", *options, "try", "/s/lock")


def test_of_attributes_a_bind_has_those_of_users_alone(daemon: Daemon, program: Path, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    for name in ("user.test", "security.test", "trusted.test"):
        os.setxattr(tmp_path / "f", name, b"the host's")
    daemon.ctl("run", "--rm", "--privileged", "-v", f"{tmp_path}:/s", "-v", f"{program}:/program:ro", BUSYBOX,
               "/program/fstest", "attributes", "/s/f")
    assert os.getxattr(tmp_path / "f", "security.test") == b"the host's"
