"""Connections taken away from HTTP: attach and exec stream in both directions over the request's own socket.

aiohttp has no public way to do this, so the one line that reaches behind it is here, and the version is pinned: the
transport gets a protocol of ours, which tells the old one when the connection ends. Docker's clients send nothing
before they have seen our answer, as HTTP demands; aiohttp's parser drops what a client sends earlier than that.

A client may close its half (`echo x | docker exec -i ...`) and still wants the output, so an end of its stream is not
the end of the connection. That has a price: the event loop then no longer notices when the other half goes too.
`Connection.gone` does.

Some clients (the Docker SDK for Python) read our answer through a buffer that they throw away when they take the
connection, and with it whatever came close behind: where the kernel can tell, output waits until the head was read.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Mapping

from aiohttp import web

_HIGH_WATER = 256 * 1024
"""Bytes buffered for a slow reader before its process is stalled."""

_READ_LIMIT = 64 * 1024

_HEAD_READ_WITHIN_S = 0.5
"""A client that has not read the head by then gets what follows it all the same."""


class Connection:
    """A raw byte stream to the client."""

    def __init__(self, transport: asyncio.Transport, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                 lost: asyncio.Event) -> None:
        self._transport = transport
        self._reader = reader
        self._writer = writer
        self._lost = lost
        self._head_read = False

    async def read(self) -> bytes:
        """What the client sent; empty once it closed its half."""
        try:
            return await self._reader.read(_READ_LIMIT)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        """Waits while the client does not read. :raise ConnectionError: it is gone."""
        if not self._head_read:
            await self._until_head_is_read()
        if self._transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        self._writer.write(data)
        await self._writer.drain()

    async def _until_head_is_read(self) -> None:
        self._head_read = True
        until = time.monotonic() + _HEAD_READ_WITHIN_S
        while self._unread() and time.monotonic() < until:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.001)

    def _unread(self) -> int:
        """Bytes on their way that the client has not read: the kernel knows it of a unix socket only."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX or sock.fileno() < 0:
            return 0
        [unread] = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        return int(unread)

    async def gone(self) -> None:
        """Until the client has closed both halves."""
        loop = asyncio.get_running_loop()
        hung_up = self._lost
        sock = self._transport.get_extra_info("socket")
        if self._transport.is_closing() or sock is None or sock.fileno() < 0:
            return
        with select.epoll() as poll:
            poll.register(sock.fileno(), 0)  # Of no events at all, EPOLLHUP is still reported.
            loop.add_reader(poll.fileno(), hung_up.set)
            try:
                await hung_up.wait()
            finally:
                loop.remove_reader(poll.fileno())

    def close(self) -> None:
        """Ends the connection once what was written is out."""
        self._writer.close()


class _Protocol(asyncio.StreamReaderProtocol):
    def __init__(self, reader: asyncio.StreamReader, before: asyncio.BaseProtocol) -> None:
        super().__init__(reader)
        self._before = before
        self.lost = asyncio.Event()

    def eof_received(self) -> bool:
        """The other half stays, over TLS too."""
        super().eof_received()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost.set()
        self._before.connection_lost(exc)


async def hijack(request: web.Request, *, content_type: str, headers: Mapping[str, str], protocol: str = "tcp"
                 ) -> Connection:
    """Answer (101 where the client asked for an upgrade, else 200 and a stream without end) and take the connection.

    The request's body must have been read. The handler returns `Spent` afterwards.

    :param protocol: what it is upgraded to.
    :raise ConnectionError: the client is gone.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client closed the connection")
    before = request.protocol
    reader = asyncio.StreamReader(limit=_READ_LIMIT)
    taken = _Protocol(reader, before)
    transport.set_protocol(taken)
    taken.connection_made(transport)
    transport.set_write_buffer_limits(high=_HIGH_WATER)
    # aiohttp stops reading behind an upgrade that it knows of (only a websocket's), and keeps what came.
    if before._message_tail:
        reader.feed_data(before._message_tail)
    if not transport.is_reading():
        transport.resume_reading()
    writer = asyncio.StreamWriter(transport, taken, reader, asyncio.get_running_loop())
    writer.write(_head(request, content_type, headers, protocol))
    await writer.drain()
    return Connection(transport, reader, writer, taken.lost)


def _head(request: web.Request, content_type: str, headers: Mapping[str, str], protocol: str) -> bytes:
    # As Docker: the name of framed output came with the upgrade, and who does without it is told the older one.
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/vnd.docker.raw-stream"]
    if "upgrade" in request.headers:
        lines = ["HTTP/1.1 101 UPGRADED", f"Content-Type: {content_type}", "Connection: Upgrade",
                 f"Upgrade: {protocol}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
