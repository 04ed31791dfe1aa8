"""The volume door: named file systems that containers share.

What a volume is, its options say (`VolumeBackend.form`):

    DiskForm     a disk with a file system, which outlives containers. The engine attaches its descriptor to a pod's
                 machine and the agent mounts it; the host's kernel never mounts what a tenant wrote.
    MemoryForm   a tmpfs in a pod's machine, there as long as a container uses it. Nothing of it is on the host.
    HostForm     a directory of the host. Who may have it is the engine's to say; it is served as binds are.

Lifecycle: create -> open (a disk's; any number of times, one machine at a time unless read-only) -> remove. All
idempotent, and for what has no disk there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Volume:
    id: str
    """Stable and unique on the host (not the name: two projects may use the same name)."""
    name: str
    project: str
    size: int
    """Limit in bytes where its options name none; the disk is sparse."""


@dataclass(frozen=True, kw_only=True)
class DiskForm:
    size: int = 0
    """Bytes; 0: the volume's own."""


@dataclass(frozen=True, kw_only=True)
class MemoryForm:
    size: int = 0
    """Bytes; 0: half of the machine's memory."""
    files: int = 0
    """How many there may be; 0: as many as the kernel finds right for its memory."""
    mode: int = 0o1777
    uid: int = 0
    gid: int = 0
    flags: tuple[str, ...] = ()
    """Of each mount: ro, noexec, nosuid, nodev, noatime."""


@dataclass(frozen=True, kw_only=True)
class HostForm:
    path: str
    """Absolute, normalized."""
    recursive: bool = False
    """With what the host has mounted below it."""
    flags: tuple[str, ...] = ()


Form = DiskForm | MemoryForm | HostForm


class VolumeBackend(Protocol):
    name: str

    def form(self, options: Mapping[str, str]) -> Form:
        """What a volume with these options is.

        :raise InvalidArgument: one is unknown, missing or malformed. :raise UnsupportedOption: names the option.
        """

    async def create(self, volume: Volume, *, options: Mapping[str, str]) -> None:
        """Make it; a disk with an empty ext4. :raise Exhausted: no space. :raise InvalidArgument: see `form`."""

    def open(self, volume_id: str, *, read_only: bool = False) -> int:
        """A descriptor of its disk; the caller closes it. :raise NotFound: no such volume, or it has no disk."""

    async def used(self, volume_id: str) -> int:
        """Bytes its disk takes on the host. :raise NotFound: as `open`."""

    async def remove(self, volume_id: str) -> None: ...

    async def sweep(self, known: Collection[str]) -> list[str]:
        """Remove what no known id names; returns what was removed."""
