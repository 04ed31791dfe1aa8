"""TLS beneath HTTP: clients that prove with a certificate who they are.

The event loop's own TLS ends a connection when the peer ends its half of it, and `docker exec -i` would lose the output
that comes after its input. TLS has that half: a closing alert says nothing of the other direction. So the records are
OpenSSL's, as there, and the way of the bytes is ours: a connection is the protocol of the socket's transport, and the
transport of the protocol above, which hears the alert as its end of input.

Whoever has not shown a certificate yet has shown nothing: such connections have a deadline, and only so many are kept,
the oldest going first. A thousand that dawdle keep nobody out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

_log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""Within which a client has shown its certificate."""
MAX_HANDSHAKES = 512
"""Clients that are about to."""
_CHUNK = 64 * 1024


def server_context(*, ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Of a server whose clients need a certificate of the authority in `ca`.

    :raise OSError: (ssl.SSLError is one) a file cannot be read, is no certificate, or key and certificate differ.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0  # Each connection shows its certificate; a ticket would outlive it.
    context.set_alpn_protocols(["http/1.1"])
    context.load_verify_locations(cafile=ca)
    context.load_cert_chain(certificate, key)
    return context


class TlsSite(web.BaseSite):
    """A listening socket of `runner` whose connections are TLS."""

    def __init__(self, runner: web.BaseRunner, sock: socket.socket, context: ssl.SSLContext, *,
                 backlog: int) -> None:
        super().__init__(runner, backlog=backlog)
        self._sock = sock
        self._context = context
        self._waiting: dict[TlsConnection, None] = {}

    @property
    def name(self) -> str:
        host, port = self._sock.getsockname()[:2]
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None, "the runner is set up before it has sites"
        self._server = await asyncio.get_running_loop().create_server(
            lambda: TlsConnection(self._context, server, self._waiting), sock=self._sock, backlog=self._backlog)


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """One client.

    :param above: makes the protocol that gets the plain bytes, once the client has shown its certificate.
    :param waiting: those who have not yet, oldest first; the connection puts itself there and takes itself out.
    """

    def __init__(self, context: ssl.SSLContext, above: Callable[[], asyncio.BaseProtocol],
                 waiting: dict[TlsConnection, None]) -> None:
        asyncio.Transport.__init__(self)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._context = context
        self._tls: ssl.SSLObject | None = None
        self._make_above = above
        self._above: Any = None
        """None until the handshake is over."""
        self._waiting = waiting
        self._below: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._paused = self._closing = self._input_ended = False

    # -- the socket's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport
        while len(self._waiting) >= MAX_HANDSHAKES:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.abort()
        self._waiting[self] = None
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self._above is None:
            self._shake_hands()
        if self._above is not None:
            self._deliver()

    def eof_received(self) -> None:
        """The socket's end without a closing alert is a cut; behind one it tells that the other half is gone too."""
        self._below.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self._closing = True
        if self._above is not None:
            self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    def _settle(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()

    def _shake_hands(self) -> None:
        if self._tls is None:  # Not before the first byte: one that only connects costs next to nothing.
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            _log.debug("a TLS client was refused: %s", error)
            self._settle()
            self._flush()
            self._closing = True
            self._below.close()
            return
        self._settle()
        self._flush()
        self._above = self._make_above()
        self._above.connection_made(self)

    def _deliver(self) -> None:
        """Give upwards what has come, as long as it is wanted there."""
        assert self._tls is not None
        while not (self._paused or self._closing or self._input_ended):
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as error:
                _log.debug("a TLS connection ends: %s", error)
                self.abort()
                return
            if data:
                self._above.data_received(data)
            else:
                self._input_ended = True
                if not self._above.eof_received():
                    self.close()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    # -- the transport of the protocol above

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._context
        return self._below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._above
        return protocol

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True
        if not self._below.is_closing():
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if not self._paused or self._closing:
            return
        self._paused = False
        self._below.resume_reading()
        asyncio.get_running_loop().call_soon(self._deliver)

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        assert self._tls is not None
        view = memoryview(data).cast("B")
        try:
            while view:
                view = view[self._tls.write(view):]
        except ssl.SSLError as error:
            _log.debug("a TLS connection ends: %s", error)
            self.abort()
            return
        self._flush()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        size: int = self._below.get_write_buffer_size()
        return size

    def is_closing(self) -> bool:
        return self._closing or bool(self._below.is_closing())

    def close(self) -> None:
        """Say so with an alert, and end once what was written is out."""
        if self._closing:
            return
        self._closing = True
        if self._tls is not None and self._above is not None:
            with contextlib.suppress(ssl.SSLError):  # It waits for the peer's alert, which nobody needs.
                self._tls.unwrap()
            self._flush()
        self._below.close()

    def abort(self) -> None:
        self._closing = True
        self._below.abort()
