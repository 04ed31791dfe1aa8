"""A websocket as a client of a process's streams: bytes in both directions, without frames of Docker's own."""

from __future__ import annotations

from aiohttp import WSMsgType, web

_MAX_MESSAGE = 1 << 20
"""Bytes that a client may send at once."""
_HEARTBEAT_S = 30.0
"""A client that does not answer a ping is gone."""


class WebSocketConnection:
    """See `hyperstack.docker_api.streams.Duplex`. A websocket has no half to close: its end of input is its end."""

    def __init__(self, *, text: bool = False) -> None:
        """:param text: send text instead of bytes; what is no UTF-8 in it is replaced."""
        self._text = text
        self.response = web.WebSocketResponse(max_msg_size=_MAX_MESSAGE, heartbeat=_HEARTBEAT_S)

    async def read(self) -> bytes:
        while True:
            message = await self.response.receive()
            data = message.data
            if message.type is WSMsgType.TEXT:
                data = data.encode()
            elif message.type is not WSMsgType.BINARY:
                return b""
            if data:
                return bytes(data)

    async def write(self, data: bytes) -> None:
        """Waits while the client does not read. :raise ConnectionError: it is gone."""
        if self._text:
            await self.response.send_str(data.decode(errors="replace"))
        else:
            await self.response.send_bytes(data)

    async def gone(self) -> None:
        """It is, when `read` has told of the end."""

    def close(self) -> None:
        """The handler closes the response, which takes a message of its own."""
