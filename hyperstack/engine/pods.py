"""Pods from manifests, as `hyperstack.engine.api.Pods` promises them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

from msgspec.structs import replace

from hyperstack.engine.admission import Admission
from hyperstack.engine.api import HostCost, WaitCondition
from hyperstack.engine.events import EventBus
from hyperstack.engine.lives.common import ACTIVE
from hyperstack.engine.lives.supervisor import Supervisor
from hyperstack.engine.lookup import find
from hyperstack.engine.machines.sandboxes import Sandboxes
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.hypervisor.api import HostUsage
from hyperstack.identity.api import Principal
from hyperstack.pod.errors import Conflict, NotFound, NotModified, StartFailed
from hyperstack.pod.spec import PodSpec
from hyperstack.pod.states import ContainerState


class PodService:
    """Implements `hyperstack.engine.api.Pods`."""

    def __init__(self, store: Store, admission: Admission, supervisor: Supervisor, sandboxes: Sandboxes,
                 disks: PodDisks, events: EventBus) -> None:
        self._store = store
        self._admission = admission
        self._supervisor = supervisor
        self._sandboxes = sandboxes
        self._disks = disks
        self._events = events

    async def create(self, who: Principal, spec: PodSpec, *, start: bool = True) -> PodRecord:
        pod = await self._admission.pod(who, spec)
        self._emit(pod, "create")
        for container in self.containers_of(pod):
            self._supervisor.emit(container, "create")
        if start:
            await self.start(who, pod.id)
        return self.get(who, pod.id)

    def get(self, who: Principal, ref: str) -> PodRecord:
        return find(self._store.pods, "pod", who.project, ref)

    def list_all(self, who: Principal) -> list[PodRecord]:
        found = [p for p in self._store.pods.all() if p.project == who.project]
        return sorted(found, key=lambda p: p.created_at, reverse=True)

    def containers_of(self, pod: PodRecord) -> list[ContainerRecord]:
        return self._sandboxes.containers_of(pod.id)

    async def cost(self, who: Principal, ref: str) -> HostCost:
        pod = self.get(who, ref)
        sandbox = self._sandboxes.get(pod.id)
        if sandbox is None:
            raise Conflict(f"Pod {pod.name} is not running", field="pod", value=pod.name)
        return _cost(await sandbox.machine.usage(pss=True))

    async def costs(self, who: Principal) -> list[tuple[PodRecord, HostCost]]:
        running = [(pod, sandbox) for pod in self.list_all(who) if (sandbox := self._sandboxes.get(pod.id)) is not None]
        usages = await asyncio.gather(*(sandbox.machine.usage(pss=True) for _, sandbox in running))
        return [(pod, _cost(usage)) for (pod, _), usage in zip(running, usages, strict=True)]

    async def start(self, who: Principal, ref: str) -> None:
        """:raise StartFailed: a container's process, or an init container, failed."""
        pod = self.get(who, ref)
        if any(c.state in ACTIVE for c in self.containers_of(pod) if not c.joined):
            raise NotModified("Pod already started", field="pod", value=pod.name)
        self._store.pods.put(replace(pod, wanted=not pod.implicit))
        await asyncio.shield(self._supervisor.spawn(self.bring_up(pod.id, fresh=True)))
        self._emit(pod, "start")

    async def bring_up(self, pod_id: str, *, fresh: bool) -> None:
        """Init containers one after the other, then all others.

        :param fresh: run the init containers again; else those that have ended well stay so, and containers that have
            ended stay ended (the daemon came back in the middle of it).
        """
        self._supervisor.hold(pod_id)
        try:
            for container in self._sandboxes.containers_of(pod_id):
                if container.joined:
                    continue
                if container.init:
                    if fresh or container.state is not ContainerState.EXITED or container.exit_code:
                        await self._run_to_end(container)
                elif fresh or container.state is ContainerState.CREATED:
                    with contextlib.suppress(NotModified):
                        await self._supervisor.start(container.id)
        finally:
            self._supervisor.release(pod_id)
            await self._supervisor.settle(pod_id)

    async def _run_to_end(self, container: ContainerRecord) -> None:
        """An init container, until it ends well; its restart policy says how often it may fail."""
        while True:
            end = self._supervisor.waiters.add(container.id, WaitCondition.NEXT_EXIT)
            if container.state not in ACTIVE:
                with contextlib.suppress(NotModified):
                    await self._supervisor.start(container.id)
            code, error = await end
            if code == 0:
                return
            container = self._supervisor.container(container.id)
            if container.state is not ContainerState.RESTARTING:
                raise StartFailed(f"Init container {container.name} failed with exit code {code}"
                                  f"{': ' + error if error else ''}", exit_code=code,
                                  hint=f"see hyperctl logs {container.name}")

    async def stop(self, who: Principal, ref: str, *, timeout: int | None = None) -> None:
        pod = self.get(who, ref)
        active = [c for c in self.containers_of(pod) if c.state in ACTIVE]
        if not active and not pod.wanted:
            raise NotModified("Pod already stopped", field="pod", value=pod.name)
        self._store.pods.put(replace(pod, wanted=False))
        grace = pod.spec.termination_grace_s if timeout is None else timeout
        await asyncio.gather(*(self._stop_one(c.id, grace) for c in active))
        await self._supervisor.settle(pod.id)
        self._emit(pod, "stop")

    async def _stop_one(self, container_id: str, grace: int) -> None:
        with contextlib.suppress(NotModified, NotFound):
            await self._supervisor.stop(container_id, timeout=grace)

    async def remove(self, who: Principal, ref: str, *, force: bool = False) -> None:
        pod = self.get(who, ref)
        if any(c.state in ACTIVE for c in self.containers_of(pod)):
            if not force:
                raise Conflict(f"Pod {pod.name} is running", field="pod", value=pod.name,
                               hint="stop it first, or use --force")
            with contextlib.suppress(NotModified):
                await self.stop(who, pod.id, timeout=0)
        for container in self.containers_of(pod):
            with contextlib.suppress(NotFound):  # those that remove themselves
                await self._supervisor.remove(container.id, force=force)
        await self.forget(pod)
        self._emit(pod, "destroy")

    async def forget(self, pod: PodRecord) -> None:
        """The pod's machine, directory and record, once it has no containers."""
        async with self._supervisor.pod_lock(pod.id):
            if self._store.pods.get(pod.id) is None or self.containers_of(pod):
                return
            await self._sandboxes.stop(pod.id, discard=True)
            await asyncio.to_thread(shutil.rmtree, self._disks.directory(pod.id), ignore_errors=True)
            self._store.pods.delete(pod.id)

    def _emit(self, pod: PodRecord, action: str) -> None:
        self._events.emit("pod", action, pod.id, pod.project, {"name": pod.name})


def _cost(usage: HostUsage) -> HostCost:
    return HostCost(pss_bytes=usage.pss_bytes, memory_bytes=usage.memory_bytes, cpu_ns=usage.cpu_ns, pids=usage.pids)
