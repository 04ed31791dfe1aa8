"""Starts a QEMU through the jail, without a helper process and without the event loop's child watcher.

`posix_spawn` gives the child exactly the descriptors that are named, under the numbers that the command line names
them by, and an empty environment. The jail becomes QEMU by exec, so the pid that is returned is QEMU's.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

_MAX_FILES = 4096
"""QEMU's RLIMIT_NOFILE: a disk takes two descriptors, and an image may have 128 layers."""


class Descriptors:
    """Which of our descriptors the child gets, and under which numbers: 0 to 2, and then 3 upwards in order."""

    def __init__(self, *, stdin: int, stderr: int) -> None:
        self._sources = [stdin, stderr, stderr]

    def give(self, fd: int) -> int:
        self._sources.append(fd)
        return self.last

    @property
    def last(self) -> int:
        """The highest number given."""
        return len(self._sources) - 1

    def file_actions(self, stack: ExitStack) -> list[tuple[int, int, int]]:
        """For posix_spawn. Duplicates above all targets come first, lest one target overwrite another's source."""
        actions = []
        for number, source in enumerate(self._sources):
            parked = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, len(self._sources))
            stack.callback(os.close, parked)
            actions.append((os.POSIX_SPAWN_DUP2, parked, number))
        return actions


def spawn(jail: Path, *, uid: int, root: Path, kvm: bool, cgroups: Sequence[int], files: Sequence[tuple[str, Path]],
          descriptors: Descriptors, command: Sequence[str], fork: int | None = None) -> int:
    """Start `command` in the jail; its pid. Returns when the jail runs, not when QEMU does.

    :param cgroups: descriptors of the cgroup.procs to join.
    :param files: (path below `root`, absolute path of the file to be seen there).
    :param fork: the child's number of the socket by which it can be forked (preload/fork.c); it keeps the rights that
        this takes.
    :raise OSError: no memory, or no descriptors left.
    """
    last_kept = descriptors.last
    words = [str(jail), "--uid", str(uid), "--root", str(root), "--last-fd", str(last_kept),
             "--nofile", str(_MAX_FILES)]
    for fd in cgroups:
        words += ["--cgroup", str(descriptors.give(fd))]
    for target, source in files:
        words += ["--file", f"{target}:{source}"]
    if kvm:
        words.append("--kvm")
    if fork is not None:
        words += ["--fork", str(fork)]
    with ExitStack() as stack:
        return os.posix_spawn(jail, [*words, "--", *command], {}, file_actions=descriptors.file_actions(stack))
