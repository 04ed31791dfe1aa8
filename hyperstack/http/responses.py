"""Answers: JSON, streams of JSON lines, and the answer that was already given."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

JSON_SEQUENCE = "application/json-seq"
"""RFC 7464: each record begins with a mark of its own."""


def encode(value: Any) -> bytes:
    """JSON. Strings from guests may hold what UTF-8 cannot (lone surrogates); those are escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json", headers=headers)


def empty(status: int = 204) -> web.Response:
    return web.Response(status=status)


class JsonLines:
    """A stream of JSON objects, one per line, whose headers go out at `open`."""

    def __init__(self, request: web.Request, *, media_type: str = "application/json") -> None:
        self._request = request
        self._mark = b"\x1e" if media_type == JSON_SEQUENCE else b""
        self._response = web.StreamResponse(headers={"Content-Type": media_type})

    @property
    def opened(self) -> bool:
        return self._response.prepared

    async def open(self) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)

    async def write(self, value: Any) -> None:
        """Waits while the client is slow."""
        await self.open()
        await self._response.write(self._mark + encode(value) + b"\r\n")

    async def close(self) -> web.StreamResponse:
        await self.open()
        await self._response.write_eof()
        return self._response


class Spent(web.StreamResponse):
    """The answer was given by other means, or nobody waits for it; the connection ends with it."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None
