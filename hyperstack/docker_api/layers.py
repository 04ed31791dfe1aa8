"""/commit, /containers/{name}/changes and /export: what a container has changed."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hyperstack.docker_api import streams
from hyperstack.docker_api.bodies import CommitBody
from hyperstack.docker_api.creation import parse_environment, parse_healthcheck
from hyperstack.engine.api import Engine, with_tag
from hyperstack.http.call import Call
from hyperstack.http.responses import json_response
from hyperstack.http.routing import Route
from hyperstack.pod.errors import InvalidArgument


class LayerRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._layers = engine.layers

    def table(self) -> list[Route]:
        return [
            Route("POST", "/commit", self.commit, cancellable=True),
            Route("GET", "/containers/{name}/changes", self.changes, cancellable=True),
            Route("GET", "/containers/{name}/export", self.export, cancellable=True),
        ]

    async def commit(self, call: Call) -> web.StreamResponse:
        container, repository, tag = call.text("container"), call.text("repo"), call.text("tag")
        reference = str(with_tag(repository, tag)) if repository else ""
        if not container:
            raise InvalidArgument('invalid name or ID supplied: ""', field="container",
                                  hint="container=NAME says what to commit")
        config = _config(await call.body(CommitBody))
        image = await self._layers.commit(
            call.who, container, reference=reference, author=call.text("author"),
            message=call.text("comment"), pause=call.flag("pause", default=True), config=config,
            changes=[line for text in call.texts("changes") for line in text.splitlines() if line.strip()])
        return json_response({"Id": image.id}, status=201)

    async def changes(self, call: Call) -> web.StreamResponse:
        found = await self._layers.changes(call.who, call.part("name"))
        return json_response([{"Path": change.path, "Kind": change.kind.value} for change in found] or None)

    async def export(self, call: Call) -> web.StreamResponse:
        return await streams.send_tar(call, self._layers.export(call.who, call.part("name")))


def _config(body: CommitBody) -> dict[str, Any]:
    """What the client wants otherwise than the container has it; what is empty stays."""
    check = parse_healthcheck(body.healthcheck)
    said: dict[str, Any] = {
        "User": body.user, "Env": list(parse_environment(body.env)), "WorkingDir": body.working_dir,
        "Cmd": [body.cmd] if isinstance(body.cmd, str) else body.cmd,
        "Entrypoint": [body.entrypoint] if isinstance(body.entrypoint, str) else body.entrypoint,
        "Labels": body.labels, "StopSignal": body.stop_signal, "OnBuild": body.on_build,
        "Shell": [body.shell] if isinstance(body.shell, str) else body.shell,
        "ExposedPorts": {port: {} for port in body.exposed_ports}, "Volumes": {path: {} for path in body.volumes}}
    if check is not None and check.test:
        said["Healthcheck"] = {"Test": list(check.test), "Interval": check.interval, "Timeout": check.timeout,
                               "StartPeriod": check.start_period, "StartInterval": check.start_interval,
                               "Retries": check.retries}
    return {name: value for name, value in said.items() if value}
