"""Flow of one process's streams over a connection: output to a sink, acknowledged when safe; input within a window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from hyperstack.guest.frames import MAX_DATA, STDIN, AckFrame, DataFrame, EofFrame, Frame
from hyperstack.pod.errors import Conflict, GuestError

_MAX_SEGMENTS = 1024
"""Alternations between stdout and stderr that are kept in order. A guest that alternates faster with tiny frames has
them grouped per stream, so that it cannot make us keep an object per byte."""

Send = Callable[[Frame], Awaitable[None]]


class OutputSink(Protocol):
    """Where a process's output goes: a log file, or a client."""

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        """Take it all. When this returned, the guest is told to forget the bytes.

        Called with what is next in each stream, from the offset given to `attach`; never concurrently. May be
        cancelled when the connection ends: then the offset of the next `attach` must say what was taken. A sink that
        raises is not called again, and the guest keeps what was not taken for a later connection.
        """

    async def eof(self, stream: int, offset: int) -> None:
        """The stream ended; `offset` is its length."""


class _Segment:
    """Output of one stream that waits for the sink."""

    __slots__ = ("data", "eof", "offset", "stream")

    def __init__(self, stream: int, offset: int) -> None:
        self.stream = stream
        self.offset = offset
        self.data = bytearray()
        self.eof = False


class _Flow:
    """Offsets of one attached output stream."""

    __slots__ = ("acknowledged", "delivered", "ended", "last", "received")

    def __init__(self, start: int) -> None:
        self.received = start
        self.delivered = start
        self.acknowledged = start
        self.ended = False
        self.last: _Segment | None = None
        """Its newest segment in the queue."""


class Output:
    """Output of one process: a queue that the connection's reader fills without waiting, and one task that empties it.

    :param starts: stream -> offset of the first byte wanted.
    :param window: bytes per stream that the guest may have unacknowledged.
    """

    def __init__(self, handle: int, sink: OutputSink, starts: dict[int, int], window: int, send: Send) -> None:
        self._handle = handle
        self._sink = sink
        self._flows = {stream: _Flow(start) for stream, start in starts.items()}
        self._window = window
        self._send = send
        self._queue: deque[_Segment] = deque()
        self._filled = asyncio.Event()
        self._discarding = False

    def data(self, stream: int, offset: int, data: bytes) -> None:
        """:raise GuestError: it does not continue the stream, or exceeds the window."""
        flow = self._flow(stream, offset)
        flow.received += len(data)
        # One frame of grace: an agent of an older window may cut its last frame without regard to ours.
        if flow.received - flow.acknowledged > self._window + MAX_DATA:
            raise GuestError(f"stream {stream} of process {self._handle} exceeds its window of {self._window} bytes",
                             field="window", value=flow.received - flow.acknowledged)
        if not self._discarding:
            self._segment(flow, stream, offset).data += data
            self._filled.set()

    def eof(self, stream: int, offset: int) -> None:
        """:raise GuestError: it is not where the stream is."""
        flow = self._flow(stream, offset)
        flow.ended = True
        if not self._discarding:
            self._segment(flow, stream, offset).eof = True
            self._filled.set()

    def discard(self) -> None:
        """Take no more; nothing further is acknowledged."""
        self._discarding = True
        self._queue.clear()

    async def deliver(self) -> None:
        """Feed the sink until every attached stream ended."""
        open_streams = len(self._flows)
        while open_streams:
            await self._filled.wait()
            while self._queue:
                segment = self._queue.popleft()
                flow = self._flows[segment.stream]
                if flow.last is segment:
                    flow.last = None
                await self._hand_over(segment, flow)
                open_streams -= segment.eof
            self._filled.clear()
            for stream, flow in self._flows.items():
                await self._acknowledge(stream, flow)

    def _flow(self, stream: int, offset: int) -> _Flow:
        flow = self._flows.get(stream)
        if flow is None or flow.ended:
            raise GuestError(f"stream {stream} of process {self._handle} is not attached or has ended",
                             field="stream", value=stream)
        if offset != flow.received:
            raise GuestError(f"stream {stream} of process {self._handle} continues at {offset}, not at "
                             f"{flow.received}", field="offset", value=offset)
        return flow

    def _segment(self, flow: _Flow, stream: int, offset: int) -> _Segment:
        """Where the stream's next bytes go: contiguous ones reach the sink together."""
        if flow.last and (flow.last is self._queue[-1] or len(self._queue) >= _MAX_SEGMENTS):
            return flow.last
        flow.last = _Segment(stream, offset)
        self._queue.append(flow.last)
        return flow.last

    async def _hand_over(self, segment: _Segment, flow: _Flow) -> None:
        if segment.data:
            await self._sink.write(segment.stream, segment.offset, bytes(segment.data))
            flow.delivered += len(segment.data)
            if flow.delivered - flow.acknowledged >= self._window // 2:
                await self._acknowledge(segment.stream, flow)
        if segment.eof:
            await self._sink.eof(segment.stream, flow.delivered)

    async def _acknowledge(self, stream: int, flow: _Flow) -> None:
        if flow.delivered > flow.acknowledged:
            # Before sending: the guest may act on the frame before `send` returns here.
            flow.acknowledged = flow.delivered
            await self._send(AckFrame(stream, self._handle, flow.delivered))


class Input:
    """Input of one process. Made before the call to `attach`, as the guest may refuse input as soon as it answers.

    :param window: bytes beyond its last ACK that the guest accepts.
    """

    def __init__(self, handle: int, window: int, send: Send) -> None:
        self._handle = handle
        self._sent = 0
        self._acknowledged = 0
        self._window = window
        self._send = send
        self._begun = False
        self._refused = False
        self._ended = False
        self._failure: GuestError | None = None
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()

    def begin(self, consumed: int, closed: bool) -> None:
        """The guest's reply to `attach`: it has taken this much already."""
        self._sent = self._acknowledged = consumed
        self._refused |= closed
        self._begun = True

    def acknowledge(self, offset: int) -> None:
        """:raise GuestError: nobody sent that much, or it goes backwards."""
        if not self._begun:
            return  # the reply says the same
        if not self._acknowledged <= offset <= self._sent:
            raise GuestError(f"input of process {self._handle} is acknowledged up to {offset}, outside "
                             f"{self._acknowledged}..{self._sent}", field="offset", value=offset)
        self._acknowledged = offset
        self._changed.set()

    def refuse(self, offset: int) -> None:
        """The process closed its end.

        :raise GuestError: after more bytes than were sent.
        """
        if self._begun and offset > self._sent:
            raise GuestError(f"input of process {self._handle} ends at {offset}, beyond {self._sent}",
                             field="offset", value=offset)
        self._refused = True
        self._changed.set()

    def fail(self, error: GuestError) -> None:
        """The connection ended."""
        self._failure = error
        self._changed.set()

    async def write(self, data: bytes) -> None:
        """:raise Conflict: not attached, or closed by either end. :raise GuestError: the connection ended."""
        rest = memoryview(data)
        async with self._writing:
            self._check_begun()
            while rest:
                if self._ended:
                    raise Conflict(f"the standard input of process {self._handle} was closed before", field="stdin")
                size = min(len(rest), await self._room(), MAX_DATA)
                await self._send(DataFrame(STDIN, self._handle, self._sent, bytes(rest[:size])))
                self._sent += size
                rest = rest[size:]

    async def close(self) -> None:
        """End of input after what was written; nothing where either end closed it before.

        :raise Conflict: not attached.
        """
        async with self._writing:
            self._check_begun()
            if not (self._ended or self._refused):
                await self._send(EofFrame(STDIN, self._handle, self._sent))
            self._ended = True

    def _check_begun(self) -> None:
        if not self._begun:
            raise Conflict(f"process {self._handle} is not attached", field="handle", value=self._handle)

    async def _room(self) -> int:
        """Bytes that may be sent, at least one; waits for the guest to take some."""
        while True:
            if self._failure:
                raise self._failure
            if self._refused:
                raise Conflict(f"process {self._handle} closed its standard input", field="stdin")
            room = self._window - (self._sent - self._acknowledged)
            if room > 0:
                return room
            self._changed.clear()
            await self._changed.wait()
