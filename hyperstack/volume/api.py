"""The volume door: named disks that outlive containers.

A volume is a file system on a block device of its own. The engine attaches its descriptor to the pod's machine and the
agent mounts it; the host's kernel never mounts what a tenant wrote.

Lifecycle: create -> open (any number of times, one machine at a time unless read-only) -> remove. All idempotent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Volume:
    id: str
    """Stable and unique on the host (not the name: two projects may use the same name)."""
    name: str
    project: str
    size: int
    """Limit in bytes; the disk is sparse."""


class VolumeBackend(Protocol):
    name: str

    async def create(self, volume: Volume, *, options: dict[str, str]) -> None:
        """Make it, with an empty ext4. :raise Exhausted: no space. :raise UnsupportedOption: names the option."""

    def open(self, volume_id: str, *, read_only: bool = False) -> int:
        """A descriptor of its disk; the caller closes it. :raise NotFound: no such volume."""

    async def used(self, volume_id: str) -> int:
        """Bytes it takes on the host."""

    async def remove(self, volume_id: str) -> None: ...

    async def sweep(self, known: Collection[str]) -> list[str]:
        """Remove what no known id names; returns what was removed."""
