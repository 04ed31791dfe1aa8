"""The content store: blobs under their digests, and the partial files of downloads that are not through.

    blobs/sha256/ab/ab12...    whole and verified, whoever sees it may trust it
    partial/<hex>.<source>     what arrived so far, from one source: one registry cannot spoil another's partial
    tmp/                       half-made files, emptied at every start

A blob becomes visible by a rename after its bytes are on the disk (fsync), and the name is on the disk before the index
knows of it. Only our own digest text ever becomes a file name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperstack.image.digest import hexadecimal, is_digest
from hyperstack.pod.errors import Exhausted

_FAN_OUT = 2
"""Digits of a digest that name its directory."""


class BlobStore:
    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs" / "sha256"
        self._partial = root / "partial"
        self.tmp = root / "tmp"

    def open(self) -> None:
        """Make the directories; remove what a predecessor left half-made, but keep partial downloads."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        for directory in (self._blobs, self._partial, self.tmp):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        name = hexadecimal(digest)
        return self._blobs / name[:_FAN_OUT] / name

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def partial(self, digest: str, source: str) -> Path:
        """Where a download of the blob from that source collects its bytes."""
        return self._partial / f"{hexadecimal(digest)}.{hashlib.sha256(source.encode()).hexdigest()[:16]}"

    def temporary(self) -> Path:
        """A new empty file."""
        fd, name = tempfile.mkstemp(dir=self.tmp)
        os.close(fd)
        return Path(name)

    def adopt(self, path: Path, digest: str) -> None:
        """The verified file becomes the blob; for a thread, since it waits for the disk."""
        target = self.path(digest)
        made = not target.parent.exists()
        target.parent.mkdir(exist_ok=True, mode=0o700)
        publish(path, target)
        if made:
            sync_directory(self._blobs)

    def put(self, data: bytes, digest: str) -> None:
        """A small blob whose digest the caller has computed."""
        if not self.has(digest):
            path = self.temporary()
            path.write_bytes(data)
            self.adopt(path, digest)

    def read(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def remove(self, digest: str) -> int:
        """Returns the bytes freed."""
        return discard(self.path(digest))

    def all_digests(self) -> Iterator[str]:
        for path in self._blobs.glob("*/*"):
            if is_digest(f"sha256:{path.name}"):
                yield f"sha256:{path.name}"

    def partials(self) -> list[Path]:
        return list(self._partial.iterdir())


@contextmanager
def full_disk_told(root: Path, what: str) -> Iterator[None]:
    """:raise Exhausted: in place of the file system's or SQLite's words for a full disk."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = (error.sqlite_errorcode == sqlite3.SQLITE_FULL if isinstance(error, sqlite3.OperationalError)
                else error.errno in (errno.ENOSPC, errno.EDQUOT))
        if not full:
            raise
        raise Exhausted(f"no space left on the disk for the {what}", field="disk", value=str(root),
                        hint="free some, e.g. with `hyperctl image prune`, and try again; a pull resumes") from error


def publish(path: Path, target: Path) -> None:
    """Rename with the bytes on the disk before and the name after; read-only from now on."""
    with path.open("rb") as file:
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
    path.rename(target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def discard(path: Path) -> int:
    """Remove a file; the bytes that it took, 0 where it is gone already."""
    try:
        size = path.stat().st_blocks * 512
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
