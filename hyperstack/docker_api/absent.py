"""What Docker has and a host of HyperVMs does not: each says so, in Docker's words where Docker has some."""

from __future__ import annotations

from aiohttp import web

from hyperstack.docker_api.filters import Filters
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Handler, Route
from hyperstack.pod.errors import Unsupported

_SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")
_NO_SWARM = ('This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
             "swarm and try again.")
_LATER = {
    ("GET", "/containers/{name}/checkpoints"): "checkpoints",
    ("POST", "/containers/{name}/checkpoints"): "checkpoints",
    ("GET", "/plugins/privileges"): "plugins",
    ("POST", "/plugins/pull"): "plugins",
    ("POST", "/plugins/create"): "plugins",
}


async def _no_swarm(call: Call) -> web.StreamResponse:
    return json_response({"message": _NO_SWARM}, status=503)


async def _no_swarm_to_leave(call: Call) -> web.StreamResponse:
    return json_response({"message": "This node is not part of a swarm"}, status=503)


async def _no_plugins(call: Call) -> web.StreamResponse:
    Filters.parse(call, known=("capability", "enable"))
    return json_response([])


async def _no_such_plugin(call: Call) -> web.StreamResponse:
    name = call.part("name")[:128]
    return json_response({"message": f'plugin "{name}" not found: HyperStack has no plugins'}, status=404)


def _unsupported(what: str) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        raise Unsupported(what, "HyperStack")

    return handler


def table() -> list[Route]:
    """Routes of what is not here."""
    joining = [Route("POST", f"/swarm/{verb}", _unsupported("being part of a swarm")) for verb in ("init", "join")]
    swarm = [*joining, Route("POST", "/swarm/leave", _no_swarm_to_leave), Route("PUT", "/volumes/{name}", _no_swarm),
             *(Route("*", f"/{kind}{tail}", _no_swarm) for kind in _SWARM for tail in ("", "/{tail:.*}"))]
    plugins = [Route("GET", "/plugins", _no_plugins), Route("GET", "/plugins/{name:.+}/json", _no_such_plugin),
               Route("DELETE", "/plugins/{name:.+}", _no_such_plugin),
               *(Route("POST", f"/plugins/{{name:.+}}/{verb}", _no_such_plugin)
                 for verb in ("enable", "disable", "upgrade", "push", "set"))]
    later = [Route(method, path, _unsupported(what)) for (method, path), what in _LATER.items()]
    return [*swarm, *later, *plugins]
