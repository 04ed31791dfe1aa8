"""The guest's initramfs: the agent as /init, the kernel modules it loads, nothing else.

A cpio archive in the "newc" format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst,
uncompressed: the agent and a few modules are 2-3 MB, and unpacking them would cost more than reading them.
Deterministic: the same input gives the same bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class Module:
    """A kernel module: its file's name, and the uncompressed ELF object."""

    name: str
    data: bytes


class _Cpio:
    """Writes entries one after the other; every inode number is used once, as nothing is linked."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._inodes = 0

    def add(self, name: str, mode: int, data: bytes = b"", *, device: int = 0) -> None:
        self._inodes += 1
        path = os.fsencode(name) + b"\0"
        fields = (self._inodes, mode, 0, 0, 1, 0, len(data), 0, 0, os.major(device), os.minor(device), len(path), 0)
        self._bytes += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad(4)
        self._bytes += data
        self._pad(4)

    def finish(self) -> bytes:
        self.add(_TRAILER, 0)
        self._pad(_BLOCK)
        return bytes(self._bytes)

    def _pad(self, size: int) -> None:
        self._bytes += bytes(-len(self._bytes) % size)


def build(agent: bytes, modules: Sequence[Module]) -> bytes:
    """The archive.

    :param agent: a static executable.
    :param modules: in the order in which they have to be loaded.
    """
    archive = _Cpio()
    for directory in ("dev", "proc", "sys", "root", "modules"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    # The kernel opens it for init's standard streams before anything is mounted.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=os.makedev(5, 1))
    archive.add("init", stat.S_IFREG | 0o755, agent)
    for module in modules:
        archive.add(f"modules/{module.name}", stat.S_IFREG | 0o644, module.data)
    archive.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{module.name}\n" for module in modules).encode())
    return archive.finish()
