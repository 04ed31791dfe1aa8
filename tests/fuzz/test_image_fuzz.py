"""Coverage-guided fuzzing of what a registry or an archive can send, for a bounded time:
`pytest tests/fuzz/test_image_fuzz.py`.

libFuzzer ends its process, so each target runs in one of its own: `python -m tests.fuzz.test_image_fuzz TARGET
[libFuzzer options] [corpus]` fuzzes for as long as one likes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.atheris_run import fuzz, run_target

SECONDS = 4
MAX_BYTES = 8 << 20


def with_checksums(data: bytes) -> bytes:
    """Every block that says it is a header gets the checksum of one: else nothing behind that check is reached."""
    blocks = [bytearray(data[at:at + 512].ljust(512, b"\0")) for at in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at:at + size] for at in range(0, len(data), size))


def archives(data: bytes) -> None:
    """A tar is read the same however its bytes are cut, or refused with the same words."""
    from hyperstack.image import tar

    def outcome(size: int) -> str:
        stream = tar.TarStream(pieces(whole, size))
        found = []
        try:
            for entry in stream:
                assert 0 <= entry.stored <= entry.size or entry.extents is None
                found.append((repr(entry), b"".join(map(bytes, stream.pieces(min(entry.stored, len(whole)))))))
        except tar.TarError as error:
            return str(error)
        return repr(found)

    whole = with_checksums(data)
    assert outcome(512) == outcome(max(1, len(data) % 999))


def layers(data: bytes) -> None:
    """A layer becomes a disk of whole blocks within its bounds, or is refused."""
    from hyperstack.image import tar
    from hyperstack.image.erofs.data import ImageTooBig
    from hyperstack.image.erofs.writer import ErofsWriter
    from hyperstack.image.layer import LayerBuilder, LayerError

    for fd in (_image, _spool):
        os.ftruncate(fd, 0)
    writer = ErofsWriter(_image, _spool, max_bytes=MAX_BYTES)
    builder = LayerBuilder(writer, max_entries=100)
    try:
        builder.consume(tar.TarStream(pieces(with_checksums(data), 777)))
        size = writer.finish(builder.root, bytes(16))
    except (tar.TarError, LayerError, ImageTooBig):
        return
    state = os.fstat(_image)
    assert state.st_size == size
    assert size % 4096 == 0
    assert state.st_blocks * 512 <= 3 * MAX_BYTES


def documents(data: bytes) -> None:
    """A manifest, an index or a config is parsed or refused as malformed."""
    from hyperstack.image import manifest

    for kind in ("", manifest.OCI_INDEX):
        with contextlib.suppress(manifest.DocumentError):
            manifest.parse(data, kind)
    with contextlib.suppress(manifest.DocumentError):
        manifest.parse_config(data)


def words(data: bytes) -> None:
    """References, platforms, challenges, changes and times: parsed, and references read back the same, or refused."""
    from hyperstack.image import auth, manifest, names
    from hyperstack.pod.errors import InvalidArgument

    text = data.decode("utf-8", "replace")
    auth.parse_challenge(text)
    auth.realm_is_safe(text, registry="https://host")
    manifest.parse_time(text)
    with contextlib.suppress(InvalidArgument):
        manifest.parse_platform(text)
    with contextlib.suppress(InvalidArgument):
        parsed = names.parse(text)
        assert names.parse(str(parsed)) == parsed


def streams(data: bytes) -> None:
    """A compressed stream comes in bounded pieces, or is refused."""
    from hyperstack.image.compression import CompressionError, unpacked

    total = 0
    try:
        for piece in unpacked(io.BytesIO(data).read):
            assert 0 < len(piece) <= 65 << 20
            total += len(piece)
            if total > 256 << 20:
                break
    except CompressionError:
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {
    "archives": archives, "layers": layers, "documents": documents, "words": words, "streams": streams}
_image = os.memfd_create("image")
_spool = os.memfd_create("spool")


def seeds() -> list[bytes]:
    """Legal input, for the fuzzer to start from."""
    import zstandard

    from tests.unit.image_builds import build, index_of
    from tests.unit.image_layers import make_tar, member

    pax = {"SCHILY.xattr.user.a": "b", "mtime": "1.5", "path": "p" * 120}
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "2000000",
              "GNU.sparse.name": "s"}
    tars = [
        make_tar(member("d", tarfile.DIRTYPE), member("d/f", data=b"x" * 3000), member("d/.wh.gone"),
                 member("l", tarfile.SYMTYPE, linkname="d"), member("l/h", tarfile.LNKTYPE, linkname="d/f"),
                 member("d/.wh..wh..opq"), member("c", tarfile.CHRTYPE, devmajor=1, devminor=3)),
        make_tar(member("f", data=b"x", pax_headers=pax), member("d", tarfile.DIRTYPE), member("d", data=b"y")),
        make_tar(member("s", data=b"1\n1000000\n5\n".ljust(512, b"\0") + b"hello", pax_headers=sparse)),
        make_tar(member("n" * 150, data=b"x"), member("t", tarfile.SYMTYPE, linkname="t" * 150),
                 layout=tarfile.GNU_FORMAT)]
    image = build(Cmd=["x"], Env=["A=b"])
    return [*tars, image.manifest, image.config, index_of(amd64=image), gzip.compress(tars[0]),
            zstandard.compress(tars[0]),
            b"localhost:5000/a/b:t@sha256:" + b"a" * 64, b'Bearer realm="https://x/y",service="s",scope="a:b:c"',
            b"ENV A=1 B='2 3'", b"linux/arm64/v8", b"2024-01-01T00:00:00.5Z"]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_a_stranger_sends_is_more_than_an_error(target: str, tmp_path: Path) -> None:
    run_target("tests.fuzz.test_image_fuzz", target, seeds(), tmp_path, seconds=SECONDS, max_len=16384,
               rss_limit_mb=2048)


if __name__ == "__main__":
    fuzz(TARGETS, "hyperstack.image", [f"hyperstack.image.{name}" for name in ("archive", "auth", "layer")])
