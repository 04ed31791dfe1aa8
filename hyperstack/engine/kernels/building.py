"""The build of our kernel, as the daemon sees it: one at a time, with any number of onlookers.

It runs in a child process (`hyperstack.guest.kernel_build`) that ends with the daemon. A client that vanishes does not
end it; one that comes later looks on at the same build.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import msgspec

from hyperstack.engine.api import BuildStep
from hyperstack.pod.errors import HyperStackError, Unavailable

log = logging.getLogger(__name__)

_END_S = 2.0
"""How long its end is waited for. To remove its files may take longer; what is left then, the next daemon removes."""
_MAX_LINE = 64 << 10
"""Bytes of one message of the child; an error has the compiler's last lines."""


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the child's: how it goes, or how it went."""

    status: str = ""
    current: int = 0
    total: int = 0
    name: str = ""
    error: str = ""
    hint: str = ""


class Builder:
    """:param finish: makes use of the kernel that was built; what it raises is the build's failure."""

    def __init__(self, root: Path, finish: Callable[[str], Awaitable[None]]) -> None:
        self._root = root
        self._finish = finish
        self._task: asyncio.Task[None] | None = None
        self._onlookers: set[asyncio.Queue[BuildStep | HyperStackError]] = set()
        self._last = BuildStep(status="Starting")

    async def follow(self) -> AsyncGenerator[BuildStep, None]:
        """The steps of the build that runs, or of a new one, from now on; the last has the kernel's name.

        :raise HyperStackError: the build failed.
        """
        queue: asyncio.Queue[BuildStep | HyperStackError] = asyncio.Queue()
        self._onlookers.add(queue)
        try:
            if self._task is None:
                self._last = BuildStep(status="Starting")
                self._task = asyncio.create_task(self._build())
            yield self._last
            while True:
                step = await queue.get()
                if isinstance(step, HyperStackError):
                    raise step
                yield step
                if step.name:
                    return
        finally:
            self._onlookers.discard(queue)

    async def close(self) -> None:
        """End a build that runs; it starts anew when it is asked for again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _build(self) -> None:
        try:
            name = await self._run_child()
            self._tell(BuildStep(status="Trying the kernel"))
            await self._finish(name)
        except asyncio.CancelledError:
            self._end(Unavailable("the daemon stops", hint="start the build again when it is back"))
            raise
        except HyperStackError as error:
            log.warning("the kernel was not built: %s", error)
            self._end(error)
        else:
            log.info("built the kernel %s", name)
            self._end(BuildStep(status="Done", name=name))

    def _tell(self, step: BuildStep | HyperStackError) -> None:
        if isinstance(step, BuildStep):
            self._last = step
        for queue in self._onlookers:
            queue.put_nowait(step)

    def _end(self, step: BuildStep | HyperStackError) -> None:
        self._task = None
        self._tell(step)

    async def _run_child(self) -> str:
        """The name of the kernel in the store."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "hyperstack.guest.kernel_build", str(self._root), limit=_MAX_LINE,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            return await self._listen(child.stdout)
        finally:
            child.stdin.close()  # so it ends, if it has not
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await child.wait()

    async def _listen(self, lines: asyncio.StreamReader) -> str:
        try:
            while line := await lines.readline():
                message = msgspec.json.decode(line, type=_Message)
                if message.error:
                    raise Unavailable(message.error, hint=message.hint or None)
                if message.name:
                    return message.name
                self._tell(BuildStep(status=message.status, current=message.current, total=message.total))
        except (msgspec.DecodeError, ValueError) as error:
            raise Unavailable(f"the kernel's build says something strange: {error}") from error
        raise Unavailable("the kernel's build ended without a word", hint="the daemon's log may have its last words")
