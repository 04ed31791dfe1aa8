"""/kernels: list, inspect, build, add, remove, choose the default."""

from __future__ import annotations

import contextlib
from typing import Any

from aiohttp import web

from hyperstack.engine.api import BuildStep, Engine
from hyperstack.http.call import Call
from hyperstack.http.errors import message_of
from hyperstack.http.responses import JsonLines, empty, json_response
from hyperstack.http.routing import Route
from hyperstack.pod.errors import HyperStackError


class KernelRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._kernels = engine.kernels

    def table(self) -> list[Route]:
        return [
            Route("GET", "/kernels", self.list_all),
            Route("POST", "/kernels", self.add),
            Route("POST", "/kernels/build", self.build, cancellable=True),
            Route("GET", "/kernels/{name}", self.inspect),
            Route("DELETE", "/kernels/{name}", self.remove),
            Route("POST", "/kernels/{name}/default", self.set_default),
            Route("DELETE", "/projects/{project}/kernel", self.unset_project_default),
        ]

    async def list_all(self, call: Call) -> web.StreamResponse:
        return json_response(self._kernels.list_all(call.who))

    async def inspect(self, call: Call) -> web.StreamResponse:
        return json_response(self._kernels.inspect(call.who, call.part("name")))

    async def add(self, call: Call) -> web.StreamResponse:
        """The body is the kernel's archive; the answer comes after its trial boot."""
        added = await self._kernels.add(call.who, call.text("name"), call.stream(), command_line=call.text("cmdline"))
        return json_response(added, status=201)

    async def build(self, call: Call) -> web.StreamResponse:
        """A stream of progress messages in the form of a pull's. It ends with the kernel's name, or with an error; the
        build itself goes on when the client leaves."""
        lines = JsonLines(call.request)
        try:
            async with contextlib.aclosing(self._kernels.build(call.who)) as steps:
                async for step in steps:
                    await lines.write(_message(step))
        except HyperStackError as error:
            if not lines.opened:
                raise
            text = message_of(error)
            await lines.write({"errorDetail": {"message": text}, "error": text})
        return await lines.close()

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._kernels.remove(call.who, call.part("name"))
        return empty()

    async def set_default(self, call: Call) -> web.StreamResponse:
        """The host's, or with `project` that project's."""
        if call.has("project"):
            self._kernels.set_project_default(call.who, call.text("project"), call.part("name"))
        else:
            self._kernels.set_default(call.who, call.part("name"))
        return empty()

    async def unset_project_default(self, call: Call) -> web.StreamResponse:
        self._kernels.set_project_default(call.who, call.part("project"), "")
        return empty()


def _message(step: BuildStep) -> dict[str, Any]:
    if step.name:
        return {"status": step.status, "aux": {"name": step.name}}
    if step.total:
        return {"status": step.status, "progressDetail": {"current": step.current, "total": step.total}}
    return {"status": step.status}
