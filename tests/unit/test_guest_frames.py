"""Frames: what is said is heard however it is cut, and what is illegal is refused before it is stored."""

from __future__ import annotations

import itertools
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.guest import codec, messages
from hyperstack.guest.frames import (
    HELLO_SIZE,
    MAX_DATA,
    MAX_EVENT,
    MAX_HANDLE,
    MAX_MESSAGE,
    MAX_OFFSET,
    WELCOME_MAGIC,
    AckFrame,
    CallFrame,
    DataFrame,
    EofFrame,
    EventFrame,
    Frame,
    FrameParser,
    ReplyFrame,
    Side,
    decode_welcome,
    encode,
    encode_hello,
)
from hyperstack.pod.errors import GuestError

handles = st.integers(1, MAX_HANDLE)
offsets = st.integers(0, MAX_OFFSET - 1000)
numbers = st.integers(0, 2**32 - 1)
payloads = st.binary(min_size=1, max_size=300)
host_frames = st.one_of(
    st.builds(ReplyFrame, numbers, payloads),
    st.builds(EventFrame, payloads),
    st.builds(DataFrame, st.sampled_from([1, 2]), handles, offsets, payloads),
    st.builds(AckFrame, st.just(0), handles, offsets),
    st.builds(EofFrame, st.sampled_from([0, 1, 2]), handles, offsets))
guest_frames = st.one_of(
    st.builds(CallFrame, numbers, payloads),
    st.builds(DataFrame, st.just(0), handles, offsets, payloads),
    st.builds(AckFrame, st.sampled_from([1, 2]), handles, offsets),
    st.builds(EofFrame, st.just(0), handles, offsets))


def feed_in_pieces(parser: FrameParser, data: bytes, cuts: list[int]) -> list[Frame]:
    found: list[Frame] = []
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        found += parser.feed(data[start:end])
    return found


@pytest.mark.parametrize(("side", "frames"), [(Side.HOST, host_frames), (Side.GUEST, guest_frames)])
def test_frames_survive_any_fragmentation(side: Side, frames: st.SearchStrategy[Frame]) -> None:
    @given(st.lists(frames, max_size=8), st.lists(st.integers(0, 10_000), max_size=8))
    def check(said: list[Frame], cuts: list[int]) -> None:
        parser = FrameParser(side)
        assert feed_in_pieces(parser, b"".join(map(encode, said)), cuts) == said
        assert parser.buffered == 0

    check()


@given(st.binary(max_size=400) | st.tuples(host_frames, st.binary(max_size=50)).map(lambda p: encode(p[0]) + p[1]),
       st.lists(st.integers(0, 500), max_size=4), st.sampled_from(Side))
def test_garbage_is_refused_the_same_however_it_is_cut(data: bytes, cuts: list[int], side: Side) -> None:
    def outcome(cuts: list[int]) -> str:
        parser = FrameParser(side)
        try:
            return repr(feed_in_pieces(parser, data, cuts))
        except GuestError as error:
            with pytest.raises(GuestError):
                parser.feed(b"\x00")
            return str(error)

    whole, pieces = outcome([]), outcome(cuts)
    assert whole == pieces


def header(length: int, kind: int, stream: int = 0, zero: int = 0) -> bytes:
    return struct.pack("<IBBH", length, kind, stream, zero)


@pytest.mark.parametrize(("data", "complaint"), [
    (header(5, 0), "frame of kind 0"),
    (header(5, 7), "frame of kind 7"),
    (header(5, 1), "frame of kind 1"),
    (header(4, 2), "REPLY frame of 4 bytes"),
    (header(MAX_MESSAGE + 1, 2), "REPLY frame of 1048577 bytes"),
    (header(2**32 - 1, 4, 1), "DATA frame of 4294967295 bytes"),
    (header(0, 3), "EVENT frame of 0 bytes"),
    (header(MAX_EVENT + 1, 3), "EVENT frame of 4097 bytes"),
    (header(12, 4, 1), "DATA frame of 12 bytes"),
    (header(12 + MAX_DATA + 1, 4, 1), "DATA frame of 65549 bytes"),
    (header(13, 4, 0), "DATA frame with stream 0"),
    (header(13, 4, 3), "DATA frame with stream 3"),
    (header(12, 5, 1), "ACK frame with stream 1"),
    (header(11, 6, 1), "EOF frame of 11 bytes"),
    (header(12, 6, 1, 1), "reserved bits 0x1"),
    (header(5, 2, 1), "REPLY frame with stream 1"),
    (header(12, 6, 1) + struct.pack("<IQ", 0, 0), "for handle 0"),
    (header(12, 6, 1) + struct.pack("<IQ", 2**31, 0), "for handle 2147483648"),
    (header(12, 6, 1) + struct.pack("<IQ", 1, 2**63), "at offset 9223372036854775808"),
    (header(13, 4, 1) + struct.pack("<IQ", 1, MAX_OFFSET) + b"x", "at offset"),
])
def test_illegal_frames_are_refused_by_name(data: bytes, complaint: str) -> None:
    with pytest.raises(GuestError, match=complaint):
        FrameParser(Side.HOST).feed(data)


def test_no_more_than_one_frame_is_buffered() -> None:
    parser = FrameParser(Side.HOST)
    largest = encode(ReplyFrame(1, bytes(MAX_MESSAGE - 4)))
    assert not parser.feed(largest[:-1])
    assert parser.buffered == len(largest) - 1
    assert len(parser.feed(largest[-1:] * 1)) == 1
    assert parser.buffered == 0


def test_hello_and_welcome_have_their_published_shape() -> None:
    hello = encode_hello(b"k" * 16, b"n" * 16, 65536)
    assert hello == b"HYPERSTACK\x00\x01" + b"k" * 16 + b"n" * 16 + bytes(4) + b"\x00\x00\x01\x00"
    assert len(hello) == HELLO_SIZE
    welcome = WELCOME_MAGIC + b"n" * 16 + struct.pack("<III", 3, 5, 4096) + bytes(12)
    assert decode_welcome(welcome) == (3, 5, 4096)


@pytest.mark.parametrize("window", [0, 4095, (4 << 20) + 1, 2**32 - 1])
def test_a_welcome_with_an_absurd_window_is_refused(window: int) -> None:
    with pytest.raises(GuestError, match="window"):
        decode_welcome(WELCOME_MAGIC + bytes(24) + struct.pack("<I", window) + bytes(12))


REPLIES = [messages.Reply, messages.PingReply, messages.ListReply, messages.StatsReply, messages.ProcessesReply,
           messages.ArchiveStatReply, messages.AttachReply, messages.ConfigureReply]
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=9) | st.text(max_size=9)
keys = st.sampled_from(["containers", "processes", "error", "errno", "stdin", "name", "net"]) | st.text(max_size=5)
documents = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5))


@given(st.binary(max_size=200) | documents.map(msgspec.msgpack.encode), st.sampled_from(REPLIES))
def test_a_reply_is_of_its_type_or_a_guest_error(payload: bytes, reply: type[messages.Reply]) -> None:
    try:
        found = codec.decode_reply(payload, reply, "op")
    except GuestError:
        return
    assert isinstance(found, (reply, messages.ErrorReply))


@given(st.binary(max_size=200) | documents.map(msgspec.msgpack.encode))
def test_an_event_is_of_its_type_or_a_guest_error(payload: bytes) -> None:
    try:
        found = codec.decode_event(payload)
    except GuestError:
        return
    assert isinstance(found, (messages.ExitEvent, messages.OomEvent))


@pytest.mark.parametrize("payload", [
    b"\x81\xa2\xff\xfe\x01", b"\x82\xa5error\x01\xa5errno\x01", b"\x91" * 100_000, b"\x81\xa1a" * 30_000,
    b"\xdd\xff\xff\xff\xff", b"\x81\xaacontainers\xdd\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x00"])
def test_bombs_and_broken_strings_are_refused(payload: bytes) -> None:
    for reply in REPLIES:
        with pytest.raises(GuestError):
            codec.decode_reply(payload, reply, "op")


def status(**changes: object) -> bytes:
    process = {"handle": 1, "container": "c", "pid": 5, "running": False, "code": 0, "signal": 9, "oom": True,
               "exit_ns": 1, "stdin": 0, "stdout": [1, 2, True], "stderr": [0, 0, True], **changes}
    return msgspec.msgpack.encode({"containers": [], "processes": [process]})


def test_a_listing_is_read() -> None:
    found = codec.decode_reply(status(), messages.ListReply, "list")
    assert isinstance(found, messages.ListReply)
    assert found.processes[0].stdout == messages.StreamStatus(acknowledged=1, written=2, eof=True)


@pytest.mark.parametrize("changes", [
    {"handle": 0}, {"handle": 2**31}, {"code": 256}, {"signal": 65}, {"signal": -1}, {"exit_ns": -1}, {"pid": 2**31},
    {"stdout": [3, 2, True]}, {"stdout": [1, 2]}, {"stdout": [1, 2, True, 4]}, {"running": 1}, {"container": b"c"},
    {"container": "c" * 129}, {"more": 1}])
def test_numbers_out_of_range_and_unknown_keys_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(GuestError, match="garbled reply to list"):
        codec.decode_reply(status(**changes), messages.ListReply, "list")


@pytest.mark.parametrize(("string", "text"), [
    (b"\xa5caf\xc3\xa9", "caf\u00e9"), (b"\xa4caf\xc3", "caf\ufffd"), (b"\xd9\x02\xffx", "\ufffdx"),
    (b"\xda\x00\x01x", "x"), (b"\xdb\x00\x00\x00\x01x", "x"), (b"\xda\x20\x00" + b"x" * 8192, "x" * 4096)])
def test_an_error_may_quote_what_is_not_utf_8(string: bytes, text: str) -> None:
    payload = b"\x82\xa5error" + string + b"\xa5errno\x02"
    assert codec.decode_reply(payload, messages.ListReply, "op") == messages.ErrorReply(error=text, errno=2)
