"""The files of a log: their names, and full ones packed with gzip.

A segment is at `path`, `path.1`, `path.2`...; packed, it is at `path.N.gz`. Packing leaves one or the other at every
instant, and readers that have the plain file open go on with it.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

_NUMBER = re.compile(r"([0-9]+)(\.gz)?\Z", re.ASCII)
_LEVEL = 6


def segment_path(path: Path, segment: int) -> Path:
    """Of the plain file."""
    return path.with_name(f"{path.name}.{segment}") if segment else path


def unfinished(path: Path) -> Path:
    """A segment on its way to its name."""
    return path.with_name(f"{path.name}.new")


def segments_of(path: Path) -> list[int]:
    """Numbers of the segments that exist, plain or packed, oldest first."""
    found = {0} if path.exists() else set()
    if path.parent.exists():
        prefix = f"{path.name}."
        for entry in path.parent.iterdir():
            if entry.name.startswith(prefix) and (match := _NUMBER.match(entry.name.removeprefix(prefix))):
                found.add(int(match[1]))
    return sorted(found)


def open_segment(path: Path, segment: int) -> int:
    """A descriptor to read it; of a packed one, of a nameless copy. Blocks. :raise FileNotFoundError: it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(segment_path(path, segment), os.O_RDONLY | os.O_CLOEXEC)
    with gzip.open(_packed(path, segment)) as packed, tempfile.TemporaryFile(dir=path.parent) as plain:
        shutil.copyfileobj(packed, plain)
        plain.flush()
        return os.dup(plain.fileno())


def pack(path: Path, segments: Iterable[int]) -> None:
    """Pack those that are plain. Blocks. :raise OSError: no space; what was plain is so still."""
    for segment in segments:
        plain, packed = segment_path(path, segment), _packed(path, segment)
        half = _half(path, segment)
        with contextlib.suppress(FileNotFoundError), plain.open("rb") as source:
            try:
                with half.open("wb") as target, gzip.GzipFile("", "wb", _LEVEL, target, 0) as writer:
                    shutil.copyfileobj(source, writer)
                half.rename(packed)
            except BaseException:
                half.unlink(missing_ok=True)
                raise
            plain.unlink(missing_ok=True)


def remove_segment(path: Path, segment: int) -> None:
    """Idempotent."""
    for file in (segment_path(path, segment), _packed(path, segment), _half(path, segment)):
        file.unlink(missing_ok=True)


def _packed(path: Path, segment: int) -> Path:
    return path.with_name(f"{path.name}.{segment}.gz")


def _half(path: Path, segment: int) -> Path:
    """A packed one on its way to its name."""
    return path.with_name(f"{path.name}.{segment}.gz.new")
