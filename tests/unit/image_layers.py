"""Layers for the image tests: tars made member by member, turned into disks, and read back with erofs-utils."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperstack.image import tar
from hyperstack.image.erofs.writer import ErofsWriter
from hyperstack.image.layer import LayerBuilder

MAX_BYTES = 1 << 30
MAX_ENTRIES = 10_000


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def make_tar(*members: Member, layout: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of that size, to have seams everywhere."""
    return (data[at:at + size] for at in range(0, len(data), size))


def make_disk(layer: bytes, path: Path, *, piece: int = 1 << 16, max_bytes: int = MAX_BYTES,
              max_entries: int = MAX_ENTRIES) -> LayerBuilder:
    """Write the layer's disk to `path`, in this process."""
    with path.open("w+b") as image, tempfile.TemporaryFile() as spool:
        writer = ErofsWriter(image.fileno(), spool.fileno(), max_bytes=max_bytes)
        builder = LayerBuilder(writer, max_entries=max_entries)
        builder.consume(tar.TarStream(cut(layer, piece)))
        writer.finish(builder.root, bytes(16))
    return builder


def check(disk: Path) -> None:
    """Have erofs-utils walk all of it; it ends with an error on the first inconsistency."""
    subprocess.run(["fsck.erofs", disk], check=True, capture_output=True)


def extract(disk: Path, target: Path) -> Path:
    subprocess.run(["fsck.erofs", f"--extract={target}", disk], check=True, capture_output=True)
    return target


def tree(root: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Every path below, with mode, owner, group, whole seconds of its time, and contents or link target."""
    found = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[path.relative_to(root).as_posix()] = (
            state.st_mode, state.st_uid, state.st_gid, int(state.st_mtime), content)
    return found
