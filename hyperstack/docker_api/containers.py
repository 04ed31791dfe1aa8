"""/containers: create, inspect and the verbs. Streams have modules of their own."""

from __future__ import annotations

import asyncio
import platform
import re

import msgspec
from aiohttp import web

from hyperstack.docker_api import shapes
from hyperstack.docker_api.bodies import CreateBody, UpdateBody
from hyperstack.docker_api.creation import parse_create, parse_update
from hyperstack.docker_api.filters import Filters
from hyperstack.docker_api.inspection import inspect
from hyperstack.docker_api.listing import image_size, list_containers
from hyperstack.docker_api.wording import told_after
from hyperstack.engine.api import Engine, WaitCondition
from hyperstack.http.call import Call
from hyperstack.http.responses import JsonLines, empty, json_response
from hyperstack.http.routing import Route
from hyperstack.pod.errors import HyperStackError, InvalidArgument, NotFound, UnsupportedOption

_SIZE = re.compile(r"-?[0-9]{1,20}\Z")
_MAX_START_BODY = 7
"""Bytes that clients of old send along with a start: `null`, `{}`."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

_OWN_MAC_ADDRESS = ("The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig "
                    "instead.")
"""What a client of 1.44 or later is told; from 1.52 on the field is refused."""


def host_architecture() -> str:
    """In the words of OCI."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


class ContainerRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._containers = engine.containers

    def table(self) -> list[Route]:
        return [
            Route("GET", "/containers/json", self.list_all),
            Route("POST", "/containers/create", self.create),
            Route("POST", "/containers/prune", self.prune),
            Route("GET", "/containers/{name}/json", self.inspect),
            Route("POST", "/containers/{name}/start", self.start),
            Route("POST", "/containers/{name}/stop", self.stop),
            Route("POST", "/containers/{name}/restart", self.restart),
            Route("POST", "/containers/{name}/kill", self.kill),
            Route("POST", "/containers/{name}/pause", self.pause),
            Route("POST", "/containers/{name}/unpause", self.unpause),
            Route("POST", "/containers/{name}/wait", self.wait, cancellable=True),
            Route("POST", "/containers/{name}/rename", self.rename),
            Route("POST", "/containers/{name}/update", self.update),
            Route("POST", "/containers/{name}/resize", self.resize),
            Route("GET", "/containers/{name}/top", self.top),
            Route("DELETE", "/containers/{name}", self.remove),
            Route("DELETE", "/containers/{name}/{alias}", self.unlink),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        return await list_containers(self._engine, call)

    async def create(self, call: Call) -> web.StreamResponse:
        wanted, name = call.text("platform"), call.text("name")
        system, _, architecture = wanted.partition("/")
        if wanted and (system != "linux" or architecture.partition("/")[0] not in ("", host_architecture())):
            raise UnsupportedOption(f"platform={wanted[:64]}", "the VM has the host's processor",
                                    hint=f"linux/{host_architecture()}")
        body = await call.body(CreateBody, required=True)
        if body.mac_address and call.version >= (1, 52):
            raise UnsupportedOption("MacAddress", "it was withdrawn from Docker's API",
                                    hint="NetworkingConfig.EndpointsConfig.*.MacAddress")
        if call.version < (1, 25):  # Until then it was the client that removed the container.
            kept = msgspec.structs.replace(body.host_config, auto_remove=False)
            body = msgspec.structs.replace(body, host_config=kept)
        spec, pod = parse_create(body, name=name, project=call.who.project)
        record = await self._containers.create(call.who, spec, pod)
        warnings = [_OWN_MAC_ADDRESS] if body.mac_address and call.version >= (1, 44) else []
        return json_response({"Id": record.id, "Warnings": warnings}, status=201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        record = self._containers.get(call.who, call.part("name"))
        body = inspect(record, self._containers.pod_of(record), self._containers.health_of(record),
                       links=self._containers.links_of(record),
                       execs=[found.id for found in self._engine.execs.running(record)])
        if call.flag("size"):
            written = (await self._engine.system.disk_usage(call.who)).get("containers", {}).get(record.id, 0)
            body |= {"SizeRw": written, "SizeRootFs": written + image_size(self._engine, call, record.image_id)}
        return json_response(shapes.container(body, call.version))

    async def start(self, call: Call) -> web.StreamResponse:
        if call.has("checkpoint"):
            raise InvalidArgument("checkpoint is only supported in experimental mode", field="checkpoint",
                                  hint="containers are not checkpointed here")
        length = call.request.content_length
        if call.request.body_exists and (length is None or length > _MAX_START_BODY):
            raise InvalidArgument("starting container with non-empty request body was deprecated since API v1.22 and "
                                  "removed in v1.24", field="body", hint="what it says belongs to create")
        await self._containers.start(call.who, call.part("name"))
        return empty()

    async def stop(self, call: Call) -> web.StreamResponse:
        record, timeout = self._containers.get(call.who, call.part("name")), _timeout(call)
        with told_after(f"cannot stop container: {call.part('name')}: "):
            await self._containers.stop(call.who, record.id, timeout=timeout, signal=call.text("signal") or None)
        return empty()

    async def restart(self, call: Call) -> web.StreamResponse:
        record, timeout = self._containers.get(call.who, call.part("name")), _timeout(call)
        with told_after(f"Cannot restart container {call.part('name')}: "):
            await self._containers.restart(call.who, record.id, timeout=timeout, signal=call.text("signal") or None)
        return empty()

    async def kill(self, call: Call) -> web.StreamResponse:
        with told_after(f"cannot kill container: {call.part('name')}: "):
            await self._containers.kill(call.who, call.part("name"), signal=call.text("signal", "KILL"))
        return empty()

    async def pause(self, call: Call) -> web.StreamResponse:
        await self._containers.pause(call.who, call.part("name"))
        return empty()

    async def unpause(self, call: Call) -> web.StreamResponse:
        await self._containers.unpause(call.who, call.part("name"))
        return empty()

    async def wait(self, call: Call) -> web.StreamResponse:
        """The headers go out before the container ends: `docker run` sends its start only after them."""
        try:
            condition = WaitCondition(call.text("condition", WaitCondition.NOT_RUNNING.value))
        except ValueError as error:
            raise InvalidArgument(f'invalid condition: "{call.text("condition")[:64]}"', field="condition",
                                  hint=", ".join(WaitCondition)) from error
        waiting = asyncio.ensure_future(self._containers.wait(call.who, call.part("name"), condition))
        try:
            await asyncio.sleep(0)  # It registers in its first step; and an error then is still an HTTP error.
            if waiting.done():
                waiting.result()
            lines = JsonLines(call.request)
            await lines.open()
            await lines.write(await _exit_of(waiting))
            return await lines.close()
        finally:
            waiting.cancel()

    async def rename(self, call: Call) -> web.StreamResponse:
        name = call.text("name")
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty", field="name")
        await self._containers.rename(call.who, call.part("name"), name)
        return empty()

    async def update(self, call: Call) -> web.StreamResponse:
        body = await call.body(UpdateBody)
        record = self._containers.get(call.who, call.part("name"))
        resources, restart = parse_update(body, record.spec.resources)
        changed = resources if resources != record.spec.resources else None
        warnings = await self._containers.update(call.who, record.id, resources=changed, restart=restart)
        return json_response({"Warnings": warnings or None})

    async def resize(self, call: Call) -> web.StreamResponse:
        rows, columns = window_size(call)
        await self._containers.resize(call.who, call.part("name"), rows=rows, columns=columns)
        return empty(200)

    async def top(self, call: Call) -> web.StreamResponse:
        titles, processes = await self._containers.top(call.who, call.part("name"), call.text("ps_args", "-ef"))
        return json_response({"Titles": titles, "Processes": processes})

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.flag("link"):
            raise InvalidArgument("Conflict, cannot remove the default link name of the container", field="link",
                                  value=call.part("name")[:128], hint="name the link: CONTAINER/ALIAS")
        await self._containers.remove(call.who, call.part("name"), force=call.flag("force"), volumes=call.flag("v"))
        return empty()

    async def unlink(self, call: Call) -> web.StreamResponse:
        if not call.flag("link"):
            raise NotFound("container", f"{call.part('name')}/{call.part('alias')}"[:128])
        await self._containers.unlink(call.who, call.part("name"), call.part("alias"))
        return empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        wanted = Filters.parse(call, known=("until", "label", "label!"))
        removed, freed = await self._containers.prune(call.who, until_ns=wanted.until_ns(), labels=wanted.get("label"),
                                                      without=wanted.get("label!"))
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})


def window_size(call: Call) -> tuple[int, int]:
    """(rows, columns) of a resize, as a terminal can have them. :raise InvalidArgument: absent or no numbers."""
    found = []
    for text, field, name in ((call.text("h"), "h", "height"), (call.text("w"), "w", "width")):
        number = int(text) if _SIZE.match(text) else -1
        if not 0 <= number < 2**32:
            why = "value out of range" if _SIZE.match(text) else "invalid syntax"
            raise InvalidArgument(f'invalid resize {name} "{text[:64]}": {why}', field=field, value=text[:64])
        found.append(min(number, 0xFFFF))
    return found[0], found[1]


def _timeout(call: Call) -> int | None:
    timeout = call.integer("t")
    return timeout if timeout is None or timeout >= 0 else -1


async def _exit_of(waiting: asyncio.Future[tuple[int, str]]) -> dict[str, object]:
    try:
        code, error = await waiting
    except HyperStackError as failure:  # The status line is out already; the body is where it can be told.
        return {"StatusCode": -1, "Error": {"Message": str(failure)}}
    return {"StatusCode": code, **({"Error": {"Message": error}} if error else {})}
