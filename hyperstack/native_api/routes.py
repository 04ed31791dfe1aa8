"""The table of the native API."""

from __future__ import annotations

from aiohttp import web

from hyperstack.engine.api import Engine
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route, bind
from hyperstack.identity.api import IdentityBackend

PREFIX = "/hyperstack/v1"


def routes(engine: Engine, identity: IdentityBackend) -> list[web.RouteDef]:
    """To be added to Docker's application."""

    async def kernels(call: Call) -> web.StreamResponse:
        return json_response(engine.system.kernels())

    return bind([Route("GET", "/kernels", kernels)], identity, lambda _: (1, 0), prefix=PREFIX)
