"""Notices that somebody deletes nftables tables.

`systemctl restart nftables` flushes every table of the host, ours included, and with them the fences between tenants.
The kernel tells of each deletion on a multicast group of netlink; nothing is polled.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NFNLGRP_NFTABLES = 7
_DELETED_TABLE = 10 << 8 | 2
"""Message type: NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE."""
_HEADER = struct.Struct("=IHHII")
_MAX_DATAGRAM = 65536


class DeletionWatch:
    """Calls `on_deletion` in the running loop after any table of the host was deleted; more often than needed."""

    def __init__(self, on_deletion: Callable[[], None]) -> None:
        self._on_deletion = on_deletion
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        deleted = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    deleted |= _DELETED_TABLE in _types(self._socket.recv(_MAX_DATAGRAM))
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    deleted = True  # more was told than fits: it may have been that
        if deleted:
            self._on_deletion()


def _types(datagram: bytes) -> Iterator[int]:
    """Of the messages in it."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        yield kind
        offset += max(_HEADER.size, (length + 3) & ~3)
