"""A network's name server: it listens on the gateways' addresses, knows its pods, and passes other questions on.

It answers those alone that have an address of the network; the fence in front of each tap holds that nobody lends
himself another's. What one pod may ask for at a time is bounded, so that no pod takes the daemon's time from others.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

import dns.rcode

from hyperstack.network.api import Binding, Network
from hyperstack.network.dns import forwarder
from hyperstack.network.dns.answers import (
    MAX_DATAGRAM,
    MAX_QUESTION,
    MAX_STREAM,
    Elsewhere,
    Place,
    answer,
    refusal,
    truncated,
)
from hyperstack.network.dns.directory import Directory
from hyperstack.pod.errors import Unavailable

MAX_OPEN = 64
"""Questions of one pod that are passed on at the same time; further ones are dropped, to be asked again."""
MAX_OPEN_TOGETHER = 512
"""Of all pods of the network."""
MAX_CONNECTIONS = 8
"""Over TCP, of one pod."""
_IDLE_S = 10.0
_LENGTH = struct.Struct("!H")
_TRIES = 16
_SO_FREEBIND = 15
"""linux/in.h, IP_FREEBIND: the gateway's address may come later than its resolver."""

Servers = Callable[[Binding], Sequence[str]]
"""Whom to ask for a pod."""
Further = Callable[[Binding], Sequence[Place]]
"""The other networks that the same pod is on."""


class Resolver:
    """One network's. `open` it in the running loop; `port` is where it listens then, for UDP and TCP alike.

    :param servers: asked for every question that is passed on; none: such names do not exist.
    :param further: where else a name may be one.
    """

    def __init__(self, network: Network, servers: Servers, *, further: Further = lambda binding: (),
                 upstream_port: int = forwarder.PORT) -> None:
        self.directory = Directory(network)
        self._further = further
        self.port = 0
        self._servers = servers
        self._upstream_port = upstream_port
        self._transports: list[asyncio.DatagramTransport] = []
        self._listeners: list[asyncio.Server] = []
        self._open: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """:raise Unavailable: no port is free."""
        addresses = [subnet.gateway for subnet in self.directory.network.subnets]
        self.port, sockets = _bound(addresses)
        loop = asyncio.get_running_loop()
        for one in sockets:
            if one.type == socket.SOCK_DGRAM:
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=one)
                self._transports.append(transport)
            else:
                self._listeners.append(await asyncio.start_server(self._serve, sock=one))

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        for listener in self._listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()

    def datagram(self, data: bytes, address: str, send: Callable[[bytes], None]) -> None:
        """A question over UDP."""
        asker = self.directory.asker(address)
        if asker is None:
            return
        found = answer(data, self._places(asker), limit=MAX_DATAGRAM)
        if isinstance(found, bytes):
            send(found)
        elif found is not None and self._open[address] < MAX_OPEN and len(self._tasks) < MAX_OPEN_TOGETHER:
            self._open[address] += 1
            task = asyncio.create_task(self._pass_on(found, data, asker, address, send))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _places(self, asker: Binding) -> list[Place]:
        return [(self.directory, asker), *self._further(asker)]

    async def _pass_on(self, asked: Elsewhere, data: bytes, asker: Binding, address: str,
                       send: Callable[[bytes], None]) -> None:
        try:
            send(truncated(await self._elsewhere(asked, data, asker, stream=False), asked.question,
                           limit=_accepted(data)))
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    async def _elsewhere(self, asked: Elsewhere, data: bytes, asker: Binding, *, stream: bool) -> bytes:
        servers = self._servers(asker)
        if not servers:
            return refusal(asked.question, dns.rcode.NXDOMAIN)
        found = await forwarder.ask(asked.question, data, servers, stream=stream, port=self._upstream_port)
        return refusal(asked.question, dns.rcode.SERVFAIL) if found is None else found

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Questions over one TCP connection, one after the other."""
        address = writer.get_extra_info("peername")[0]
        asker = self.directory.asker(address)
        if asker is None or self._connections[address] >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections[address] += 1
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                while await self._serve_one(reader, writer, asker):
                    pass
        finally:
            self._connections[address] -= 1
            if not self._connections[address]:
                del self._connections[address]
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asker: Binding) -> bool:
        """Whether the connection may go on."""
        async with asyncio.timeout(_IDLE_S):
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if length > MAX_QUESTION:
                return False
            data = await reader.readexactly(length)
        found = answer(data, self._places(asker), limit=MAX_STREAM)
        if found is None:
            return False
        if isinstance(found, Elsewhere):
            found = await self._elsewhere(found, data, asker, stream=True)
        async with asyncio.timeout(_IDLE_S):
            writer.write(_LENGTH.pack(len(found)) + found)
            await writer.drain()
        return True


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is none by its class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        def send(found: bytes) -> None:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(found, addr)

        self._resolver.datagram(data, addr[0], send)


def _accepted(data: bytes) -> int:
    """Bytes of an answer that the asker takes over UDP: another server's goes back as it came where the asker said that
    it knows of extensions, since that server was told the same."""
    has_additional = int.from_bytes(data[10:12], "big") > 0
    return MAX_STREAM if has_additional else MAX_DATAGRAM


def _bound(addresses: Sequence[str]) -> tuple[int, list[socket.socket]]:
    """One free port on all these addresses. It is not 53: a resolver of the host's may listen there, everywhere."""
    for _ in range(_TRIES):
        sockets: list[socket.socket] = []
        port = 0
        try:
            for address in addresses:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    sockets.append(one := socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK))
                    one.setsockopt(socket.IPPROTO_IP, _SO_FREEBIND, 1)
                    one.bind((address, port))
                    port = port or one.getsockname()[1]
        except OSError as error:
            for one in sockets:
                one.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port, sockets
    raise Unavailable(f"no port for a resolver is free on {', '.join(addresses)}", field="port",
                      hint="see net.ipv4.ip_local_port_range")
