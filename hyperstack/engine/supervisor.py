"""The lives of containers: start, exit, restart, stop, removal. The only place that changes a container's state.

Every change of a pod or of its containers happens under the pod's lock. Waiting for a process to end does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from msgspec.structs import replace

from hyperstack.engine import launch, restarts
from hyperstack.engine.config import EngineConfig
from hyperstack.engine.disks import PodDisks
from hyperstack.engine.events import EventBus
from hyperstack.engine.exits import Exits
from hyperstack.engine.locks import KeyedLocks
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.runs import Runs
from hyperstack.engine.sandboxes import Sandbox, Sandboxes
from hyperstack.engine.store import Store
from hyperstack.engine.waiters import Waiters
from hyperstack.guest import messages
from hyperstack.guest.channel import GuestCallError
from hyperstack.guest.linux import signal_number
from hyperstack.pod.errors import Conflict, GuestError, HyperStackError, NotFound, NotModified, StartFailed
from hyperstack.pod.spec import DEFAULT_STOP_TIMEOUT_S
from hyperstack.pod.states import ContainerState, check_container

log = logging.getLogger(__name__)

ALIVE = frozenset({ContainerState.STARTING, ContainerState.RUNNING, ContainerState.PAUSED})
"""There is, or may be, a process."""

ACTIVE = ALIVE | {ContainerState.RESTARTING}
"""There will be one again without anybody's asking."""

_SIGKILL = 9
_KILL_DEADLINE_S = 30.0
"""For the death of a process after SIGKILL; a guest that takes longer is broken, and its machine is killed."""
_LINGER_S = 3.0
_LOST = 255
"""Exit code where nobody can know it any more, as containerd has it."""
_SIGNALLED = 128
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_ENOENT, _EACCES = 2, 13


class Supervisor:
    def __init__(self, store: Store, events: EventBus, sandboxes: Sandboxes, disks: PodDisks, config: EngineConfig
                 ) -> None:
        self._store = store
        self._events = events
        self._sandboxes = sandboxes
        self._disks = disks
        self._config = config
        self._locks = KeyedLocks()
        self._held: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self.runs = Runs(disks)
        self.waiters = Waiters()
        self.exits = Exits()
        sandboxes.observer = self

    # -- commands

    async def start(self, container_id: str) -> None:
        """:raise NotModified: it runs. :raise StartFailed: its process could not be started."""
        async def work() -> None:
            async with self.locked(container_id) as container:
                if container.state is ContainerState.PAUSED:
                    raise Conflict("cannot start a paused container, try unpause instead", field="state",
                                   value=container.state)
                if container.state in ALIVE:
                    raise NotModified("Container already started", field="container", value=container_id)
                self._cancel_restart(container_id)
                await self._start_locked(replace(container, manually_stopped=False, restart_count=0))
        await self._finish_despite_cancel(work())

    async def stop(self, container_id: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        """:raise NotModified: it does not run."""
        withdrawn = self._withdraw(container_id)
        async with self.locked(container_id) as container:
            if container.state is ContainerState.RESTARTING:
                await self._give_up_restart(container)
                return
            if withdrawn and container.state not in ALIVE:
                self._put(replace(container, manually_stopped=True))
                return
            if container.state not in ALIVE:
                raise NotModified("Container already stopped", field="container", value=container_id)
            container = self._put(replace(container, manually_stopped=True))
        spec = container.spec
        number = signal_number(signal or spec.stop_signal or container.image_config.stop_signal or "SIGTERM")
        grace = timeout if timeout is not None else spec.stop_timeout
        await self._end(container, number, DEFAULT_STOP_TIMEOUT_S if grace is None else grace)
        self.emit(container, "stop")

    async def kill(self, container_id: str, number: int) -> None:
        """:raise Conflict: it does not run."""
        container = self.container(container_id)
        if container.state not in ALIVE:
            raise Conflict(f"Cannot kill container: {container.id}: Container {container.id} is not running",
                           field="state", value=container.state)
        if number == _SIGKILL:
            self._withdraw(container_id)
            async with self.locked(container_id) as container:
                container = self._put(replace(container, manually_stopped=True))
            await self._end(container, number, _KILL_DEADLINE_S)
        else:
            await self._signal(container, number)

    async def pause(self, container_id: str, *, paused: bool) -> None:
        """:raise Conflict: it is not in the state that this leaves."""
        needed, wanted = ContainerState.RUNNING, ContainerState.PAUSED
        if not paused:
            needed, wanted = wanted, needed
        async with self.locked(container_id) as container:
            if container.state is not needed:
                raise Conflict(f"Container {container.id} is not {needed}", field="state", value=container.state)
            channel = self._sandboxes.require(container.pod_id).channel
            await (channel.pause(container.id) if paused else channel.resume(container.id))
            self._set(container, wanted)
        self.emit(container, "pause" if paused else "unpause")

    async def remove(self, container_id: str, *, force: bool) -> None:
        """Its writable disk and log go with it. :raise Conflict: it runs, and `force` is not given."""
        container = self.container(container_id)
        if container.state in ACTIVE:
            if not force:
                raise Conflict(f'cannot remove container "/{container.name}": container is {container.state}: stop the '
                               "container before removing or force remove", field="state", value=container.state)
            with contextlib.suppress(NotModified, Conflict, NotFound):
                await self.stop(container_id, timeout=0, signal="SIGKILL")

        async def work() -> None:
            with contextlib.suppress(NotFound):  # --rm may have been faster
                async with self.locked(container_id) as found:
                    await self._remove_locked(found)
        await self._finish_despite_cancel(work())

    @contextlib.asynccontextmanager
    async def mounted(self, container_id: str) -> AsyncIterator[Sandbox]:
        """The container's file system within a running sandbox, whether the container runs or not."""
        async with self.locked(container_id) as container:
            pod_id = container.pod_id
            self.hold(pod_id)
            try:
                sandbox = await self._sandboxes.ensure(pod_id)
                await self._prepare(sandbox, container)
            except BaseException:
                self.release(pod_id)
                await asyncio.shield(self._settle(pod_id))
                raise
        try:
            yield sandbox
        finally:
            self.spawn(self._release_later(pod_id))

    # -- what others may need of the lives

    def container(self, container_id: str) -> ContainerRecord:
        """:raise NotFound: it was removed meanwhile."""
        container = self._store.containers.get(container_id)
        if container is None:
            raise NotFound("container", container_id)
        return container

    @contextlib.asynccontextmanager
    async def locked(self, container_id: str) -> AsyncIterator[ContainerRecord]:
        """The pod's lock, and the container as it is now that we have it."""
        async with self._locks.hold(self.container(container_id).pod_id):
            yield self.container(container_id)

    def pod_lock(self, pod_id: str) -> contextlib.AbstractAsyncContextManager[None]:
        return self._locks.hold(pod_id)

    def hold(self, pod_id: str) -> None:
        """Keep the pod's sandbox though no container runs in it."""
        self._held[pod_id] = self._held.get(pod_id, 0) + 1

    def release(self, pod_id: str) -> None:
        left = self._held.pop(pod_id) - 1
        if left:
            self._held[pod_id] = left

    async def _release_later(self, pod_id: str) -> None:
        """Who looked into a container often looks again at once: a copy is a question and then a transfer."""
        await asyncio.sleep(_LINGER_S)
        self.release(pod_id)
        await self.settle(pod_id)

    async def settle(self, pod_id: str) -> None:
        """Stop the pod's sandbox where nothing needs it any more."""
        async with self._locks.hold(pod_id):
            await self._settle(pod_id)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Work that nobody waits for; its failure is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Stop acting; what runs in the guests runs on."""
        tasks = [*self._tasks, *self._restarts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.runs.close()

    # -- what the sandboxes tell

    def guest_event(self, pod_id: str, event: messages.Event) -> None:
        if isinstance(event, messages.OomEvent):
            container = self._store.containers.get(event.container)
            if container is not None and container.pod_id == pod_id:
                self.emit(container, "oom")
            return
        for container in self._sandboxes.containers_of(pod_id):
            # One that has ended keeps the number that its process had in an earlier life of the machine.
            if container.handle == event.handle and container.state in ALIVE:
                self.spawn(self.exited(container.id, event))
                return
        self.exits.exited(pod_id, event)

    def sandbox_lost(self, sandbox: Sandbox, reason: str) -> None:
        self.spawn(self._lost(sandbox, reason))

    async def exited(self, container_id: str, event: messages.ExitEvent) -> None:
        """Its main process ended: keep what it wrote, then how it ended."""
        with contextlib.suppress(NotFound):
            async with self.locked(container_id) as container:
                if container.handle != event.handle or container.state not in ALIVE:
                    return
                run = self.runs.get(container_id)
                if run is not None and not await run.drained(self._config.drain_deadline_s):
                    log.warning("container %s: its last output did not arrive", container_id[:12])
                code = _SIGNALLED + event.signal if event.signal else event.code
                await self._ended(container, code=code, signal=event.signal, oom=event.oom, error="")

    async def lose(self, container: ContainerRecord, reason: str) -> None:
        """Its machine is gone with all that it had not told. The caller has the pod's lock."""
        await self._ended(container, code=_LOST, signal=0, oom=False, error=reason)

    # -- a start, under the lock

    async def _start_locked(self, container: ContainerRecord) -> None:
        """:param container: as stored, but for what is to be stored with its new state."""
        container = self._put(replace(container, error="", handle=0, exit_code=0, exit_signal=0, oom_killed=False,
                                      state=check_container(container.id, container.state, ContainerState.STARTING)))
        run = self.runs.prepare(container)
        try:
            sandbox = await self._sandboxes.ensure(container.pod_id)
            await self._prepare(sandbox, container)
            process = launch.main_process(self._pod(container.pod_id), container)
            container = self._put(replace(container, handle=sandbox.new_handle()))
            run.begin(sandbox.channel, container.handle)
            await self._sandboxes.publish(container.pod_id)
            pid = await run.start(process)
        except BaseException as error:
            failure = as_start_failure(error)
            await asyncio.shield(self._start_failed(container, failure))
            raise failure from error
        self._put(replace(container, pid=pid, started_at=time.time_ns(), next_restart_at=0,
                          state=check_container(container.id, container.state, ContainerState.RUNNING)))
        self.emit(container, "start")

    async def _prepare(self, sandbox: Sandbox, container: ContainerRecord) -> None:
        if container.id in sandbox.prepared:
            return
        pod = self._pod(container.pod_id)
        await sandbox.channel.create(launch.creation(pod, container, self._disks.serials(container)))
        sandbox.prepared.add(container.id)

    async def _start_failed(self, container: ContainerRecord, error: BaseException) -> None:
        code = error.exit_code if isinstance(error, StartFailed) else _SIGNALLED
        message = error.message if isinstance(error, HyperStackError) else f"{type(error).__name__}: {error}"
        before = ContainerState.EXITED if container.started_at else ContainerState.CREATED
        container = self._put(replace(
            container, state=check_container(container.id, container.state, before), error=message, exit_code=code,
            finished_at=time.time_ns() if container.started_at else 0))
        await self._unprepare(container)
        self.runs.end(container.id)
        self.waiters.exited(container.id, (code, message))
        if container.spec.auto_remove:
            await self._remove_locked(container)
        await self._settle(container.pod_id)

    async def _unprepare(self, container: ContainerRecord) -> None:
        """The next start begins from fresh mounts."""
        sandbox = self._sandboxes.get(container.pod_id)
        if sandbox is None or container.id not in sandbox.prepared:
            return
        with contextlib.suppress(HyperStackError):  # a guest that cannot is about to be taken down
            await sandbox.channel.remove(container.id)
        sandbox.prepared.discard(container.id)

    def _withdraw(self, container_id: str) -> bool:
        """Who waits for the pod's lock would else wait for the turn of the start that holds it."""
        container = self.container(container_id)
        return container.state is ContainerState.STARTING and self._sandboxes.withdraw(container.pod_id)

    # -- an end, under the lock

    async def _ended(self, container: ContainerRecord, *, code: int, signal: int, oom: bool, error: str) -> None:
        policy, now = container.spec.restart, time.time_ns()
        again = restarts.wants_restart(policy, exit_code=code, restart_count=container.restart_count,
                                       manually_stopped=container.manually_stopped)
        delay = restarts.backoff_s(container.restart_count, ran_s=(now - container.started_at) / 1e9)
        container = self._put(replace(
            container, exit_code=code, exit_signal=signal, oom_killed=oom, error=error, finished_at=now, pid=0,
            state=check_container(container.id, container.state,
                                  ContainerState.RESTARTING if again else ContainerState.EXITED),
            next_restart_at=now + int(delay * 1e9) if again else 0))
        self.emit(container, "die", exitCode=str(code))
        self.runs.end(container.id)
        self.waiters.exited(container.id, (code, error))
        if again:
            await self._forget_process(container)
            self.schedule_restart(container)
            return
        if container.spec.auto_remove:
            await self._remove_locked(container)
        else:
            await self._forget_process(container)
        await self._settle(container.pod_id)

    async def _forget_process(self, container: ContainerRecord) -> None:
        sandbox = self._sandboxes.get(container.pod_id)
        if sandbox is None:
            return
        if not self._needed(container.pod_id):
            return  # the whole machine is about to go
        with contextlib.suppress(HyperStackError):
            await sandbox.channel.release(container.handle)
        await self._unprepare(container)

    async def _lost(self, sandbox: Sandbox, reason: str) -> None:
        pod_id = sandbox.pod_id
        async with self._locks.hold(pod_id):
            if self._sandboxes.get(pod_id) is not sandbox:
                return  # taken down meanwhile
            await self._sandboxes.fail(pod_id, reason)
            self.exits.lost(pod_id)
            for container in self._sandboxes.containers_of(pod_id):
                if container.state in ALIVE:
                    await self.lose(container, reason)

    async def _settle(self, pod_id: str) -> None:
        if self._store.pods.get(pod_id) is not None and not self._needed(pod_id):
            await self._sandboxes.stop(pod_id)
            self.exits.lost(pod_id)

    def _needed(self, pod_id: str) -> bool:
        return pod_id in self._held or any(c.state in ACTIVE for c in self._sandboxes.containers_of(pod_id))

    async def _remove_locked(self, container: ContainerRecord) -> None:
        self._cancel_restart(container.id)
        if container.state is not ContainerState.REMOVING:  # A daemon that died in the middle left it so.
            container = self._set(container, ContainerState.REMOVING)
        pod = self._pod(container.pod_id)
        if pod.implicit:
            await self._sandboxes.stop(pod.id, discard=True)
            self.exits.lost(pod.id)
        else:
            await self._unprepare(container)
        self.runs.drop(container.id)
        await asyncio.to_thread(self._delete_files, container, pod)
        with self._store.transaction():
            for record in self._store.execs.all():
                if record.container_id == container.id:
                    self._store.execs.delete(record.id)
            self._store.containers.delete(container.id)
            if pod.implicit:
                self._store.pods.delete(pod.id)
        self.emit(container, "destroy")
        self.waiters.removed(container.id, (container.exit_code, container.error))

    def _delete_files(self, container: ContainerRecord, pod: PodRecord) -> None:
        if pod.implicit:
            shutil.rmtree(self._disks.directory(pod.id), ignore_errors=True)
            return
        for path in self._disks.files_of(container):
            path.unlink(missing_ok=True)

    # -- ending a process, without the lock

    async def _end(self, container: ContainerRecord, number: int, grace_s: float) -> None:
        """Signal, wait, then SIGKILL, then kill the machine. A negative grace waits for ever."""
        run = self.runs.get(container.id)
        if run is None:
            return
        await self._signal(container, number)
        if container.state is ContainerState.PAUSED and number != _SIGKILL:
            with contextlib.suppress(HyperStackError):
                await self._sandboxes.require(container.pod_id).channel.resume(container.id)
        if await run.ended(None if grace_s < 0 else grace_s):
            return
        if number != _SIGKILL or grace_s < _KILL_DEADLINE_S:
            await self._signal(container, _SIGKILL)
            if await run.ended(_KILL_DEADLINE_S):
                return
        sandbox = self._sandboxes.get(container.pod_id)
        if sandbox is not None:
            await self._lost(sandbox, "The guest did not end the container after SIGKILL, so its machine was killed")

    async def _signal(self, container: ContainerRecord, number: int) -> None:
        sandbox = self._sandboxes.get(container.pod_id)
        if sandbox is None:
            return
        self.emit(container, "kill", signal=str(number))
        try:
            await sandbox.channel.signal(container.handle, number)
        except GuestCallError:
            log.debug("container %s: no process left to signal", container.id[:12])
        except GuestError as error:
            await self._lost(sandbox, f"The guest did not take a signal: {error}")

    # -- restarts

    def schedule_restart(self, container: ContainerRecord) -> None:
        self._restarts[container.id] = asyncio.create_task(self._restart(container))

    async def _restart(self, container: ContainerRecord) -> None:
        await asyncio.sleep(max(0.0, (container.next_restart_at - time.time_ns()) / 1e9))
        with contextlib.suppress(NotFound):
            async with self.locked(container.id) as found:
                self._restarts.pop(container.id, None)
                if found.state is not ContainerState.RESTARTING:
                    return
                try:
                    await self._start_locked(replace(found, restart_count=found.restart_count + 1))
                except HyperStackError as error:
                    log.warning("container %s: restart failed: %s", container.id[:12], error)
                    await self._retry_later(container.id)

    async def _retry_later(self, container_id: str) -> None:
        """A restart that failed counts as one more exit."""
        container = self._store.containers.get(container_id)
        if container is None or container.state is not ContainerState.EXITED:
            return
        if restarts.wants_restart(container.spec.restart, exit_code=container.exit_code,
                                  restart_count=container.restart_count,
                                  manually_stopped=container.manually_stopped):
            delay = restarts.backoff_s(container.restart_count, ran_s=0)
            container = self._put(replace(
                container, next_restart_at=time.time_ns() + int(delay * 1e9),
                state=check_container(container.id, container.state, ContainerState.RESTARTING)))
            self.schedule_restart(container)

    def _cancel_restart(self, container_id: str) -> None:
        task = self._restarts.pop(container_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _give_up_restart(self, container: ContainerRecord) -> None:
        self._cancel_restart(container.id)
        container = self._put(replace(container, manually_stopped=True))
        self._set(container, ContainerState.EXITED)
        await self._settle(container.pod_id)

    # -- small things

    def emit(self, container: ContainerRecord, action: str, **attributes: str) -> None:
        """An event about a container, with the attributes that Docker gives it."""
        labels = container.image_config.labels | container.spec.labels
        labels |= {"image": container.spec.image, "name": container.name} | attributes
        self._events.emit("container", action, container.id, container.project, labels)

    def _put(self, container: ContainerRecord) -> ContainerRecord:
        return self._store.containers.put(container)

    def _set(self, container: ContainerRecord, state: ContainerState) -> ContainerRecord:
        return self._put(replace(container, state=check_container(container.id, container.state, state)))

    def _pod(self, pod_id: str) -> PodRecord:
        pod = self._store.pods.get(pod_id)
        if pod is None:
            raise NotFound("pod", pod_id)
        return pod

    async def _finish_despite_cancel(self, work: Coroutine[Any, Any, None]) -> None:
        """A client that hangs up does not leave a start or a removal half done."""
        await asyncio.shield(self.spawn(work))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, HyperStackError):
            log.error("internal error", exc_info=error)


def as_start_failure(error: BaseException) -> BaseException:
    """What exec() said, in the words and exit codes of a container engine."""
    if not isinstance(error, GuestCallError):
        return error
    if error.errno == _ENOENT:
        return StartFailed(error.reason, exit_code=_NOT_FOUND, hint="is the command in the image, and in its PATH?")
    if error.errno == _EACCES:
        return StartFailed(error.reason, exit_code=_NOT_EXECUTABLE, hint="is it an executable file?")
    return StartFailed(f"the guest could not start the process: {error.reason}", exit_code=_SIGNALLED)
