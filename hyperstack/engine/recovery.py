"""Picking up what an earlier daemon left, whenever it died.

The store says what may exist; the machines say what does. Running pods are adopted with all that happened meanwhile,
half-made ones are undone, half-removed ones are finished, and what no record knows is removed.
"""

from __future__ import annotations

import asyncio
import logging
import time

from msgspec.structs import replace

from hyperstack.engine.execs import ExecService
from hyperstack.engine.lives import restarts
from hyperstack.engine.lives.common import ALIVE
from hyperstack.engine.lives.exits import exit_of
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.machines.sandboxes import Sandbox, Sandboxes
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.pods import PodService
from hyperstack.engine.records import ContainerRecord, ExecRecord, PodRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.storage.volumes import VolumeService
from hyperstack.engine.store import Store
from hyperstack.guest.messages import ListReply, ProcessStatus
from hyperstack.hypervisor.api import Hypervisor
from hyperstack.pod.errors import GuestError, HyperStackError
from hyperstack.pod.states import ContainerState, SandboxState

log = logging.getLogger(__name__)

_SIGKILL = 9
_PATIENCE_S = 10.0
"""For all guests to answer before the daemon serves; a guest that does not must not keep the others' owners waiting."""


class Recovery:
    def __init__(self, store: Store, hypervisor: Hypervisor, sandboxes: Sandboxes, supervisor: Supervisor,
                 execs: ExecService, pods: PodService, networks: NetworkService, volumes: VolumeService,
                 disks: PodDisks) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._sandboxes = sandboxes
        self._supervisor = supervisor
        self._execs = execs
        self._pods = pods
        self._networks = networks
        self._volumes = volumes
        self._disks = disks

    async def run(self) -> None:
        """Returns when every pod is as its record says, but does not wait long for guests that do not answer: their
        pods stay locked until they do, or are given up. Restarts that policies ask for go on in the background."""
        await self._remove_unknown_machines()
        tasks = [self._supervisor.spawn(self._recover_pod(pod)) for pod in self._store.pods.all()]
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE_S)
        for what in [*await self._networks.sweep(), *await self._volumes.recover(), *await self._sweep_directories()]:
            log.warning("removed %s, which no record names", what)

    async def _recover_pod(self, pod: PodRecord) -> None:
        async with self._supervisor.pod_lock(pod.id):
            try:
                await self._recover_sandbox(pod)
            except HyperStackError as error:
                log.warning("pod %s cannot be adopted: %s", pod.id[:12], error)
                await self._sandboxes.fail(pod.id, f"It could not be adopted after a restart of the daemon: {error}")
            if self._sandboxes.get(pod.id) is None:
                await self._bury(pod.id)
        try:
            await self._finish_removals(pod.id)
            await self._supervisor.settle(pod.id)
        except HyperStackError as error:
            log.error("pod %s: what was begun could not be finished: %s", pod.id[:12], error)
        self._start_wanted(pod.id)

    async def _recover_sandbox(self, pod: PodRecord) -> None:
        match pod.state:
            case SandboxState.READY:
                adopted = await self._sandboxes.adopt(pod)
                if adopted is None:
                    raise GuestError("its machine died while no daemon ran")
                await self._adopt_processes(*adopted)
            case SandboxState.STARTING:
                await self._sandboxes.fail(pod.id, "The daemon died while the machine was being started")
            case SandboxState.STOPPING:
                await self._sandboxes.stop(pod.id)
            case SandboxState.ABSENT | SandboxState.FAILED:
                await self._hypervisor.destroy_leftovers(pod.machine)

    async def _adopt_processes(self, sandbox: Sandbox, listing: ListReply) -> None:
        processes = {p.handle: p for p in listing.processes}
        paused = {c.id for c in listing.containers if c.paused}
        for container in self._sandboxes.containers_of(sandbox.pod_id):
            status = processes.pop(container.handle, None)
            if container.state in ALIVE:
                await self._adopt_container(sandbox, container, status, paused=container.id in paused)
            elif status is not None:
                processes[container.handle] = status
            if container.state is ContainerState.RESTARTING:
                self._supervisor.schedule_restart(container)
            for record in self._execs_of(container):
                await self._adopt_exec(sandbox, record, processes.pop(record.handle, None))
        for handle, status in processes.items():
            if status.running:
                await sandbox.channel.signal(handle, _SIGKILL)
            else:
                await sandbox.channel.release(handle)

    async def _adopt_container(self, sandbox: Sandbox, container: ContainerRecord, status: ProcessStatus | None, *,
                               paused: bool) -> None:
        if status is None:
            await self._undo_start(container)
            await self._supervisor.undo_start(sandbox, container)
            return
        if paused and container.state is not ContainerState.PAUSED:
            # Held still for a commit that ended with its daemon, or by a pause that nobody was told of.
            await sandbox.channel.resume(container.id)
            paused = False
        state = ContainerState.PAUSED if paused else ContainerState.RUNNING
        container = self._store.containers.put(replace(
            container, state=state, pid=status.pid, started_at=container.started_at or time.time_ns()))
        run = self._supervisor.runs.adopt(container)
        run.begin(sandbox.channel, container.handle, resumed=True)
        await run.follow()
        if not status.running:
            self._supervisor.spawn(self._supervisor.exited(container.id, exit_of(status)))

    async def _adopt_exec(self, sandbox: Sandbox, record: ExecRecord, status: ProcessStatus | None) -> None:
        if status is not None:
            record = self._store.execs.put(replace(record, running=status.running, pid=status.pid))
            await self._execs.adopt(sandbox, record, status)
        elif record.running:
            self._execs.lose(record)

    async def _undo_start(self, container: ContainerRecord) -> None:
        """The daemon died between asking for the process and getting it."""
        before = ContainerState.EXITED if container.started_at else ContainerState.CREATED
        self._store.containers.put(replace(container, state=before, handle=0, pid=0))

    async def _bury(self, pod_id: str) -> None:
        """The pod has no machine: whatever its records say is running is not."""
        for container in self._sandboxes.containers_of(pod_id):
            for record in self._execs_of(container):
                if record.running:
                    self._execs.lose(record)
            if container.state is ContainerState.STARTING:
                await self._undo_start(container)
            elif container.state in ALIVE:
                pod = self._store.pods.get(pod_id)
                await self._supervisor.lose(container, pod.reason if pod is not None else "")
            elif container.state is ContainerState.RESTARTING:
                self._supervisor.schedule_restart(container)

    async def _finish_removals(self, pod_id: str) -> None:
        for container in self._sandboxes.containers_of(pod_id):
            finished = container.spec.auto_remove and container.state is ContainerState.EXITED
            if finished or container.state in (ContainerState.REMOVING, ContainerState.DEAD):
                await self._supervisor.remove(container.id, force=True)
        pod = self._store.pods.get(pod_id)
        if pod is not None and not self._sandboxes.containers_of(pod_id) and not self._disks.serves(pod_id):
            await self._pods.forget(pod)

    async def _remove_unknown_machines(self) -> None:
        known = {pod.machine for pod in self._store.pods.all()}
        for ident in await self._hypervisor.list_leftovers():
            if ident not in known:
                log.warning("removed machine %s, which no record names", ident[:12])
                await self._hypervisor.destroy_leftovers(ident)

    async def _sweep_directories(self) -> list[str]:
        return await asyncio.to_thread(self._disks.sweep, {pod.id for pod in self._store.pods.all()},
                                       {c.id for c in self._store.containers.all()})

    def _start_wanted(self, pod_id: str) -> None:
        """What the restart policies ask for, of a pod that has not been stopped by its user."""
        pod = self._store.pods.get(pod_id)
        if pod is None or not (pod.implicit or pod.wanted):
            return
        if pod.wanted:
            self._supervisor.spawn(self._pods.bring_up(pod.id, fresh=False))
        wanted = [container for container in self._sandboxes.containers_of(pod_id)
                  if container.state in (ContainerState.EXITED, ContainerState.CREATED) and container.started_at > 0
                  and restarts.wants_start_at_boot(container.spec.restart,
                                                   manually_stopped=container.manually_stopped)]
        if wanted:
            self._supervisor.spawn(self._start_in_turn(wanted))

    async def _start_in_turn(self, containers: list[ContainerRecord]) -> None:
        """Those first whom the others may share something with: they were made first."""
        for container in containers:
            try:
                await self._supervisor.start(container.id)
            except HyperStackError as error:
                log.warning("container %s was not started: %s", container.id[:12], error)

    def _execs_of(self, container: ContainerRecord) -> list[ExecRecord]:
        return [e for e in self._store.execs.all() if e.container_id == container.id and e.handle
                and (e.running or e.exit_code is None)]


