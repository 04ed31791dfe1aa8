"""GET /system/df: what takes disk space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from hyperstack.docker_api import build, shapes, volumes
from hyperstack.docker_api.listing import all_rows
from hyperstack.engine.api import Engine, Image
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route
from hyperstack.pod.errors import InvalidArgument
from hyperstack.pod.spec import MountKind

_NS = 1_000_000_000
_ACTIVE = ("running", "paused", "restarting")
_TYPES = ("container", "image", "volume", "build-cache")


class UsageRoutes:
    """The table and its handler."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def table(self) -> list[Route]:
        return [Route("GET", "/system/df", self.disk_usage)]

    async def disk_usage(self, call: Call) -> web.StreamResponse:
        """Everything, or what `type` names; what was not asked for is null, as Docker has it."""
        asked = call.texts("type", empty=True) if call.version >= (1, 42) else []
        for kind in asked:
            if kind not in _TYPES:
                raise InvalidArgument(f"unknown object type: {kind[:64]}", field="type", value=kind[:64],
                                      hint=", ".join(_TYPES))
        usage = await self._engine.system.disk_usage(call.who)
        answer: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None,
                                  "BuildCache": None}
        if not asked or "image" in asked:
            answer |= {"LayersSize": usage.get("layers", 0), "Images": self._images(call)}
        if not asked or "container" in asked:
            answer["Containers"] = self._containers(call, usage.get("containers", {}))
        if not asked or "volume" in asked:
            answer["Volumes"] = self._volumes(call, usage.get("volumes", {}))
        if not asked or "build-cache" in asked:
            answer["BuildCache"] = [build.describe(step) for step in self._engine.builds.cache(call.who)]
        verbose = call.flag("verbose")
        usages = {} if call.version < (1, 52) else _usages(answer, verbose=verbose)
        legacy = call.version < (1, 52) or (call.version < (1, 53) and not verbose)
        return json_response({**(answer if legacy else {}), **usages})

    def _images(self, call: Call) -> list[dict[str, Any]]:
        images = self._engine.images
        found = images.list_all(call.who)
        users = Counter(record.image_id for record in self._engine.containers.list_all(call.who))
        holders = layer_holders(found)
        rows = [{"Id": image.id, "ParentId": "", "RepoTags": [images.display(name) for name in image.references],
                 "RepoDigests": [images.display(name) for name in image.digests], "Created": image.created_at // _NS,
                 "Size": image.size, "SharedSize": shared_size(image, holders), "Labels": image.config.labels or None,
                 "Containers": users[image.id]} for image in found]
        return [shapes.image_row(row, call.version) for row in rows]

    def _containers(self, call: Call, written: Mapping[str, int]) -> list[dict[str, Any]]:
        sizes = {image.id: image.size for image in self._engine.images.list_all(call.who)}
        return [{**row, "SizeRootFs": row["SizeRw"] + sizes.get(row["ImageID"], 0)}
                for row in all_rows(self._engine, call.who, written)]

    def _volumes(self, call: Call, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
        users = Counter(mount.source for record in self._engine.containers.list_all(call.who)
                        for mount in record.spec.mounts if mount.kind is MountKind.VOLUME)
        return [{**volumes.describe(volume),
                 "UsageData": {"Size": sizes.get(volume.name, -1), "RefCount": users[volume.name]}}
                for volume in self._engine.volumes.list_all(call.who) if sizes.get(volume.name, 0) >= 0]


def _usages(found: Mapping[str, Any], *, verbose: bool) -> dict[str, Any]:
    """Since 1.52: a summary of each kind that was asked for, and its objects where all is to be told."""
    images, containers, volumes, cached = (found[kind] for kind in ("Images", "Containers", "Volumes", "BuildCache"))
    usages: dict[str, Any] = {}
    if images is not None:
        idle = sum(image["Size"] - image["SharedSize"] for image in images if not image["Containers"])
        usages["ImageUsage"] = _usage(images, lambda image: image["Containers"] > 0, found["LayersSize"], idle)
    if containers is not None:
        usages["ContainerUsage"] = _usage(containers, lambda row: row["State"] in _ACTIVE, *_sizes(
            (row["SizeRw"], row["State"] in _ACTIVE) for row in containers))
    if volumes is not None:
        usages["VolumeUsage"] = _usage(volumes, lambda volume: volume["UsageData"]["RefCount"] > 0, *_sizes(
            (max(volume["UsageData"]["Size"], 0), volume["UsageData"]["RefCount"] > 0) for volume in volumes))
    if cached is not None:
        usages["BuildCacheUsage"] = _usage(cached, lambda entry: entry["InUse"], *_sizes(
            (entry["Size"], entry["InUse"]) for entry in cached))
    return usages if verbose else {kind: {**usage, "Items": None} for kind, usage in usages.items()}


def _usage(items: list[dict[str, Any]], active: Callable[[dict[str, Any]], bool], total: int, reclaimable: int
           ) -> dict[str, Any]:
    return {"ActiveCount": sum(map(active, items)), "TotalCount": len(items), "TotalSize": total,
            "Reclaimable": reclaimable, "Items": items}


def _sizes(items: Iterable[tuple[int, bool]]) -> tuple[int, int]:
    """(bytes of all, bytes of those that are not in use)."""
    known = list(items)
    return sum(size for size, _ in known), sum(size for size, used in known if not used)


def layer_holders(images: Iterable[Image]) -> Counter[str]:
    """How many of them have each layer, by its diff id."""
    return Counter(diff_id for image in images for diff_id in set(image.diff_ids))


def shared_size(image: Image, holders: Mapping[str, int]) -> int:
    """Bytes of its layers that other images have as well."""
    return sum(size for diff_id, size in dict(zip(image.diff_ids, image.layer_sizes, strict=True)).items()
               if holders[diff_id] > 1)
