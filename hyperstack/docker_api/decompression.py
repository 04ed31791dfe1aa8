"""Archives in a request's body may be compressed; what the guest unpacks is a plain tar."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import zstandard

from hyperstack.pod.errors import InvalidArgument

_CHUNK = 256 * 1024
_DECODER_MEMORY = 64 * 1024 * 1024
"""What a stream may make the decoder take; xz -6 needs 9 MiB, zstd -19 8 MiB."""


class _Member(Protocol):
    """One compressed stream. The output comes in bounded pieces, so that a bomb takes time but no memory."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes:
        """What came after the stream's end."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Gzip:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._decoder.eof:
            yield self._decoder.decompress(data, _CHUNK)
            data = self._decoder.unconsumed_tail


class _Limited:
    """bz2 and lzma have the same methods."""

    def __init__(self, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decoder = decoder

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def feed(self, data: bytes) -> Iterator[bytes]:
        while not self._decoder.eof:
            yield self._decoder.decompress(data, _CHUNK)
            data = b""
            if self._decoder.needs_input:
                return


class _Zstandard:
    def __init__(self) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_DECODER_MEMORY)
        self._decoder = decompressor.decompressobj(write_size=_CHUNK)
        self._rest = b""

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data + self._rest

    def feed(self, data: bytes) -> Iterator[bytes]:
        # This decoder has no limit of its own: little in is a bounded amount out.
        for start in range(0, len(data), 256):
            if self._decoder.eof:
                self._rest = data[start:]
                return
            yield self._decoder.decompress(data[start:start + 256])


_KINDS: tuple[tuple[bytes, Callable[[], _Member]], ...] = (
    (b"\x1f\x8b", _Gzip),
    (b"BZh", lambda: _Limited(bz2.BZ2Decompressor())),
    (b"\xfd7zXZ\0", lambda: _Limited(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY))),
    (b"\x28\xb5\x2f\xfd", _Zstandard),
)
_LONGEST = max(len(magic) for magic, _ in _KINDS)


class _Plain:
    """Whatever is not compressed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None: ...


class _Compressed:
    """Members one after the other, as parallel compressors write them."""

    def __init__(self, make: Callable[[], _Member]) -> None:
        self._make = make
        self._member = make()

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                if not data.strip(b"\0"):  # Padding, as tapes have it.
                    return
                self._member = self._make()
            yield from self._member.feed(data)
            data = self._member.unused_data if self._member.eof else b""

    def finish(self) -> None:
        """:raise EOFError: the last member is not whole."""
        if not self._member.eof:
            raise EOFError("it ends too early")


async def decompressed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The plain bytes of a stream that is plain, gzip, bzip2, xz or zstd, as its first bytes say.

    :raise InvalidArgument: the compressed data is damaged, or not whole.
    """
    head = b""
    async for part in stream:
        head += part
        if len(head) >= _LONGEST:
            break
    make = next((make for magic, make in _KINDS if head.startswith(magic)), None)
    decoder = _Plain() if make is None else _Compressed(make)
    try:
        for piece in decoder.feed(head):
            if piece:
                yield piece
        async for part in stream:
            for piece in decoder.feed(part):
                if piece:
                    yield piece
        decoder.finish()
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError) as error:
        if isinstance(error, ConnectionError):
            raise
        raise InvalidArgument(f"the archive is damaged: {error}", field="body") from error
