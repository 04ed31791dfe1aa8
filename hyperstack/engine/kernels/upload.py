"""A kernel that a client sends: a tar stream, read as hostile.

    image                   the kernel: an ELF vmlinux or a bzImage
    config                  its configuration; optional
    modules/NAME.ko         a module, also as .ko.xz, .ko.gz or .ko.zst; directories between are dropped
    modules/modules.builtin names of the drivers that it has built in; optional

Nothing else may be in it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from hyperstack.guest import vmlinux
from hyperstack.guest.kernel_check import Candidate, examine
from hyperstack.image.tar import DIRECTORY, REGULAR, Entry, TarError, TarStream
from hyperstack.pod.errors import InvalidArgument

MAX_BYTES = 2 << 30
"""Of the stream. Debian's generic kernel with all its modules has 400 MB."""
_MAX_FILES = 20_000
_MAX_IMAGE = 256 << 20
_MAX_MODULE = 64 << 20
_MAX_TEXT = 4 << 20
_CHUNK = 1 << 20
_MODULE = re.compile(rb"modules/(?:[^/\0]+/)*([\w-]{1,128}\.ko(?:\.xz|\.zst|\.gz)?)\Z")


async def receive(stream: AsyncIterator[bytes], spool: Path) -> None:
    """Write the stream to a file. :raise InvalidArgument: it is too long."""
    size = 0
    with spool.open("wb") as file:
        async for piece in stream:
            size += len(piece)
            if size > MAX_BYTES:
                raise InvalidArgument(f"the kernel's archive is longer than {MAX_BYTES} bytes", field="body")
            file.write(piece)


def read(spool: Path, work: Path) -> Candidate:
    """Unpack the archive into `work`, and check the kernel in it. It takes seconds: not for the event loop.

    :raise InvalidArgument: not such an archive, or the kernel lacks something; with everything that is missing.
    :raise Unavailable: see `vmlinux.extract`.
    """
    try:
        _unpack(spool, work)
    except TarError as error:
        raise InvalidArgument(f"the kernel's archive cannot be read: {error}", field="body") from error
    if not (work / "image").exists():
        raise InvalidArgument("the kernel's archive has no image", field="image")
    image = vmlinux.read((work / "image").read_bytes())
    if image.config is None and (work / "config").exists():
        image = replace(image, config=(work / "config").read_text(errors="replace"))
    return examine(image, work / "modules" if (work / "modules").exists() else None)


def _unpack(spool: Path, work: Path) -> None:
    with spool.open("rb") as file:
        archive = TarStream(iter(lambda: file.read(_CHUNK), b""))
        for count, entry in enumerate(archive):
            if count >= _MAX_FILES:
                raise InvalidArgument(f"the kernel's archive has more than {_MAX_FILES} files", field="body")
            if entry.kind != DIRECTORY:
                target, limit = _place(entry, work)
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(target, archive.pieces(entry.stored), entry.stored, limit)


def _place(entry: Entry, work: Path) -> tuple[Path, int]:
    """Where a file goes, and how long it may be. No part of a path is the client's but a checked file name."""
    name = entry.name.removeprefix(b"./")
    shown = name[:64].decode(errors="replace")
    if entry.kind != REGULAR or entry.extents is not None:
        raise InvalidArgument(f"the kernel's archive holds {shown!r}, which is no plain file", field="body",
                              value=shown)
    if name == b"image":
        return work / "image", _MAX_IMAGE
    if name == b"config":
        return work / "config", _MAX_TEXT
    if name == b"modules/modules.builtin":
        return work / "modules/modules.builtin", _MAX_TEXT
    if found := _MODULE.match(name):
        return work / "modules/kernel" / found[1].decode(), _MAX_MODULE
    raise InvalidArgument(f"the kernel's archive holds {shown!r}, which belongs to no kernel", field="body",
                          value=shown, hint="image, config, modules/*.ko and modules/modules.builtin do.")


def _write(target: Path, pieces: Iterator[memoryview], size: int, limit: int) -> None:
    if size > limit:
        raise InvalidArgument(f"{target.name} has {size} bytes, and {limit} are the most", field="body", value=size)
    with target.open("wb") as file:
        for piece in pieces:
            file.write(piece)
