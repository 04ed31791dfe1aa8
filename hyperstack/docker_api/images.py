"""/images: pull, push, list, inspect, tag, remove, save and load."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection
from typing import Any

from aiohttp import web

from hyperstack.docker_api import shapes, streams
from hyperstack.docker_api.containers import host_architecture
from hyperstack.docker_api.decompression import decompressed
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.platforms import check_host_platform, check_platform, parse_platform
from hyperstack.docker_api.progress import report
from hyperstack.docker_api.registry_auth import credentials_of
from hyperstack.docker_api.usage import layer_holders, shared_size
from hyperstack.dockerfile.globs import BadPattern, Glob, Steps
from hyperstack.engine.api import Engine, Image, Progress, ProgressSink, Pushed, with_tag, with_tag_or_digest
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import Forbidden, InvalidArgument, UnsupportedOption

_NS = 1_000_000_000
_MAX_NAMES = 256
_MAX_COMPARED = 1 << 22
"""Characters that one filter is compared with: a fraction of a second."""
_LIST_FILTERS = ("before", "dangling", "label", "reference", "since", "until")


class ImageRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.images
        self._containers = engine.containers

    def table(self) -> list[Route]:
        return [
            Route("GET", "/images/json", self.list_all),
            Route("POST", "/images/create", self.create, cancellable=True),
            Route("POST", "/images/load", self.load, cancellable=True),
            Route("POST", "/images/prune", self.prune),
            Route("GET", "/images/get", self.save_many, cancellable=True),
            Route("GET", "/images/{name:.+}/json", self.inspect),
            Route("GET", "/images/{name:.+}/history", self.history),
            Route("GET", "/images/{name:.+}/attestations", self.attestations),
            Route("GET", "/images/{name:.+}/get", self.save_one, cancellable=True),
            Route("POST", "/images/{name:.+}/tag", self.tag),
            Route("POST", "/images/{name:.+}/push", self.push, cancellable=True),
            Route("DELETE", "/images/{name:.+}", self.remove),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=_LIST_FILTERS)
        before = [self._images.get(call.who, ref).created_at for ref in wanted.get("before")]
        since = [self._images.get(call.who, ref).created_at for ref in wanted.get("since")]
        until, dangling = wanted.first_until_ns(), wanted.truth("dangling")
        patterns = [_glob(pattern) for pattern in wanted.get("reference")]
        users = Counter(record.image_id for record in self._containers.list_all(call.who))
        shared = self._shared(call) if call.flag("shared-size") else {}
        rows = [self._row(image, users[image.id], shared.get(image.id, -1), patterns)
                for image in self._images.list_all(call.who, intermediate=call.flag("all")
                                                   and not wanted.get("dangling"))
                if all(image.created_at < moment for moment in before)
                and all(image.created_at > moment for moment in since)
                and (not until or 0 < image.created_at < until)
                and (dangling is None or dangling is not bool(image.references))
                and wanted.labels(image.config.labels)]
        if patterns:
            rows = [row for row in rows if row["RepoTags"] or row["RepoDigests"]]
        return json_response([shapes.image_row(row, call.version) for row in rows])

    def _shared(self, call: Call) -> dict[str, int]:
        found = self._images.list_all(call.who)
        holders = layer_holders(found)
        return {image.id: shared_size(image, holders) for image in found}

    def _row(self, image: Image, users: int, shared: int, patterns: Collection[Glob]) -> dict[str, Any]:
        """With the names that fit one of the patterns, where there are any."""
        def named(references: Collection[str]) -> list[str]:
            names = map(self._images.display, references)
            return [name for name in names if not patterns or any(matches(pattern, name) for pattern in patterns)]

        return {
            "Id": image.id, "ParentId": "", "RepoTags": named(image.references), "RepoDigests": named(image.digests),
            "Created": image.created_at // _NS, "Size": image.size, "SharedSize": shared, "Containers": users,
            "Labels": image.config.labels or None}

    async def create(self, call: Call) -> web.StreamResponse:
        """Pull (`fromImage`), or import (`fromSrc=-`)."""
        if not call.has("fromImage"):
            return await self._import(call)
        reference = with_tag_or_digest(call.text("fromImage"), call.text("tag"))
        if reference.familiar_name == "scratch":
            raise Forbidden("'scratch' is a reserved name", field="fromImage", value="scratch")
        platform = parse_platform(call.text("platform"), host_architecture()) if call.has("platform") else ""
        sent_along = credentials_of(call)

        async def one(tell: ProgressSink) -> None:
            await self._images.pull(call.who, str(reference), platform=platform, credentials=sent_along, progress=tell)

        async def all_tags(tell: ProgressSink) -> None:
            """One sentence for all of them tells whether anything is new."""
            last: Counter[str] = Counter()

            def sink(step: Progress) -> None:
                if step.message and step.status.startswith("Status: "):
                    last[step.status.removesuffix(step.status.rpartition(" ")[2])] += 1
                else:
                    tell(step)

            for name in await self._images.remote_tags(call.who, str(reference), credentials=sent_along):
                await self._images.pull(call.who, name, platform=platform, credentials=sent_along, progress=sink)
            if last:
                tell(Progress(ident="", status=min(last) + reference.familiar(), message=True))

        return await report(call, one if reference.tag or reference.digest else all_tags, lambda _: [])

    async def _import(self, call: Call) -> web.StreamResponse:
        repository, tag = call.text("repo"), call.text("tag")
        if not call.has("fromSrc"):
            raise InvalidArgument("fromImage or fromSrc must be given", field="fromImage")
        if call.text("fromSrc") != "-":
            raise UnsupportedOption("fromSrc with an URL", "the daemon fetches from registries only",
                                    hint="download it and send it as the body (docker import -)")
        reference = str(with_tag(repository, tag)) if repository else ""
        check_host_platform(call, host_architecture(), encoded=False)

        async def work(tell: ProgressSink) -> Image:
            return await self._images.import_tar(
                call.who, decompressed(call.stream()), reference=reference,
                message=call.text("message") or "Imported from -", changes=call.texts("changes"))

        return await report(call, work, lambda image: [{"status": image.id}])

    async def load(self, call: Call) -> web.StreamResponse:
        check_host_platform(call, host_architecture(), encoded=True)

        async def work(tell: ProgressSink) -> list[Image]:
            return await self._images.load(call.who, call.stream(), None if call.flag("quiet", default=True) else tell)

        def finish(images: list[Image]) -> list[dict[str, Any]]:
            return [{"stream": f"Loaded image: {name}\n" if name else f"Loaded image ID: {image.id}\n"}
                    for image in images for name in [self._images.display(ref) for ref in image.references] or [""]]

        return await report(call, work, finish, always=True)

    def _named(self, call: Call, name: str, since: tuple[int, int] = (1, 48)) -> Image:
        """:param since: the version from which on a platform may be named.

        :raise NotFound: no such image, or not for the platform that the call asks for.
        """
        image = self._images.get(call.who, name)
        check_platform(call, image, name, since=since)
        return image

    async def inspect(self, call: Call) -> web.StreamResponse:
        image = self._named(call, call.part("name"), since=(1, 49))
        raw, config = image.raw_config, image.raw_config.get("config") or {}
        return json_response(shapes.image({
            "Id": image.id, "RepoTags": [self._images.display(name) for name in image.references],
            "RepoDigests": [self._images.display(name) for name in image.digests], "Parent": "",
            "Comment": _comment(raw), "Created": raw.get("created") or "", "DockerVersion": "",
            "Author": raw.get("author") or "", "Config": _config(image, config),
            "Architecture": image.architecture, "Variant": raw.get("variant") or "", "Os": image.os,
            "Size": image.size, "GraphDriver": {"Name": "erofs", "Data": None},
            "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
            "Metadata": {"LastTagTime": rfc3339(0)}}, call.version))

    async def attestations(self, call: Call) -> web.StreamResponse:
        """None: a pull takes the image of one platform, and leaves what a registry keeps beside it."""
        self._named(call, call.part("name"))
        return json_response([])

    async def history(self, call: Call) -> web.StreamResponse:
        image = self._named(call, call.part("name"))
        steps = [step for step in image.raw_config.get("history") or [] if isinstance(step, dict)]
        # An image tells which of its steps made no layer. One that tells of fewer layers than it has tells of the last
        # ones, as what was committed upon an image without a history does; one that tells of more gets zeros.
        made = sum(not step.get("empty_layer") for step in steps)
        sizes = iter(image.layer_sizes[max(0, len(image.layer_sizes) - made):])
        rows = [{"Id": "<missing>", "Created": _seconds(step.get("created")), "CreatedBy": step.get("created_by") or "",
                 "Tags": None, "Size": 0 if step.get("empty_layer") else next(sizes, 0),
                 "Comment": step.get("comment") or ""} for step in steps][::-1]
        if rows:
            rows[0] |= {"Id": image.id, "Tags": [self._images.display(name) for name in image.references] or None}
        return json_response(rows)

    async def tag(self, call: Call) -> web.StreamResponse:
        if not call.has("repo"):
            raise InvalidArgument("repo must be given", field="repo")
        await self._images.tag(call.who, call.part("name"), str(with_tag(call.text("repo"), call.text("tag"))))
        return empty(201)

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.has("platforms"):
            check_platform(call, self._images.get(call.who, call.part("name")), call.part("name"), since=(1, 50),
                           parameter="platforms")
        removed = await self._images.remove(call.who, call.part("name"), force=call.flag("force"))
        return json_response(_removals(removed))

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = Filters.parse(call, known=("dangling", "label", "label!", "until"))
        until = filters.until_ns()

        def wanted(image: Image) -> bool:
            labels = image.config.labels
            return filters.labels(labels) and filters.not_labels(labels) and (not until or image.created_at < until)

        removed, freed = await self._images.prune(call.who, dangling_only=filters.truth("dangling") is not False,
                                                  wanted=wanted)
        return json_response({"ImagesDeleted": _removals(removed) or None, "SpaceReclaimed": freed})

    async def save_one(self, call: Call) -> web.StreamResponse:
        return await self._save(call, [call.part("name")])

    async def save_many(self, call: Call) -> web.StreamResponse:
        names = call.texts("names")
        if not names or len(names) > _MAX_NAMES:
            raise InvalidArgument(f"names must be 1 to {_MAX_NAMES} images", field="names")
        return await self._save(call, names)

    async def _save(self, call: Call, names: list[str]) -> web.StreamResponse:
        for name in names:
            self._named(call, name)  # All of them, or an error while one can still be told.
        return await streams.send_tar(call, self._images.save(call.who, names))

    async def push(self, call: Call) -> web.StreamResponse:
        """One tag, or without `tag` all that the name means."""
        name, tag = call.part("name"), call.text("tag")
        reference = (with_tag(name, tag) if tag else with_tag_or_digest(name, "")).familiar()
        sent_along = credentials_of(call)

        async def work(tell: ProgressSink) -> list[Pushed]:
            return await self._images.push(call.who, reference, credentials=sent_along, progress=tell)

        def finish(pushed: list[Pushed]) -> list[dict[str, Any]]:
            return [{"progressDetail": {}, "aux": {"Tag": one.tag, "Digest": one.digest, "Size": one.size}}
                    for one in pushed]

        if call.has("platform"):
            check_platform(call, self._images.get(call.who, reference), reference, since=(1, 46))
        return await report(call, work, finish)


def _glob(pattern: str) -> Glob:
    """:raise InvalidArgument: it is none."""
    try:
        return Glob(pattern, double_stars=False, steps=Steps(_MAX_COMPARED))
    except BadPattern as error:
        raise InvalidArgument("syntax error in pattern", field="reference", value=pattern[:64]) from error


def matches(pattern: Glob, name: str) -> bool:
    """Docker's `reference` filter: a glob over the familiar name, with or without its tag; `*` stops at a slash."""
    bare = name.partition("@")[0]
    return pattern.matches(name) or pattern.matches(
        bare[:bare.rfind(":")] if bare.rfind(":") > bare.rfind("/") else bare)


def _removals(removed: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{kind: what} for kind, what in removed]


def _config(image: Image, config: dict[str, Any]) -> dict[str, Any]:
    known = image.config
    return {
        "User": known.user, "Env": list(known.env) or None, "Cmd": list(known.command) or None,
        "Entrypoint": list(known.entrypoint) or None, "WorkingDir": known.working_dir, "Labels": known.labels or None,
        **({"ExposedPorts": {port: {} for port in known.exposed_ports}} if known.exposed_ports else {}),
        "Volumes": {path: {} for path in known.volumes} or None, "OnBuild": config.get("OnBuild"),
        **({"StopSignal": known.stop_signal} if known.stop_signal else {}),
        **{name: config[name] for name in ("Healthcheck", "Shell") if config.get(name)}}


def _comment(raw: dict[str, Any]) -> str:
    """What was said of the newest step."""
    steps = raw.get("history")
    last = steps[-1] if isinstance(steps, list) and steps else None
    return str(last.get("comment") or "") if isinstance(last, dict) else ""


def _seconds(text: Any) -> int:
    """Of an RFC 3339 time that an image says; 0 where it is none."""
    try:
        return int(datetime.datetime.fromisoformat(str(text)[:64]).timestamp())
    except (ValueError, OverflowError):
        return 0
