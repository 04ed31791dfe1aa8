"""Reading a container's log, as chunks or as lines, from the start, from the end, and as it grows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Collection, Iterator
from pathlib import Path

from hyperstack.engine.logs.file import (
    FILE_HEADER_SIZE,
    STDERR,
    STDOUT,
    LogFile,
    LogPosition,
    Stored,
    decode_record,
    decode_record_before,
    read_mark,
)
from hyperstack.engine.logs.segments import open_segment
from hyperstack.engine.records import LogRecord

logger = logging.getLogger(__name__)

BOTH = frozenset({STDOUT, STDERR})
LINE_LIMIT = 16384
"""Bytes of one line record; longer lines are cut, as Docker does."""

_BATCH = 2048
"""Lines that are handed on together: each step of the way costs more than a line does."""
_BLOCK = 256 << 10
_MAX_BLOCK = 2 << 20
"""More than the largest record."""


def read_chunks(log: LogFile, *, start: LogPosition | None = None, streams: Collection[int] = BOTH,
                follow: bool = False, life: int | None = None) -> AsyncGenerator[LogRecord, None]:
    """Output as it was received.

    :param start: a position that the log gave; None for the oldest record.
    :param follow: go on with what is appended until the life ends (or the next begins, or the log is closed).
    :param life: with `follow`, which one it is; it may not have begun yet. None: the newest.
    """
    if life is None:
        life = log.life
    return _chunks(_scan(log, start or log.start, None if follow else log.end, life, 0), streams)


async def _chunks(stored: AsyncGenerator[Stored, None], streams: Collection[int]) -> AsyncGenerator[LogRecord, None]:
    async with contextlib.aclosing(stored):
        async for record in stored:
            if record.stream in streams:
                yield LogRecord(time_ns=record.time_ns, stream=record.stream, data=record.data)


def read_lines(log: LogFile, *, streams: Collection[int] = BOTH, since_ns: int = 0, until_ns: int = 0,
               tail: int | None = None, follow: bool = False) -> AsyncGenerator[list[LogRecord], None]:
    """One record per line, with its line feed (the last may lack it), in the order in which lines were completed; the
    time is that of the chunk in which the line began. Lines above `LINE_LIMIT` come in several records. Some records
    come at a time, none is empty.

    :param since_ns, until_ns: bounds of the records' times, 0 for none.
    :param tail: so many of the newest records (counted before the bounds are applied), then what follows them.
    :param follow: as for `read_chunks`.
    """
    return _newest_lines(log, frozenset(streams), since_ns, until_ns, tail, follow, log.life, log.end)


async def _newest_lines(log: LogFile, streams: frozenset[int], since_ns: int, until_ns: int, tail: int | None,
                        follow: bool, life: int, end: LogPosition) -> AsyncGenerator[list[LogRecord], None]:
    start, headless, surplus = log.start, frozenset[int](), 0
    if tail is not None:
        start, headless = await asyncio.to_thread(_find_tail, log, start, end, streams, tail)
        async with contextlib.aclosing(_lines(_scan(log, start, end, life, 0), streams, headless, 0)) as lines:
            surplus = sum([len(batch) async for batch in lines]) - tail
    stored = _scan(log, start, None if follow else end, life, until_ns)
    async with contextlib.aclosing(_lines(stored, streams, headless, until_ns)) as lines:
        async for batch in lines:
            wanted = batch[surplus:] if surplus > 0 else batch
            surplus -= len(batch)
            if since_ns:
                wanted = [line for line in wanted if line.time_ns >= since_ns]
            if wanted:
                yield wanted


async def _lines(stored: AsyncGenerator[Stored, None], streams: frozenset[int], headless: frozenset[int],
                 until_ns: int) -> AsyncGenerator[list[LogRecord], None]:
    joiner = _Joiner(streams, headless)
    async with contextlib.aclosing(stored):
        async for record in stored:
            if until_ns and record.time_ns > until_ns:
                break
            for batch in joiner.add(record):
                yield batch
    if last := joiner.flush():
        yield last


async def _scan(log: LogFile, start: LogPosition, end: LogPosition | None, life: int, until_ns: int
                ) -> AsyncGenerator[Stored, None]:
    """Records from `start` to `end`; without `end`, to the end of `life`, waiting for it until `until_ns` (0: long)."""
    segment, offset = max(start, log.start)
    while end is None or (segment, offset) < end:
        try:
            fd = await _open(log, segment)
        except FileNotFoundError:
            # Rotated away before it was read, or not written yet.
            if segment < log.start.segment:
                segment, offset = log.start
            elif end is not None or not await _more(log, life, until_ns):
                return
            continue
        try:
            mark = read_mark(fd)
            if mark is None:
                return
            while True:
                limit = log.end.offset if segment == log.end.segment else os.fstat(fd).st_size
                if end and segment == end.segment:
                    limit = end.offset
                if offset < limit:
                    async for record in _read(fd, offset, limit, mark):
                        offset += record.size
                        if end is None and record.life > life:
                            return
                        yield record
                    if offset < limit:
                        logger.error("%s is damaged at %d", log.segment_path(segment), offset)
                        break
                elif segment < log.end.segment:
                    break
                elif end is not None or not await _more(log, life, until_ns):
                    return
        finally:
            os.close(fd)
        segment, offset = max(LogPosition(segment + 1, FILE_HEADER_SIZE), log.start)


async def _open(log: LogFile, segment: int) -> int:
    """A plain file is opened at once; a packed one by a thread. :raise FileNotFoundError: it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(log.segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
    return await asyncio.to_thread(open_segment, log.path, segment)


async def _more(log: LogFile, life: int, until_ns: int) -> bool:
    """Wait for the log to change; False where nothing can come for a reader of `life`."""
    if log.closed or log.life > life or (log.life == life and not log.live):
        return False
    try:
        async with asyncio.timeout(max(0, until_ns - time.time_ns()) / 1e9 if until_ns else None):
            await log.changed()
    except TimeoutError:
        return False
    return True


async def _read(fd: int, offset: int, limit: int, mark: bytes) -> AsyncGenerator[Stored, None]:
    """The records between two offsets, as far as they are sound."""
    size = _BLOCK
    while offset < limit:
        block = await _fetch(fd, offset, min(size, limit - offset))
        at = 0
        while record := decode_record(block, at, mark):
            at += record.size
            yield record
        if at == 0:
            if size == _MAX_BLOCK or len(block) == limit - offset:
                return
            size = _MAX_BLOCK
        offset += at


async def _fetch(fd: int, offset: int, size: int) -> bytes:
    """Little was written just now and is in memory; much may come from the disk, so a thread waits for it."""
    return os.pread(fd, size, offset) if size < _BLOCK else await asyncio.to_thread(os.pread, fd, size, offset)


class _Joiner:
    """Joins and cuts chunks to lines.

    :param headless: streams whose first chunk may begin within a line, whose rest is dropped.
    """

    def __init__(self, streams: frozenset[int], headless: frozenset[int]) -> None:
        self._pending = {stream: bytearray() for stream in streams}
        self._times = dict.fromkeys(streams, 0)
        self._headless = set(headless)
        self._life = -1

    def add(self, record: Stored) -> Iterator[list[LogRecord]]:
        """The lines that a chunk completes, and those that the end of a life does."""
        if record.life != self._life:
            if self._life >= 0:
                if last := self.flush():
                    yield last
                self._headless.clear()
            elif record.stream not in (STDOUT, STDERR):
                # A segment's first record. What a line goes on with whose begin was in an older one is no line.
                torn = {stream for stream, end, between in zip((STDOUT, STDERR), record.ends, record.between,
                                                               strict=True) if end and not between}
                self._headless |= torn & self._pending.keys()
            self._life = record.life
        if record.stream not in self._pending:
            return
        start = 0
        if record.stream in self._headless:
            start = record.data.find(b"\n") + 1
            if not start:
                return
            self._headless.discard(record.stream)
        *lines, rest = record.data[start:].split(b"\n", _BATCH)
        while lines:
            batch = self._complete(record, lines)
            more = len(lines) == _BATCH
            yield batch
            if not more:
                break
            *lines, rest = rest.split(b"\n", _BATCH)
        if rest:
            yield from filter(None, [self._grow(record, rest, whole=False)])

    def flush(self) -> list[LogRecord]:
        """The lines that have no end."""
        return [line for stream in self._pending for line in self._cut(stream, whole=True)]

    def _complete(self, record: Stored, lines: list[bytes]) -> list[LogRecord]:
        time_ns, stream = record.time_ns, record.stream
        batch = self._grow(record, lines[0] + b"\n", whole=True)
        for line in lines[1:]:
            if len(line) < LINE_LIMIT:
                batch.append(LogRecord(time_ns=time_ns, stream=stream, data=line + b"\n"))
            else:
                batch += self._grow(record, line + b"\n", whole=True)
        return batch

    def _grow(self, record: Stored, data: bytes, *, whole: bool) -> list[LogRecord]:
        pending = self._pending[record.stream]
        if not pending:
            self._times[record.stream] = record.time_ns
        pending += data
        return list(self._cut(record.stream, whole=whole))

    def _cut(self, stream: int, *, whole: bool) -> Iterator[LogRecord]:
        pending = self._pending[stream]
        while len(pending) >= LINE_LIMIT or (whole and pending):
            yield LogRecord(time_ns=self._times[stream], stream=stream, data=bytes(pending[:LINE_LIMIT]))
            del pending[:LINE_LIMIT]


def _find_tail(log: LogFile, start: LogPosition, end: LogPosition, streams: frozenset[int], lines: int
               ) -> tuple[LogPosition, frozenset[int]]:
    """A position from which at least the `lines` newest lines follow whole, or `start` where there are fewer; and the
    streams that may be within a line there. For a thread.
    """
    if lines == 0 or start == end:
        return end, frozenset()
    found, life, dispensable = 0, -1, set[int]()
    for segment in range(end.segment, start.segment - 1, -1):
        try:
            for offset, record in _backwards(log.path, segment, end.offset if segment == end.segment else None):
                if record.life != life:
                    life, dispensable = record.life, set()
                if record.stream in streams and (feeds := record.data.count(b"\n")):
                    found += feeds
                    if found > lines:
                        dispensable.add(record.stream)
                torn = _torn(record) & streams
                # What a torn stream has up to its first line feed is lost, so that must end an older line than those.
                if found >= lines and torn <= dispensable:
                    return LogPosition(segment, offset), torn
        except FileNotFoundError:  # rotated away meanwhile
            return LogPosition(segment + 1, FILE_HEADER_SIZE), streams
    return start, frozenset()


def _torn(record: Stored) -> frozenset[int]:
    """The streams that may be within a line before a record: of its own, it tells only whether something precedes."""
    return frozenset(stream for stream, end, between in zip((STDOUT, STDERR), record.ends, record.between, strict=True)
                     if (end > len(record.data) if stream == record.stream else end and not between))


def _backwards(path: Path, segment: int, end: int | None) -> Iterator[tuple[int, Stored]]:
    """The records of a segment before `end` (None: all), newest first, each with where it begins."""
    fd = open_segment(path, segment)
    try:
        mark = read_mark(fd)
        high = os.fstat(fd).st_size if end is None else end
        size = _BLOCK
        while mark and high > FILE_HEADER_SIZE:
            low = max(FILE_HEADER_SIZE, high - size)
            block = os.pread(fd, high - low, low)
            before = high
            while record := decode_record_before(block, high - low, mark):
                high -= record.size
                yield high, record
            if high == before:
                if size == _MAX_BLOCK or low == FILE_HEADER_SIZE:
                    return
                size = _MAX_BLOCK
    finally:
        os.close(fd)
