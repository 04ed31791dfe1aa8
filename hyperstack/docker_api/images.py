"""/images: pull, push, list, inspect, tag, remove, save and load; and what registries are asked: logins, names."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from aiohttp import web

from hyperstack.docker_api import shapes, streams
from hyperstack.docker_api.bodies import AuthBody
from hyperstack.docker_api.containers import host_architecture
from hyperstack.docker_api.decompression import decompressed
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.platforms import check_host_platform, check_platform
from hyperstack.docker_api.progress import report
from hyperstack.docker_api.registry_auth import credentials, credentials_of, registry_of
from hyperstack.docker_api.usage import layer_holders, shared_size
from hyperstack.engine.api import Engine, Image, Progress, ProgressSink, Pushed
from hyperstack.http.call import Call
from hyperstack.http.responses import empty, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import InvalidArgument, NotFound, UnsupportedOption

_NS = 1_000_000_000
_MAX_NAMES = 256
_SEARCH_LIMIT, _MAX_SEARCH = 25, 100
"""Docker's numbers."""
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
            Route("GET", "/images/search", self.search, cancellable=True),
            Route("GET", "/distribution/{name:.+}/json", self.distribution, cancellable=True),
            Route("POST", "/auth", self.auth, cancellable=True),
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
        until, dangling = wanted.until_ns(), wanted.truth("dangling")
        users = Counter(record.image_id for record in self._containers.list_all(call.who))
        shared = self._shared(call) if call.flag("shared-size") else {}
        rows = [self._row(image, users[image.id], shared.get(image.id, -1), wanted.get("reference"))
                for image in self._images.list_all(call.who, intermediate=call.flag("all")
                                                   and not wanted.get("dangling"))
                if all(image.created_at < moment for moment in before)
                and all(image.created_at > moment for moment in since)
                and (not until or image.created_at < until)
                and (dangling is None or dangling is not bool(image.references))
                and wanted.labels(image.config.labels)]
        if wanted.get("reference"):
            rows = [row for row in rows if row["RepoTags"] or row["RepoDigests"]]
        return json_response([shapes.image_row(row, call.version) for row in rows])

    def _shared(self, call: Call) -> dict[str, int]:
        found = self._images.list_all(call.who)
        holders = layer_holders(found)
        return {image.id: shared_size(image, holders) for image in found}

    def _row(self, image: Image, users: int, shared: int, patterns: Collection[str]) -> dict[str, Any]:
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
        if call.has("fromSrc"):
            return await self._import(call)
        reference = _reference(call.text("fromImage"), call.text("tag"))
        if not reference:
            raise InvalidArgument("fromImage or fromSrc must be given", field="fromImage")
        sent_along = credentials_of(call)
        known = {image.id for image in self._images.list_all(call.who)}
        told: set[str] = set()

        async def work(tell: ProgressSink) -> Image:
            def sink(step: Progress) -> None:
                told.add(step.status.partition(":")[0])
                tell(step)

            return await self._images.pull(call.who, reference, platform=call.text("platform"),
                                           credentials=sent_along, progress=sink)

        async def work_of_all(tell: ProgressSink) -> None:
            for name in await self._images.remote_tags(call.who, reference, credentials=sent_along):
                await self._images.pull(call.who, name, platform=call.text("platform"), credentials=sent_along,
                                        progress=tell)

        def finish(image: Image) -> list[dict[str, Any]]:
            digest = next((name.partition("@")[2] for name in reversed(image.digests)), "")
            word = "Image is up to date" if image.id in known else "Downloaded newer image"
            lines = {"Digest": digest, "Status": f"{word} for {reference}"}
            return [{"status": f"{name}: {text}"} for name, text in lines.items() if text and name not in told]

        if _is_repository(reference):
            return await report(call.request, work_of_all, lambda _: [])
        return await report(call.request, work, finish)

    async def _import(self, call: Call) -> web.StreamResponse:
        if call.text("fromSrc") != "-":
            raise UnsupportedOption("fromSrc with an URL", "the daemon fetches from registries only",
                                    hint="download it and send it as the body (docker import -)")
        reference = _reference(call.text("repo"), call.text("tag"))
        check_host_platform(call, host_architecture())
        image = await self._images.import_tar(call.who, decompressed(call.stream()), reference=reference,
                                              message=call.text("message"), changes=call.texts("changes"))
        return json_response({"status": image.id})

    async def load(self, call: Call) -> web.StreamResponse:
        check_host_platform(call, host_architecture())

        async def work(tell: ProgressSink) -> list[Image]:
            return await self._images.load(call.who, call.stream(), None if call.flag("quiet") else tell)

        def finish(images: list[Image]) -> list[dict[str, Any]]:
            return [{"stream": f"Loaded image: {name}\n" if name else f"Loaded image ID: {image.id}\n"}
                    for image in images for name in [self._images.display(ref) for ref in image.references] or [""]]

        return await report(call.request, work, finish)

    def _named(self, call: Call, name: str) -> Image:
        """:raise NotFound: no such image, or not for the platform that the call asks for."""
        image = self._images.get(call.who, name)
        check_platform(call, image, name)
        return image

    async def inspect(self, call: Call) -> web.StreamResponse:
        image = self._named(call, call.part("name"))
        raw, config = image.raw_config, image.raw_config.get("config") or {}
        return json_response(shapes.image({
            "Id": image.id, "RepoTags": [self._images.display(name) for name in image.references],
            "RepoDigests": [self._images.display(name) for name in image.digests], "Parent": "",
            "Comment": _comment(raw), "Created": raw.get("created") or rfc3339(image.created_at), "DockerVersion": "",
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
        top: dict[str, Any] = rows[0] if rows else {"Created": image.created_at // _NS, "CreatedBy": "", "Comment": "",
                                                    "Size": image.size}
        top = {**top, "Id": image.id, "Tags": [self._images.display(name) for name in image.references] or None}
        return json_response([top, *rows[1:]])

    async def tag(self, call: Call) -> web.StreamResponse:
        repository = call.text("repo")
        if not repository:
            raise InvalidArgument("repo must be given", field="repo")
        await self._images.tag(call.who, call.part("name"), _reference(repository, call.text("tag")))
        return empty(201)

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.has("platforms"):
            self._named(call, call.part("name"))
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

    async def search(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("is-automated", "is-official", "stars"))
        term, limit = call.text("term"), call.integer("limit") or _SEARCH_LIMIT
        if not term or not 1 <= limit <= _MAX_SEARCH:
            raise InvalidArgument(f"term must be given, and limit be 1 to {_MAX_SEARCH}", field="term")
        # A registry's catalogue tells of no stars and of nothing official: such filters leave nothing.
        none = wanted.truth("is-automated") or wanted.truth("is-official") or any(
            stars not in ("", "0") for stars in wanted.get("stars"))
        names = await self._images.search(call.who, term, limit=limit)
        return json_response([] if none else [
            {"name": name, "description": "", "star_count": 0, "is_official": False, "is_automated": False}
            for name in names])

    async def distribution(self, call: Call) -> web.StreamResponse:
        found = await self._images.describe_remote(call.who, call.part("name"), credentials=credentials_of(call))
        return json_response({
            "Descriptor": {"mediaType": found.media_type, "digest": found.digest, "size": found.size},
            "Platforms": [{"architecture": architecture, "os": system, **({"variant": variant} if variant else {})}
                          for system, architecture, variant in found.platforms]})

    async def auth(self, call: Call) -> web.StreamResponse:
        """Only asks: credentials are the client's to keep, and come again with each pull and push."""
        body = await call.body(AuthBody)
        await self._images.check_login(call.who, registry_of(body), credentials(body))
        return json_response({"Status": "Login Succeeded", "IdentityToken": ""})

    async def push(self, call: Call) -> web.StreamResponse:
        name = call.part("name")
        references = [_reference(name, call.text("tag"))] if call.has("tag") else self._tags_of(call, name)
        if call.has("platform"):
            for reference in references:
                check_platform(call, self._images.get(call.who, reference), reference)
        sent_along = credentials_of(call)

        async def work(tell: ProgressSink) -> list[Pushed]:
            return [await self._images.push(call.who, reference, credentials=sent_along, progress=tell)
                    for reference in references]

        def finish(pushed: list[Pushed]) -> list[dict[str, Any]]:
            return [{"progressDetail": {}, "aux": {"Tag": one.tag, "Digest": one.digest, "Size": one.size}}
                    for one in pushed]

        return await report(call.request, work, finish)

    def _tags_of(self, call: Call, name: str) -> list[str]:
        """All tags of a repository, as `docker push --all-tags` wants them."""
        found = sorted(shown for image in self._images.list_all(call.who) for shown in
                       map(self._images.display, image.references) if shown.rpartition(":")[0] == name)
        if not found:
            raise NotFound("image", name, hint="an image does not exist locally with that name")
        return found


def matches(pattern: str, name: str) -> bool:
    """Docker's `reference` filter: a glob over the familiar name, with or without its tag; `*` stops at a slash."""
    globs = pattern.split("/")
    bare = name.partition("@")[0]
    candidates = (name.split("/"), (bare[:bare.rfind(":")] if bare.rfind(":") > bare.rfind("/") else bare).split("/"))
    return any(len(parts) == len(globs) and all(map(fnmatchcase, parts, globs)) for parts in candidates)


def _reference(name: str, tag: str) -> str:
    """A tag may be a digest; and a name that has one already keeps it."""
    if not name or not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


def _is_repository(reference: str) -> bool:
    """Whether it has neither tag nor digest: a pull of it means all that the repository has."""
    return "@" not in reference and ":" not in reference.rpartition("/")[2]


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
