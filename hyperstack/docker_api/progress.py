"""Progress of long image work as Docker's JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

from hyperstack.engine.api import Progress, ProgressSink
from hyperstack.http.errors import message_of, status_of
from hyperstack.http.responses import JsonLines
from hyperstack.pod.errors import HyperStackError

T = TypeVar("T")


class Pending:
    """What is to be told. A slow client gets the latest of each layer, not the history: so the memory is bounded by the
    number of layers."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], Progress] = {}
        self._something = asyncio.Event()

    def put(self, progress: Progress) -> None:
        self._latest[progress.ident, progress.status] = progress
        self._something.set()

    async def take(self) -> list[Progress]:
        await self._something.wait()
        return self.take_now()

    def take_now(self) -> list[Progress]:
        self._something.clear()
        latest, self._latest = self._latest, {}
        return list(latest.values())


async def report(request: web.Request, work: Callable[[ProgressSink], Awaitable[T]],
                 finish: Callable[[T], list[dict[str, Any]]]) -> web.StreamResponse:
    """Do `work`, tell its progress, then the lines of `finish`. An error before the first line is an HTTP error, later
    a line of its own, as Docker's clients expect. A client that goes away cancels the work."""
    pending, lines = Pending(), JsonLines(request)
    task = asyncio.ensure_future(work(pending.put))
    teller = asyncio.create_task(tell_progress(pending, lines))
    try:
        await asyncio.wait({task, teller}, return_when=asyncio.FIRST_COMPLETED)
        if teller.done():
            teller.result()  # The client is gone; the error says so.
        await _stop(teller)
        try:
            result = await task
        except HyperStackError as error:
            if not lines.opened:
                raise
            await _write(lines, pending.take_now())
            await lines.write(error_line(error))
        else:
            await _write(lines, pending.take_now())
            for line in finish(result):
                await lines.write(line)
        return await lines.close()
    finally:
        await _stop(teller)
        await _stop(task)


async def _stop(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, HyperStackError, ConnectionError):
            await task


async def tell_progress(pending: Pending, lines: JsonLines) -> None:
    """What is pending, as it comes, until it is cancelled."""
    while True:
        await _write(lines, await pending.take())


async def _write(lines: JsonLines, steps: list[Progress]) -> None:
    for step in steps:
        detail = {"current": step.current, "total": step.total} if step.current or step.total else {}
        line: dict[str, Any] = {"status": step.status, "progressDetail": detail}
        await lines.write({**line, "id": step.ident} if step.ident else line)


def error_line(error: HyperStackError) -> dict[str, Any]:
    """How a stream tells that its work failed."""
    message = message_of(error)
    return {"errorDetail": {"code": status_of(error), "message": message}, "error": message}
