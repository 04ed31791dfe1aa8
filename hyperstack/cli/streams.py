"""Output of containers: taking the two streams apart, and writing them without holding them in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from hyperstack.cli.client import CHUNK
from hyperstack.cli.errors import CliError

STDOUT, STDERR, SYSTEM_ERROR = 1, 2, 3
_HEADER = 8
_MAX_SYSTEM_ERROR = 16 * 1024


class OutputClosed(Exception):
    """Nobody reads our stdout or stderr any more."""


def write_all(fd: int, data: bytes) -> None:
    """Write everything; waits where the reader is slow.

    :raise OutputClosed: the reader has gone.
    """
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view):]
    except BrokenPipeError as error:
        raise OutputClosed from error


def chunks_of(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The chunks of a reader that gives nothing at its end."""
    while data := read(CHUNK):
        yield data


def demultiplex(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(stream, bytes) of Docker's framing: a byte of stream, three of nothing, four of length, the payload.

    A payload is passed on as it arrives, in pieces, so that a frame may be of any size. A stream that is cut ends
    quietly: whoever waits for the container sees the reason.

    :raise CliError: the daemon reports an error in the stream, or what arrives is no framing.
    """
    buffer = bytearray()
    stream, left = 0, 0
    failure = bytearray()
    for chunk in chunks:
        buffer += chunk
        while True:
            if left:
                piece = bytes(buffer[:left])
                del buffer[:left]
                left -= len(piece)
                if stream == SYSTEM_ERROR:
                    failure += piece[:_MAX_SYSTEM_ERROR - len(failure)]
                elif piece:
                    yield stream, piece
                if left:
                    break
            if failure:
                raise CliError(f"Error from daemon in stream: {failure.decode('utf-8', 'replace')}")
            if len(buffer) < _HEADER:
                break
            stream = buffer[0] or STDOUT
            left = int.from_bytes(buffer[4:_HEADER], "big")
            if stream > SYSTEM_ERROR or any(buffer[1:4]):
                raise CliError(f"hyperd sent a stream that is not in Docker's framing: {bytes(buffer[:_HEADER])!r}")
            del buffer[:_HEADER]


def copy_output(chunks: Iterable[bytes], *, multiplexed: bool, stdout: bool = True, stderr: bool = True) -> None:
    """Write a container's output to our own descriptors 1 and 2; a stream that is not wanted is dropped."""
    if not multiplexed:
        for data in chunks:
            write_all(1, data)
        return
    for stream, data in demultiplex(chunks):
        if stream == STDERR and stderr:
            write_all(2, data)
        elif stream == STDOUT and stdout:
            write_all(1, data)
