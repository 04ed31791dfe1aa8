"""Compressed streams: whole, in several members, broken, and bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import zlib

import pytest
import zstandard

from hyperstack.image.compression import CompressionError, detect, unpacked

DATA = random.Random(1).randbytes(60_000) + bytes(range(256)) * 5000


def unpack(data: bytes, step: int = 1 << 20) -> bytes:
    source = io.BytesIO(data)
    return b"".join(unpacked(lambda size: source.read(min(size, step))))


PACKED = {"gzip": gzip.compress(DATA), "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(DATA),
          "": DATA}
SKIPPABLE = b"\x5a\x2a\x4d\x18\x04\0\0\0abcd"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_unpacks_what_was_packed(kind: str, step: int) -> None:
    data = PACKED[kind][:20_000] if step == 1 and not kind else PACKED[kind]
    assert detect(data[:16]) == kind
    assert unpack(data, step) == (DATA if kind else data)


def test_several_members_are_one_stream() -> None:
    assert unpack(PACKED["gzip"] * 3) == DATA * 3
    assert unpack(PACKED["zstd"] * 3) == DATA * 3
    assert unpack(PACKED["gzip"] + bytes(1000)) == DATA
    assert unpack(SKIPPABLE + PACKED["zstd"] + SKIPPABLE) == DATA


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("lost", [1, 8, 500])
def test_a_cut_off_stream_is_refused(kind: str, lost: int) -> None:
    with pytest.raises(CompressionError, match="cut off"):
        unpack(PACKED[kind][:-lost])


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_broken_stream_is_refused(kind: str) -> None:
    packed = PACKED[kind]
    with pytest.raises(CompressionError, match="broken"):
        unpack(packed[:40] + b"\xff" * 40 + packed[80:])
    with pytest.raises(CompressionError, match="broken"):
        unpack(packed + b"trailing garbage")


@pytest.mark.parametrize(("data", "name"), [(bz2.compress(DATA), "bzip2"), (lzma.compress(DATA), "xz")])
def test_other_compressions_are_named(data: bytes, name: str) -> None:
    with pytest.raises(CompressionError, match=name):
        unpack(data)


def test_an_empty_stream_is_empty() -> None:
    assert unpack(b"") == b""


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_comes_in_bounded_pieces(kind: str) -> None:
    zeros = bytes(1 << 20)
    if kind == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(zeros) for _ in range(200)) + packer.flush()
    else:
        bomb = zstandard.ZstdCompressor(level=1).compress(zeros * 200)
    source, total = io.BytesIO(bomb), 0
    for piece in unpacked(source.read):
        assert len(piece) <= 65 << 20
        total += len(piece)
    assert total == 200 << 20


def test_a_zstd_frame_with_a_huge_window_is_refused() -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=False)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    with pytest.raises(CompressionError, match="broken"):
        unpack(packer.compress(DATA) + packer.flush())
