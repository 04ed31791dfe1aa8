"""The tar reader against Python's tarfile and GNU tar, and against tars that nobody should accept."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.image import tar
from tests.unit.image_layers import cut, make_tar, member

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_characters="/\\"), min_size=1,
                max_size=120)


def read_all(data: bytes, piece: int = 4096) -> list[tuple[tar.Entry, bytes]]:
    stream = tar.TarStream(cut(data, piece))
    return [(entry, b"".join(bytes(part) for part in stream.pieces(entry.stored))) for entry in stream]


def read_sparse(entry: tar.Entry, data: bytes) -> bytes:
    assert entry.extents is not None
    out, at = bytearray(entry.size), 0
    for offset, length in entry.extents:
        out[offset:offset + length] = data[at:at + length]
        at += length
    return bytes(out)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=2000), st.integers(0, 2**31), st.integers(0, 2**33)), max_size=6),
       st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.integers(1, 5000))
def test_reads_what_tarfile_writes(members: list[tuple[str, bytes, int, int]], layout: int, piece: int) -> None:
    data = make_tar(*(member(name, data=content, uid=uid, gid=uid // 2, mtime=time)
                      for name, content, uid, time in members), layout=layout)
    seen = [(entry.name.decode(), content, entry.uid, entry.gid, entry.mtime)
            for entry, content in read_all(data, piece)]
    assert seen == [(name, content, uid, uid // 2, time) for name, content, uid, time in members]


def test_types_links_and_devices() -> None:
    data = make_tar(member("d", tarfile.DIRTYPE), member("l", tarfile.SYMTYPE, linkname="x" * 300),
                    member("h", tarfile.LNKTYPE, linkname="d/f"), member("f", tarfile.FIFOTYPE),
                    member("c", tarfile.CHRTYPE, devmajor=5, devminor=300), member("b", tarfile.BLKTYPE, devmajor=8))
    entries = [entry for entry, _ in read_all(data)]
    assert [entry.kind for entry in entries] == [tar.DIRECTORY, tar.SYMLINK, tar.HARD_LINK, tar.FIFO, tar.CHARACTER,
                                                 tar.BLOCK_DEVICE]
    assert entries[1].link == b"x" * 300
    assert (entries[4].major, entries[4].minor) == (5, 300)


def test_xattrs_are_binary() -> None:
    text = "\x01\udc80\n=\x00"
    data = make_tar(member("f", pax_headers={"SCHILY.xattr.security.capability": text}))
    assert read_all(data)[0][0].xattrs == {b"security.capability": b"\x01\x80\n=\0"}


@pytest.mark.parametrize(("text", "seconds", "nanoseconds"), [
    ("1234567890.987654321", 1234567890, 987654321), ("-1.25", -2, 750000000), ("5.", 5, 0), ("7", 7, 0),
    ("1.9999999999", 1, 999999999)])
def test_pax_times(text: str, seconds: int, nanoseconds: int) -> None:
    entry = read_all(make_tar(member("f", pax_headers={"mtime": text})))[0][0]
    assert (entry.mtime, entry.mtime_ns) == (seconds, nanoseconds)


def test_an_empty_pax_value_leaves_the_header_s() -> None:
    assert read_all(pax(record(b"path", b"") + record(b"uid", b"")) + header(b"f", at_108=b"17"))[0][0].uid == 0o17


def test_a_global_header_changes_nothing() -> None:
    out = io.BytesIO()
    headers = {"path": "other", "uid": "77"}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
        archive.addfile(tarfile.TarInfo("f"))
    entry = read_all(out.getvalue())[0][0]
    assert (entry.name, entry.uid) == (b"f", 0)


@pytest.mark.parametrize("layout", ["gnu", "pax"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
@pytest.mark.parametrize("pieces", [1, 3, 60])
def test_sparse_files_of_gnu_tar(tmp_path: Path, layout: str, version: str, pieces: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(pieces):
            file.seek(number * 300_000)
            file.write(os.urandom(5000 + number))
        file.truncate(pieces * 300_000 + 12345)
    options = [f"--sparse-version={version}"] if layout == "pax" else []
    data = subprocess.run(["tar", f"--format={layout}", "--sparse", *options, "-C", tmp_path, "-cf", "-", "sparse"],
                          check=True, capture_output=True).stdout
    (entry, stored), = read_all(data)
    assert entry.name == b"sparse"
    assert entry.extents is not None
    assert len(entry.extents) == pieces
    assert read_sparse(entry, stored) == path.read_bytes()


def header(name: bytes = b"f", kind: bytes = b"0", size: bytes = b"0", **fields: bytes) -> bytes:
    """A raw header with a right checksum; `fields` may overwrite any place: at_124=b'...'."""
    block = bytearray(512)
    block[:len(name)] = name
    block[124:124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for place, value in fields.items():
        at = int(place.removeprefix("at_"))
        block[at:at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    return header(kind=b"x", size=b"%o" % len(records)) + records + bytes(-len(records) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 2
    return b"%d" % size + body if size >= 10 else b"%d" % (size - 1) + body


def test_base_256_numbers() -> None:
    data = header(at_108=b"\x80" + (2**33).to_bytes(7, "big"), at_136=(-5 & (1 << 96) - 1).to_bytes(12, "big"))
    entry = read_all(data)[0][0]
    assert (entry.uid, entry.mtime) == (2**33, -5)


def test_a_signed_checksum_of_old_tars() -> None:
    block = bytearray(header(name=b"caf\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(struct.unpack("512b", block))
    assert read_all(bytes(block))[0][0].name == b"caf\xe9"


@pytest.mark.parametrize(("data", "words"), [
    (b"x" * 512, "not octal"),
    (header()[:-1] + b"x", "checksum"),
    (header()[:300], "middle"),
    (header(size=b"1000") + bytes(100), "middle"),
    (header(kind=b"Z"), "unknown type"),
    (header(size=b"99x"), "not octal"),
    (header(at_124=b"\xff" * 12), "claims -1"),
    (header(at_124=b"\x80" + b"\x7f" * 11), "claims"),
    (header(kind=b"x", size=b"77777777"), "too long"),
    (header(kind=b"L", size=b"77777777"), "too long"),
    (pax(b"4 a=\n") + header(), "length is wrong"),
    (pax(b"x a=b\n") + header(), "no length"),
    (pax(b"99 a=b\n") + header(), "length is wrong"),
    (pax(b"6 abc\n") + header(), "no valid key"),
    (pax(record(b"a\0b", b"c")) + header(), "no valid key"),
    (pax(record(b"path", b"a\0b")) + header(), "NUL"),
    (pax(record(b"size", b"-5")) + header(), "claims -5"),
    (pax(record(b"size", b"many")) + header(), "not a number"),
    (pax(record(b"mtime", b"1" * 40)) + header(), "not a number"),
    (pax(record(b"path", b"a")), "ends after"),
    (pax(record(b"GNU.sparse.map", b"0,5,1,5") + record(b"GNU.sparse.size", b"9")) + header(), "overlap"),
    (pax(record(b"GNU.sparse.map", b"0,5") + record(b"GNU.sparse.size", b"9")) + header(), "make 5 bytes"),
    (pax(record(b"GNU.sparse.map", b"0,5,7") + record(b"GNU.sparse.size", b"9")) + header(), "half a pair"),
    (pax(record(b"GNU.sparse.map", b"0,-5") + record(b"GNU.sparse.size", b"9")) + header(), "overlap"),
    (pax(record(b"GNU.sparse.map", b"0,5")) + header(), "claims -1"),
    (pax(record(b"GNU.sparse.numbytes", b"5") + record(b"GNU.sparse.size", b"9")) + header(), "do not alternate"),
    (pax(record(b"GNU.sparse.major", b"3") + record(b"GNU.sparse.size", b"9")) + header(), "no map"),
    (pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")) + header(size=b"1000") + b"9" * 512,
     "not made of numbers"),
    (pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")) + header(size=b"1000")
     + b"99999999\n".ljust(512, b"\0"), "more than"),
    (pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")) + header(size=b"1000")
     + b"300\n" + b"1\n" * 254, "cut off"),
    (header(kind=b"S", at_386=b"0\0".ljust(12, b" ") + b"7\0".ljust(12, b" "), at_483=b"5"), "reach beyond"),
    (header(kind=b"S", at_482=b"\1", at_483=b"5"), "middle"),
])
def test_broken_tars_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(tar.TarError, match=words):
        read_all(data)


def test_an_archive_may_end_without_its_zero_blocks() -> None:
    assert [entry.name for entry, _ in read_all(header(b"a") + header(b"b"))] == [b"a", b"b"]


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_any_bytes_are_read_or_refused(data: bytes, piece: int) -> None:
    with contextlib.suppress(tar.TarError):
        read_all(data, piece)
