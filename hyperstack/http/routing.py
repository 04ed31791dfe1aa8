"""From tables of routes to an aiohttp application's, with the caller's identity and the errors' answers in between."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from hyperstack.http import errors
from hyperstack.http.call import Call
from hyperstack.http.targets import check_query
from hyperstack.identity.api import Certificate, IdentityBackend, Peer
from hyperstack.pod.errors import Forbidden

_requests_log = logging.getLogger("hyperstack.http.requests")

Handler = Callable[[Call], Awaitable[web.StreamResponse]]
CheckVersion = Callable[[str | None], tuple[int, int]]

_shielded: set[asyncio.Future[web.StreamResponse]] = set()
"""The event loop itself refers to its tasks only weakly."""

MAX_LINE = 64 * 1024
"""Bytes of a request's first line and of a header. Filters travel in the one and registry tokens in the other, and
both outgrow aiohttp's 8 KiB."""

_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handler: Handler
    cancellable: bool = False
    """Stop when the client goes away: for what only reads or waits. Everything else runs to its end, so that a client's
    Ctrl-C leaves nothing half-done."""


def bind(routes: Iterable[Route], identity: IdentityBackend, check_version: CheckVersion, *, prefix: str = ""
         ) -> list[web.RouteDef]:
    """aiohttp's form of a table. A `version` part of the path (None: absent) goes through `check_version`."""
    # aiohttp answers HEAD with GET's handler unless told not to; here that is a route of its own where it exists.
    return [web.RouteDef(route.method, prefix + route.path, _adapt(route, identity, check_version),
                         {"allow_head": False} if route.method == "GET" else {}) for route in routes]


def make_runner(app: web.Application, *, shutdown_timeout: float = 3.0) -> web.AppRunner:
    """The runner these handlers are made for: a connection's end cancels its handler (`Route.cancellable` decides what
    that means), and idle connections cost nothing in the log."""
    _requests_log.addFilter(_told_shortly)
    return web.AppRunner(app, handle_signals=False, access_log=None, handler_cancellation=True, logger=_requests_log,
                         shutdown_timeout=shutdown_timeout, max_line_size=MAX_LINE, max_field_size=MAX_LINE)


def _told_shortly(record: logging.LogRecord) -> bool:
    """What is no HTTP is the client's mistake: it gets a 400, and a line that only those see who look for it."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    _requests_log.debug("not a request: %s", error.message[:200])
    return False


def peer_of(request: web.Request) -> Peer:
    """Who is at the other end: the kernel's word on a unix socket, the certificate's on TLS, nobody's elsewhere."""
    tls = request.get_extra_info("ssl_object")
    if tls is not None:
        return Peer(uid=None, gid=None, headers=request.headers, certificate=_certificate(tls.getpeercert() or {}))
    sock = request.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return Peer(uid=None, gid=None, headers=request.headers, loopback=_is_loopback(request))
    _, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(uid=uid, gid=gid, headers=request.headers)


def _certificate(found: Mapping[str, Any]) -> Certificate:
    """:raise Forbidden: a part of the subject is there twice, so that nobody can say who this is."""
    parts: dict[str, str] = {}
    for name, value in (pair for step in found.get("subject", ()) for pair in step):
        if name in parts:
            raise Forbidden(f"the client's certificate has more than one {name}", field="certificate", value=name)
        parts[name] = value
    return Certificate(common_name=parts.get("commonName", ""), organization=parts.get("organizationName", ""),
                       unit=parts.get("organizationalUnitName", ""))


def _is_loopback(request: web.Request) -> bool:
    address = request.get_extra_info("peername")
    try:
        return bool(address) and ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return False


def _adapt(route: Route, identity: IdentityBackend, check_version: CheckVersion
           ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def work(request: web.Request) -> web.StreamResponse:
        version = check_version(request.match_info.get("version"))
        check_query(request)
        who = await identity.identify(peer_of(request))
        return await route.handler(Call(request=request, who=who, version=version))

    async def handle(request: web.Request) -> web.StreamResponse:
        # The guard is part of what is shielded, so that an error after the client went is handled all the same.
        answer = errors.guarded(request, work(request))
        if route.cancellable:
            return await answer
        task = asyncio.ensure_future(answer)
        _shielded.add(task)
        task.add_done_callback(_shielded.discard)
        return await asyncio.shield(task)

    return handle
