"""The agent's parsers, compiled for this host, against the Python ends that they talk to: frames and hellos as the
engine writes them, msgpack as msgspec does, tar as tarfile does."""

from __future__ import annotations

import ctypes
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperstack.guest.kernels import AGENT_SOURCES

MAGIC = b"HYPERSTACK\0\1"
KEY = bytes(range(1, 17))
PATH_LIMIT = 4096
WIRE_SIZE = 2 << 20
"""More than sizeof(struct wire)."""


class Slice(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_uint32))

    def content(self) -> bytes:
        return ctypes.string_at(self.data, self.size) if self.data else b""


class WireFrame(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("stream", ctypes.c_uint), ("number", ctypes.c_uint32),
                ("offset", ctypes.c_uint64), ("body", Slice))


class WireHello(ctypes.Structure):
    _fields_ = (("nonce", ctypes.c_uint8 * 16), ("window", ctypes.c_uint32))


HelloCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(WireHello))
FrameCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.POINTER(WireFrame))


class WireHandler(ctypes.Structure):
    _fields_ = (("hello", HelloCallback), ("frame", FrameCallback))


class TarXattr(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", Slice))


class TarEntry(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("path", ctypes.c_char * PATH_LIMIT), ("link", ctypes.c_char * PATH_LIMIT),
                ("mode", ctypes.c_uint32), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32),
                ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("size", ctypes.c_uint64),
                ("mtime_s", ctypes.c_int64), ("mtime_ns", ctypes.c_uint32), ("xattrs", TarXattr * 64),
                ("xattr_count", ctypes.c_size_t))


SourceCallback = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)


class TarReader(ctypes.Structure):
    _fields_ = (("source", SourceCallback), ("context", ctypes.c_void_p), ("left", ctypes.c_uint64),
                ("padding", ctypes.c_size_t), ("extended", ctypes.c_void_p))


class Problem(ctypes.Structure):
    _fields_ = (("error", ctypes.c_int), ("text", ctypes.c_char * 256))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("agent") / "parsers.so"
    sources = [str(AGENT_SOURCES / name) for name in ("util.c", "msgpack.c", "decode.c", "wire.c", "tar.c")]
    subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                    "-o", str(library), *sources], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.mp_valid.argtypes = [Slice]
    loaded.mp_valid.restype = ctypes.c_bool
    loaded.wire_feed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    loaded.tar_data.restype = ctypes.c_ssize_t
    loaded.tar_data.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    return loaded


class Wire:
    """The guest's end of a connection."""

    def __init__(self, agent: ctypes.CDLL) -> None:
        self.agent = agent
        self.hellos: list[tuple[bytes, int]] = []
        self.frames: list[tuple[int, int, int, int, bytes]] = []
        self.state = ctypes.create_string_buffer(WIRE_SIZE)
        self.handler = WireHandler(HelloCallback(self._hello), FrameCallback(self._frame))
        agent.wire_init(self.state, ctypes.byref(self.handler), None)

    def _hello(self, context: int | None, hello: Any) -> None:
        self.hellos.append((bytes(hello.contents.nonce), hello.contents.window))

    def _frame(self, context: int | None, frame: Any) -> bool:
        found = frame.contents
        self.frames.append((found.kind, found.stream, found.number, found.offset, found.body.content()))
        return True

    def feed(self, data: bytes, *, step: int = 1 << 30) -> None:
        for at in range(0, len(data), step):
            piece = data[at:at + step]
            self.agent.wire_feed(self.state, piece, len(piece))
        self.agent.wire_idle(self.state)


def hello(nonce: bytes = bytes(16), *, key: bytes = KEY, features: int = 0, window: int = 65536) -> bytes:
    return MAGIC + key + nonce + features.to_bytes(4, "little") + window.to_bytes(4, "little")


def frame(kind: int, stream: int, body: bytes, *, zero: int = 0) -> bytes:
    return len(body).to_bytes(4, "little") + bytes((kind, stream)) + zero.to_bytes(2, "little") + body


def data(handle: int, offset: int, content: bytes) -> bytes:
    return frame(4, 0, handle.to_bytes(4, "little") + offset.to_bytes(8, "little") + content)


# --- connections and frames ---

def test_a_hello_is_found_behind_anything_and_its_frames_are_read(agent: ctypes.CDLL) -> None:
    wire = Wire(agent)
    wire.feed(b"noise HYPERSTACK" + hello(b"n" * 16, window=4096) + data(7, 9, b"abc") + frame(1, 0, b"\5\0\0\0\x80"))
    assert wire.hellos == [(b"n" * 16, 4096)]
    assert wire.frames == [(4, 0, 7, 9, b"abc"), (1, 0, 5, 0, b"\x80")]


@pytest.mark.parametrize("bad", [hello(features=1), hello(window=4095), hello(window=4194305), hello()[:51],
                                 b"HYPERSTACK\0\2" + hello()[12:]])
def test_a_bad_hello_is_no_hello_and_a_good_one_behind_it_is(agent: ctypes.CDLL, bad: bytes) -> None:
    wire = Wire(agent)
    wire.feed(bad)
    assert wire.hellos == []
    wire.feed(hello(b"g" * 16))
    assert wire.hellos[-1] == (b"g" * 16, 65536)


def test_what_a_tenant_streams_cannot_fake_a_reconnection(agent: ctypes.CDLL) -> None:
    wire = Wire(agent)
    fake = hello(b"f" * 16, key=bytes(16))
    wire.feed(hello() + data(1, 0, fake) + data(1, len(fake), b"more"))
    assert len(wire.hellos) == 1
    assert [one[4] for one in wire.frames] == [fake, b"more"]


@given(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=5), st.integers(1, 60), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_connection_that_is_cut_anywhere_gives_whole_frames_only(agent: ctypes.CDLL, contents: list[bytes], step: int,
                                                                   draw: st.DataObject) -> None:
    wire = Wire(agent)
    sent = b"".join(data(1, number, content) for number, content in enumerate(contents))
    cut = draw.draw(st.integers(0, len(sent)))
    ends = [len(b"".join(data(1, 0, one) for one in contents[:count + 1])) for count in range(len(contents))]
    wire.feed(hello() + sent[:cut], step=step)
    wire.feed(hello(b"2" * 16) + data(1, 99, b"last"), step=step if step >= 52 else 1 << 30)
    whole = [content for content, end in zip(contents, ends, strict=True) if end <= cut]
    assert [one[4] for one in wire.frames] == [*whole, b"last"]


@pytest.mark.parametrize("bad", [
    frame(0, 0, b"x" * 12), frame(2, 0, b"x" * 12), frame(3, 0, b"x" * 12), frame(7, 0, b"x" * 12),
    frame(4, 1, b"\1\0\0\0" + bytes(9)), frame(4, 0, b"\1\0\0\0" + bytes(8)), frame(5, 0, b"\1\0\0\0" + bytes(8)),
    frame(5, 3, b"\1\0\0\0" + bytes(8)), frame(6, 1, b"\1\0\0\0" + bytes(8)), frame(6, 0, bytes(12)),
    frame(6, 0, b"\0\0\0\x80" + bytes(8)), frame(6, 0, b"\1\0\0\0" + bytes(8), zero=1), frame(1, 0, b"\1\0\0\0"),
    (65536 + 13).to_bytes(4, "little") + b"\4\0\0\0", ((1 << 20) + 1).to_bytes(4, "little") + b"\1\0\0\0"])
def test_a_violation_ends_the_connection_until_the_next_hello(agent: ctypes.CDLL, bad: bytes) -> None:
    wire = Wire(agent)
    wire.feed(hello() + bad + data(1, 0, b"lost"))
    assert wire.frames == []
    wire.feed(hello(b"2" * 16) + data(1, 0, b"found"))
    assert [one[4] for one in wire.frames] == [b"found"]


def test_frames_of_the_largest_size_pass(agent: ctypes.CDLL) -> None:
    wire = Wire(agent)
    wire.feed(hello() + data(1, 0, b"x" * 65536) + frame(1, 0, b"\1\0\0\0" + b"y" * ((1 << 20) - 4)), step=10000)
    assert [len(one[4]) for one in wire.frames] == [65536, (1 << 20) - 4]


def test_a_frame_that_ends_like_a_hello_begins_is_not_kept_waiting(agent: ctypes.CDLL) -> None:
    wire = Wire(agent)
    wire.feed(hello() + data(1, 0, b"typed HYPER"))
    assert [one[4] for one in wire.frames] == [b"typed HYPER"]
    wire.feed(data(1, 11, b"STACK"))
    assert [one[4] for one in wire.frames] == [b"typed HYPER", b"STACK"]


# --- msgpack ---

def valid(agent: ctypes.CDLL, content: bytes) -> bool:
    buffer = ctypes.create_string_buffer(content, len(content))
    return bool(agent.mp_valid(Slice(ctypes.addressof(buffer), len(content))))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=10), inner, max_size=20),
    max_leaves=20)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_msgspec_writes_is_read_up_to_the_depth(agent: ctypes.CDLL, value: object) -> None:
    packed = msgspec.msgpack.encode(value)
    assert valid(agent, packed) == (depth(value) <= 8)
    assert not valid(agent, packed + b"\xc0")
    assert not valid(agent, packed[:-1])


@pytest.mark.parametrize("content", [
    b"", b"\xc1", b"\xca\0\0\0\0", b"\xcb" + bytes(8), b"\xc7\1\1x", b"\xd4\1x", b"\x81\1\1", b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 9 + b"\xc0"])
def test_what_the_protocol_does_not_have_is_refused(agent: ctypes.CDLL, content: bytes) -> None:
    assert not valid(agent, content)


# --- tar ---

def read_tar(agent: ctypes.CDLL, content: bytes) -> Iterator[tuple[TarEntry, bytes]]:
    """:raise ValueError: as the agent refuses it."""
    stream = io.BytesIO(content)

    def source(context: int | None, into: Any, size: int) -> int:
        got = stream.read(size)
        ctypes.memmove(into, got, len(got))
        return len(got)

    reader = TarReader(source=SourceCallback(source))
    problem = Problem()
    chunk = ctypes.create_string_buffer(1000)
    while True:
        entry = TarEntry()
        more = agent.tar_next(ctypes.byref(reader), ctypes.byref(entry), ctypes.byref(problem))
        body = bytearray()
        while more > 0 and (got := agent.tar_data(ctypes.byref(reader), chunk, 1000, ctypes.byref(problem))):
            if got < 0:
                more = -1
                break
            body += chunk.raw[:got]
        if more <= 0:
            agent.tar_close(ctypes.byref(reader))
        if more < 0:
            raise ValueError(problem.text.decode(errors="replace"))
        if more == 0:
            return
        yield entry, bytes(body)


names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2ff, exclude_characters="/"), min_size=1,
                max_size=120).filter(lambda name: len(name.encode()) < 250)


@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=3), st.binary(max_size=1500), st.integers(0, 0o7777),
                          st.integers(0, 2**32 - 1), st.integers(0, 2**33)), max_size=4),
       st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_tarfile_writes_is_read(agent: ctypes.CDLL, files: list[tuple[list[str], bytes, int, int, int]],
                                     layout: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for parts, content, mode, owner, mtime in files:
            info = tarfile.TarInfo("/".join(parts))
            info.size, info.mode, info.uid, info.gid, info.mtime = len(content), mode, owner, owner, mtime
            archive.addfile(info, io.BytesIO(content))
    found = [(entry.path.decode(), body, entry.mode, entry.uid, entry.mtime_s)
             for entry, body in read_tar(agent, buffer.getvalue())]
    assert found == [("/".join(parts), content, mode, owner, mtime) for parts, content, mode, owner, mtime in files]


@given(st.binary(max_size=3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_no_archive(agent: ctypes.CDLL, content: bytes) -> None:
    if content.strip(b"\0"):
        with pytest.raises(ValueError, match="archive"):
            list(read_tar(agent, content.rjust(512, b"\1")))


def test_times_attributes_and_links_are_read(agent: ctypes.CDLL) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "t" * 300
        info.pax_headers = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.a": "value"}
        archive.addfile(info)
    (entry, _), = read_tar(agent, buffer.getvalue())
    assert (entry.type, entry.link) == (ord("2"), b"t" * 300)
    assert (entry.mtime_s, entry.mtime_ns) == (1700000000, 123456789)
    assert entry.xattr_count == 1


def test_sources_of_the_agent_stay_small() -> None:
    """A module that does not fit a reader's head is two modules."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in Path(AGENT_SOURCES).glob("*.[ch]")}
    assert not [name for name, length in lengths.items() if length >= 500]
