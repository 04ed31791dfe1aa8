"""What all the steps of a container's life share: the records, the pods' locks, the runs, and who waits for what.

Every change of a pod or of its containers happens under the pod's lock. Waiting for a process to end does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.events import EventBus
from hyperstack.engine.lives.exits import Exits
from hyperstack.engine.lives.runs import Runs
from hyperstack.engine.lives.waiters import Waiters
from hyperstack.engine.locks import KeyedLocks
from hyperstack.engine.machines.sandboxes import Sandboxes
from hyperstack.engine.machines.volume_sharing import VolumeSharing
from hyperstack.engine.networks.placement import default_record
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.binds import BindService
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.pod.errors import HyperStackError, NotFound
from hyperstack.pod.spec import NO_NETWORK, Mount, MountKind
from hyperstack.pod.states import ContainerState, check_container

log = logging.getLogger(__name__)

ALIVE = frozenset({ContainerState.STARTING, ContainerState.RUNNING, ContainerState.PAUSED})
"""There is, or may be, a process."""

ACTIVE = ALIVE | {ContainerState.RESTARTING}
"""There will be one again without anybody's asking."""


class Lives:
    def __init__(self, store: Store, events: EventBus, sandboxes: Sandboxes, disks: PodDisks, binds: BindService,
                 config: EngineConfig) -> None:
        self.store = store
        self.events = events
        self.sandboxes = sandboxes
        self.disks = disks
        self.binds = binds
        self.sharing = VolumeSharing(store, sandboxes, disks, patience_s=config.boot_deadline_s)
        self.config = config
        self.runs = Runs(disks)
        self.waiters = Waiters()
        self.exits = Exits()
        self._locks = KeyedLocks()
        self._held: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def container(self, container_id: str) -> ContainerRecord:
        """:raise NotFound: it was removed meanwhile."""
        container = self.store.containers.get(container_id)
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
        left = self._held.pop(pod_id, 1) - 1
        if left:
            self._held[pod_id] = left

    def release_all(self) -> None:
        """Nobody will come back to a sandbox that was kept for that."""
        self._held.clear()

    def needed(self, pod_id: str) -> bool:
        """Whether its sandbox must stay."""
        return pod_id in self._held or self.disks.serves(pod_id) or any(
            c.state in ACTIVE for c in self.sandboxes.containers_of(pod_id))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Work that nobody waits for; its failure is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def finish_despite_cancel(self, work: Coroutine[Any, Any, None]) -> None:
        """A client that hangs up does not leave a start or a removal half done."""
        await asyncio.shield(self.spawn(work))

    async def end_tasks(self) -> None:
        """Cancel what nobody waits for."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, HyperStackError):
            log.error("internal error", exc_info=error)

    # -- records

    def emit(self, container: ContainerRecord, action: str, **attributes: str) -> None:
        """An event about a container, with the attributes that Docker gives it."""
        labels = container.image_config.labels | container.spec.labels
        labels |= {"image": container.spec.image, "name": container.name} | attributes
        self.events.emit("container", action, container.id, container.project, labels)

    def emit_arrival(self, container: ContainerRecord) -> None:
        """Events of its volumes and of its networks, which a process has from now on."""
        for mount in self._volumes(container):
            self.events.emit("volume", "mount", mount.source, container.project, {
                "container": container.id, "destination": mount.target, "driver": "local", "propagation": "",
                "read/write": str(not mount.read_only).lower()})
        self._emit_places(container, "connect")

    def emit_departure(self, container: ContainerRecord) -> None:
        self._emit_places(container, "disconnect")
        for mount in self._volumes(container):
            self.events.emit("volume", "unmount", mount.source, container.project,
                             {"container": container.id, "driver": "local"})

    def _emit_places(self, container: ContainerRecord, action: str) -> None:
        pod = self.store.pods.get(container.pod_id)
        if pod is None or container.spec.sharing.network:
            return
        here = {record.name: record for binding in pod.bindings
                if (record := self.store.networks.get(binding.network_id)) is not None}
        if pod.spec.network == NO_NETWORK:
            here = {NO_NETWORK: default_record(pod.project, NO_NETWORK)}
        for name in dict.fromkeys((pod.spec.network, *(endpoint.network for endpoint in pod.spec.endpoints))):
            if (record := here.get(name)) is not None:
                self.events.emit("network", action, record.id, record.project, {
                    "container": container.id, "name": record.name, "type": record.driver})

    @staticmethod
    def _volumes(container: ContainerRecord) -> list[Mount]:
        return [mount for mount in container.spec.mounts if mount.kind is MountKind.VOLUME]

    def put(self, container: ContainerRecord) -> ContainerRecord:
        return self.store.containers.put(container)

    def set_state(self, container: ContainerRecord, state: ContainerState) -> ContainerRecord:
        return self.put(replace(container, state=check_container(container.id, container.state, state)))

    def pod(self, pod_id: str) -> PodRecord:
        pod = self.store.pods.get(pod_id)
        if pod is None:
            raise NotFound("pod", pod_id)
        return pod
