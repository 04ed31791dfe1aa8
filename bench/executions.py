"""When programs began: the kernel's process events, which tell every exec of the host to the nanosecond.

They come over netlink's connector (Documentation/driver-api/connector.rst, include/uapi/linux/cn_proc.h). pyroute2
speaks it too, but cannot say when all that has arrived was read.
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType
from typing import Self

_NETLINK_CONNECTOR = 11
_NLMSG_DONE = 3
_PROCESSES = 1
"""CN_IDX_PROC and CN_VAL_PROC: the connector's channel, and the group of those who listen to it."""
_LISTEN = 1
_EXEC = 0x2
_HEADERS = struct.Struct("=IHHII IIIIHH")
"""nlmsghdr: length, type, flags, number, port; cn_msg: index, value, number, acknowledged, length, flags."""
_EVENT = struct.Struct("=IIQii")
"""proc_event: what, processor, ns of the monotonic clock; of an exec: thread, process."""
_BUFFER_BYTES = 8 << 20
"""For some 10,000 events that nobody has read yet: a busy host's of many seconds."""


class Executions:
    """Listens while it is entered. Needs root, and a kernel with CONFIG_PROC_EVENTS, as Debian's has."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind((0, _PROCESSES))
        self._socket.send(_HEADERS.pack(_HEADERS.size + 4, _NLMSG_DONE, 0, 0, os.getpid(),
                                        _PROCESSES, _PROCESSES, 0, 0, 4, 0) + struct.pack("=I", _LISTEN))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._socket.close()

    def last(self) -> dict[int, int]:
        """For each process that began a program since we listen, or since this was asked last: when it began the last
        one, in ns of the monotonic clock.

        :raise OSError: more has happened than the kernel kept for us.
        """
        began: dict[int, int] = {}
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return began
            if len(message) >= _HEADERS.size + _EVENT.size:
                what, _, at, _, process = _EVENT.unpack_from(message, _HEADERS.size)
                if what == _EXEC:
                    began[process] = at
