"""Progress of long image work as Docker's JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiohttp import web

from hyperstack.engine.api import Progress, ProgressSink
from hyperstack.http.call import Call
from hyperstack.http.errors import message_of
from hyperstack.http.responses import JsonLines
from hyperstack.pod.errors import HyperStackError

T = TypeVar("T")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")


class Pending:
    """What is to be told. A slow client gets the latest of each layer, not the history: so the memory is bounded by the
    number of layers."""

    def __init__(self, version: tuple[int, int]) -> None:
        """:param version: of the API: until 1.51 a line says in a picture, too, how far a step is."""
        self.pictures = version < (1, 52)
        self._latest: dict[tuple[str, str], Progress] = {}
        self._something = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._latest)

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


async def report(call: Call, work: Callable[[ProgressSink], Awaitable[T]],
                 finish: Callable[[T], list[dict[str, Any]]], *, always: bool = False) -> web.StreamResponse:
    """Do `work`, tell its progress, then the lines of `finish`. An error before the first line is an HTTP error, later
    a line of its own, as Docker's clients expect. A client that goes away cancels the work.

    :param always: an error is a line in any case.
    """
    pending, lines = Pending(call.version), JsonLines(call.request)
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
            if not lines.opened and not pending and not always:
                raise
            await _write(lines, pending, pending.take_now())
            await lines.write(error_line(error))
        else:
            await _write(lines, pending, pending.take_now())
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
        await _write(lines, pending, await pending.take())


async def _write(lines: JsonLines, pending: Pending, steps: list[Progress]) -> None:
    for step in steps:
        line: dict[str, Any] = {"status": step.status}
        if not step.message:
            line["progressDetail"] = {name: value for name, value in (("current", step.current), ("total", step.total))
                                      if value}
        if pending.pictures and (step.current or step.total):
            line["progress"] = bar(step.current, step.total)
        await lines.write({**line, "id": step.ident} if step.ident else line)


def bar(current: int, total: int) -> str:
    """How far it is, as older clients print it."""
    if total <= 0:
        return f"{size(current):>8}"
    done = min(int(current / total * 100) // 2, 50)
    numbers = f"{size(current):>8}" + (f"/{size(total)}" if current <= total else "")
    return f"[{'=' * done}>{' ' * (50 - done)}] {numbers}"


def size(count: int) -> str:
    """Of bytes, with four digits: 36.45kB."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.4g}{_UNITS[unit]}"


def error_line(error: HyperStackError) -> dict[str, Any]:
    """How a stream tells that its work failed."""
    message = message_of(error)
    return {"errorDetail": {"message": message}, "error": message}
