"""What Docker has and a host of HyperVMs does not: each says so, in Docker's words where Docker has some."""

from __future__ import annotations

from aiohttp import web

from hyperstack.docker_api.bodies import Body
from hyperstack.docker_api.filters import Filters
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Handler, Route
from hyperstack.pod.errors import InvalidArgument, NotFound, Unsupported

_UPDATED = {"swarm": "swarm version '{}': strconv.ParseUint: parsing \"{}\": {}",
            "services": "service version '{}': strconv.ParseUint: parsing \"{}\": {}",
            "nodes": "node version '{}': strconv.ParseUint: parsing \"{}\": {}", "secrets": "secret version",
            "configs": "config version"}
"""What an update must name the version of, and how Docker says that it is none."""
_SWARM = (("GET", "/swarm"), ("GET", "/swarm/unlockkey"), ("POST", "/swarm/unlock"),
          ("GET", "/services/{id}/logs"), ("GET", "/tasks/{id}/logs"), ("DELETE", "/nodes/{id}"),
          *(("GET", f"/{kind}{tail}") for kind in ("services", "nodes", "tasks", "secrets", "configs")
            for tail in ("", "/{id}")),
          *((method, f"/{kind}/{tail}") for kind in ("services", "secrets", "configs")
            for method, tail in (("POST", "create"), ("DELETE", "{id}"))))
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
    if call.request.path.endswith("/create"):
        await call.body(Body)
    return json_response({"message": _NO_SWARM}, status=503)


def _no_update(words: str) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        text = call.text("version")
        fault = "invalid syntax" if not text.isascii() or not text.isdecimal() else \
            "value out of range" if int(text[:32]) >= 2**64 else ""
        if fault:
            raise InvalidArgument(f"invalid {words.format(text[:32], text[:32], fault)}", field="version",
                                  value=text[:32])
        return json_response({"message": _NO_SWARM}, status=503)

    return handler


async def _no_swarm_to_leave(call: Call) -> web.StreamResponse:
    return json_response({"message": "This node is not part of a swarm"}, status=503)


async def _no_plugins(call: Call) -> web.StreamResponse:
    Filters.parse(call, known=("capability", "enabled")).truth("enabled")
    return json_response([])


async def _no_such_plugin(call: Call) -> web.StreamResponse:
    raise NotFound("plugin", call.part("name"), hint="HyperStack has no plugins")


def _unsupported(what: str) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        raise Unsupported(what, "HyperStack")

    return handler


def table() -> list[Route]:
    """Routes of what is not here."""
    joining = [Route("POST", f"/swarm/{verb}", _unsupported("being part of a swarm")) for verb in ("init", "join")]
    updates = [Route("POST", f"/{kind}/update" if kind == "swarm" else f"/{kind}/{{id}}/update", _no_update(words))
               for kind, words in _UPDATED.items()]
    swarm = [*joining, Route("POST", "/swarm/leave", _no_swarm_to_leave), Route("PUT", "/volumes/{name}", _no_swarm),
             *updates, *(Route(method, path, _no_swarm) for method, path in _SWARM)]
    plugins = [Route("GET", "/plugins", _no_plugins), Route("GET", "/plugins/{name:.+}/json", _no_such_plugin),
               Route("DELETE", "/plugins/{name:.+}", _no_such_plugin),
               *(Route("POST", f"/plugins/{{name:.+}}/{verb}", _no_such_plugin)
                 for verb in ("enable", "disable", "upgrade", "push", "set"))]
    later = [Route(method, path, _unsupported(what)) for (method, path), what in _LATER.items()]
    return [*swarm, *later, *plugins]
