"""A few netlink messages in one datagram, each answered by the kernel with an errno, before `tell` returns.

As much of netlink as a pod's start needs, and no more: pyroute2, which knows every attribute of every object, takes ten
times as long for the same messages, and they are on the way of every start.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

# linux/netlink.h
_NLMSG_ERROR = 2
_REQUEST, _ACK = 0x01, 0x04
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
_CAPPED, _EXPLAINED = 0x100, 0x200
_NESTED = 0x8000
_ATTRIBUTE_TEXT = 1
_SOL_NETLINK = 270
_CAP_ACK, _EXT_ACK = 10, 11

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, number, port."""
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
_MAX_DATAGRAM = 65536


class Message(NamedTuple):
    kind: int
    body: bytes
    """Its family's header, and attributes."""
    flags: int = 0
    answered: bool = True


class Refused(OSError):
    """The kernel refused a message; `errno` says why, and `strerror` in words."""


def attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, bytes((value,)))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


class Netlink:
    """One socket, in the network namespace of the thread that makes it. For one thread at a time."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._last = 0

    def close(self) -> None:
        self._socket.close()

    def tell(self, *messages: Message) -> None:
        """The kernel takes them in this order, each for itself unless its family says otherwise.

        :raise Refused: one of them; the first of those.
        """
        first = self._last + 1
        self._last += len(messages)
        wanted = {first + place for place, message in enumerate(messages) if message.answered}
        self._socket.send(b"".join(_encode(number, message) for number, message in enumerate(messages, first)))
        # The kernel does all within the call to send: what it has to say is there already.
        while wanted:
            try:
                datagram = self._socket.recv(_MAX_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                raise Refused(errno.ENOMSG, "the kernel did not answer") from None
            for number, code, words in _answers(datagram):
                if number < first:
                    continue  # of a datagram whose first refusal was all that counted
                if code:
                    raise Refused(code, words or os.strerror(code))
                wanted.discard(number)


def _encode(number: int, message: Message) -> bytes:
    size = _HEADER.size + len(message.body)
    flags = _REQUEST | message.flags | (_ACK if message.answered else 0)
    return _HEADER.pack(size, message.kind, flags, number, 0) + message.body


def _answers(datagram: bytes) -> Iterator[tuple[int, int, str]]:
    """(number of the message, errno, the kernel's own words) for each."""
    start = 0
    while start + _HEADER.size + _ERROR.size <= len(datagram):
        size, kind, flags, number, _ = _HEADER.unpack_from(datagram, start)
        if kind == _NLMSG_ERROR:
            (code,) = _ERROR.unpack_from(datagram, start + _HEADER.size)
            told = start + 2 * _HEADER.size + _ERROR.size
            explained = flags & _EXPLAINED and flags & _CAPPED
            yield number, -code, _words(datagram[told:start + size]) if explained else ""
        start += max(_HEADER.size, (size + 3) & ~3)


def _words(attributes: bytes) -> str:
    start = 0
    while start + _ATTRIBUTE.size <= len(attributes):
        size, kind = _ATTRIBUTE.unpack_from(attributes, start)
        if kind == _ATTRIBUTE_TEXT:
            return attributes[start + _ATTRIBUTE.size:start + size].rstrip(b"\0").decode(errors="replace")
        start += max(_ATTRIBUTE.size, (size + 3) & ~3)
    return ""
