"""A container's streams: attach, logs and stats."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote_plus

from aiohttp import web

from hyperstack.docker_api import shapes, streams
from hyperstack.docker_api.hijack import hijack
from hyperstack.docker_api.inspection import is_live
from hyperstack.docker_api.versions import HEADERS
from hyperstack.docker_api.websocket import WebSocketConnection
from hyperstack.engine.api import Attachment, ContainerStats, Engine
from hyperstack.engine.logs.drivers import details
from hyperstack.engine.records import ContainerRecord, LogRecord
from hyperstack.http.call import Call
from hyperstack.http.responses import JsonLines, Spent, json_response
from hyperstack.http.routing import Route
from hyperstack.http.times import ZERO_TIME, rfc3339
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound
from hyperstack.pod.states import ContainerState

_SAMPLE_S = 1.0
"""Between two samples of `stats`, as Docker has it."""

_TAIL = re.compile(r"[0-9]{1,9}\Z")


class OutputRoutes:
    """The table and its handlers."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers

    def table(self) -> list[Route]:
        return [
            Route("POST", "/containers/{name}/attach", self.attach),
            Route("GET", "/containers/{name}/attach/ws", self.attach_websocket, cancellable=True),
            Route("GET", "/containers/{name}/logs", self.logs, cancellable=True),
            Route("GET", "/containers/{name}/stats", self.stats, cancellable=True),
        ]

    async def attach(self, call: Call) -> web.StreamResponse:
        record, keys, attachment = await self._attach(call)
        stdin = _wants_stdin(call) and record.spec.open_stdin
        if not (_wants_stdin(call) or call.flag("stdout") or call.flag("stderr")):  # Nothing will ever be said.
            await attachment.close()
            (await hijack(call.request, content_type=streams.RAW, headers=HEADERS)).close()
            return Spent()
        return await serve_attachment(call, attachment, stdin=stdin, keys=keys)

    async def attach_websocket(self, call: Call) -> web.StreamResponse:
        connection = WebSocketConnection(text=call.version < (1, 28))
        if not connection.response.can_prepare(call.request):
            raise InvalidArgument("the request does not ask for a websocket", field="Upgrade", hint="POST .../attach")
        record, keys, attachment = await self._attach(call)
        try:
            await connection.response.prepare(call.request)
        except BaseException:
            await attachment.close()
            raise
        stdin = _wants_stdin(call) and record.spec.open_stdin
        await streams.pump(connection, attachment, stdin=stdin, keys=keys, framed=False)
        await connection.response.close()
        return connection.response

    async def _attach(self, call: Call) -> tuple[ContainerRecord, bytes, Attachment]:
        """With the keys that detach."""
        record = self._containers.get(call.who, call.part("name"))
        keys = streams.parse_detach_keys(call.text("detachKeys"))
        if record.state is ContainerState.PAUSED:
            raise Conflict(f"container {record.name} is paused, unpause the container before attach", field="state",
                           value="paused")
        return record, keys, await self._containers.attach(
            call.who, record.id, stdin=_wants_stdin(call), stdout=call.flag("stdout"), stderr=call.flag("stderr"),
            logs=call.flag("logs"), stream=call.flag("stream"))

    async def logs(self, call: Call) -> web.StreamResponse:
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not stdout and not stderr:
            raise InvalidArgument("Bad parameters: you must choose at least one stream", field="stdout")
        record = self._containers.get(call.who, call.part("name"))
        records = self._containers.logs(
            call.who, record.id, follow=call.flag("follow"), stdout=stdout, stderr=stderr,
            since_ns=call.time_ns("since"), until_ns=call.time_ns("until"), tail=_tail(call))
        tty, stamped = record.spec.tty, call.flag("timestamps")
        lead = _attributes(record) + b" " if call.flag("details") else b""
        response = web.StreamResponse(headers={"Content-Type": streams.media_type(tty=tty, version=call.version)})
        async with streams.closing(records):
            await response.prepare(call.request)
            async for batch in records:
                await response.write(b"".join([_log_chunk(line, lead, tty=tty, stamped=stamped) for line in batch]))
        await response.write_eof()
        return response

    async def stats(self, call: Call) -> web.StreamResponse:
        record = self._containers.get(call.who, call.part("name"))
        stream = call.flag("stream", default=True)
        before = await self._sample(call, record)
        if not stream:
            if call.flag("one-shot") or before is None:
                return json_response(shapes.stats(_stats(record, before, None), call.version))
            await asyncio.sleep(_SAMPLE_S)
            now = await self._sample(call, record)
            return json_response(shapes.stats(_stats(record, now, before), call.version))
        lines = JsonLines(call.request)
        await lines.write(shapes.stats(_stats(record, before, None), call.version))
        while True:
            await asyncio.sleep(_SAMPLE_S)
            try:
                record = self._containers.get(call.who, record.id)
            except NotFound:
                return await lines.close()
            now = await self._sample(call, record)
            await lines.write(shapes.stats(_stats(record, now, before), call.version))
            before = now

    async def _sample(self, call: Call, record: ContainerRecord) -> ContainerStats | None:
        """None for a container that does not run; Docker then shows zeros."""
        if not is_live(self._containers.get(call.who, record.id)):
            return None
        try:
            return await self._containers.stats(call.who, record.id)
        except Conflict:  # It ended in between.
            return None


async def serve_attachment(call: Call, attachment: Attachment, *, stdin: bool, keys: bytes) -> web.StreamResponse:
    """Take the connection and pump; the attachment is closed in every case."""
    kind = streams.media_type(tty=attachment.tty, version=call.version)
    try:
        connection = await hijack(call.request, content_type=kind, headers=HEADERS)
    except BaseException:
        await attachment.close()
        raise
    await streams.pump(connection, attachment, stdin=stdin, keys=keys)
    return Spent()


def _wants_stdin(call: Call) -> bool:
    return call.flag("stdin") and call.flag("stream")


def _tail(call: Call) -> int | None:
    text = call.text("tail", "all")
    return int(text) if _TAIL.match(text) else None  # Docker, too, takes everything else for "all".


def _attributes(record: ContainerRecord) -> bytes:
    found = details(record)
    return ",".join(f"{quote_plus(name)}={quote_plus(found[name])}" for name in sorted(found)).encode()


def _log_chunk(record: LogRecord, lead: bytes, *, tty: bool, stamped: bool) -> bytes:
    data = lead + record.data
    if stamped:
        data = rfc3339(record.time_ns, fixed=True).encode() + b" " + data
    return data if tty else streams.frame(record.stream, data)


def _stats(record: ContainerRecord, now: ContainerStats | None, before: ContainerStats | None) -> dict[str, Any]:
    """Docker's shape. A percentage is CPU time over what passed in the VM, between two samples."""
    return {
        "id": record.id, "name": f"/{record.name}", "read": rfc3339(now.time_ns) if now else ZERO_TIME,
        "preread": rfc3339(before.time_ns) if before else ZERO_TIME, "num_procs": 0, "storage_stats": {},
        "pids_stats": _pids(now), "blkio_stats": _blkio(now), "cpu_stats": _cpu(now), "precpu_stats": _cpu(before),
        "memory_stats": _memory(now), **({"networks": now.network} if now and now.network else {}),
    }


def _pids(sample: ContainerStats | None) -> dict[str, int]:
    if sample is None:
        return {}
    return {"current": sample.pids, **({"limit": sample.pids_limit} if sample.pids_limit else {})}


def _cpu(sample: ContainerStats | None) -> dict[str, Any]:
    if sample is None:
        return {"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
                "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}}
    return {"cpu_usage": {"total_usage": sample.cpu_ns, "usage_in_kernelmode": sample.cpu_system_ns,
                          "usage_in_usermode": sample.cpu_user_ns},
            "system_cpu_usage": sample.system_cpu_ns, "online_cpus": sample.online_cpus,
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": sample.throttled_ns}}


def _memory(sample: ContainerStats | None) -> dict[str, Any]:
    if sample is None:
        return {}
    # Clients show usage - inactive_file: the page cache can be given back, so Docker does not count it.
    return {"usage": sample.memory, "max_usage": sample.memory_peak, "limit": sample.memory_limit,
            "stats": {"file": sample.cache, "inactive_file": sample.cache, "host_memory": sample.host_memory}}


def _blkio(sample: ContainerStats | None) -> dict[str, Any]:
    def pair(read: int, write: int) -> list[dict[str, Any]]:
        return [{"major": 0, "minor": 0, "op": op, "value": value} for op, value in (("read", read), ("write", write))]

    rows = {} if sample is None else {
        "io_service_bytes_recursive": pair(sample.read_bytes, sample.write_bytes),
        "io_serviced_recursive": pair(sample.read_ops, sample.write_ops)}
    absent = ("io_service_bytes_recursive", "io_serviced_recursive", "io_queue_recursive", "io_service_time_recursive",
              "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive", "sectors_recursive")
    return {name: rows.get(name) for name in absent}
