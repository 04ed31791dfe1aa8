"""The lives of containers: start, exit, restart, stop, removal. The only place that changes a container's state.

Every change of a pod or of its containers happens under the pod's lock. Waiting for a process to end does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.events import EventBus
from hyperstack.engine.lives.beginnings import Beginnings
from hyperstack.engine.lives.common import ACTIVE, ALIVE, Lives
from hyperstack.engine.lives.endings import KILL_DEADLINE_S, SIGKILL, Endings
from hyperstack.engine.lives.restarting import Restarting
from hyperstack.engine.machines.sandboxes import Sandbox, Sandboxes
from hyperstack.engine.records import ContainerRecord
from hyperstack.engine.storage.binds import BindService
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.guest.linux import signal_number
from hyperstack.pod.errors import Conflict, NotFound, NotModified
from hyperstack.pod.spec import DEFAULT_STOP_TIMEOUT_S
from hyperstack.pod.states import ContainerState, SandboxState

_LINGER_S = 3.0
_ENDS_S = 20.0
"""For machines that are on their way down when the daemon goes; the next one would finish it."""


class Supervisor(Lives):
    def __init__(self, store: Store, events: EventBus, sandboxes: Sandboxes, disks: PodDisks, binds: BindService,
                 config: EngineConfig) -> None:
        super().__init__(store, events, sandboxes, disks, binds, config)
        self._restarting = Restarting(self, self._start_again)
        self._endings = Endings(self, self._restarting)
        self._beginnings = Beginnings(self, self._endings)
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
                self._restarting.cancel(container_id)
                await self._beginnings.start(replace(container, manually_stopped=False, restart_count=0, backoff_ns=0))
        await self.finish_despite_cancel(work())

    async def stop(self, container_id: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        """:raise NotModified: it does not run."""
        ended = await self._end(container_id, timeout=timeout, signal=signal)
        if ended is not None:
            self.emit(ended, "stop")

    async def _end(self, container_id: str, *, timeout: int | None, signal: str | None) -> ContainerRecord | None:
        """The container whose process was ended; None: it had none, and will not have one. Raises as `stop`."""
        withdrawn = self._withdraw(container_id)
        async with self.locked(container_id) as container:
            if container.state is ContainerState.RESTARTING:
                await self._give_up_restart(container)
                return None
            if withdrawn and container.state not in ALIVE:
                self.put(replace(container, manually_stopped=True))
                return None
            if container.state not in ALIVE:
                raise NotModified("Container already stopped", field="container", value=container_id)
            container = self.put(replace(container, manually_stopped=True))
        spec = container.spec
        number = signal_number(signal or spec.stop_signal or container.image_config.stop_signal or "SIGTERM")
        grace = timeout if timeout is not None else spec.stop_timeout
        await self._endings.end(container, number, DEFAULT_STOP_TIMEOUT_S if grace is None else grace)
        return container

    async def kill(self, container_id: str, number: int) -> None:
        """:raise Conflict: it does not run."""
        container = self.container(container_id)
        if container.state not in ALIVE:
            raise Conflict(f"container {container.id} is not running", field="state", value=container.state)
        if number == SIGKILL:
            self._withdraw(container_id)
            async with self.locked(container_id) as container:
                container = self.put(replace(container, manually_stopped=True))
            await self._endings.end(container, number, KILL_DEADLINE_S)
        else:
            await self._endings.signal(container, number)

    async def pause(self, container_id: str, *, paused: bool) -> None:
        """:raise Conflict: it is not in the state that this leaves."""
        needed, wanted = ContainerState.RUNNING, ContainerState.PAUSED
        if not paused:
            needed, wanted = wanted, needed
        async with self.locked(container_id) as container:
            if container.state is wanted and paused:
                raise Conflict(f"Container {container.id} is already paused", field="state", value=container.state)
            if container.state is not needed:
                raise Conflict(f"{'Container' if wanted is ContainerState.RUNNING else 'container'} {container.id} is "
                               f"not {needed}", field="state", value=container.state)
            channel = self.sandboxes.require(container.pod_id).channel
            await (channel.pause(container.id) if paused else channel.resume(container.id))
            self.set_state(container, wanted)
        self.emit(container, "pause" if paused else "unpause")

    async def remove(self, container_id: str, *, force: bool, volumes: bool = False) -> None:
        """Its writable disk and log go with it, and its anonymous volumes if `volumes`, or if it was to remove itself.

        :raise Conflict: it runs, and `force` is not given.
        """
        container = self.container(container_id)
        if container.state in ACTIVE:
            if not force:
                what = "container is paused and must be unpaused first" if container.state is ContainerState.PAUSED \
                    else f"container is {container.state}: stop the container before removing or force remove"
                raise Conflict(f'cannot remove container "{container.name}": {what}', field="state",
                               value=container.state)
            with contextlib.suppress(NotModified, Conflict, NotFound):
                await self._end(container_id, timeout=0, signal="SIGKILL")

        async def work() -> None:
            with contextlib.suppress(NotFound):  # --rm may have been faster
                async with self.locked(container_id) as found:
                    await self._endings.remove(found, volumes=volumes)
        await self.finish_despite_cancel(work())

    @contextlib.asynccontextmanager
    async def mounted(self, container_id: str) -> AsyncIterator[Sandbox]:
        """The container's file system within a running sandbox, whether the container runs or not."""
        async with self.locked(container_id) as container:
            pod_id = container.pod_id
            self.hold(pod_id)
            try:
                sandbox = await self.sandboxes.ensure(pod_id)
                await self._beginnings.prepare(sandbox, container)
            except BaseException:
                self.release(pod_id)
                await asyncio.shield(self._endings.settle(pod_id))
                raise
        try:
            yield sandbox
        finally:
            self.spawn(self._release_later(pod_id))

    async def _release_later(self, pod_id: str) -> None:
        """Who looked into a container often looks again at once: a copy is a question and then a transfer."""
        await asyncio.sleep(_LINGER_S)
        self.release(pod_id)
        await self.settle(pod_id)

    async def settle(self, pod_id: str) -> None:
        """Stop the pod's sandbox where nothing needs it any more."""
        async with self.pod_lock(pod_id):
            await self._endings.settle(pod_id)

    async def close(self) -> None:
        """Stop acting; what runs in the guests runs on. Machines whose end is due end: this daemon may be the last."""
        self.release_all()
        needless = [pod.id for pod in self.store.pods.all()
                    if pod.state in (SandboxState.READY, SandboxState.STOPPING) and not self.needed(pod.id)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDS_S):
                await asyncio.gather(*map(self.settle, needless), return_exceptions=True)
        await self.end_tasks()
        await self._restarting.close()
        self.runs.close()

    # -- what the sandboxes tell

    def guest_event(self, pod_id: str, event: messages.Event) -> None:
        if isinstance(event, messages.OomEvent):
            container = self.store.containers.get(event.container)
            if container is not None and container.pod_id == pod_id:
                self.emit(container, "oom")
            return
        for container in self.sandboxes.containers_of(pod_id):
            # One that has ended keeps the number that its process had in an earlier life of the machine.
            if container.handle == event.handle and container.state in ALIVE:
                self.spawn(self.exited(container.id, event))
                return
        self.exits.exited(pod_id, event)

    def sandbox_lost(self, sandbox: Sandbox, reason: str) -> None:
        self.spawn(self._endings.lost(sandbox, reason))

    def served_no_more(self, pod_id: str, port: str) -> None:
        self.spawn(self._endings.served_no_more(pod_id, port))

    async def lose(self, container: ContainerRecord, reason: str) -> None:
        """Its machine is gone with all that it had not told. The caller has the pod's lock."""
        await self._endings.lose(container, reason)

    async def undo_start(self, sandbox: Sandbox, container: ContainerRecord) -> None:
        """What an earlier daemon had begun."""
        await self._beginnings.undo(sandbox, container)

    def schedule_restart(self, container: ContainerRecord) -> None:
        self._restarting.schedule(container)

    async def exited(self, container_id: str, event: messages.ExitEvent) -> None:
        """Its main process ended: keep what it wrote, then how it ended."""
        await self._endings.exited(container_id, event)

    # -- small things

    async def _start_again(self, container: ContainerRecord) -> None:
        await self._beginnings.start(container)

    async def _give_up_restart(self, container: ContainerRecord) -> None:
        self._restarting.cancel(container.id)
        container = self.put(replace(container, manually_stopped=True))
        self.set_state(container, ContainerState.EXITED)
        await self._endings.settle(container.pod_id)

    def _withdraw(self, container_id: str) -> bool:
        """Who waits for the pod's lock would else wait for the turn of the start that holds it."""
        container = self.container(container_id)
        return container.state is ContainerState.STARTING and self.sandboxes.withdraw(container.pod_id)
