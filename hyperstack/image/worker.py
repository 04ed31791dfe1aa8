"""The process that turns one layer into one disk: `python -m hyperstack.image.worker SETTINGS`.

It starts with its files open, confines itself, and then parses what may be hostile. SETTINGS is a JSON object (see
`Settings`). It tells of itself on stdout, in lines of JSON (see `Report`): how many bytes of the blob it has read, and
at the end the outcome. Its exit code is 0 where an outcome was told.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from hyperstack.image import confine, tar
from hyperstack.image.compression import CompressionError, unpacked
from hyperstack.image.erofs.data import ImageTooBig
from hyperstack.image.erofs.writer import ErofsWriter
from hyperstack.image.layer import LayerBuilder, LayerError

_PROGRESS_STEP = 1 << 22
_TAR_OVERHEAD = 2
"""What a tar may have of headers, padding and holes beside the data, as a factor; what follows its end counts, too."""
_AHEAD = 8
"""Pieces that are unpacked ahead of the tar's reader."""


# Dataclasses and json, not msgspec: importing that would take a third of the time in which a small layer is done.
@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to do; the descriptors are inherited."""

    blob: int
    """Descriptor of the layer's tar, compressed or not, from its current offset to its end."""
    image: int
    spool: int
    """Descriptors of two empty files."""
    max_bytes: int
    max_entries: int
    memory: int
    """Bytes of address space."""
    cpu_seconds: int
    system_calls: str
    """The seccomp filter, in base64."""
    uid: int | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """One line of the worker's."""

    read: int = 0
    """Bytes of the blob that it has taken."""
    outcome: str = ""
    """"done", "refused" (the layer's fault), "full" (no space), "failed" (ours or the host's); empty: not yet."""
    message: str = ""
    diff_id: str = ""
    size: int = 0
    """Bytes of the disk image."""
    entries: int = 0
    unpacked: int = 0
    """Bytes of the plain tar."""


class _Unpacking:
    """Unpacks in a thread of its own (zlib and SHA-256 let others run meanwhile) and hands the pieces over."""

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit
        self._read = 0
        self._told = 0
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self.digest = hashlib.sha256()
        self.total = 0
        threading.Thread(target=self._run, daemon=True).start()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = self._queue.get()
            if isinstance(piece, BaseException):
                raise piece
            if not piece:
                return
            self.digest.update(piece)
            self.total += len(piece)
            if self.total > self._limit:
                raise LayerError(f"its tar is longer than {self._limit} bytes")
            yield piece

    def _run(self) -> None:
        try:
            for piece in unpacked(self._take):
                self._queue.put(piece)
            self._queue.put(b"")
        except (CompressionError, OSError, MemoryError) as error:
            self._queue.put(error)

    def _take(self, size: int) -> bytes:
        data = os.read(self._fd, size)
        self._read += len(data)
        if self._read - self._told >= _PROGRESS_STEP:
            self._told = self._read
            tell(Report(read=self._read))
        return data


def tell(report: Report) -> None:
    """One write, so that lines of two threads do not mix."""
    os.write(1, json.dumps(asdict(report)).encode() + b"\n")


def convert(settings: Settings) -> Report:
    """:raise ValueError: the layer is refused."""
    unpacking = _Unpacking(settings.blob, settings.max_bytes * _TAR_OVERHEAD)
    writer = ErofsWriter(settings.image, settings.spool, max_bytes=settings.max_bytes)
    builder = LayerBuilder(writer, max_entries=settings.max_entries)
    stream = tar.TarStream(iter(unpacking))
    builder.consume(stream)
    stream.drain()
    digest = unpacking.digest
    size = writer.finish(builder.root, digest.digest()[:16])
    return Report(outcome="done", diff_id=f"sha256:{digest.hexdigest()}", size=size, entries=builder.entries,
                  unpacked=unpacking.total)


def _outcome(settings: Settings) -> Report:
    try:
        return convert(settings)
    except (tar.TarError, LayerError, CompressionError, ImageTooBig) as error:
        return Report(outcome="refused", message=str(error))
    except MemoryError:
        return Report(outcome="refused", message=f"it needs more than {settings.memory} bytes of memory to unpack")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Report(outcome="full" if full else "failed", message=error.strerror or str(error))


def main() -> int:
    settings = Settings(**json.loads(sys.argv[1]))
    try:
        confine.confine(uid=settings.uid, memory=settings.memory, cpu_seconds=settings.cpu_seconds,
                        system_calls=base64.b64decode(settings.system_calls))
    except confine.ConfinementError as error:
        tell(Report(outcome="failed", message=str(error)))
        return 0
    report = _outcome(settings)
    tell(report)
    # The unpacking thread may wait for a reader that has gone; nothing is left to clean up.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
