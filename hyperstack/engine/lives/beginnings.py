"""The start of a container, under its pod's lock."""

from __future__ import annotations

import asyncio
import os
import time

from msgspec.structs import replace

from hyperstack.engine.lives import joining
from hyperstack.engine.lives.common import ALIVE, Lives
from hyperstack.engine.lives.endings import SIGNALLED, Endings
from hyperstack.engine.machines import launch, linking
from hyperstack.engine.machines.sandboxes import Sandbox
from hyperstack.engine.machines.seating import Seating
from hyperstack.engine.records import ContainerRecord
from hyperstack.guest.channel import GuestCallError
from hyperstack.pod.errors import HyperStackError, StartFailed
from hyperstack.pod.states import ContainerState, check_container

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_ENOENT, _EACCES = 2, 13


class Beginnings:
    def __init__(self, lives: Lives, endings: Endings) -> None:
        self._lives = lives
        self._endings = endings
        self._seating = Seating(lives.store, lives.disks)

    async def start(self, container: ContainerRecord) -> None:
        """:param container: as stored, but for what is to be stored with its new state."""
        container = self._lives.put(replace(
            container, error="", handle=0, exit_code=0, exit_signal=0, oom_killed=False,
            state=check_container(container.id, container.state, ContainerState.STARTING)))
        run = self._lives.runs.prepare(container)
        try:
            joining.check_donors(self._lives.store, container.spec.sharing)
            linking.check(self._lives.store, container)
            running = self._lives.sandboxes.get(container.pod_id) is not None
            sandbox = await self._lives.sandboxes.ensure(container.pod_id)
            pod = self._lives.pod(container.pod_id)
            if running:
                beside = [c for c in self._lives.sandboxes.containers_of(pod.id)
                          if c.id != container.id and c.state in ALIVE]
                await self._lives.sandboxes.make_room(container, container.spec.resources, beside)
                pod = self._lives.pod(pod.id)
            await self.prepare(sandbox, container)
            process = launch.main_process(pod, container, linking.environment(self._lives.store, container))
            container = self._lives.put(replace(container, handle=sandbox.new_handle()))
            run.begin(sandbox.channel, container.handle)
            await self._lives.sandboxes.publish(container.pod_id)
            pid = await run.start(process)
        except BaseException as error:
            failure = as_start_failure(error)
            await asyncio.shield(self._start_failed(container, failure))
            raise failure from error
        self._lives.put(replace(container, pid=pid, started_at=time.time_ns(), next_restart_at=0,
                                state=check_container(container.id, container.state, ContainerState.RUNNING)))
        self._lives.emit_arrival(container)
        self._lives.emit(container, "start")
        await self._lives.sandboxes.follow_links(linking.linkers(self._lives.store, container))

    async def prepare(self, sandbox: Sandbox, container: ContainerRecord) -> None:
        """Mount its file system in the running sandbox, where that has not been done."""
        if container.id in sandbox.prepared:
            return

        async def seat() -> None:
            await self._seating.seat(sandbox, self._lives.pod(container.pod_id), container)

        await self._lives.sharing.attach(sandbox, container, seat)
        await self._lives.binds.attach(sandbox.machine, sandbox.channel, container)
        pod = self._lives.pod(container.pod_id)
        await sandbox.channel.create(launch.creation(pod, container, self._lives.disks.serials(container),
                                                     linking.hosts(self._lives.store, pod)))
        sandbox.prepared.add(container.id)

    async def undo(self, sandbox: Sandbox, container: ContainerRecord) -> None:
        """A start that ended with its daemon, before there was a process."""
        await self._seating.undo(sandbox, self._lives.pod(container.pod_id), container)

    async def _start_failed(self, container: ContainerRecord, error: BaseException) -> None:
        code = error.exit_code if isinstance(error, StartFailed) else SIGNALLED
        message = error.message if isinstance(error, HyperStackError) else f"{type(error).__name__}: {error}"
        before = ContainerState.EXITED if container.started_at else ContainerState.CREATED
        container = self._lives.put(replace(
            container, state=check_container(container.id, container.state, before), error=message, exit_code=code,
            finished_at=time.time_ns() if container.started_at else 0))
        await self._endings.unprepare(container)
        self._lives.runs.end(container.id)
        # What went wrong is told to who asked for the start, and by its state: a waiter is not told again.
        self._lives.waiters.exited(container.id, (code, ""))
        if container.spec.auto_remove:
            await self._endings.remove(replace(container, error=""))
        await self._endings.settle(container.pod_id)


def as_start_failure(error: BaseException) -> BaseException:
    """What exec() said, in the words and exit codes of a container engine."""
    if not isinstance(error, GuestCallError):
        return error
    words = os.strerror(error.errno)
    reason, of_command = error.reason.replace(words, words.lower()), error.reason.startswith("exec:")
    if error.errno == _ENOENT:
        return StartFailed(reason, exit_code=_NOT_FOUND,
                           hint="is the command in the image, and in its PATH?" if of_command else None)
    if error.errno == _EACCES:
        return StartFailed(reason, exit_code=_NOT_EXECUTABLE, hint="is it an executable file?" if of_command else None)
    # Of a user or a group that the image lacks, Docker says no more than this.
    lead = "" if reason.startswith(("unable to find ", "uids and gids ")) else "the guest could not start the process: "
    return StartFailed(f"{lead}{reason}", exit_code=SIGNALLED)
