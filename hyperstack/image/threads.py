"""Between the event loop and threads, such that a cancelled caller leaves nobody behind at work on its files."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import ParamSpec, TypeVar

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_P = ParamSpec("_P")


class Abandoned(Exception):
    """The caller has gone; the thread unwinds."""


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Blocking work in a thread. A caller that is cancelled waits for its end, since nothing else would."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        raise


async def _ended(task: asyncio.Future[_T]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.debug("after its caller had gone: %s", error)


async def with_stream(stream: AsyncIterator[bytes], work: Callable[[Iterator[bytes]], _T]) -> _T:
    """Run `work` in a thread over the pieces of `stream`, which the loop fetches as they are asked for.

    A caller that is cancelled waits until the thread has unwound, so that the files it had are closed.
    """
    loop = asyncio.get_running_loop()
    gone = threading.Event()
    pending: list[concurrent.futures.Future[bytes | None]] = []

    async def following() -> bytes | None:
        return await anext(stream, None)

    def pieces() -> Iterator[bytes]:
        while True:
            pending[:] = [asyncio.run_coroutine_threadsafe(following(), loop)]
            if gone.is_set():
                pending[0].cancel()
            try:
                piece = pending[0].result()
            except concurrent.futures.CancelledError:
                raise Abandoned from None
            if piece is None:
                return
            yield piece

    task = loop.run_in_executor(None, lambda: work(pieces()))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        gone.set()
        for future in pending:
            future.cancel()
        await _ended(task)
        raise
