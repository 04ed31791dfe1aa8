"""/volumes: named disks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from hyperstack.docker_api.bodies import VolumeCreateBody
from hyperstack.docker_api.filters import GO_FALSE, GO_TRUE, Filters, shown_list
from hyperstack.docker_api.mounts import volume_name
from hyperstack.engine.api import Engine
from hyperstack.engine.records import VolumeRecord
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import InvalidArgument, UnsupportedOption
from hyperstack.pod.spec import MountKind

_NS = 1_000_000_000


class VolumeRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._volumes = engine.volumes

    def table(self) -> list[Route]:
        return [
            Route("GET", "/volumes", self.list_all),
            Route("POST", "/volumes/create", self.create),
            Route("POST", "/volumes/prune", self.prune),
            Route("GET", "/volumes/{name:.*}", self.inspect),
            Route("DELETE", "/volumes/{name:.*}", self.remove),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("dangling", "driver", "label", "name"),
                               of="error reading volume filters: ")
        used, dangling = self._users(call), wanted.truth("dangling")
        rows = [describe(volume) for volume in self._volumes.list_all(call.who)
                if wanted.any_match("name", volume.name) and wanted.any_is("driver", volume.driver)
                and wanted.labels(volume.labels) and (dangling is None or dangling is not bool(used[volume.name]))]
        return json_response({"Volumes": rows, "Warnings": None})

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(VolumeCreateBody)
        if body.cluster_volume_spec is not None:
            raise UnsupportedOption("ClusterVolumeSpec", "this node is not part of a swarm")
        volume = await self._volumes.create(
            call.who, volume_name(body.name) if body.name else "", driver=body.driver, labels=body.labels,
            options=body.driver_opts)
        return json_response(describe(volume), status=201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return json_response(describe(self._volumes.get(call.who, call.part("name"))))

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._volumes.remove(call.who, call.part("name"), force=call.flag("force"))
        return empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("all", "label", "label!"))
        # Before 1.42 a prune took the named ones as well.
        everything = _everything(wanted) or call.version < (1, 42)
        removed, freed = await self._volumes.prune(call.who, all_unused=everything, labels=wanted.get("label"),
                                                   without=wanted.get("label!"))
        return json_response({"VolumesDeleted": removed, "SpaceReclaimed": freed})

    def _users(self, call: Call) -> Counter[str]:
        return Counter(mount.source for record in self._engine.containers.list_all(call.who)
                       for mount in record.spec.mounts if mount.kind is MountKind.VOLUME)


def _everything(wanted: Filters) -> bool:
    """Of a prune: those with a name as well. :raise InvalidArgument: the filter is neither true nor false."""
    values = wanted.get("all")
    if len(values) > 1:
        raise InvalidArgument(f"invalid filter 'all={shown_list(values)}': only one value is expected", field="filters")
    if values and values[0] not in GO_TRUE | GO_FALSE:
        raise InvalidArgument(f'invalid filter \'all\': strconv.ParseBool: parsing "{values[0][:64]}": invalid syntax',
                              field="filters", value=values[0][:64])
    return bool(values) and values[0] in GO_TRUE


def describe(volume: VolumeRecord) -> dict[str, Any]:
    """A volume in Docker's shape. It has no path on the host: the host's kernel never mounts what a tenant wrote."""
    return {"Name": volume.name, "Driver": volume.driver, "Mountpoint": "",
            "CreatedAt": rfc3339(volume.created_at // _NS * _NS),
            "Labels": volume.labels or None, "Options": volume.options or None, "Scope": "local"}
