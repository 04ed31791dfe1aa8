"""Empty ext4 disks, made in about a millisecond.

mke2fs formats one disk per size and layout, the few non-zero parts of it (about 200 KiB at 10 GiB) are remembered, and
every further disk is those parts written into a new sparse file. So all disks of a size carry one UUID: nothing looks a
disk up by it (a guest goes by the serial), and the host never mounts one.

The format: no reserved blocks, a journal that is small enough for a sparse file, all group metadata together
(`flex_bg`, few extents), inode tables declared as zeroed (a guest's kernel would else write zeros over every hole), no
`lost+found` (a database refuses a data directory that is not empty), and only features that kernels since 4.x mount.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperstack.pod.errors import Exhausted, InvalidArgument, Unavailable

MIN_SIZE = 16 << 20
"""Bytes. A journal is 4 MiB at least."""
MAX_SIZE = 8 << 40
"""Bytes. The largest file on an ext4 host is 16 TiB; half of it leaves its metadata some room."""

_BLOCK = 4096
_FEATURES = ("none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
             "dir_nlink,extra_isize")
_CHECKSUMS = {True: "metadata_csum", False: "uninit_bg"}
"""Of all metadata, or of what says which of it was never written. A container's start writes and reads a few hundred
blocks, whose checksums are a tenth of its instructions; what must last has them all."""
_BYTES_PER_INODE = {True: "16384", False: "32768"}
"""ext4's default, and half as many files: a mount goes through all inode tables that were never used."""
_CACHED_BYTES = 4 << 20
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class _Template:
    parts: tuple[tuple[int, bytes], ...]
    """Offset and bytes of all that is not zero."""


async def make_blank_disk(path: Path, size: int, *, directories: tuple[str, ...] = (), durable: bool = False) -> None:
    """A sparse raw disk with an empty ext4 at `path`, mode 0600; it appears whole or not at all.

    A disk that is there already is left as it is.

    :param size: bytes, rounded up to whole blocks of 4096.
    :param directories: made in the root of the file system, owner 0:0, mode 0755.
    :param durable: for data that must last: the disk outlives a crash of the host right after (costs a flush), and a
        guest that reads it notices damage.
    :raise InvalidArgument: the size is outside 16 MiB to 8 TiB.
    :raise Exhausted: no space.
    :raise Unavailable: mke2fs is missing or fails.
    """
    await asyncio.to_thread(_make, path, size, directories, durable)


def _make(path: Path, size: int, directories: tuple[str, ...], durable: bool) -> None:
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InvalidArgument(f"a disk of {size} bytes cannot be made", field="size", value=size,
                              hint="between 16 MiB and 8 TiB")
    if path.exists():
        return
    size = -(-size // _BLOCK) * _BLOCK
    part = path.with_name(path.name + ".part")
    try:
        template = _template(size, directories, durable)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, size)
            for offset, data in template.parts:
                _write_all(fd, data, offset)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        part.rename(path)
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise _explained(error, path, size) from error


def _explained(error: OSError, path: Path, size: int) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted(f"no space left in {path.parent} for a new disk", field="disk", value=str(path.parent),
                         hint="remove containers, volumes or images (`hyperctl image prune`), or give hyperd a larger "
                              "data directory")
    if error.errno == errno.EFBIG:
        return InvalidArgument(f"a file of {size} bytes is more than the file system of {path.parent} can hold",
                               field="size", value=size, hint="ask for a smaller disk")
    return error


def _template(size: int, directories: tuple[str, ...], checksums: bool) -> _Template:
    template = _remembered(size, directories, checksums)
    if sum(len(data) for _, data in template.parts) > _CACHED_BYTES:
        _remembered.cache_clear()
    return template


@functools.lru_cache(maxsize=8)
def _remembered(size: int, directories: tuple[str, ...], checksums: bool) -> _Template:
    with tempfile.TemporaryDirectory(prefix="hyperstack-blank-") as name:
        root = Path(name, "root")
        for directory in ("", *directories):
            (root / directory).mkdir(mode=0o755)
            (root / directory).chmod(0o755)
        image = Path(name, "disk")
        with image.open("wb") as file:
            file.truncate(size)
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-I", "256", "-i", _BYTES_PER_INODE[checksums],
             "-m", "0", "-G", "4096", "-J", f"size={16 if size >= 1 << 30 else 4}",
             "-O", f"{_FEATURES},{_CHECKSUMS[checksums]}",
             "-E", "assume_storage_prezeroed=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
             "-d", str(root), str(image))
        _run("debugfs", "-w", "-R", "rmdir lost+found", str(image))
        return _Template(tuple(_parts(image)))


def _run(*command: str) -> None:
    # Debian's mke2fs.conf may change; everything that matters is said in the arguments.
    environment = {**os.environ, "MKE2FS_CONFIG": os.devnull}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=_TIMEOUT_S)
    except FileNotFoundError:
        raise Unavailable(f"the {command[0]} command is missing", field=command[0],
                          hint="install it: apt install e2fsprogs") from None
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.decode("utf-8", "replace").split())[:300]
        if "No space left" in reason:
            raise OSError(errno.ENOSPC, reason) from error
        raise Unavailable(f"{command[0]} failed: {reason}", field=command[0]) from error
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} did not end within {_TIMEOUT_S:.0f} s", field=command[0]) from None


def _parts(image: Path) -> Iterator[tuple[int, bytes]]:
    """The non-zero blocks, adjacent ones together."""
    with image.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            file.seek(start)
            yield start, file.read(end - start)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
