"""Control groups of the machines, on hosts with cgroup v1, v2 or both (hybrid).

Every machine has a group of its own, ``<parent>/<id>``, in each hierarchy that carries a controller we need. The group
is made before the machine's process and removed after it, so it is also the record by which a restarted daemon finds
what runs: a process in ``<parent>/<id>`` is that machine, whatever its pid.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperstack.hypervisor.api import HostUsage
from hyperstack.pod.errors import Unavailable

log = logging.getLogger(__name__)

REQUIRED = frozenset({"memory", "pids"})
"""Without these a machine is not started: nothing else fences what a VMM in an attacker's hands takes of the host."""
WANTED = REQUIRED | {"cpu", "cpuacct"}

_HELPERS = "helpers"
_CPU_PERIOD_US = 100_000
_MIN_CPU_QUOTA_US = 1_000
"""The kernel's own lower bound."""
_REMOVE_ATTEMPTS = 100
_REMOVE_PAUSE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Limits:
    memory_bytes: int
    pids: int
    cpus: float = 0.0
    """0: no limit."""


@dataclass(frozen=True)
class Hierarchy:
    mount: Path
    version: int
    controllers: frozenset[str]
    """Those of `WANTED` that it carries."""


def parse_mounts(mountinfo: str) -> list[tuple[Path, int, frozenset[str]]]:
    """(mount point, cgroup version, v1 controllers) of each cgroup mount in the text of /proc/self/mountinfo."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        mount = Path(fields[4].encode().decode("unicode_escape"))
        controllers = frozenset(tail[2].split(",")) & WANTED if tail[0] == "cgroup" else frozenset()
        found.append((mount, 2 if tail[0] == "cgroup2" else 1, controllers))
    return found


def discover(mountinfo: str | None = None) -> list[Hierarchy]:
    """The hierarchies to use, each with its share of `WANTED`; a controller that v1 holds is not available in v2."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    hierarchies = []
    for mount, version, controllers in parse_mounts(text):
        if version == 2:
            with contextlib.suppress(OSError):
                controllers = frozenset((mount / "cgroup.controllers").read_text().split()) & WANTED
        if controllers:
            hierarchies.append(Hierarchy(mount, version, controllers))
    return hierarchies


def group_of(memberships: str, hierarchy: Hierarchy) -> str:
    """The group in that hierarchy, by the text of a process' /proc/PID/cgroup; "/" where it tells none."""
    for line in memberships.splitlines():
        names, _, path = line.partition(":")[2].partition(":")
        if (not names and hierarchy.version == 2) or hierarchy.controllers & set(names.split(",")):
            return path
    return "/"


class Cgroup:
    """One machine's group in every hierarchy."""

    def __init__(self, name: str, hierarchies: Iterable[Hierarchy]) -> None:
        self._places = [(hierarchy.mount / name, hierarchy) for hierarchy in hierarchies]

    def create(self, limits: Limits) -> None:
        """Make it and set its limits. :raise OSError: the kernel refuses."""
        for path, _ in self._places:
            path.mkdir(exist_ok=True)
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Set other limits. :raise OSError: the kernel refuses."""
        for path, hierarchy in self._places:
            for name, value in _settings(hierarchy, limits):
                (path / name).write_text(value)

    @contextlib.contextmanager
    def entrances(self) -> Iterator[list[int]]:
        """Open descriptors of each cgroup.procs; writing "0" to all of them moves the writer in."""
        with contextlib.ExitStack() as stack:
            fds = []
            for path, _ in self._places:
                fds.append(os.open(path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            yield fds

    @contextlib.contextmanager
    def helper_entrances(self) -> Iterator[list[int]]:
        """The same of a group within it, for processes that serve the machine and are not the machine."""
        with contextlib.ExitStack() as stack:
            fds = []
            for path, _ in self._places:
                (path / _HELPERS).mkdir(exist_ok=True)
                fds.append(os.open(path / _HELPERS / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
                stack.callback(os.close, fds[-1])
            yield fds

    def pids(self, below: str = "") -> set[int]:
        """Processes in any of its places."""
        found: set[int] = set()
        for path, _ in self._places:
            path = path / below
            with contextlib.suppress(OSError):
                found.update(int(word) for word in (path / "cgroup.procs").read_text().split())
        return found - {0}

    def exists(self) -> bool:
        return any(path.exists() for path, _ in self._places)

    def usage(self) -> HostUsage:
        """What the kernel counts; zeros for what it no longer or never counted."""
        values = {"memory": 0, "cpu": 0, "pids": 0}
        for path, hierarchy in self._places:
            if "memory" in hierarchy.controllers:
                values["memory"] = _number(path / _MEMORY_USAGE[hierarchy.version])
            if "pids" in hierarchy.controllers:
                values["pids"] = _number(path / "pids.current")
            if hierarchy.version == 2 and "cpu" in hierarchy.controllers:
                values["cpu"] = _keyed(path / "cpu.stat", "usage_usec") * 1_000
            elif hierarchy.version == 1 and "cpuacct" in hierarchy.controllers:
                values["cpu"] = _number(path / "cpuacct.usage")
        return HostUsage(memory_bytes=values["memory"], cpu_ns=values["cpu"], pids=values["pids"])

    def oom_kills(self) -> int:
        """How often the host's kernel killed in it for its memory limit."""
        return sum(_keyed(path / _OOM_FILE[hierarchy.version], "oom_kill")
                   for path, hierarchy in self._places if "memory" in hierarchy.controllers)

    async def destroy(self) -> None:
        """Kill every process in it, wait for their end, remove it. Idempotent.

        A process that was on its way into it either comes in time to be killed, or finds it gone and gives up.

        :raise Unavailable: a process does not die.
        """
        for _ in range(_REMOVE_ATTEMPTS):
            for below in ("", _HELPERS):
                for pid in self.pids(below):
                    self._kill_member(pid, below)
            left = [path for path, _ in self._places if not (_remove(path / _HELPERS) and _remove(path))]
            if not left:
                return
            await asyncio.sleep(_REMOVE_PAUSE_S)
        raise Unavailable(f"control group {self._places[0][0]} stays busy with processes {sorted(self.pids())}",
                          hint="the host's kernel holds them; see dmesg")

    def _kill_member(self, pid: int, below: str) -> None:
        """Through a descriptor that is known to mean a member, so that a reused pid is never hit."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if pid in self.pids(below):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


class CgroupParent:
    """The groups of all machines of one daemon."""

    def __init__(self, name: str, hierarchies: list[Hierarchy] | None = None) -> None:
        self._name = name
        self._hierarchies = discover() if hierarchies is None else hierarchies

    @property
    def missing(self) -> frozenset[str]:
        """Controllers of `REQUIRED` that this host does not offer."""
        return REQUIRED - frozenset().union(*(hierarchy.controllers for hierarchy in self._hierarchies))

    @property
    def flavour(self) -> str:
        """"v1", "v2" or "hybrid", as our controllers are spread."""
        versions = {hierarchy.version for hierarchy in self._hierarchies}
        return "hybrid" if len(versions) > 1 else f"v{versions.pop()}" if versions else "none"

    def prepare(self) -> None:
        """Make the parent. Idempotent. :raise Unavailable: a required controller is missing or cannot be used."""
        if self.missing:
            raise Unavailable(f"control group controllers are missing: {', '.join(sorted(self.missing))}",
                              hint="mount cgroup v2 at /sys/fs/cgroup with the memory and pids controllers")
        for hierarchy in self._hierarchies:
            parent = hierarchy.mount / self._name
            try:
                if hierarchy.version == 2:
                    _delegate(hierarchy.mount, hierarchy.controllers)
                parent.mkdir(exist_ok=True)
                if hierarchy.version == 2:
                    _delegate(parent, hierarchy.controllers)
            except OSError as error:
                raise Unavailable(f"control group {parent} cannot be prepared: {error.strerror}",
                                  hint="run the daemon as root, outside of a container") from error

    def wake(self) -> None:
        """Have the kernel ready to move processes between groups: the first move after a pause waits for a grace period
        (12 ms, measured), and those that follow within a moment do not (0.4 ms). Moves this process to where it is."""
        if self.missing:
            return  # `prepare` says so.
        any_of_them = self._hierarchies[0]
        own = group_of(Path("/proc/self/cgroup").read_text(), any_of_them)
        with contextlib.suppress(OSError):
            (any_of_them.mount / own.lstrip("/") / "cgroup.procs").write_text("0")

    def group(self, ident: str) -> Cgroup:
        return Cgroup(f"{self._name}/{ident}", self._hierarchies)

    def idents(self) -> set[str]:
        """Names of all groups that exist."""
        found: set[str] = set()
        for hierarchy in self._hierarchies:
            with contextlib.suppress(FileNotFoundError):
                found.update(entry.name for entry in os.scandir(hierarchy.mount / self._name) if entry.is_dir())
        return found

    def remove(self) -> None:
        """Remove the parent where no machine is left."""
        for hierarchy in self._hierarchies:
            with contextlib.suppress(OSError):
                (hierarchy.mount / self._name).rmdir()


_MEMORY_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
_OOM_FILE = {1: "memory.oom_control", 2: "memory.events"}


def _settings(hierarchy: Hierarchy, limits: Limits) -> Iterator[tuple[str, str]]:
    quota = max(_MIN_CPU_QUOTA_US, int(limits.cpus * _CPU_PERIOD_US)) if limits.cpus else None
    if "memory" in hierarchy.controllers:
        yield ("memory.max" if hierarchy.version == 2 else "memory.limit_in_bytes"), str(limits.memory_bytes)
    if "pids" in hierarchy.controllers:
        yield "pids.max", str(limits.pids)
    if "cpu" in hierarchy.controllers and hierarchy.version == 2:
        yield "cpu.max", f"{quota or 'max'} {_CPU_PERIOD_US}"
    elif "cpu" in hierarchy.controllers:
        yield "cpu.cfs_period_us", str(_CPU_PERIOD_US)
        yield "cpu.cfs_quota_us", str(quota or -1)


def _remove(path: Path) -> bool:
    """Whether it is gone; a process that is still dying holds it for a moment."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _delegate(path: Path, controllers: frozenset[str]) -> None:
    """Let children of a v2 group use the controllers."""
    enabled = set((path / "cgroup.subtree_control").read_text().split())
    for controller in sorted(controllers - enabled):
        (path / "cgroup.subtree_control").write_text(f"+{controller}")


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _keyed(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), 0)
