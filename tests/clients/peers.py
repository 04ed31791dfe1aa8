"""Docker's own command line, and the engine that it is pointed at.

The scenario knows what Docker answers. It runs against a daemon of ours, or against another engine on this host where
HYPERSTACK_TEST_DOCKER_HOST says how that is reached (unix:///var/run/docker.sock): so the scenario itself can be shown
to be right. What may differ between the two is in `Expectations`, and nowhere else.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.dockerd import UNPACKED
from tests.harness import CACHE, PATIENCE_S, Namespace

FOREIGN = os.environ.get("HYPERSTACK_TEST_DOCKER_HOST", "")
PREFIX = "hs-"
"""Of the names of all that the scenario makes: an engine that is not ours may have other people's things."""
DEBIAN_13 = UNPACKED / "usr/bin/docker"
"""The client of the engine that ours is held against."""
LABEL = "org.hyperstack.scenario"
"""What is made to be pruned bears it."""


@dataclass(frozen=True)
class Expectations:
    """Where an engine that runs containers in machines of their own differs from Docker's."""

    networks: frozenset[str] = frozenset({"bridge", "host", "none"})
    """Built in."""
    runtime: str = "runc"
    volumes_have_paths: bool = True
    host_network: str = ""
    """What a container on the host's network is refused with; empty: it runs."""
    host_processes: str = ""
    """The same of the host's processes."""
    exec_not_found: int = 127
    """Exit code of an exec of a program that is not there; 126 before Docker 28."""
    privileged: bool = True
    """Whether it can give a process every right: not where this host lacks one itself."""
    anonymous_are_labelled: bool = True
    """Whether a volume without a name of the user's has a label that says so; since Docker 23."""
    catalogues_are_searched: bool = False
    """Whether `docker search HOST/WORD` finds what the catalogue of a registry lists."""


OURS = Expectations(networks=frozenset({"bridge", "none"}), runtime="hyperstack", volumes_have_paths=False,
                    catalogues_are_searched=True, host_network="HostConfig.NetworkMode=host is not supported",
                    host_processes="HostConfig.PidMode=host is not supported")


def expected_of(release: int) -> Expectations:
    """Of Docker's engine, with this host's kernel below it."""
    bounds = re.search(r"^CapBnd:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    return Expectations(exec_not_found=127 if release >= 28 else 126, anonymous_are_labelled=release >= 23,
                        privileged=bounds is not None and int(bounds[1], 16) == (1 << last + 1) - 1)


class HostNetwork:
    """The host's own network, with what is used of `Namespace`: for an engine that runs there."""

    def inside(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def connect(self, address: str, port: int, *, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection((address, port), timeout=timeout)


Network = Namespace | HostNetwork


@dataclass
class Cli:
    """One docker binary with a home of its own."""

    binary: Path
    host: str
    network: Network
    home: Path
    expect: Expectations
    calls: list[tuple[str, ...]] = field(default_factory=list)
    """Arguments of every command line so far."""

    def run(self, *args: str, stdin: bytes = b"", code: int = 0, without_host: bool = False
            ) -> subprocess.CompletedProcess[str]:
        """:raise AssertionError: it ended otherwise than with `code`."""
        done = self.attempt(*args, stdin=stdin, without_host=without_host)
        assert done.returncode == code, (f"docker {' '.join(args)}: {done.returncode}, not {code}\n"
                                         f"{done.stdout}\n{done.stderr}")
        return done

    def attempt(self, *args: str, stdin: bytes = b"", without_host: bool = False) -> subprocess.CompletedProcess[str]:
        """However it ends."""
        self.calls.append(args)
        done = subprocess.run(self.argv(*args), input=stdin, capture_output=True, timeout=PATIENCE_S, check=False,
                              env={name: value for name, value in self.environment.items()
                                   if name != "DOCKER_HOST" or not without_host})
        return subprocess.CompletedProcess(args, done.returncode, done.stdout.decode(errors="replace"),
                                           done.stderr.decode(errors="replace"))

    def __call__(self, *args: str, stdin: bytes = b"") -> str:
        """The output of a command that succeeds, without its last newline."""
        return self.run(*args, stdin=stdin).stdout.removesuffix("\n")

    def lines(self, *args: str) -> list[str]:
        return self(*args).splitlines()

    def fails(self, *args: str, code: int = 1) -> str:
        """What a command that fails says."""
        return self.run(*args, code=code).stderr

    @property
    def modern(self) -> bool:
        """Whether it is none of the clients before Docker 23, which knew fewer options."""
        return int(self("version", "--format", "{{.Client.Version}}").partition(".")[0]) >= 23

    def popen(self, *args: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        self.calls.append(args)
        return subprocess.Popen(self.argv(*args), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env=self.environment, bufsize=0)

    def argv(self, *args: str) -> list[str]:
        return self.network.inside([str(self.binary), *args])

    @property
    def environment(self) -> dict[str, str]:
        ours = ("DOCKER_", "HYPERSTACK_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**inherited, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0", "HOME": str(self.home), "TERM": "dumb"}

    def table(self, *args: str) -> list[dict[str, str]]:
        """The rows of a table by the words of its first line, as a person reads them: by the columns."""
        head, *rows = self(*args).splitlines()
        starts = [found.start() for found in re.finditer(r"(?:^|(?<=  ))\S", head)]
        cuts = list(zip(starts, [*starts[1:], None], strict=True))
        names = [head[start:end].strip() for start, end in cuts]
        return [{name: row[start:end].strip() for name, (start, end) in zip(names, cuts, strict=True)} for row in rows]


def missing(kind: str, name: str, said: str) -> bool:
    """Whether that is how a client tells that something is not there: in the engine's words, or, before Docker 23, in
    its own."""
    theirs = {"network": f"network {name} not found", "volume": f"get {name}: no such volume"}
    return any(words in said for words in (f"No such {kind}: {name}", theirs.get(kind, f"No such {kind}: {name}")))


def binaries() -> dict[str, Path]:
    """A new docker client and an old one by name: the one on PATH or else Debian 13's, and Debian 12's. ./test.sh has
    unpacked both of Debian's; HYPERSTACK_TEST_DOCKER_CLIENT=/path takes the place of the new one."""
    named, here = os.environ.get("HYPERSTACK_TEST_DOCKER_CLIENT"), shutil.which("docker")
    found = {"named" if named else "installed" if here else "debian-13": Path(named or here or DEBIAN_13),
             "debian-12": CACHE / "docker.io" / "usr/bin/docker"}
    return {name: path for name, path in found.items() if path.is_file()}
