"""Frames of the agent protocol (docs/protocol.md): how bytes on the port are cut into messages, in both directions.

The parser is written for a hostile sender. Nothing is stored before its header was found legal, so a `FrameParser`
never holds more than one maximal frame beyond what it was fed, and the first violation is final.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

import msgspec

from hyperstack.pod.errors import GuestError

HELLO_MAGIC = b"HYPERSTACK\x00\x01"
WELCOME_MAGIC = b"HYPERSTACK\x01\x01"
KEY_SIZE = 16
NONCE_SIZE = 16
HELLO_SIZE = WELCOME_SIZE = 52
MAX_RESYNC = 8 << 20
"""Bytes of an earlier connection that are dropped in search of the welcome."""

MIN_WINDOW = 4096
MAX_WINDOW = 4 << 20

MAX_MESSAGE = 1 << 20
"""Body of a CALL or REPLY."""
MAX_EVENT = 4096
"""Body of an EVENT; the largest legal one takes some 150 bytes."""
MAX_DATA = 65536
"""Bytes of a stream in one DATA frame."""
MAX_HANDLE = 2**31 - 1
MAX_OFFSET = 2**63 - 1
"""Signed, so that every offset fits in a record and a sum of two never wraps in C."""

STDIN = 0
STDOUT = 1
STDERR = 2

_HEADER = struct.Struct("<IBBH")
_NUMBER = struct.Struct("<I")
_POSITION = struct.Struct("<IQ")
_HELLO = struct.Struct("<12s16s16sII")
_WELCOME = struct.Struct("<12s16sIII12s")


class Kind(enum.IntEnum):
    CALL = 1
    REPLY = 2
    EVENT = 3
    DATA = 4
    ACK = 5
    EOF = 6


class Side(enum.Enum):
    """Who receives: the two ends accept different frames."""

    HOST = "host"
    GUEST = "guest"


class CallFrame(msgspec.Struct, frozen=True, gc=False):
    number: int
    payload: bytes
    """msgpack"""


class ReplyFrame(msgspec.Struct, frozen=True, gc=False):
    number: int
    payload: bytes
    """msgpack"""


class EventFrame(msgspec.Struct, frozen=True, gc=False):
    payload: bytes
    """msgpack"""


class DataFrame(msgspec.Struct, frozen=True, gc=False):
    stream: int
    handle: int
    offset: int
    """Of the first byte, in the stream's whole life."""
    data: bytes


class AckFrame(msgspec.Struct, frozen=True, gc=False):
    stream: int
    handle: int
    offset: int
    """Everything before it is safe with the sender of the frame."""


class EofFrame(msgspec.Struct, frozen=True, gc=False):
    stream: int
    handle: int
    offset: int
    """Where the stream ends."""


Frame = CallFrame | ReplyFrame | EventFrame | DataFrame | AckFrame | EofFrame


class _Rule(NamedTuple):
    shortest: int
    longest: int
    streams: frozenset[int]


_NONE = frozenset({0})
_FIXED = _POSITION.size
_RULES: dict[Side, dict[int, _Rule]] = {
    Side.HOST: {
        Kind.REPLY: _Rule(_NUMBER.size + 1, MAX_MESSAGE, _NONE),
        Kind.EVENT: _Rule(1, MAX_EVENT, _NONE),
        Kind.DATA: _Rule(_FIXED + 1, _FIXED + MAX_DATA, frozenset({STDOUT, STDERR})),
        Kind.ACK: _Rule(_FIXED, _FIXED, frozenset({STDIN})),
        Kind.EOF: _Rule(_FIXED, _FIXED, frozenset({STDIN, STDOUT, STDERR})),
    },
    Side.GUEST: {
        Kind.CALL: _Rule(_NUMBER.size + 1, MAX_MESSAGE, _NONE),
        Kind.DATA: _Rule(_FIXED + 1, _FIXED + MAX_DATA, frozenset({STDIN})),
        Kind.ACK: _Rule(_FIXED, _FIXED, frozenset({STDOUT, STDERR})),
        Kind.EOF: _Rule(_FIXED, _FIXED, frozenset({STDIN})),
    },
}


class FrameParser:
    """Cuts what one peer sends into frames.

    :param side: the end that this parser serves, as it decides which frames are legal.
    """

    def __init__(self, side: Side) -> None:
        self._rules = _RULES[side]
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order.

        :raise GuestError: the peer broke the protocol; says how. Every later call raises as well.
        """
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        with memoryview(self._buffer) as view:
            while len(view) - start >= _HEADER.size:
                length, kind, stream, zero = _HEADER.unpack_from(view, start)
                self._check(length, kind, stream, zero)
                body = start + _HEADER.size
                if len(view) - body < length:
                    break
                start = body + length
                frames.append(_decode(kind, stream, view[body:start]))
        del self._buffer[:start]
        return frames

    def _check(self, length: int, kind: int, stream: int, zero: int) -> None:
        rule = self._rules.get(kind)
        if rule is None:
            raise GuestError(f"frame of kind {kind}, which this end does not accept", field="kind", value=kind)
        name = Kind(kind).name
        if stream not in rule.streams or zero:
            raise GuestError(f"{name} frame with stream {stream} and reserved bits {zero:#x}", field="stream",
                             value=stream)
        if not rule.shortest <= length <= rule.longest:
            raise GuestError(f"{name} frame of {length} bytes, outside {rule.shortest}..{rule.longest}",
                             field="length", value=length)


def _decode(kind: int, stream: int, body: memoryview) -> Frame:
    """A frame whose header is legal."""
    match kind:
        case Kind.EVENT:
            return EventFrame(bytes(body))
        case Kind.CALL | Kind.REPLY:
            (number,) = _NUMBER.unpack_from(body)
            return (CallFrame if kind == Kind.CALL else ReplyFrame)(number, bytes(body[_NUMBER.size:]))
    handle, offset = _POSITION.unpack_from(body)
    size = len(body) - _POSITION.size
    if not 1 <= handle <= MAX_HANDLE:
        raise GuestError(f"{Kind(kind).name} frame for handle {handle}", field="handle", value=handle)
    if offset + size > MAX_OFFSET:
        raise GuestError(f"{Kind(kind).name} frame at offset {offset}", field="offset", value=offset)
    if kind == Kind.DATA:
        return DataFrame(stream, handle, offset, bytes(body[_POSITION.size:]))
    return (AckFrame if kind == Kind.ACK else EofFrame)(stream, handle, offset)


def encode(frame: Frame) -> bytes:
    """A frame's bytes. The caller has bounded its fields."""
    match frame:
        case CallFrame(number, payload):
            return _HEADER.pack(_NUMBER.size + len(payload), Kind.CALL, 0, 0) + _NUMBER.pack(number) + payload
        case ReplyFrame(number, payload):
            return _HEADER.pack(_NUMBER.size + len(payload), Kind.REPLY, 0, 0) + _NUMBER.pack(number) + payload
        case EventFrame(payload):
            return _HEADER.pack(len(payload), Kind.EVENT, 0, 0) + payload
        case DataFrame(stream, handle, offset, data):
            return b"".join((_HEADER.pack(_FIXED + len(data), Kind.DATA, stream, 0), _POSITION.pack(handle, offset),
                             data))
        case AckFrame(stream, handle, offset):
            return _HEADER.pack(_FIXED, Kind.ACK, stream, 0) + _POSITION.pack(handle, offset)
        case EofFrame(stream, handle, offset):
            return _HEADER.pack(_FIXED, Kind.EOF, stream, 0) + _POSITION.pack(handle, offset)


class Welcome(NamedTuple):
    """What the guest says of itself when a connection begins."""

    minor: int
    features: int
    window: int
    """Bytes per stdin that may be in flight."""


def encode_hello(key: bytes, nonce: bytes, window: int) -> bytes:
    """The first 52 bytes of a connection. `window`: bytes of unacknowledged output per stream."""
    return _HELLO.pack(HELLO_MAGIC, key, nonce, 0, window)


def decode_welcome(data: bytes) -> Welcome:
    """Of the 52 bytes that begin with WELCOME_MAGIC and our nonce.

    :raise GuestError: a number is out of range.
    """
    _magic, _nonce, minor, features, window, padding = _WELCOME.unpack(data)
    if not MIN_WINDOW <= window <= MAX_WINDOW:
        raise GuestError(f"welcome with a window of {window} bytes", field="window", value=window)
    if any(padding):
        raise GuestError("welcome with reserved bytes set", field="padding", value=padding.hex())
    return Welcome(minor, features, window)
