"""What a machine has on the host besides its process: a directory with its sockets, control groups, last words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from hyperstack.hypervisor.qemu.cgroups import Cgroup

MONITOR_SOCKET = "qmp.sock"
AGENT_SOCKET = "agent.sock"

_LAST_WORDS_BYTES = 16_384


class Place:
    """Findable from the id alone, before, while and after the process exists."""

    def __init__(self, path: Path, cgroup: Cgroup) -> None:
        self.path = path
        self.cgroup = cgroup

    def open_directory(self) -> int:
        """A descriptor of the directory; the caller closes it. :raise FileNotFoundError: there is none."""
        return os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def exists(self) -> bool:
        return self.path.exists() or self.cgroup.exists()

    async def clear(self) -> None:
        """Kill what runs in it and remove it. Idempotent. :raise Unavailable: something does not go away."""
        await self.cgroup.destroy()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path)


def new_last_words() -> int:
    """A file for a VMM's standard error that a guest cannot fill the host with: memory of fixed size.

    Its writer gets an error once it is full, and QEMU does not care.
    """
    fd = os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _LAST_WORDS_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def adopt_last_words(pid: int) -> int:
    """The same file of a running VMM. :raise OSError: it is gone."""
    return os.open(f"/proc/{pid}/fd/2", os.O_RDONLY | os.O_CLOEXEC)


def read_last_words(fd: int) -> str:
    """Printable text on one line."""
    text = os.pread(fd, _LAST_WORDS_BYTES, 0).rstrip(b"\0").decode(errors="replace")
    return "; ".join(line.strip() for line in printable(text).splitlines() if line.strip())


def printable(text: str) -> str:
    """The text with control and other invisible characters replaced, line ends kept."""
    return "".join(char if char == "\n" or char.isprintable() else " " if char == "\t" else "\ufffd"
                   for char in text.replace("\r", ""))
