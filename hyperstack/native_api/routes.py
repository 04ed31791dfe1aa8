"""The table of the native API."""

from __future__ import annotations

import dataclasses

from aiohttp import web

import hyperstack
from hyperstack.engine.api import Engine
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route, bind
from hyperstack.identity.api import IdentityBackend
from hyperstack.native_api.kernels import KernelRoutes
from hyperstack.native_api.networks import NetworkRoutes
from hyperstack.native_api.pods import PodRoutes
from hyperstack.native_api.stats import StatsRoutes

PREFIX = "/hyperstack/v1"


class SystemRoutes:
    """What the host has and can do."""

    def __init__(self, engine: Engine) -> None:
        self._system = engine.system

    def table(self) -> list[Route]:
        return [Route("GET", "/version", self.version), Route("GET", "/doctor", self.doctor, cancellable=True)]

    async def version(self, call: Call) -> web.StreamResponse:
        return json_response({"version": hyperstack.__version__, "api": "v1", "project": call.who.project,
                              "user": call.who.user, "admin": call.who.admin})

    async def doctor(self, call: Call) -> web.StreamResponse:
        findings = await self._system.doctor()
        return json_response({"findings": [dataclasses.asdict(finding) for finding in findings]})


def routes(engine: Engine, identity: IdentityBackend) -> list[web.RouteDef]:
    """To be added to Docker's application: its middleware and headers serve both."""
    table = [*SystemRoutes(engine).table(), *StatsRoutes(engine).table(), *PodRoutes(engine).table(),
             *KernelRoutes(engine).table(), *NetworkRoutes(engine).table()]
    return bind(table, identity, lambda _: (1, 0), prefix=PREFIX)
