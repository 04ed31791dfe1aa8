"""POST /build, in the manner of Docker's classic builder, and what concerns its cache."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from hyperstack.docker_api import buildkit
from hyperstack.docker_api.bodies import AuthBody, HostConfigBody, ResourcesBody, UlimitBody
from hyperstack.docker_api.buildkit import BuildKitWanted
from hyperstack.docker_api.containers import host_architecture
from hyperstack.docker_api.creation import parse_extra_host, parse_resources, parse_size_field, parse_ulimit
from hyperstack.docker_api.endpoints import network_mode
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.platforms import parse_platform
from hyperstack.docker_api.progress import Pending, error_line, tell_progress
from hyperstack.docker_api.registry_auth import credentials, registry_of
from hyperstack.engine.api import BuildEvent, BuildRequest, CachedStep, Credentials, Engine, StepFailed
from hyperstack.http import body
from hyperstack.http.call import Call
from hyperstack.http.responses import JsonLines, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import rfc3339
from hyperstack.pod.errors import HyperStackError, InvalidArgument, UnsupportedOption

_NS = 1_000_000_000
_MAX_TAGS = 64
_MAX_HEADER = 64 * 1024
_MAX_UNSAID = 1 << 20
"""Characters."""
_REFUSED = {
    "squash": ("layers stay as the steps made them", "export the container and import it again as one layer"),
    "cgroupparent": ("the container's cgroup lives inside its VM", ""),
    "cpusetmems": ("the VM's memory is where the host places it", ""),
    "securityopt": ("a step has the security of its VM", ""),
    "outputs": ("a result is an image of this host", "docker save, or docker cp out of a container"),
    "secrets": ("this is the classic builder", "a multi-stage build, whose first stage is not kept"),
    "ssh": ("this is the classic builder", "COPY what the agent would fetch"),
}
"""Parameters of a build that are not honoured, with the reason and what to do instead."""


class Unsaid:
    """What a quiet build says only once it has failed; the newest of it, where that is much."""

    def __init__(self) -> None:
        self.all: deque[str] = deque()
        self._size = 0

    def keep(self, text: str) -> None:
        self.all.append(text)
        self._size += len(text)
        while self._size > _MAX_UNSAID:
            self._size -= len(self.all.popleft())


class BuildRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._builds = engine.builds

    def table(self) -> list[Route]:
        return [Route("POST", "/build", self.build, cancellable=True), Route("POST", "/build/prune", self.prune),
                *buildkit.table()]

    async def build(self, call: Call) -> web.StreamResponse:
        request = parse_build(call)
        lines, pending = JsonLines(call.request), Pending(call.version)
        quiet, unsaid = call.flag("q"), Unsaid()
        teller = asyncio.create_task(tell_progress(pending, lines))

        async def tell(event: BuildEvent) -> None:
            if event.stream and quiet:
                unsaid.keep(event.stream)
            elif event.stream:
                await lines.write({"stream": event.stream})
            elif event.image and not quiet:
                await lines.write({"aux": {"ID": event.image}})

        try:
            image = await self._builds.build(call.who, request, call.stream(), tell,
                                             (lambda step: None) if quiet else pending.put)
        except HyperStackError as error:
            for text in unsaid.all:
                await lines.write({"stream": text})
            if not lines.opened:
                raise
            line = error_line(error)
            if isinstance(error, StepFailed):
                line["errorDetail"]["code"] = error.code
            await lines.write(line)
        else:
            if quiet:
                await lines.write({"stream": image + "\n"})
        finally:
            teller.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await teller
        return await lines.close()

    async def prune(self, call: Call) -> web.StreamResponse:
        filters, until = _prune_filters(call)

        def wanted(step: CachedStep) -> bool:
            # A step has no labels, so it has none that are asked for, and lacks all that must not be there.
            old_enough = not until or step.used_at * _NS < until
            return not filters.get("label") and old_enough and filters.any_prefix("id", step.key)

        if _bytes(call, "min-free-space"):
            raise UnsupportedOption("min-free-space", "a project does not see the host's free space",
                                    hint="max-used-space, or reserved-space")
        reserved = _bytes(call, "keep-storage") or _bytes(call, "reserved-space")
        keep = max(reserved, _bytes(call, "max-used-space"))
        removed, freed = await self._builds.prune(call.who, everything=call.flag("all"), wanted=wanted, keep_bytes=keep)
        return json_response({"CachesDeleted": removed or None, "SpaceReclaimed": freed})


def _prune_filters(call: Call) -> tuple[Filters, int]:
    """With the `until` among them, in nanoseconds. :raise InvalidArgument: one is unknown, or no time."""
    try:
        filters = Filters.parse(call, known=("until", "id", "label", "label!"))
        return filters, filters.until_ns()
    except InvalidArgument as error:
        if error.message == "invalid filter":
            raise
        what = '"until" filter expects a duration (e.g., \'24h\') or a timestamp: ' \
            if error.message.startswith("failed to parse") else ""
        raise InvalidArgument(f"failed to prune build cache: {what}{error.message}", field="filters",
                              value=error.value, hint=error.hint) from error


def _bytes(call: Call, name: str) -> int:
    """:raise InvalidArgument: it is no number."""
    try:
        return call.integer(name) or 0
    except InvalidArgument as error:
        raise InvalidArgument(f"{name} is in bytes and expects an integer, got {call.text(name)[:64]}: {error.message}",
                              field=name, value=error.value) from error


def describe(step: CachedStep) -> dict[str, Any]:
    """A row of `system df`."""
    return {"ID": step.key[:25], "Parents": None, "Type": "regular", "Description": step.description,
            "InUse": step.in_use, "Shared": step.in_use, "Size": step.size,
            "CreatedAt": rfc3339(step.created_at * _NS), "LastUsedAt": rfc3339(step.used_at * _NS),
            "UsageCount": step.uses}


def parse_build(call: Call) -> BuildRequest:
    """:raise InvalidArgument: a parameter is malformed. :raise UnsupportedOption: one cannot be honoured."""
    if call.text("version") not in ("", "1", "2"):
        raise InvalidArgument(f'invalid version "{call.text("version")[:64]}"', field="version")
    if call.text("version") == "2":
        raise BuildKitWanted
    for name, (reason, hint) in _REFUSED.items():
        if call.flag(name) if name == "squash" else call.text(name) not in ("", "null", "[]", "{}"):
            raise UnsupportedOption(f"build parameter {name}", reason, hint=hint or None)
    if call.text("isolation") not in ("", "default"):
        raise UnsupportedOption("build parameter isolation", "it is an option of Windows containers")
    remote = call.text("remote")
    if remote == "client-session":
        raise BuildKitWanted
    references = call.texts("t")
    if len(references) > _MAX_TAGS:
        raise InvalidArgument(f"more than {_MAX_TAGS} tags", field="t", value=len(references))
    return BuildRequest(
        dockerfile=call.text("dockerfile", "Dockerfile"), remote=remote, references=tuple(references),
        target=call.text("target"), arguments=_json(call, "buildargs", dict[str, str | None]),
        labels=_json(call, "labels", dict[str, str]), use_cache=not call.flag("nocache"),
        cache_from=tuple(_json(call, "cachefrom", list[str])), pull=call.flag("pull"),
        platform=parse_platform(call.text("platform"), host_architecture()) if call.has("platform") else "",
        remove=call.flag("rm", default=True), force_remove=call.flag("forcerm"), network=_network(call),
        extra_hosts=tuple(parse_extra_host(item) for item in call.texts("extrahosts")), resources=parse_resources(
            ResourcesBody(memory=call.integer("memory") or 0, memory_swap=call.integer("memswap") or 0,
                          cpu_shares=call.integer("cpushares") or 0, cpu_period=call.integer("cpuperiod") or 0,
                          cpu_quota=call.integer("cpuquota") or 0, cpuset_cpus=call.text("cpusetcpus"))),
        ulimits=tuple(parse_ulimit(item) for item in _json(call, "ulimits", list[UlimitBody])),
        shm_size=parse_size_field("shmsize", call.integer("shmsize") or 0), credentials=_credentials(call))


def _json(call: Call, name: str, kind: Any) -> Any:
    text = call.text(name)
    if not text or text == "null":
        return kind()
    try:
        return body.decode(text.encode("utf-8", "replace"), kind)
    except InvalidArgument as error:
        what = {"buildargs": "build args", "cachefrom": "cache-from", "ulimits": "ulimit settings"}.get(name, name)
        raise InvalidArgument(f"error reading {what}: {error.message.removeprefix('invalid JSON: ')}", field=name,
                              value=text[:64]) from error


def _network(call: Call) -> str:
    mode = call.text("networkmode", "default")
    if mode == "host" or mode.startswith("container:"):
        raise UnsupportedOption(f"build parameter networkmode={mode[:64]}", "a step has the network of its own VM",
                                hint="default, none, or a network of the project's")
    return "none" if mode == "none" else network_mode(HostConfigBody(network_mode=mode))


def _credentials(call: Call) -> Mapping[str, Credentials]:
    """Of the X-Registry-Config header, by registry."""
    text = call.request.headers.get("X-Registry-Config", "")
    if not text:
        return {}
    if len(text) > _MAX_HEADER:
        raise InvalidArgument("X-Registry-Config is too long", field="X-Registry-Config")
    try:
        raw = base64.b64decode(text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument("X-Registry-Config is not base64", field="X-Registry-Config") from error
    found = {}
    for host, auth in body.decode(raw, dict[str, AuthBody]).items():
        given = credentials(auth)
        if given is not None:
            found[registry_of(msgspec.structs.replace(auth, serveraddress=host))] = given
    return found
