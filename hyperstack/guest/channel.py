"""The engine's end of the agent protocol: one typed coroutine per operation, see docs/protocol.md.

Example
    channel = await AgentChannel.connect(machine.connect_agent, pod.agent_key, deadline_s=60, on_event=handle_event)
    await channel.create(Create(container=ident, layers=("l0",), ...))
    pid = await channel.start(ident, handle, process)
    await channel.attach(handle, sink, stdout=log.next_offset(STDOUT), stderr=log.next_offset(STDERR))
    ...
    reason = await channel.closed      # then connect again, list_all, attach again

Any call raises

:raise GuestCallError: the agent refused; `errno` says why.
:raise GuestError: no answer in time (the connection stands), or the connection ended.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from hyperstack.guest import messages
from hyperstack.guest.connection import Connection, EventHandler, GuestCallError
from hyperstack.guest.frames import KEY_SIZE, MAX_WINDOW, MIN_WINDOW, STDERR, STDOUT
from hyperstack.guest.handshake import Opener, shake_hands
from hyperstack.guest.messages import (
    ArchiveStatReply,
    AttachReply,
    Configure,
    ConfigureReply,
    Create,
    LayerForm,
    Limits,
    ListReply,
    PingReply,
    Process,
    ProcessInfo,
    Reply,
    StatsReply,
    Volume,
)
from hyperstack.guest.streams import Input, Output, OutputSink
from hyperstack.pod.errors import Conflict, GuestError

__all__ = ["AgentChannel", "GuestCallError", "OutputSink"]

CALL_DEADLINE_S = 30.0
"""Generous: under software emulation on a loaded host a mount was seen to take seconds."""
SLOW_CALL_DEADLINE_S = 120.0
"""For calls that write out or unmount file systems."""
DEFAULT_WINDOW = 256 << 10
"""The agent keeps a ring of this size per output stream, in the guest's memory."""


class AgentChannel:
    """One connection to the agent of one sandbox. All its methods belong to the event loop that made it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, opener: Opener, key: bytes, *, deadline_s: float, on_event: EventHandler | None = None,
                      window: int = DEFAULT_WINDOW) -> AgentChannel:
        """Connect, as often as it takes, and get in step with the guest.

        :param opener: makes a new connection to the agent's port; where it raises OSError it is called again.
        :param key: the sandbox's 16 secret bytes.
        :param on_event: awaited with one event after the other. If it raises, the connection ends. Events are hints,
            and those for unknown handles are the guest's whim.
        :param window: bytes of unacknowledged output per stream; the same for all connections of a sandbox.
        :raise GuestError: no welcome within `deadline_s`. :raise Unavailable: as `opener` says.
        """
        if len(key) != KEY_SIZE or not MIN_WINDOW <= window <= MAX_WINDOW:
            raise ValueError(f"key of {len(key)} bytes, window of {window}")
        reader, writer, welcome, early = await shake_hands(opener, key, window=window, deadline_s=deadline_s)
        return cls(Connection(reader, writer, welcome, window=window, early=early, on_event=on_event))

    @property
    def closed(self) -> asyncio.Future[GuestError | None]:
        """Resolves (never raises) when the connection has ended and no sink is called any more: to the reason, or to
        None after `close`. Await it shielded, as it is everybody's."""
        return self._connection.closed

    async def close(self) -> None:
        """End the connection; the guest's processes go on. Idempotent. Not to be called from a sink or `on_event`."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    # --- the sandbox ---

    async def ping(self, *, deadline_s: float = CALL_DEADLINE_S) -> PingReply:
        return await self._connection.call(messages.Ping(), PingReply, deadline_s)

    async def configure(self, configure: Configure, *, deadline_s: float = CALL_DEADLINE_S) -> ConfigureReply:
        return await self._connection.call(configure, ConfigureReply, deadline_s)

    async def volume(self, volume: Volume, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        await self._connection.call(volume, Reply, deadline_s)

    async def serve(self, name: str, port: str, *, read_only: bool = False, tray: str = "",
                    deadline_s: float = CALL_DEADLINE_S) -> None:
        """:raise GuestCallError: EINVAL, the agent knows no `tray`."""
        call = messages.Serve(name=name, port=port, read_only=read_only, tray=tray)
        await self._connection.call(call, Reply, deadline_s)

    async def unvolume(self, name: str, *, deadline_s: float = SLOW_CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Unvolume(name=name), Reply, deadline_s)

    async def stats(self, container: str = "", *, deadline_s: float = CALL_DEADLINE_S) -> StatsReply:
        """Of one container, or of all."""
        return await self._connection.call(messages.Stats(container=container), StatsReply, deadline_s)

    async def list_all(self, *, deadline_s: float = CALL_DEADLINE_S) -> ListReply:
        """What there is: the truth after a reconnection."""
        return await self._connection.call(messages.ListAll(), ListReply, deadline_s)

    async def networks(self, wanted: messages.Networks, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Have the guest on exactly these networks. Idempotent.

        :raise GuestCallError: ENOSYS, the agent is older than this call; EOPNOTSUPP, its kernel has no macvlan.
        """
        await self._connection.call(wanted, Reply, deadline_s)

    async def files(self, container: str, files: tuple[messages.File, ...], *, deadline_s: float = CALL_DEADLINE_S
                    ) -> None:
        """Rewrite files that the container was created with, running or not.

        :raise GuestCallError: ENOSYS, the agent is older than this call.
        """
        await self._connection.call(messages.Files(container=container, files=files), Reply, deadline_s)

    async def sync(self, *, deadline_s: float = SLOW_CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Sync(), Reply, deadline_s)

    async def rewind(self, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Make the guest as it was before `configure`, its key forgotten; the connection is of no use any more.

        :raise GuestCallError: EBUSY, there are containers, processes or volumes.
        """
        await self._connection.call(messages.Rewind(), Reply, deadline_s)

    async def shutdown(self, *, grace_ns: int = 0, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Power off; the reply comes before it happens, and the connection ends after."""
        await self._connection.call(messages.Shutdown(grace_ns=grace_ns), Reply, deadline_s)

    # --- containers ---

    async def create(self, create: Create, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        await self._connection.call(create, Reply, deadline_s)

    async def start(self, container: str, handle: int, process: Process, *, deadline_s: float = CALL_DEADLINE_S
                    ) -> int:
        """The main process, after its exec succeeded; returns its pid in the guest."""
        call = messages.Start(container=container, handle=handle, process=process)
        return (await self._connection.call(call, messages.StartReply, deadline_s)).pid

    async def start_attached(self, container: str, handle: int, process: Process, sink: OutputSink, *,
                             stdout: int | None, stderr: int | None, deadline_s: float = CALL_DEADLINE_S) -> int:
        """`start` and `attach` in one breath: the agent takes calls in order, and knows the process from the first on.

        So no output waits for a question and its answer. Where either fails, `sink` is called no more; the process may
        run all the same unless it was `start` that the agent refused.
        """
        started, attached = await asyncio.gather(
            self.start(container, handle, process, deadline_s=deadline_s),
            self.attach(handle, sink, stdout=stdout, stderr=stderr, deadline_s=deadline_s), return_exceptions=True)
        if isinstance(started, GuestCallError):
            self._connection.forget(handle)
        if isinstance(started, BaseException):
            self._connection.discard(handle)
            raise started
        if isinstance(attached, BaseException):
            raise attached
        return started

    async def exec(self, container: str, handle: int, process: Process, *, deadline_s: float = CALL_DEADLINE_S
                   ) -> int:
        """One more process; returns its pid in the guest."""
        call = messages.Exec(container=container, handle=handle, process=process)
        return (await self._connection.call(call, messages.StartReply, deadline_s)).pid

    async def pause(self, container: str, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Pause(container=container), Reply, deadline_s)

    async def resume(self, container: str, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Resume(container=container), Reply, deadline_s)

    async def update(self, container: str, limits: Limits, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Update(container=container, limits=limits), Reply, deadline_s)

    async def grow(self, *, memory_reserve: int, vcpus: int, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Use RAM and processors that the machine was given: all of the RAM but so many bytes."""
        await self._connection.call(messages.Grow(memory_reserve=memory_reserve, vcpus=vcpus), Reply, deadline_s)

    async def processes(self, container: str, *, deadline_s: float = CALL_DEADLINE_S) -> tuple[ProcessInfo, ...]:
        call = messages.Processes(container=container)
        return (await self._connection.call(call, messages.ProcessesReply, deadline_s)).processes

    async def remove(self, container: str, *, deadline_s: float = SLOW_CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Remove(container=container), Reply, deadline_s)

    async def archive_stat(self, container: str, path: bytes, *, deadline_s: float = CALL_DEADLINE_S
                           ) -> ArchiveStatReply:
        call = messages.ArchiveStat(container=container, path=path)
        return await self._connection.call(call, ArchiveStatReply, deadline_s)

    async def archive_read(self, container: str, handle: int, path: bytes, *, bulk: bool = False,
                           deadline_s: float = CALL_DEADLINE_S) -> None:
        """Start a process whose output, once attached, is a tar.

        :param bulk: with "Archives past the stream" of docs/protocol.md, here and below.
        :raise GuestCallError: EINVAL, the agent knows no `bulk`.
        """
        call = messages.ArchiveRead(container=container, handle=handle, path=path, bulk=bulk)
        await self._connection.call(call, Reply, deadline_s)

    async def archive_write(self, container: str, handle: int, path: bytes, *,
                            no_overwrite_dir_non_dir: bool = False, copy_uid_gid: bool = False, user: bytes = b"",
                            bulk: bool = False, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Start a process whose input, once attached, is a tar."""
        call = messages.ArchiveWrite(container=container, handle=handle, path=path, copy_uid_gid=copy_uid_gid,
                                     no_overwrite_dir_non_dir=no_overwrite_dir_non_dir, user=user, bulk=bulk)
        await self._connection.call(call, Reply, deadline_s)

    async def layer_read(self, container: str, handle: int, form: LayerForm, *, bulk: bool = False,
                         deadline_s: float = CALL_DEADLINE_S) -> None:
        """Start a process whose output, once attached, is what `form` says.

        :raise GuestCallError: ENOSYS, the agent is older than this call.
        """
        call = messages.LayerRead(container=container, handle=handle, form=form, bulk=bulk)
        await self._connection.call(call, Reply, deadline_s)

    # --- processes ---

    async def attach(self, handle: int, sink: OutputSink, *, stdout: int | None, stderr: int | None,
                     deadline_s: float = CALL_DEADLINE_S) -> AttachReply:
        """Start the flow of a process's streams: output from these offsets (None: not that stream) to `sink`, and
        input from where the reply says. Once per process and connection.

        :raise Conflict: it is attached on this connection already.
        """
        link = self._connection
        link.check()
        if link.has_output(handle):
            raise Conflict(f"process {handle} is attached already", field="handle", value=handle)
        starts = {stream: at for stream, at in ((STDOUT, stdout), (STDERR, stderr)) if at is not None}
        link.add_output(handle, Output(handle, sink, starts, link.window, link.send))
        stream = Input(handle, link.welcome.window, link.send)
        link.add_input(handle, stream)
        try:
            reply = await link.call(messages.Attach(handle=handle, stdout=stdout, stderr=stderr), AttachReply,
                                    deadline_s)
        except GuestCallError:
            link.forget(handle)
            raise
        except BaseException:
            link.discard(handle)
            raise
        stream.begin(reply.stdin, reply.stdin_closed)
        return reply

    async def write_stdin(self, handle: int, data: bytes) -> None:
        """All of it; waits while the process does not read.

        :raise Conflict: not attached, or its input was closed by either end.
        """
        await self._input(handle).write(data)

    async def close_stdin(self, handle: int) -> None:
        """End of input after what was written. Nothing where it is closed already.

        :raise Conflict: not attached.
        """
        await self._input(handle).close()

    def _input(self, handle: int) -> Input:
        self._connection.check()
        stream = self._connection.input(handle)
        if stream is None:
            raise Conflict(f"process {handle} is not attached", field="handle", value=handle)
        return stream

    async def signal(self, handle: int, signal: int, *, all_processes: bool = False,
                     deadline_s: float = CALL_DEADLINE_S) -> None:
        """:param all_processes: of its container."""
        call = messages.Signal(handle=handle, signal=signal, all=all_processes)
        await self._connection.call(call, Reply, deadline_s)

    async def resize(self, handle: int, *, rows: int, columns: int, deadline_s: float = CALL_DEADLINE_S) -> None:
        await self._connection.call(messages.Resize(handle=handle, rows=rows, columns=columns), Reply, deadline_s)

    async def release(self, handle: int, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        """Forget a finished process and its output; its sink is called no more."""
        await self._connection.call(messages.Release(handle=handle), Reply, deadline_s)
        self._connection.forget(handle)
