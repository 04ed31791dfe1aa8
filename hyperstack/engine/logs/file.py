"""A container's output on the host: every byte once, whatever happens to the daemon.

Terms
    record      one chunk as it was received, with its time, and where both streams stand after it, in bytes and as to
                lines: whoever reads from the end sees that a stream which is quiet since has no line begun.
    life        one run of the container's main process; the offsets of its streams begin at 0 with it. A marker record
                begins a life.
    segment     one file of the log: `path`, then `path.1`, `path.2`...; numbers never change, and full ones may be
                packed, see `hyperstack.engine.logs.segments`. There is only the first unless a size limit is set.

The daemon is the only writer. What `append` has returned from is in the kernel's hands, hence safe from the death of
the daemon; a record that was half-written then is cut off by the next `open`, and the guest still has its bytes, as
they were not acknowledged. No fsync: when the host dies, the guest dies with it.

A record begins with a mark, random for each file and never shown to anybody, so that a container which writes what
looks like a record cannot mislead recovery. It ends with its size, so that a log can be read backwards.

Example
    log = LogFile.open(path)
    log.begin_life(time.time_ns())
    log.append(STDOUT, log.next_offset(STDOUT), b"hello\n", time.time_ns())
    async for lines in read_lines(log, tail=10): ...    # hyperstack.engine.logs.reader
    log.end_life()                                      # followers come to their end
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from hyperstack.engine.logs.segments import pack, remove_segment, segment_path, segments_of, unfinished
from hyperstack.pod.errors import Exhausted

logger = logging.getLogger(__name__)

STDOUT = 1
STDERR = 2
_MARKER = 0
"""Stream of the records that begin a life or a segment."""

_MAGIC = b"HSLOG\x00\x00\x01"
_MARK_SIZE = 8
FILE_HEADER_SIZE = len(_MAGIC) + _MARK_SIZE
_HEAD = struct.Struct("<8sIBB2xQIQQI")
"""mark, payload size, stream, streams between lines (a bit each), time, life, ends of stdout and stderr, CRC-32 of all
before it and of the payload"""
_TAIL = struct.Struct("<I")
OVERHEAD = _HEAD.size + _TAIL.size
_MAX_PAYLOAD = 1 << 20
_BLOCK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LogPosition(NamedTuple):
    """A place between two records."""

    segment: int
    offset: int


class Stored(NamedTuple):
    """A record as it is stored."""

    stream: int
    time_ns: int
    life: int
    ends: tuple[int, int]
    """Where stdout and stderr stand after it."""
    between: tuple[bool, bool]
    """Whether stdout and stderr are known to have no line begun after it."""
    data: bytes
    size: int
    """In the file."""


def decode_record(buffer: bytes, start: int, mark: bytes) -> Stored | None:
    """The record at `start`; None where there is no whole and sound one."""
    if start < 0 or len(buffer) - start < OVERHEAD:
        return None
    found, size, stream, between, time_ns, life, stdout_end, stderr_end, checksum = _HEAD.unpack_from(buffer, start)
    payload = start + _HEAD.size
    if found != mark or size > _MAX_PAYLOAD or len(buffer) - payload < size + _TAIL.size:
        return None
    data = buffer[payload:payload + size]
    if _TAIL.unpack_from(buffer, payload + size) != (size,):
        return None
    if zlib.crc32(data, zlib.crc32(buffer[start:payload - 4])) != checksum:
        return None
    return Stored(stream, time_ns, life, (stdout_end, stderr_end), (bool(between & 1), bool(between & 2)), data,
                  size + OVERHEAD)


def decode_record_before(buffer: bytes, end: int, mark: bytes) -> Stored | None:
    """The record that ends at `end`; None where there is no whole and sound one."""
    if end < OVERHEAD:
        return None
    (size,) = _TAIL.unpack_from(buffer, end - _TAIL.size)
    record = decode_record(buffer, end - OVERHEAD - size, mark)
    return record if record and len(record.data) == size else None


def _encode(mark: bytes, stream: int, time_ns: int, life: int, ends: tuple[int, int], between: tuple[bool, bool],
            data: bytes | memoryview) -> tuple[bytes, bytes]:
    """What stands before and behind the payload."""
    head = _HEAD.pack(mark, len(data), stream, between[0] | between[1] << 1, time_ns, life, *ends, 0)[:-4]
    return head + zlib.crc32(data, zlib.crc32(head)).to_bytes(4, "little"), _TAIL.pack(len(data))


def read_mark(fd: int) -> bytes | None:
    """A segment's mark; None where it is no segment."""
    header = os.pread(fd, FILE_HEADER_SIZE, 0)
    return header[len(_MAGIC):] if len(header) == FILE_HEADER_SIZE and header.startswith(_MAGIC) else None


class LogFile:
    """Made by `open`. Belongs to one event loop; readers are in `hyperstack.engine.logs.reader`."""

    def __init__(self, path: Path, segments: list[int], max_size: int, max_files: int, compress: bool) -> None:
        self.path = path
        self.life = 0
        """Number of the newest life; 0 before the first."""
        self.live = False
        """Whether more output may come in this life."""
        self._ends = [0, 0]
        self._between = [True, True]
        self._segments = segments
        self._max_size = max_size
        self._max_files = max_files
        self._compress = compress
        self._packing: asyncio.Future[None] | None = None
        self._fd = -1
        self._mark = b""
        self._size = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, max_size: int = 0, max_files: int = 1, compress: bool = False) -> LogFile:
        """The log at `path`, which need not exist; nothing is made before something is written.

        :param max_size: bytes of one segment, some more for its last record; 0 for no limit.
        :param max_files: segments that are kept, with `max_size`.
        :param compress: pack full ones, in a thread; for a log that is written within an event loop.
        :raise OSError: it cannot be read, or a half-written record cannot be cut off.
        """
        log = cls(path, segments_of(path), max_size, max(1, max_files), compress)
        while log._segments and not log._recover(log._segments[-1]):
            logger.error("%s holds no log record and is removed", log.segment_path(log._segments[-1]))
            log.segment_path(log._segments.pop()).unlink()
        return log

    @staticmethod
    def remove(path: Path) -> None:
        """Delete the log and all its segments, where they exist."""
        for segment in segments_of(path):
            remove_segment(path, segment)
        unfinished(path).unlink(missing_ok=True)

    def next_offset(self, stream: int) -> int:
        """Of the first byte of the stream, in this life, that the log lacks."""
        return self._ends[stream - STDOUT]

    def begin_life(self, time_ns: int) -> LogPosition:
        """The process is about to start: offsets begin at 0 again. Returns where its output will begin.

        :raise Exhausted: no space on the host.
        """
        self._write(_MARKER, time_ns, self.life + 1, (0, 0), (True, True), b"")
        self.life += 1
        self._ends = [0, 0]
        self._between = [True, True]
        self.live = True
        self._notify()
        return self.end

    def resume_life(self) -> None:
        """The process outlived the daemon: the newest life goes on."""
        self.live = True
        self._notify()

    def end_life(self) -> None:
        """All output of this life is in the log. Idempotent."""
        self.live = False
        self._notify()

    def append(self, stream: int, offset: int, data: bytes, time_ns: int) -> None:
        """Store what the log lacks of `data`.

        :param offset: of its first byte in the stream's life.
        :raise ValueError: bytes before it are missing.
        :raise Exhausted: no space on the host; the log is as before.
        """
        place = stream - STDOUT
        known = self._ends[place]
        if offset > known:
            raise ValueError(f"{self.path}: stream {stream} continues at {known}, not at {offset}")
        rest = memoryview(data)[known - offset:]
        try:
            while rest:
                chunk, rest = rest[:_MAX_PAYLOAD], rest[_MAX_PAYLOAD:]
                ends, between = list(self._ends), list(self._between)
                ends[place] += len(chunk)
                between[place] = chunk[-1] == ord("\n")
                self._write(stream, time_ns, self.life, (ends[0], ends[1]), (between[0], between[1]), chunk)
                self._ends, self._between = ends, between
        finally:
            self._notify()

    @property
    def start(self) -> LogPosition:
        """Of the oldest record that is kept."""
        return LogPosition(self._segments[0] if self._segments else 0, FILE_HEADER_SIZE)

    @property
    def end(self) -> LogPosition:
        """Behind the newest record."""
        return LogPosition(self._segments[-1], self._size) if self._segments else self.start

    @property
    def closed(self) -> bool:
        return self._closed

    def segment_path(self, segment: int) -> Path:
        return segment_path(self.path, segment)

    async def changed(self) -> None:
        """Wait until something is appended, a life begins or ends, or the log is closed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def close(self) -> None:
        """Followers come to their end. Idempotent."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._notify()

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- writing ---

    def _write(self, stream: int, time_ns: int, life: int, ends: tuple[int, int], between: tuple[bool, bool],
               data: bytes | memoryview) -> None:
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        try:
            self._make_room(time_ns)
            head, tail = _encode(self._mark, stream, time_ns, life, ends, between, data)
            wanted = len(head) + len(data) + len(tail)
            written = os.pwritev(self._fd, [head, data, tail], self._size)
            if written < wanted:
                os.ftruncate(self._fd, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if error.errno in _FULL:
                raise Exhausted(f"Cannot write the log {self.path}: {error.strerror}", field="log",
                                value=str(self.path), hint="Free space on the host.") from error
            raise
        self._size += wanted

    def _make_room(self, time_ns: int) -> None:
        """A segment to write to, open and below its limit."""
        if not self._segments:
            self._new_segment(0, time_ns)
        elif self._max_size and self._size >= self._max_size:
            self._new_segment(self._segments[-1] + 1, time_ns)
            while len(self._segments) > self._max_files:
                remove_segment(self.path, self._segments.pop(0))
            self._pack()
        elif self._fd < 0:
            self._fd = os.open(self.segment_path(self._segments[-1]), os.O_WRONLY | os.O_CLOEXEC)

    def _new_segment(self, segment: int, time_ns: int) -> None:
        """Begins with a record of where the streams stand, and appears under its name complete."""
        mark = os.urandom(_MARK_SIZE)
        head, tail = _encode(mark, _MARKER, time_ns, self.life, (self._ends[0], self._ends[1]),
                             (self._between[0], self._between[1]), b"")
        first = _MAGIC + mark + head + tail
        half = unfinished(self.path)
        fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, first) < len(first):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            half.rename(self.segment_path(segment))
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                half.unlink()
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._mark, self._size = fd, mark, len(first)
        self._segments.append(segment)

    def _pack(self) -> None:
        """The full segments, where nobody is at it: the next full one finds those that come meanwhile."""
        if not self._compress or self._packing is not None:
            return

        def packed(done: asyncio.Future[None]) -> None:
            self._packing = None
            if not done.cancelled() and (error := done.exception()) is not None:
                logger.warning("%s: full segments stay as they are: %s", self.path, error)
            for segment in full:
                if segment not in self._segments:  # dropped meanwhile
                    remove_segment(self.path, segment)

        full = self._segments[:-1]
        self._packing = asyncio.get_running_loop().run_in_executor(None, pack, self.path, full)
        self._packing.add_done_callback(packed)

    # --- recovery ---

    def _recover(self, segment: int) -> bool:
        """Learn where the log stands from its last whole record, and cut off what follows it."""
        fd = os.open(self.segment_path(segment), os.O_RDWR | os.O_CLOEXEC)
        try:
            mark = read_mark(fd)
            if mark is None:
                return False
            size = os.fstat(fd).st_size
            found = _last_record(fd, mark, size)
            if found is None:
                return False
            end, record = found
            if end < size:
                logger.warning("%s: cut off %d bytes of an unfinished record", self.segment_path(segment), size - end)
                os.ftruncate(fd, end)
        finally:
            os.close(fd)
        self._mark, self._size = mark, end
        self.life = record.life
        self._ends = list(record.ends)
        self._between = list(record.between)
        return True


def _last_record(fd: int, mark: bytes, size: int) -> tuple[int, Stored] | None:
    """The last sound record and where it ends."""
    largest = _MAX_PAYLOAD + OVERHEAD
    tail = os.pread(fd, largest, max(0, size - largest))
    if record := decode_record_before(tail, len(tail), mark):
        return size, record
    high = size
    while high > FILE_HEADER_SIZE:
        low = max(FILE_HEADER_SIZE, high - _BLOCK)
        block = os.pread(fd, high - low + largest, low)
        at = high - low
        while (at := block.rfind(mark, 0, at + len(mark) - 1)) >= 0:
            if record := decode_record(block, at, mark):
                return low + at + record.size, record
        high = low
    return None
