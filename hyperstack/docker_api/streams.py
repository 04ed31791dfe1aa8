"""A process's streams on the wire: Docker's frames, detach keys, and the pump between a client and an attachment."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Protocol, TypeVar

from aiohttp import web

from hyperstack.engine.api import Attachment
from hyperstack.http.call import Call
from hyperstack.pod.errors import HyperStackError, InvalidArgument

T = TypeVar("T")

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_FRAME = struct.Struct(">BxxxL")
_CONTROLS = {f"ctrl-{chr(code + 96)}": code for code in range(1, 27)} | {
    "ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31}
_DEFAULT_KEYS = bytes((_CONTROLS["ctrl-p"], _CONTROLS["ctrl-q"]))
_MAX_KEYS = 16
_NO_KEY = 128


def media_type(*, tty: bool, version: tuple[int, int]) -> str:
    """Of an output stream. Frames have had a name of their own since 1.42."""
    return RAW if tty or version < (1, 42) else MULTIPLEXED


def frame(stream: int, data: bytes) -> bytes:
    """One frame of a multiplexed stream: stream number, length, bytes."""
    return _FRAME.pack(stream, len(data)) + data


def parse_detach_keys(text: str, *, kind: str = "detach") -> bytes:
    """The bytes of "ctrl-p,ctrl-q"; the default for an empty text.

    :param kind: how the keys are called in an error.
    :raise InvalidArgument: one is no key.
    """
    if not text:
        return _DEFAULT_KEYS
    keys = text.split(",")
    codes = [ord(key) if len(key) == 1 else _CONTROLS.get(key.lower(), _NO_KEY) for key in keys]
    if len(keys) > _MAX_KEYS or max(codes) >= _NO_KEY:
        raise InvalidArgument(f"Invalid {kind} keys ({text[:64]}) provided", field="detachKeys", value=text[:64],
                              hint=f"at most {_MAX_KEYS}, each a letter, or ctrl- and one of a-z @ [ \\ ] ^ _")
    return bytes(codes)


class DetachKeys:
    """Finds the keys in what a user types, wherever the chunks are cut. Keys that may yet complete are held back."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the user asked to detach)."""
        data = self._held + data
        index = data.find(self._keys)
        if index >= 0:
            self._held = b""
            return data[:index], True
        keep = next((size for size in range(len(self._keys) - 1, 0, -1) if data.endswith(self._keys[:size])), 0)
        self._held = data[len(data) - keep:]
        return data[:len(data) - keep], False

    def flush(self) -> bytes:
        """What was held back, at the end of input."""
        held, self._held = self._held, b""
        return held


class Duplex(Protocol):
    """A client at the other end of a connection, as `Connection` has it."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    async def gone(self) -> None: ...
    def close(self) -> None: ...


async def pump(connection: Duplex, attachment: Attachment, *, stdin: bool, keys: bytes, framed: bool = True) -> None:
    """Until the process ended and all its output is out, the user detached, or the client is gone.

    :param framed: the output of a process without a terminal goes in frames that name its stream.
    """
    output = asyncio.create_task(_output(connection, attachment, framed=framed and not attachment.tty))
    reader = asyncio.create_task(_input(connection, attachment, stdin=stdin, keys=keys))
    try:
        await asyncio.wait((output, reader), return_when=asyncio.FIRST_COMPLETED)
    finally:
        output.cancel()
        reader.cancel()
        ends = await asyncio.gather(output, reader, return_exceptions=True)
        if ends[1] is True:
            attachment.detached()
        await attachment.close()
        connection.close()
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, (ConnectionError, HyperStackError)):
            raise end


async def _output(connection: Duplex, attachment: Attachment, *, framed: bool) -> None:
    while (record := await attachment.read()) is not None:
        await connection.write(frame(record.stream, record.data) if framed else record.data)


async def _input(connection: Duplex, attachment: Attachment, *, stdin: bool, keys: bytes) -> bool:
    """Whether it ended because the user asked to detach."""
    detach = DetachKeys(keys) if attachment.tty else None
    with contextlib.suppress(HyperStackError):  # The process closed its stdin; its output may go on.
        while data := await connection.read():
            asked = False
            if detach is not None:
                data, asked = detach.feed(data)
            if stdin and data:
                await attachment.write(data)
            if asked:
                return True
        if stdin:
            await _end_of_input(attachment, detach)
    while await connection.read():
        pass
    await connection.gone()
    return False


async def _end_of_input(attachment: Attachment, detach: DetachKeys | None) -> None:
    if detach is not None and (held := detach.flush()):
        await attachment.write(held)
    await attachment.close_stdin()


@contextlib.asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Ends an iterator's work with the block, not when the collector finds it."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def send_tar(call: Call, tar: AsyncIterator[bytes], *, headers: Mapping[str, str] | None = None
                   ) -> web.StreamResponse:
    """An archive at the client's pace. What fails before its first byte is an error of the API; a failure in its middle
    cuts the connection, as the status line is gone by then."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar", **(headers or {})})
    async with closing(tar):
        first = await anext(tar, b"")
        await response.prepare(call.request)
        await response.write(first)
        async for part in tar:
            await response.write(part)
    await response.write_eof()
    return response
