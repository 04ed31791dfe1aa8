"""The application: every route of Docker's API, with and without a version in its path."""

from __future__ import annotations

from aiohttp import web

from hyperstack.docker_api import absent
from hyperstack.docker_api.archives import ArchiveRoutes
from hyperstack.docker_api.build import BuildRoutes
from hyperstack.docker_api.containers import ContainerRoutes
from hyperstack.docker_api.execs import ExecRoutes
from hyperstack.docker_api.images import ImageRoutes
from hyperstack.docker_api.layers import LayerRoutes
from hyperstack.docker_api.networks import NetworkRoutes
from hyperstack.docker_api.output import OutputRoutes
from hyperstack.docker_api.registry import RegistryRoutes
from hyperstack.docker_api.system import SystemRoutes
from hyperstack.docker_api.usage import UsageRoutes
from hyperstack.docker_api.versions import HEADERS, PREFIX, check_version
from hyperstack.docker_api.volumes import VolumeRoutes
from hyperstack.engine.api import Engine
from hyperstack.http.errors import unknown_paths
from hyperstack.http.routing import Route, bind
from hyperstack.http.targets import BARE
from hyperstack.identity.api import IdentityBackend


def build_app(engine: Engine, identity: IdentityBackend) -> web.Application:
    """Docker's Engine API onto `engine`. Further routes may be added to it; `hyperstack.http.routing.make_runner` runs
    it."""
    app = web.Application(middlewares=[unknown_paths])
    app.on_response_prepare.append(_add_headers)
    routes = route_table(engine)
    app.add_routes(bind(routes, identity, check_version))
    app.add_routes(bind(routes, identity, check_version, prefix=PREFIX))
    return app


def route_table(engine: Engine) -> list[Route]:
    """All routes, without the version's prefix. More special paths come before the wildcards that would take them."""
    rooms = (SystemRoutes, ContainerRoutes, OutputRoutes, ArchiveRoutes, ExecRoutes, ImageRoutes,
             RegistryRoutes, LayerRoutes, BuildRoutes, NetworkRoutes, UsageRoutes, VolumeRoutes)
    return [route for room in rooms for route in room(engine).table()] + absent.table()


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if not request.get(BARE):
        response.headers.update(HEADERS)
