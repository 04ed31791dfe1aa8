"""Named disks below one directory: `<id>.img`, a sparse raw file with an ext4.

A disk comes to its place by a rename and is removed by an unlink, so that a daemon that dies anywhere leaves a whole
disk, none, or a `.part` that the next `create` or `sweep` clears away.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from hyperstack.pod.errors import InvalidArgument, NotFound
from hyperstack.volume.api import DiskForm, Form, Volume
from hyperstack.volume.local.blank import make_blank_disk
from hyperstack.volume.local.options import parse_options

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\Z")


class LocalVolumes:
    """`VolumeBackend` on the host's own file system.

    :param root: made where it is missing, mode 0700. All in it belongs to this backend.
    """

    name = "local"

    def __init__(self, root: Path) -> None:
        self._root = root

    def form(self, options: Mapping[str, str]) -> Form:
        return parse_options(options)

    async def create(self, volume: Volume, *, options: Mapping[str, str]) -> None:
        """A volume that is there is left as it is."""
        form, path = parse_options(options), self._path(volume.id)
        if isinstance(form, DiskForm):
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            await make_blank_disk(path, form.size or volume.size, durable=True)

    def open(self, volume_id: str, *, read_only: bool = False) -> int:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        try:
            return os.open(self._path(volume_id), flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NotFound("volume", volume_id, hint="its disk is gone from the data directory") from None

    async def used(self, volume_id: str) -> int:
        """:raise NotFound: no such volume."""
        try:
            return (await asyncio.to_thread(self._path(volume_id).stat)).st_blocks * 512
        except FileNotFoundError:
            raise NotFound("volume", volume_id) from None

    async def remove(self, volume_id: str) -> None:
        path = self._path(volume_id)
        await asyncio.to_thread(lambda: path.unlink(missing_ok=True))

    async def sweep(self, known: Collection[str]) -> list[str]:
        wanted = {f"{volume_id}.img" for volume_id in known}
        return await asyncio.to_thread(self._sweep, wanted)

    def _sweep(self, wanted: Collection[str]) -> list[str]:
        removed = []
        for path in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            if path.name.endswith((".img", ".part")) and path.name not in wanted:
                path.unlink()
                removed.append(path.name)
        return removed

    def _path(self, volume_id: str) -> Path:
        """An id is never a path. :raise InvalidArgument: it could be one."""
        if not _ID.match(volume_id):
            raise InvalidArgument(f"invalid volume id: {volume_id[:64]!r}", field="volume", value=volume_id[:64])
        return self._root / f"{volume_id}.img"
