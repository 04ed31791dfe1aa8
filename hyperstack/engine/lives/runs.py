"""Runs of containers' main processes: their output on its way to the log, and who waits for their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from hyperstack.engine.logs.drivers import keeping
from hyperstack.engine.logs.file import STDERR, STDOUT, LogFile
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.guest import messages
from hyperstack.guest.channel import AgentChannel
from hyperstack.pod.errors import Conflict, Exhausted

log = logging.getLogger(__name__)

_FULL_DISK_PAUSE_S = 1.0


class Run:
    """One run, from before its start (a client may attach then) to after its end. It is the output sink of its
    process: what the log has taken is acknowledged to the guest."""

    def __init__(self, container: ContainerRecord, log_file: LogFile, *, life: int) -> None:
        """:param life: of the log; the next one, unless the process runs already."""
        self.container_id = container.id
        self.tty = container.spec.tty
        self.stdin_once = container.spec.stdin_once
        self.log = log_file
        self.life = life
        self._channel: AgentChannel | None = None
        self._handle = 0
        self._streams = {STDOUT} if self.tty else {STDOUT, STDERR}
        self._attached = asyncio.Event()
        self._drained = asyncio.Event()
        self._over = asyncio.Event()
        self._clients = 0
        self._told = asyncio.Event()
        self._told.set()

    # -- the supervisor's side

    def begin(self, channel: AgentChannel, handle: int, *, resumed: bool = False) -> None:
        """The process is about to be started, or was found running."""
        self._channel, self._handle = channel, handle
        if resumed:
            self.log.resume_life()
        else:
            self.log.begin_life(time.time_ns())
            self.life = self.log.life

    async def start(self, process: messages.Process) -> int:
        """Start the process, its output flowing; its pid in the guest. :raise GuestError: it does not run."""
        assert self._channel is not None
        pid = await self._channel.start_attached(self.container_id, self._handle, process, self, stdout=0,
                                                 stderr=None if self.tty else 0)
        self._attached.set()
        return pid

    async def follow(self) -> None:
        """Let the output of a process that was found running flow, from where the log ends."""
        assert self._channel is not None
        await self._channel.attach(self._handle, self, stdout=self.log.next_offset(STDOUT),
                                   stderr=None if self.tty else self.log.next_offset(STDERR))
        self._attached.set()

    async def drained(self, timeout: float) -> bool:
        """Whether all output has reached the log, within that time."""
        return await _within(self._drained, timeout)

    async def ended(self, timeout: float | None) -> bool:
        """Whether the run is over and its end stored, within that time; None: however long it takes."""
        return await _within(self._over, timeout)

    async def told(self, timeout: float) -> bool:
        """Whether every client that was attached has all of its output, within that time."""
        return await _within(self._told, timeout)

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def end(self) -> None:
        """Its end is stored, or it never began."""
        self.log.end_life()
        self._attached.set()
        self._over.set()

    # -- the guest's side

    async def write(self, stream: int, offset: int, data: bytes) -> None:
        """A full disk holds the process up, as a pipe that nobody reads does; nothing is lost."""
        warned = False
        while True:
            try:
                return self.log.append(stream, offset, data, time.time_ns())
            except Exhausted as error:
                if not warned:
                    log.warning("container %s waits for its log: %s", self.container_id[:12], error)
                    warned = True
                await asyncio.sleep(_FULL_DISK_PAUSE_S)

    async def eof(self, stream: int, offset: int) -> None:
        self._streams.discard(stream)
        if not self._streams:
            self._drained.set()

    # -- the clients' side

    def joined(self) -> None:
        """A client is attached."""
        self._clients += 1
        self._told.clear()

    def left(self) -> None:
        """It has all that it will have."""
        self._clients -= 1
        if not self._clients:
            self._told.set()

    async def write_stdin(self, data: bytes) -> None:
        """Waits for the start, and while the process does not read. :raise Conflict: the input is closed."""
        await (await self._started()).write_stdin(self._handle, data)

    async def close_stdin(self) -> None:
        with contextlib.suppress(Conflict):
            await (await self._started()).close_stdin(self._handle)

    async def _started(self) -> AgentChannel:
        await self._attached.wait()
        if self._channel is None or self.over:
            raise Conflict("The container is not running", field="stdin")
        return self._channel


class Runs:
    """At most one run per container; the last one is kept while its container is, for those who still read it."""

    def __init__(self, disks: PodDisks) -> None:
        self._disks = disks
        self._runs: dict[str, Run] = {}

    def get(self, container_id: str) -> Run | None:
        return self._runs.get(container_id)

    def require(self, container: ContainerRecord) -> Run:
        """:raise Conflict: it does not run."""
        run = self._runs.get(container.id)
        if run is None or run.over:
            raise Conflict(f"container {container.id} is not running", field="state", value=container.state)
        return run

    def prepare(self, container: ContainerRecord) -> Run:
        """The run that the next start will be."""
        run = self._runs.get(container.id)
        if run is None or run.over:
            if not keeping(container.spec.log).readable:
                self._forget_log(container)
            file = self.log(container)
            run = self._runs[container.id] = Run(container, file, life=file.life + 1)
        return run

    def adopt(self, container: ContainerRecord) -> Run:
        """The run that an earlier daemon began."""
        file = self.log(container)
        run = self._runs[container.id] = Run(container, file, life=file.life)
        return run

    def past(self, container: ContainerRecord) -> Run:
        """The last run of a container that does not run, for its log."""
        file = self.log(container)
        run = Run(container, file, life=file.life)
        run.end()
        return run

    def log(self, container: ContainerRecord) -> LogFile:
        """The container's log; the one of its run where there is one."""
        run = self._runs.get(container.id)
        if run is not None and not run.log.closed:
            return run.log
        kept = keeping(container.spec.log)
        return LogFile.open(self._disks.log_path(container), max_size=kept.max_size, max_files=kept.max_files,
                            compress=kept.compress)

    def _forget_log(self, container: ContainerRecord) -> None:
        """Of earlier runs."""
        run = self._runs.pop(container.id, None)
        if run is not None:
            run.log.close()
        LogFile.remove(self._disks.log_path(container))

    def end(self, container_id: str) -> None:
        run = self._runs.get(container_id)
        if run is not None:
            run.end()

    def drop(self, container_id: str) -> None:
        """The container is being removed."""
        run = self._runs.pop(container_id, None)
        if run is not None:
            run.end()
            run.log.close()

    def close(self) -> None:
        for run in self._runs.values():
            run.log.close()


async def _within(event: asyncio.Event, timeout: float | None) -> bool:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
