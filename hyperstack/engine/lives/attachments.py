"""Clients on the streams of a process; both classes implement `hyperstack.engine.api.Attachment`.

A container's output goes to its log first, and its clients read the log. So a client that does not read holds up
nobody, and any number may attach. An exec's output goes to its one client, at that client's pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection

from hyperstack.engine.lives.runs import Run
from hyperstack.engine.logs.reader import read_chunks
from hyperstack.engine.records import ExecRecord, LogRecord
from hyperstack.engine.streams import ProcessStream
from hyperstack.guest.channel import AgentChannel
from hyperstack.pod.errors import Conflict


class ContainerAttachment:
    def __init__(self, run: Run, *, stdin: bool, streams: Collection[int], past: bool, follow: bool,
                 tell: Callable[[str], None]) -> None:
        """:param tell: of an event of the container's."""
        self.tty = run.tty
        self._run = run
        self._tell = tell
        self._stdin = stdin
        wanted = {1} if run.tty and streams else set(streams)
        self._chunks: AsyncIterator[LogRecord] = read_chunks(
            run.log, start=run.log.start if past else run.log.end, streams=wanted, follow=follow, life=run.life)
        self._reading = bool(wanted)
        self._open = True
        run.joined()

    async def read(self) -> LogRecord | None:
        if not self._reading:
            # Nothing to tell, but the end.
            await self._run.ended(None)
            return None
        return await anext(self._chunks, None)

    async def write(self, data: bytes) -> None:
        if not self._stdin:
            raise Conflict("The container's standard input is not open", field="stdin", hint="create it with -i")
        await self._run.write_stdin(data)

    async def close_stdin(self) -> None:
        """Docker's rule: the end of one client's input is the container's only where it was made for one client, and
        never on a terminal, where a client that detaches ends its input too."""
        if self._stdin and self._run.stdin_once and not self.tty:
            await self._run.close_stdin()

    def detached(self) -> None:
        self._tell("detach")

    async def close(self) -> None:
        """Detach. The iterator ends by itself when the run does. Idempotent."""
        if self._open:
            self._open = False
            self._run.left()


class ExecAttachment:
    def __init__(self, channel: AgentChannel, record: ExecRecord, stream: ProcessStream, recorded: asyncio.Task[None],
                 tell: Callable[[str], None]) -> None:
        """:param recorded: done when the exit code is stored. :param tell: of an event of the container's."""
        self._tell = tell
        self.tty = record.request.tty
        self._channel = channel
        self._record = record
        self._stream = stream
        self._recorded = recorded

    async def read(self) -> LogRecord | None:
        chunk = await self._stream.read()
        if chunk is None:
            # Whoever sees the end may ask for the exit code at once.
            await asyncio.shield(self._recorded)
        return chunk

    async def write(self, data: bytes) -> None:
        if not self._record.request.attach_stdin:
            raise Conflict("The exec's standard input is not open", field="stdin", hint="use -i")
        await self._channel.write_stdin(self._record.handle, data)

    async def close_stdin(self) -> None:
        if self._record.request.attach_stdin:
            await self._channel.close_stdin(self._record.handle)

    def detached(self) -> None:
        self._tell("exec_detach")

    async def close(self) -> None:
        self._stream.close()
