"""The end of a container: how its process is made to end, what is done when it has, and removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from msgspec.structs import replace

from hyperstack.engine.lives import restarts
from hyperstack.engine.lives.common import ALIVE, Lives
from hyperstack.engine.lives.restarting import Restarting
from hyperstack.engine.machines.sandboxes import Sandbox
from hyperstack.engine.machines.seating import Seating
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.guest import messages
from hyperstack.guest.channel import GuestCallError
from hyperstack.pod.errors import GuestError, HyperStackError, NotFound
from hyperstack.pod.states import ContainerState, check_container

log = logging.getLogger(__name__)

SIGKILL = 9
KILL_DEADLINE_S = 30.0
"""For the death of a process after SIGKILL; a guest that takes longer is broken, and its machine is killed."""
_TOLD_S = 0.5
"""For clients that are attached to take the last output; who reads slower has it after the answer to a wait."""
SIGNALLED = 128
_LOST = 255
"""Exit code where nobody can know it any more, as containerd has it."""


class Endings:
    def __init__(self, lives: Lives, restarting: Restarting) -> None:
        self._lives = lives
        self._restarting = restarting
        self._seating = Seating(lives.store, lives.disks)

    # -- ending a process, without the lock

    async def end(self, container: ContainerRecord, number: int, grace_s: float) -> None:
        """Signal, wait, then SIGKILL, then kill the machine. A negative grace waits for ever."""
        run = self._lives.runs.get(container.id)
        if run is None:
            return
        await self.signal(container, number)
        if container.state is ContainerState.PAUSED and number != SIGKILL:
            with contextlib.suppress(HyperStackError):
                await self._lives.sandboxes.require(container.pod_id).channel.resume(container.id)
        if await run.ended(None if grace_s < 0 else grace_s):
            return
        if number != SIGKILL or grace_s < KILL_DEADLINE_S:
            await self.signal(container, SIGKILL)
            if await run.ended(KILL_DEADLINE_S):
                return
        sandbox = self._lives.sandboxes.get(container.pod_id)
        if sandbox is not None:
            await self.lost(sandbox, "The guest did not end the container after SIGKILL, so its machine was killed")

    async def signal(self, container: ContainerRecord, number: int) -> None:
        sandbox = self._lives.sandboxes.get(container.pod_id)
        if sandbox is None:
            return
        self._lives.emit(container, "kill", signal=str(number))
        try:
            await sandbox.channel.signal(container.handle, number)
        except GuestCallError:
            log.debug("container %s: no process left to signal", container.id[:12])
        except GuestError as error:
            await self.lost(sandbox, f"The guest did not take a signal: {error}")

    # -- it has ended

    async def exited(self, container_id: str, event: messages.ExitEvent) -> None:
        """Its main process ended: keep what it wrote, then how it ended."""
        with contextlib.suppress(NotFound):
            async with self._lives.locked(container_id) as container:
                if container.handle != event.handle or container.state not in ALIVE:
                    return
                run = self._lives.runs.get(container_id)
                if run is not None and not await run.drained(self._lives.config.drain_deadline_s):
                    log.warning("container %s: its last output did not arrive", container_id[:12])
                code = SIGNALLED + event.signal if event.signal else event.code
                await self._ended(container, code=code, signal=event.signal, oom=event.oom, error="")

    async def lose(self, container: ContainerRecord, reason: str) -> None:
        """Its machine is gone with all that it had not told. The caller has the pod's lock."""
        await self._ended(container, code=_LOST, signal=0, oom=False, error=reason)

    async def _ended(self, container: ContainerRecord, *, code: int, signal: int, oom: bool, error: str) -> None:
        policy, now = container.spec.restart, time.time_ns()
        again = restarts.wants_restart(policy, exit_code=code, restart_count=container.restart_count,
                                       manually_stopped=container.manually_stopped)
        wait = restarts.backoff_ns(container.backoff_ns, ran_ns=now - container.started_at) if again else 0
        container = self._lives.put(replace(
            container, exit_code=code, exit_signal=signal, oom_killed=oom, error=error, finished_at=now, pid=0,
            state=check_container(container.id, container.state,
                                  ContainerState.RESTARTING if again else ContainerState.EXITED),
            next_restart_at=now + wait if again else 0, backoff_ns=wait))
        self._lives.emit_departure(container)
        self._lives.emit(container, "die", exitCode=str(code),
                         execDuration=str(max(now - container.started_at, 0) // 10**9))
        self._lives.runs.end(container.id)
        # Clients take the answer to a wait for the end of the output that they read on another connection.
        if (run := self._lives.runs.get(container.id)) is not None:
            await run.told(_TOLD_S)
        self._lives.waiters.exited(container.id, (code, error))
        if again:
            await self._forget_process(container)
            self._restarting.schedule(container)
            return
        if container.spec.auto_remove:
            await self.remove(container)
        else:
            await self._forget_process(container)
        await self.settle(container.pod_id)

    async def _forget_process(self, container: ContainerRecord) -> None:
        sandbox = self._lives.sandboxes.get(container.pod_id)
        if sandbox is None:
            return
        if not self._lives.needed(container.pod_id):
            return  # the whole machine is about to go
        with contextlib.suppress(HyperStackError):
            await sandbox.channel.release(container.handle)
        await self.unprepare(container)

    async def lost(self, sandbox: Sandbox, reason: str) -> None:
        """A machine died, or must: takes the lock."""
        pod_id = sandbox.pod_id
        async with self._lives.pod_lock(pod_id):
            if self._lives.sandboxes.get(pod_id) is not sandbox:
                return  # taken down meanwhile
            await self._lives.sandboxes.fail(pod_id, reason)
            self._lives.exits.lost(pod_id)
            for container in self._lives.sandboxes.containers_of(pod_id):
                if container.state in ALIVE:
                    await self.lose(container, reason)

    # -- under the lock

    async def settle(self, pod_id: str) -> None:
        """Stop the pod's sandbox where nothing needs it any more."""
        if self._lives.store.pods.get(pod_id) is not None and not self._lives.needed(pod_id):
            await self._lives.sandboxes.stop(pod_id)
            self._lives.exits.lost(pod_id)
            if self._lives.pod(pod_id).implicit and not self._lives.sandboxes.containers_of(pod_id):
                self._lives.store.pods.delete(pod_id)  # it outlived its containers for others' sake

    async def served_no_more(self, pod_id: str, port: str) -> None:
        """Nobody is at the other end of the port any more; takes the lock."""
        async with self._lives.pod_lock(pod_id):
            sandbox = self._lives.sandboxes.get(pod_id)
            if sandbox is not None:
                await self._lives.sharing.release(sandbox, port)
                await self._seating.release(sandbox, self._lives.sandboxes.containers_of(pod_id))
            await self.settle(pod_id)

    async def unprepare(self, container: ContainerRecord) -> None:
        """The next start begins from fresh mounts."""
        sandbox = self._lives.sandboxes.get(container.pod_id)
        if sandbox is None or container.id not in sandbox.prepared:
            return
        with contextlib.suppress(HyperStackError):  # a guest that cannot is about to be taken down
            await sandbox.channel.remove(container.id)
        await self._lives.binds.detach(sandbox.machine, sandbox.channel, container)
        await self._lives.sharing.detach(sandbox, container)
        sandbox.prepared.discard(container.id)
        await self._seating.release(sandbox, [container])

    async def remove(self, container: ContainerRecord, *, volumes: bool = False) -> None:
        """All that there is of it, on the host and in the records; its anonymous volumes go with one that removes
        itself, or if `volumes`."""
        self._restarting.cancel(container.id)
        if container.state is not ContainerState.REMOVING:  # A daemon that died in the middle left it so.
            container = self._lives.set_state(container, ContainerState.REMOVING)
        pod = self._lives.pod(container.pod_id)
        others = [c for c in self._lives.sandboxes.containers_of(pod.id) if c.id != container.id]
        with_pod = pod.implicit and not others and not self._lives.disks.serves(pod.id)
        if with_pod:
            await self._lives.sandboxes.stop(pod.id, discard=True)
            self._lives.exits.lost(pod.id)
        else:
            await self._leave(container, pod, others)
            if pod.implicit and pod.name == container.name and pod.bindings:
                await self._lives.sandboxes.leave_networks(pod.id)
        self._lives.runs.drop(container.id)
        await asyncio.to_thread(self._lives.disks.delete, container)
        with self._lives.store.transaction():
            for record in self._lives.store.execs.all():
                if record.container_id == container.id:
                    self._lives.store.execs.delete(record.id)
            self._lives.store.containers.delete(container.id)
            if with_pod:
                self._lives.store.pods.delete(pod.id)
            elif pod.implicit and pod.name == container.name:
                # Its name is free from now on, so the pod goes by that of who is left.
                name = others[0].name if others else pod.id
                self._lives.store.pods.put(replace(self._lives.pod(pod.id), name=name))
            owned = self._lives.disks.volumes
            forgotten = owned.forget_anonymous(container) if volumes or container.spec.auto_remove else []
        await owned.discard(forgotten)
        self._lives.emit(container, "destroy")
        self._lives.waiters.removed(container.id, (container.exit_code, container.error))

    async def _leave(self, container: ContainerRecord, pod: PodRecord, others: list[ContainerRecord]) -> None:
        """The pod's running VM, where there is one."""
        await self.unprepare(container)
        sandbox = self._lives.sandboxes.get(pod.id)
        if sandbox is not None:
            try:
                await self._seating.unseat(sandbox, pod, container, others)
            except HyperStackError as error:  # they go with the machine
                log.warning("container %s: its disks stay plugged: %s", container.id[:12], error)
