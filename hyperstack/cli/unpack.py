"""Files of a container, written to this host.

The archive comes from a guest, which may lie: a path with `..`, a link and then a file through it, a device, a
setuid program. So nothing is opened by path: each directory is opened below the one before it, never through a link,
and files are created, never followed.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import PurePosixPath
from typing import IO, cast

from hyperstack.cli.errors import CliError

_CHUNK = 256 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLAIN_MODE = 0o777
"""Without --archive no setuid, setgid or sticky bit comes over: root copies from guests, too."""


class ChunkReader(RawIOBase):
    """An iterable of bytes as a file that can be read forward."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""
        self.total = 0
        """Bytes read so far."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        while size != 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
            if not self._rest:
                break
            piece = self._rest if size < 0 else self._rest[:size]
            self._rest = self._rest[len(piece):]
            size -= len(piece) if size > 0 else 0
            parts.append(piece)
        data = b"".join(parts)
        self.total += len(data)
        return data


def unpack(chunks: Iterable[bytes], directory: str, rename: str | None, *, archive: bool = False) -> int:
    """Extract below an existing directory.

    :param rename: name that the archive's top entry gets; None: the top entry is the directory itself.
    :param archive: keep owners and special permission bits.
    :return: bytes of the archive.
    :raise CliError: the archive is broken or hostile, or a file cannot be written.
    """
    reader = ChunkReader(chunks)
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|", bufsize=_CHUNK) as tar:
                _Extraction(tar, root, rename, archive=archive).run()
        finally:
            os.close(root)
    except tarfile.TarError as error:
        raise CliError(f"the container sent a broken archive: {error}") from error
    except OSError as error:
        raise CliError(f"cannot write {error.filename or directory}: {error.strerror}") from error
    return reader.total


class _Extraction:
    def __init__(self, tar: tarfile.TarFile, root: int, rename: str | None, *, archive: bool) -> None:
        self._tar = tar
        self._root = root
        self._rename = rename
        self._archive = archive
        self._top: str | None = None
        self._directories: list[tuple[tuple[str, ...], tarfile.TarInfo]] = []

    def run(self) -> None:
        for member in self._tar:
            parts = self._place(member.name)
            if parts or member.isdir():
                self._extract(member, parts)
        for parts, member in reversed(self._directories):  # a read-only directory could not be filled
            with self._parent((*parts, ".")) as (parent, _):
                self._finish(member, parent, ".")

    def _place(self, name: str) -> tuple[str, ...]:
        """Where an entry goes, below the root; the first one names the top."""
        parts = tuple(part for part in PurePosixPath(name).parts if part not in ("/", "."))
        if ".." in parts or any("\0" in part for part in parts):
            raise CliError(f"the container sent an archive with an unsafe path: {name!r}")
        if self._top is None:
            self._top = parts[0] if parts else ""
        if self._top and parts[:1] != (self._top,):
            raise CliError(f"the container sent an archive with two tops: {self._top!r} and {name!r}")
        inside = parts[1:] if self._top else parts
        return inside if self._rename is None else (self._rename, *inside)

    def _extract(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        if member.isdir():
            self._directories.append((parts, member))
            if not parts:
                return
        with self._parent(parts) as (parent, name):
            if member.isdir():
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=parent)
                return
            if not (member.isreg() or member.issym() or member.islnk()):
                return  # a device, pipe or socket of a guest means nothing on this host
            _clear(parent, name)
            if member.issym():
                os.symlink(member.linkname, name, dir_fd=parent)
            elif member.islnk():
                self._link(member, parent, name)
                return
            else:
                self._file(member, parent, name)
            self._finish(member, parent, name)

    def _file(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        source = self._tar.extractfile(member)
        assert source is not None  # it is a regular file
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                             dir_fd=parent)
        with open(descriptor, "wb") as target:
            left = member.size
            while left:
                data = source.read(min(left, _CHUNK))
                if not data:
                    raise CliError(f"the container's archive ends in the middle of {member.name!r}")
                target.write(data)
                left -= len(data)

    def _link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        with self._parent(self._place(member.linkname)) as (other, existing):
            os.link(existing, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)

    def _finish(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        """Owner, permissions and time, in the order that keeps setuid bits."""
        if self._archive:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            os.chmod(name, member.mode & (0o7777 if self._archive else _PLAIN_MODE), dir_fd=parent)
        with suppress(OverflowError):
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    @contextmanager
    def _parent(self, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        """(descriptor of the directory, last name); directories that the archive did not mention are made."""
        if not parts:
            raise CliError("the container sent an archive with a link to its own top")
        here = os.dup(self._root)
        try:
            for part in parts[:-1]:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                below = os.open(part, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            yield here, parts[-1]
        finally:
            os.close(here)


def _clear(parent: int, name: str) -> None:
    """Make room for a file; a directory that is in the way stays, and is an error."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise CliError(f"cannot overwrite directory {name!r} with a file")
    os.unlink(name, dir_fd=parent)
