"""Clients of BuildKit are told what to use instead.

buildx asks whether the engine takes calls of BuildKit's own protocol, gRPC over HTTP/2 on a hijacked connection. Of one
that does not it thinks that BuildKit has to be fetched and run in a container there, and what its user reads then is
about that container. So the connection is taken, and each call on it fails with our words.
"""

from __future__ import annotations

import contextlib
import string
import urllib.parse
from collections.abc import AsyncIterator

from aiohttp import web

from hyperstack.docker_api.hijack import Connection, hijack
from hyperstack.docker_api.streams import RAW
from hyperstack.docker_api.versions import HEADERS
from hyperstack.http import body
from hyperstack.http.call import Call
from hyperstack.http.responses import Spent
from hyperstack.http.routing import Route
from hyperstack.pod.errors import HyperStackError, Unsupported

_UNIMPLEMENTED = "12"
_SAFE = "".join(sorted(set(string.printable[:95]) - {"%"}))
"""What gRPC has in a message as it is."""


class BuildKitWanted(Unsupported):
    def __init__(self) -> None:
        HyperStackError.__init__(self, "HyperStack builds with the classic builder and does not support BuildKit",
                                 field="version", value="2",
                                 hint="set DOCKER_BUILDKIT=0 and build again; each RUN has a VM of its own")


def table() -> list[Route]:
    return [Route("POST", "/session", _session, cancellable=True), Route("POST", "/grpc", _grpc, cancellable=True),
            Route("POST", "/build/cancel", _cancel)]


async def _session(call: Call) -> web.StreamResponse:
    """Where a BuildKit client waits for questions. It shows what the build says only once it has one of these, so
    it gets one, in which nothing is ever asked."""
    async with _taken(call) as connection:
        while await connection.read():
            pass
    return Spent()


async def _grpc(call: Call) -> web.StreamResponse:
    async with _taken(call) as connection:
        with contextlib.suppress(ConnectionError):
            await _refuse_calls(connection, str(BuildKitWanted()))
    return Spent()


async def _cancel(call: Call) -> web.StreamResponse:
    """The classic builder's clients cancel by hanging up."""
    raise BuildKitWanted


@contextlib.asynccontextmanager
async def _taken(call: Call) -> AsyncIterator[Connection]:
    """:raise BuildKitWanted: it asks for no such connection."""
    if call.request.headers.get("Upgrade", "").lower() != "h2c":
        raise BuildKitWanted
    await body.read(call.request)
    connection = await hijack(call.request, content_type=RAW, headers=HEADERS, protocol="h2c")
    try:
        yield connection
    finally:
        connection.close()


async def _refuse_calls(connection: Connection, message: str) -> None:
    """Until the client goes, or sends what is no HTTP/2. :raise ConnectionError: it went in the middle of an answer."""
    # Only here: it is 4 MiB of a daemon that most clients never ask for it.
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import DataReceived, RequestReceived
    from h2.exceptions import ProtocolError

    answer = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", _UNIMPLEMENTED),
              ("grpc-message", urllib.parse.quote(message, safe=_SAFE))]
    protocol = H2Connection(H2Configuration(client_side=False, header_encoding=None))
    protocol.initiate_connection()
    await connection.write(protocol.data_to_send())
    open_ = True
    while open_ and (data := await connection.read()):
        try:
            for event in protocol.receive_data(data):
                if isinstance(event, RequestReceived):
                    protocol.send_headers(event.stream_id, answer, end_stream=True)
                elif isinstance(event, DataReceived):
                    protocol.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        except ProtocolError:
            open_ = False  # What it says of that is among what is to be sent.
        if out := protocol.data_to_send():
            await connection.write(out)
