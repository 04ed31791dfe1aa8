"""Compressed streams in bounded pieces: gzip, zstd or plain, told apart by their first bytes."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator

import zstandard

GZIP, ZSTD, PLAIN = "gzip", "zstd", ""
_PIECE = 1 << 18
"""Bytes given on at once: a bomb grows by no more than this before the reader's bounds see it."""
_MAX_WINDOW = 1 << 27
"""128 MiB, zstd's own default bound (`--long=27`)."""
_HEAD = 6
"""Bytes that tell the kinds apart."""
_ZSTD_STEP = 2048
"""A run-length block of 4 bytes stands for 128 KiB."""
_ZSTD_READ = 8 * _ZSTD_STEP
_XZ_MEMORY = 128 << 20
"""What a stream may make the decoder take; xz -9 needs 65 MiB."""
_REFUSED = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4"}


class CompressionError(ValueError):
    """The compressed stream is broken or of a kind that is not read. The message is one sentence."""


def detect(head: bytes) -> str:
    """:raise CompressionError: it is compressed with something else."""
    if head.startswith(b"\x1f\x8b"):
        return GZIP
    # Skippable frames (0x184D2A50..5F) may stand first, as seekable formats put them there.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return ZSTD
    for magic, name in _REFUSED.items():
        if head.startswith(magic):
            raise CompressionError(f"it is compressed with {name}; gzip, zstd and none are supported")
    return PLAIN


def unpacked(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Non-empty pieces of the plain stream. `read` gives the next compressed bytes, none at the end.

    :raise CompressionError: it is broken, cut off, or of an unknown kind.
    """
    head = read(_PIECE)
    while len(head) < _HEAD and (more := read(_PIECE)):
        head += more
    kind = detect(head)
    if kind == GZIP:
        return _gunzip(head, read)
    if kind == ZSTD:
        return _unzstd(head, read)
    return _plain(head, read)


def unpacked_any(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """As `unpacked`, and bzip2 and xz too: what build contexts may be packed with.

    :raise CompressionError: as there.
    """
    head = read(_PIECE)
    while len(head) < _HEAD and (more := read(_PIECE)):
        head += more

    def again(size: int) -> bytes:
        nonlocal head
        if not head:
            return read(size)
        data, head = head, b""
        return data

    if head.startswith(b"BZh"):
        return _limited(again, bz2.BZ2Decompressor, "bzip2")
    if head.startswith(b"\xfd7zXZ\0"):
        return _limited(again, lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), "xz")
    return unpacked(again)


def _limited(read: Callable[[int], bytes], make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor], name: str
             ) -> Iterator[bytes]:
    """All members; zero padding after the last one is ignored."""
    data = read(_PIECE)
    while data.strip(b"\0"):
        decoder = make()
        while not decoder.eof:
            try:
                piece = decoder.decompress(data, _PIECE)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise CompressionError(f"its {name} stream is broken: {error}") from None
            data = b""
            if piece:
                yield piece
            if not decoder.eof and decoder.needs_input and not (data := read(_PIECE)):
                raise CompressionError(f"its {name} stream is cut off")
        data = decoder.unused_data or read(_PIECE)


def _plain(head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    while head:
        yield head
        head = read(_PIECE)


def _gunzip(data: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """All members; zero padding after the last one is ignored, as gzip does."""
    while data := data.lstrip(b"\0") or read(_PIECE):
        if not data.strip(b"\0"):
            continue
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not inflate.eof:
            try:
                piece = inflate.decompress(data, _PIECE)
            except zlib.error as error:
                raise CompressionError(f"its gzip stream is broken: {error}") from None
            data = inflate.unconsumed_tail or (b"" if inflate.eof else read(_PIECE))
            if piece:
                yield piece
            elif not data and not inflate.eof:
                raise CompressionError("its gzip stream is cut off")
        data = inflate.unused_data


def _unzstd(data: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """All frames."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame = decompressor.decompressobj()
    out: list[bytes] = []
    held = 0
    try:
        while data := data or read(_ZSTD_READ):
            if frame.eof:
                frame = decompressor.decompressobj()
            # This interface has no bound on its output, so its input is small: at most 64 MiB come of it.
            piece = frame.decompress(data[:_ZSTD_STEP])
            data = frame.unused_data + data[_ZSTD_STEP:]
            out.append(piece)
            held += len(piece)
            if held >= _PIECE:
                yield b"".join(out)
                out, held = [], 0
    except zstandard.ZstdError as error:
        raise CompressionError(f"its zstd stream is broken: {error}") from None
    if not frame.eof:
        raise CompressionError("its zstd stream is cut off")
    if held:
        yield b"".join(out)
