"""/containers/{name}/archive: what `docker cp` uses."""

from __future__ import annotations

import base64

from aiohttp import web

from hyperstack.docker_api import streams
from hyperstack.docker_api.decompression import decompressed
from hyperstack.docker_api.wording import go_mode
from hyperstack.engine.api import Engine, PathStat
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, encode
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import InvalidArgument

_MAX_PATH = 4095


class ArchiveRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers

    def table(self) -> list[Route]:
        path = "/containers/{name}/archive"
        return [Route("HEAD", path, self.stat), Route("GET", path, self.get, cancellable=True),
                Route("PUT", path, self.put, cancellable=True)]

    async def stat(self, call: Call) -> web.StreamResponse:
        found = await self._containers.archive_stat(call.who, call.part("name"), _path(call))
        return web.Response(headers=_stat_header(found))

    async def get(self, call: Call) -> web.StreamResponse:
        found, tar = await self._containers.archive_get(call.who, call.part("name"), _path(call))
        return await streams.send_tar(call, tar, headers=_stat_header(found))

    async def put(self, call: Call) -> web.StreamResponse:
        await self._containers.archive_put(
            call.who, call.part("name"), _path(call), decompressed(call.stream()),
            no_overwrite_dir_non_dir=call.flag("noOverwriteDirNonDir"), copy_uid_gid=call.flag("copyUIDGID"))
        return empty(200)


def _path(call: Call) -> str:
    path = call.text("path")
    if not path or len(path) > _MAX_PATH:
        raise InvalidArgument("bad parameter: pathcannot be empty" if not path else "file name too long", field="path",
                              hint=f"path has 1 to {_MAX_PATH} characters")
    return path


def _stat_header(found: PathStat) -> dict[str, str]:
    body = encode({"name": found.name, "size": found.size, "mode": go_mode(found.mode),
                   "mtime": rfc3339(found.mtime_ns), "linkTarget": found.link_target})
    return {"X-Docker-Container-Path-Stat": base64.b64encode(body).decode()}
