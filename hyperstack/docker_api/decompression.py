"""Archives in a request's body may be compressed; what the guest unpacks is a plain tar."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import zstandard

from hyperstack.pod.errors import InvalidArgument

_CHUNK = 256 * 1024
_LZMA_MEMORY = 64 * 1024 * 1024
"""What an xz stream may make the decoder take; xz -6 needs 9 MiB."""


class _Decoder(Protocol):
    """One compressed stream. The output comes in pieces of `_CHUNK`, so that a bomb takes time but no memory."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...


class _Gzip:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._decoder.eof:
            yield self._decoder.decompress(data, _CHUNK)
            data = self._decoder.unconsumed_tail


class _Limited:
    """bz2 and lzma have the same methods."""

    def __init__(self, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decoder = decoder

    def feed(self, data: bytes) -> Iterator[bytes]:
        while not self._decoder.eof:
            yield self._decoder.decompress(data, _CHUNK)
            data = b""
            if self._decoder.needs_input:
                return


class _Zstandard:
    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=_LZMA_MEMORY).decompressobj(write_size=_CHUNK)

    def feed(self, data: bytes) -> Iterator[bytes]:
        # This decoder has no limit of its own: little in is a bounded amount out.
        for start in range(0, len(data), 1024):
            yield self._decoder.decompress(data[start:start + 1024])


def _decoder_for(head: bytes) -> _Decoder | None:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip()
    if head.startswith(b"BZh"):
        return _Limited(bz2.BZ2Decompressor())
    if head.startswith(b"\xfd7zXZ\0"):
        return _Limited(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return _Zstandard()
    return None


async def decompressed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The plain bytes of a stream that is plain, gzip, bzip2, xz or zstd, as its first bytes say.

    :raise InvalidArgument: the compressed data is damaged.
    """
    head = b""
    async for part in stream:
        head += part
        if len(head) >= 6:  # The longest of the magic numbers, xz's.
            break
    decoder = _decoder_for(head)
    try:
        for piece in (head,) if decoder is None else decoder.feed(head):
            if piece:
                yield piece
        async for part in stream:
            for piece in (part,) if decoder is None else decoder.feed(part):
                if piece:
                    yield piece
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise InvalidArgument(f"the archive is damaged: {error}", field="body") from error
