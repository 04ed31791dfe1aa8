"""Files in and out of containers. The guest's agent packs and unpacks; the host never looks inside a tenant's disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Protocol

from hyperstack.engine.api import PathStat
from hyperstack.engine.bulk import Exchange
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.machines.sandboxes import Sandbox
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.streams import ProcessStream
from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.frames import STDERR
from hyperstack.guest.messages import ExitEvent
from hyperstack.pod.errors import Conflict, HyperStackError, InvalidArgument, NotFound

_ENOENT, _ENOTDIR = 2, 20
_REASON_BYTES = 4096
"""Of what the guest says about a failure."""


class Archives:
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    async def stat(self, container: ContainerRecord, path: str) -> PathStat:
        """:raise NotFound: no such path in the container."""
        async with self._supervisor.mounted(container.id) as sandbox:
            return await _stat(sandbox, container, path)

    async def get(self, container: ContainerRecord, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
        """The path's facts, and a tar of it. The iterator must be read to its end or closed."""
        async with contextlib.AsyncExitStack() as stack:
            sandbox = await stack.enter_async_context(self._supervisor.mounted(container.id))
            found = await _stat(sandbox, container, path)
            process = ArchiveProcess(sandbox, self._supervisor)
            await process.begin(partial(sandbox.channel.archive_read, container.id, process.handle, path.encode()))
            chunks = process.output(path, stack.pop_all())
        return found, chunks

    async def put(self, container: ContainerRecord, path: str, tar: AsyncIterator[bytes], *,
                  no_overwrite_dir_non_dir: bool, copy_uid_gid: bool) -> None:
        """:raise NotFound: no such directory. :raise InvalidArgument: the tar is bad or does not fit; what was
        unpacked until then stays, as with any tar."""
        async with self._supervisor.mounted(container.id) as sandbox:
            found = await _stat(sandbox, container, path)
            if not stat.S_ISDIR(found.mode) and not stat.S_ISLNK(found.mode):
                raise InvalidArgument("extraction point is not a directory", field="path", value=path)
            process = ArchiveProcess(sandbox, self._supervisor)
            user = (container.spec.user or container.image_config.user).encode() if copy_uid_gid else b""
            await process.begin(partial(
                sandbox.channel.archive_write, container.id, process.handle, path.encode(), copy_uid_gid=copy_uid_gid,
                no_overwrite_dir_non_dir=no_overwrite_dir_non_dir, user=user))
            await process.feed(path, tar)


class Start(Protocol):
    """The call that starts the process, but for one of its arguments."""

    async def __call__(self, *, bulk: bool) -> None: ...


class ArchiveProcess:
    """One of the agent's own processes that reads or writes the container's files."""

    def __init__(self, sandbox: Sandbox, supervisor: Supervisor) -> None:
        self.handle = sandbox.new_handle()
        self._sandbox = sandbox
        self._stream = ProcessStream(2)
        self._ended: asyncio.Future[ExitEvent] = supervisor.exits.expect(sandbox.pod_id, self.handle)
        self._reason = bytearray()
        self._exchange: Exchange | None = None
        """None: all goes by the stream."""

    async def begin(self, start: Start, *, bulk: bool = True) -> None:
        """Start it and attach to it.

        :param bulk: it may be much.
        """
        try:
            await start(bulk=bulk)
        except GuestCallError as error:
            if error.errno != errno.EINVAL or not bulk:
                raise
            bulk = False  # an agent from before there were trays
            await start(bulk=False)
        if bulk:
            self._exchange = Exchange(self._sandbox.tray, partial(self._sandbox.channel.write_stdin, self.handle))
        await self._sandbox.channel.attach(self.handle, self._stream, stdout=0, stderr=0)

    async def output(self, path: str, held: contextlib.AsyncExitStack) -> AsyncGenerator[bytes, None]:
        """What it writes; `held` is let go of at the end. To be read to its end or closed.

        :raise InvalidArgument: the guest could not finish; says of what `path` that was.
        """
        async with held:
            try:
                output = self._stdout()
                async for chunk in self._exchange.outward(output) if self._exchange else output:
                    yield chunk
                await self._check(path)
            finally:
                await self._finish()

    async def feed(self, path: str, tar: AsyncIterator[bytes]) -> None:
        channel = self._sandbox.channel
        drain = asyncio.create_task(self._drain())
        try:
            # Where it closes its input early, its exit code and its words say why.
            with contextlib.suppress(Conflict):
                if self._exchange:
                    await self._exchange.inward(tar)
                else:
                    async for chunk in tar:
                        await channel.write_stdin(self.handle, chunk)
                await channel.close_stdin(self.handle)
            await drain
            await self._check(path)
        finally:
            drain.cancel()
            await self._finish()

    async def _drain(self) -> None:
        try:
            async for chunk in self._stdout():
                if self._exchange:
                    self._exchange.told(chunk)
        finally:
            if self._exchange:
                self._exchange.over()

    async def _stdout(self) -> AsyncGenerator[bytes, None]:
        self._ended.add_done_callback(self._close_later)
        while (record := await self._stream.read()) is not None:
            if record.stream != STDERR:
                yield record.data
            elif len(self._reason) < _REASON_BYTES:
                self._reason += record.data

    def _close_later(self, ended: asyncio.Future[ExitEvent]) -> None:
        """A machine that died sends no end of its streams."""
        if not ended.cancelled() and ended.result().signal:
            self._stream.close()

    async def _check(self, path: str) -> None:
        event = await self._ended
        if event.code or event.signal:
            reason = self._reason[:_REASON_BYTES].decode("utf-8", "replace").strip()
            raise InvalidArgument(f"{path}: {reason or 'the guest could not finish'}", field="path", value=path)

    async def _finish(self) -> None:
        self._stream.close()
        if not self._ended.done():
            with contextlib.suppress(HyperStackError):
                await self._sandbox.channel.signal(self.handle, 9)
            await self._ended
        if self._exchange:
            self._exchange.close()
        with contextlib.suppress(HyperStackError):
            await self._sandbox.channel.release(self.handle)


async def _stat(sandbox: Sandbox, container: ContainerRecord, path: str) -> PathStat:
    try:
        found = await sandbox.channel.archive_stat(container.id, path.encode())
    except GuestCallError as error:
        if error.errno == _ENOTDIR:
            raise InvalidArgument(f"lstat {path}: not a directory", field="path", value=path) from error
        if error.errno == _ENOENT:
            raise NotFound("path", f"{path} in container {container.name}") from error
        raise InvalidArgument(f"{path}: {error.reason}", field="path", value=path) from error
    return PathStat(name=found.name.decode("utf-8", "surrogateescape"), size=found.size, mode=found.mode,
                    mtime_ns=found.mtime_ns, link_target=found.target.decode("utf-8", "surrogateescape"))
