"""The agent protocol's messages as the bytes that frames carry."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from hyperstack.guest.frames import MAX_MESSAGE
from hyperstack.guest.messages import Call, ErrorReply, Event, RawErrorReply, Reply
from hyperstack.pod.errors import GuestError, InvalidArgument

R = TypeVar("R", bound=Reply)

_MAX_WORDS = 4096
"""Characters of what a guest has against a call."""
_GARBLED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises about bytes that are no message; the second, for keys that are not UTF-8."""

_encoder = msgspec.msgpack.Encoder()
_error_decoder = msgspec.msgpack.Decoder(RawErrorReply)
_STRING_HEADERS = {0xD9: 2, 0xDA: 3, 0xDB: 5}
"""First byte -> size, of msgpack's longer strings."""
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def operation(call: Call) -> str:
    """The name by which the protocol knows a call."""
    return str(type(call).__struct_config__.tag)


def encode_call(call: Call) -> bytes:
    """:raise InvalidArgument: it is larger than a frame may be; somebody asked for too many or too long strings."""
    payload = _encoder.encode(call)
    if len(payload) > MAX_MESSAGE - 4:
        raise InvalidArgument(
            f"The request to {operation(call)} takes {len(payload)} bytes, the limit is {MAX_MESSAGE - 4}",
            field=operation(call), value=len(payload), hint="Shorten the arguments, the environment or the files.")
    return payload


def decode_reply(payload: bytes, reply: type[R], operation: str) -> R | ErrorReply:
    """The reply to a call, or what the guest has against it.

    :raise GuestError: it is neither.
    """
    try:
        return msgspec.msgpack.decode(payload, type=reply)
    except _GARBLED as error:
        try:
            refusal = _error_decoder.decode(payload)
            return ErrorReply(error=_words(bytes(refusal.error)), errno=refusal.errno)
        except _GARBLED:
            raise GuestError(f"garbled reply to {operation}: {error}", field=operation) from error


def _words(string: bytes) -> str:
    """Of a msgpack string that may quote a path, which need not be UTF-8: no reason to end a connection.

    :raise msgspec.DecodeError: not a string.
    """
    header = 1 if 0xA0 <= string[0] <= 0xBF else _STRING_HEADERS.get(string[0])
    if header is None:
        raise msgspec.DecodeError("the error is not a string")
    return string[header:].decode(errors="replace")[:_MAX_WORDS]


def decode_event(payload: bytes) -> Event:
    """:raise GuestError: not an event of the protocol."""
    try:
        return _event_decoder.decode(payload)
    except _GARBLED as error:
        raise GuestError(f"garbled event: {error}", field="event") from error
