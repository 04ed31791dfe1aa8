"""/exec: more processes in a running container."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hyperstack.docker_api import streams
from hyperstack.docker_api.bodies import ExecCreateBody, ExecStartBody
from hyperstack.docker_api.containers import window_size
from hyperstack.docker_api.creation import parse_console_size, parse_environment
from hyperstack.docker_api.hijack import hijack
from hyperstack.docker_api.versions import HEADERS
from hyperstack.engine.api import Engine
from hyperstack.engine.records import ExecRecord, ExecRequest
from hyperstack.http.call import Call
from hyperstack.http.errors import message_of
from hyperstack.http.responses import Spent, empty, json_response
from hyperstack.http.routing import Route
from hyperstack.pod.errors import Conflict, HyperStackError, InvalidArgument
from hyperstack.pod.states import ContainerState


class ExecRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._execs = engine.execs
        self._containers = engine.containers

    def table(self) -> list[Route]:
        return [
            Route("POST", "/containers/{name}/exec", self.create),
            Route("POST", "/exec/{id}/start", self.start),
            Route("POST", "/exec/{id}/resize", self.resize),
            Route("GET", "/exec/{id}/json", self.inspect),
        ]

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(ExecCreateBody)
        if not body.cmd:
            raise InvalidArgument("No exec command specified", field="Cmd")
        if self._containers.get(call.who, call.part("name")).state is ContainerState.RUNNING:  # else that is told
            streams.parse_detach_keys(body.detach_keys, kind="escape")
        record = await self._execs.create(call.who, call.part("name"), ExecRequest(
            argv=tuple(body.cmd), env=parse_environment(body.env), working_dir=body.working_dir, user=body.user,
            tty=body.tty, privileged=body.privileged, attach_stdin=body.attach_stdin, attach_stdout=body.attach_stdout,
            attach_stderr=body.attach_stderr, detach_keys=body.detach_keys,
            console_size=parse_console_size(body.console_size)))
        return json_response({"Id": record.id}, status=201)

    async def start(self, call: Call) -> web.StreamResponse:
        body = await call.body(ExecStartBody)
        record = self._execs.get(call.who, call.part("id"))
        self._check_startable(call, record, detach=body.detach)
        rows, columns = parse_console_size(body.console_size) if body.console_size else record.request.console_size
        if body.detach:
            await self._execs.start(call.who, record.id, rows=rows, columns=columns, detach=True)
            return empty(200)
        return await self._start_attached(call, record, rows, columns)

    async def _start_attached(self, call: Call, record: ExecRecord, rows: int, columns: int) -> web.StreamResponse:
        """As Docker: the connection is taken first, and a command that does not start is told of on it; clients read
        the exit code from the record."""
        kind = streams.media_type(tty=record.request.tty, version=call.version)
        connection = await hijack(call.request, content_type=kind, headers=HEADERS)
        try:
            attachment = await self._execs.start(call.who, record.id, rows=rows, columns=columns)
        except HyperStackError as error:
            text = f"{message_of(error)}\r\n".encode()
            await connection.write(text if record.request.tty else streams.frame(1, text))
            attachment = None
        except BaseException:
            connection.close()
            raise
        if attachment is None:
            connection.close()
        else:
            await streams.pump(connection, attachment, stdin=record.request.attach_stdin,
                               keys=streams.parse_detach_keys(record.request.detach_keys))
        return Spent()

    def _check_startable(self, call: Call, record: ExecRecord, *, detach: bool) -> None:
        """What is told with an HTTP status, before the connection is taken."""
        if detach and record.running:
            raise Conflict(f"exec command {record.id} is already running", field="state", value="running")
        container = self._containers.get(call.who, record.container_id)
        if container.state is ContainerState.PAUSED:
            raise Conflict(f"Container {container.name} is paused, unpause the container before exec", field="state",
                           value="paused")
        if container.state is not ContainerState.RUNNING:
            raise Conflict(f"container {container.id} is not running", field="state", value=container.state.value)

    async def resize(self, call: Call) -> web.StreamResponse:
        rows, columns = window_size(call)
        await self._execs.resize(call.who, call.part("id"), rows=rows, columns=columns)
        return empty(200)

    async def inspect(self, call: Call) -> web.StreamResponse:
        record = self._execs.get(call.who, call.part("id"))
        container = self._containers.get(call.who, record.container_id)
        user = record.request.user or container.spec.user or container.image_config.user
        return json_response(_describe(record, user))


def _describe(record: ExecRecord, user: str) -> dict[str, Any]:
    """:param user: whose process it is; empty: root's."""
    request = record.request
    return {
        "ID": record.id, "Running": record.running, "ExitCode": record.exit_code, "OpenStdin": request.attach_stdin,
        "OpenStdout": request.attach_stdout, "OpenStderr": request.attach_stderr, "CanRemove": False,
        "ContainerID": record.container_id, "DetachKeys": request.detach_keys, "Pid": record.pid,
        "ProcessConfig": {"tty": request.tty, "entrypoint": request.argv[0], "arguments": list(request.argv[1:]),
                          "privileged": request.privileged, **({"user": user} if user else {})}}
