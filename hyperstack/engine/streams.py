"""Output of a process on its way to one client, with the client's pace."""

from __future__ import annotations

import asyncio
import time

from hyperstack.engine.records import LogRecord

_CHUNKS = 4
"""That wait for the client; each is at most one window of the channel."""


class ProcessStream:
    """An output sink whose other end is read by one client. Where nobody reads, the process waits."""

    def __init__(self, streams: int) -> None:
        """:param streams: how many output streams the process has: two, or one with a terminal."""
        self._open = streams
        self._chunks: asyncio.Queue[LogRecord | None] = asyncio.Queue(_CHUNKS)
        self._closed = asyncio.Event()
        self._ended = asyncio.Event()

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        await self._put(LogRecord(time_ns=time.time_ns(), stream=stream, data=data))

    async def eof(self, stream: int, offset: int) -> None:
        self._open -= 1
        if self._open <= 0:
            await self._put(None)
            self._ended.set()

    async def read(self) -> LogRecord | None:
        """The next chunk; None at the end, and when the stream was closed."""
        if self._closed.is_set() and self._chunks.empty():
            return None
        record = await self._chunks.get()
        if record is None:
            self._closed.set()
        return record

    def close(self) -> None:
        """The client is gone, or the guest is: what still comes is thrown away, so that the process goes on."""
        self._closed.set()
        if self._chunks.full():
            self._chunks.get_nowait()
        self._chunks.put_nowait(None)

    async def ended(self) -> None:
        """The guest has sent all, and it was taken."""
        await self._ended.wait()

    async def _put(self, chunk: LogRecord | None) -> None:
        if not self._closed.is_set():
            await self._chunks.put(chunk)
