"""The machines of the pods: brought up, watched, taken down, found again.

A sandbox is one life of a pod's VM. Nothing here knows what a container does; the supervisor does, and it holds the
pod's lock around every call that changes a pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines import launch, linking
from hyperstack.engine.machines.growth import Growth
from hyperstack.engine.machines.liveness import lost
from hyperstack.engine.machines.pool import Pool
from hyperstack.engine.machines.start_queue import MACHINE_OVERHEAD_MIB, StartQueue
from hyperstack.engine.machines.starting import Kernels, Machines, tell_networks
from hyperstack.engine.machines.templates import Templates
from hyperstack.engine.machines.tray import Tray
from hyperstack.engine.machines.uids import Uids
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.guest.channel import CALL_DEADLINE_S, AgentChannel
from hyperstack.guest.connection import EventHandler
from hyperstack.hypervisor.api import Hypervisor, Machine
from hyperstack.pod.errors import (
    Conflict,
    HyperStackError,
    NotFound,
    Unavailable,
    Unsupported,
)
from hyperstack.pod.spec import Resources
from hyperstack.pod.states import SandboxState, check_sandbox

log = logging.getLogger(__name__)

_SHUTDOWN_S = 10.0
"""For a guest to write its disks out; then it is killed."""
_FILES_S = 2.0
"""For a guest to take new names that nobody who waits for it asked for."""


class SandboxObserver(Protocol):
    """Told what happens in running sandboxes; each call returns at once."""

    def guest_event(self, pod_id: str, event: messages.Event) -> None: ...

    def sandbox_lost(self, sandbox: Sandbox, reason: str) -> None: ...

    def served_no_more(self, pod_id: str, port: str) -> None:
        """What the pod's VM served at that port, nobody uses any more."""


class Sandbox:
    """A pod's machine and the channel to its agent."""

    def __init__(self, pod_id: str, machine: Machine, channel: AgentChannel, *, next_handle: int = 1) -> None:
        self.pod_id = pod_id
        self.machine = machine
        self.channel = channel
        self.prepared: set[str] = set()
        """Containers whose file systems are mounted."""
        self.tray = Tray(machine)
        self._next_handle = next_handle

    async def close(self) -> None:
        """Let go of the machine; it runs on."""
        await self.channel.close()
        self.tray.close()

    def new_handle(self) -> int:
        """A number for one more process, unique in this sandbox's life."""
        handle = self._next_handle
        self._next_handle += 1
        return handle


class Sandboxes:
    def __init__(self, store: Store, hypervisor: Hypervisor, kernels: Kernels, networks: NetworkService,
                 disks: PodDisks, templates: Templates, pool: Pool, starts: StartQueue, uids: Uids,
                 config: EngineConfig) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._kernels = kernels
        self._networks = networks
        self._disks = disks
        self._starts = starts
        self._config = config
        self._machines = Machines(store, hypervisor, kernels, networks, disks, templates, pool, uids, config)
        self._growth = Growth(store, kernels, starts, config)
        self._running: dict[str, Sandbox] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.observer: SandboxObserver | None = None

    def get(self, pod_id: str) -> Sandbox | None:
        return self._running.get(pod_id)

    def require(self, pod_id: str) -> Sandbox:
        """:raise Unavailable: the pod has no running machine."""
        sandbox = self._running.get(pod_id)
        if sandbox is None:
            raise Unavailable(f"Pod {pod_id[:12]} has no running machine", field="pod", value=pod_id)
        return sandbox

    async def ensure(self, pod_id: str) -> Sandbox:
        """The pod's sandbox, started where it does not run, after its turn has come. Where a start fails nothing of it
        is left but the reason.

        :raise HyperStackError: see the doors of the rooms; GuestError: the kernel or the agent did not come up;
            Exhausted: the host has no memory for it, see `start_queue`; Conflict: it was withdrawn.
        """
        running = self._running.get(pod_id)
        if running is not None:
            return running
        pod = self._machines.decide(self._pod(pod_id), self.containers_of(pod_id))
        try:
            async with self._starts.turn(pod_id, pod.project, memory_mib=pod.memory_asked_mib + MACHINE_OVERHEAD_MIB):
                machine, channel = await self._machines.start(pod, self.containers_of(pod_id),
                                                              self._listener(pod_id))
        except BaseException as error:
            await asyncio.shield(self._undo(pod_id, _reason(error)))
            raise
        sandbox = self._running[pod_id] = Sandbox(pod_id, machine, channel)
        self._store.pods.put(replace(self._pod(pod_id), seated=self._disks.needed(self.containers_of(pod_id))))
        self._set_state(pod_id, SandboxState.READY)
        self._watch(sandbox)
        return sandbox

    def withdraw(self, pod_id: str) -> bool:
        """Have a start that still waits for its turn fail at once. False: none does."""
        return self._starts.withdraw(pod_id, Conflict("It was stopped while its start waited for its turn",
                                                      field="pod", value=pod_id))

    async def stop(self, pod_id: str, *, discard: bool = False) -> None:
        """Take the machine down and let go of its network; disks stay. Idempotent.

        :param discard: nobody will look at the containers' disks again, so the guest need not write them out; volumes
            outlive their containers, so they are written out all the same.
        """
        sandbox = self._running.pop(pod_id, None)
        pod = self._pod(pod_id)
        if sandbox is None and pod.state in (SandboxState.ABSENT, SandboxState.FAILED):
            return
        if pod.state is not SandboxState.STOPPING:
            self._set_state(pod_id, SandboxState.STOPPING)
        self._unwatch(pod_id)
        if sandbox is not None:
            # So that the writable file systems are whole; what kills the VM at once is only a silent guest.
            if not discard or pod.owned:
                with contextlib.suppress(HyperStackError, TimeoutError):
                    async with asyncio.timeout(_SHUTDOWN_S):
                        await sandbox.channel.shutdown()
                        await sandbox.machine.wait()
            await sandbox.close()
            await sandbox.machine.destroy()
        await self._release(pod_id, SandboxState.ABSENT, "")

    async def publish(self, pod_id: str) -> None:
        """Open the pod's ports to the host. Idempotent."""
        await self._networks.publish(self._pod(pod_id))

    async def follow_networks(self, pod_id: str) -> None:
        """Have the running guest on the networks of its pod's record, and its containers know of them. Idempotent.

        :raise GuestError: the agent is too old for it. :raise UnsupportedOption: its kernel has no macvlan.
        """
        sandbox, pod = self.require(pod_id), self._pod(pod_id)
        await tell_networks(sandbox.channel, pod)
        await self._tell_names(sandbox)

    async def leave_networks(self, pod_id: str) -> None:
        """Take a running pod off every network, and free its addresses and ports: the container that had them is gone,
        and the VM stays for those that joined it or that read its volumes. It is on no network again, as in Docker.

        :raise Unavailable: the host refuses; the next start of the daemon does it.
        """
        pod = self._pod(pod_id)
        alone = self._store.pods.put(replace(pod, spec=pod.spec.on(()), binding=None, further=(), ports=()))
        await self._networks.rewire(alone)
        if (sandbox := self.get(pod_id)) is not None:
            try:
                await tell_networks(sandbox.channel, alone)
            except HyperStackError as error:
                log.warning("pod %s is on no network any more, which its guest does not know: %s", pod_id[:12], error)

    async def follow_links(self, pod_ids: Iterable[str]) -> None:
        """Have the running containers of these pods know where those are now to whom they link. A guest that does not
        take it in good time keeps what it knew. Needs no lock: what is told is what holds when it is told.
        """
        running = [sandbox for pod_id in pod_ids if (sandbox := self._running.get(pod_id)) is not None]
        told = await asyncio.gather(*(self._tell_names(sandbox, deadline_s=_FILES_S) for sandbox in running),
                                    return_exceptions=True)
        for sandbox, outcome in zip(running, told, strict=True):
            if isinstance(outcome, BaseException):
                log.warning("pod %s does not know of a link's new address: %s", sandbox.pod_id[:12], outcome)

    async def _tell_names(self, sandbox: Sandbox, *, deadline_s: float = CALL_DEADLINE_S) -> None:
        for container in list(sandbox.prepared):
            pod = self._pod(sandbox.pod_id)
            await sandbox.channel.files(container, launch.name_files(pod, linking.hosts(self._store, pod)),
                                        deadline_s=deadline_s)

    async def make_room(self, container: ContainerRecord, wanted: Resources, beside: Sequence[ContainerRecord]) -> None:
        """Have the container's running VM large enough for these limits; see `Growth.make_room`."""
        pod = self._pod(container.pod_id)
        await self._growth.make_room(self.require(pod.id), pod, container, wanted, beside)

    async def fail(self, pod_id: str, reason: str) -> None:
        """Take down what is left of a machine that died or must die, and keep the reason. Idempotent."""
        if self._pod(pod_id).state not in (SandboxState.ABSENT, SandboxState.FAILED):
            await self._undo(pod_id, reason)

    async def adopt(self, pod: PodRecord) -> tuple[Sandbox, messages.ListReply] | None:
        """The sandbox of a pod that an earlier daemon left READY, connected again, and what is in it.

        None where its machine is gone. :raise GuestError: it is there, but does not answer any more.
        """
        machine = await self._hypervisor.adopt(pod.machine)
        if machine is None:
            return None
        channel = await self._machines.connect(pod, machine, self._kernels.get(pod.kernel), self._listener(pod.id))
        listing = await channel.list_all()
        handles = [p.handle for p in listing.processes]
        sandbox = Sandbox(pod.id, machine, channel, next_handle=max(handles, default=0) + 1)
        sandbox.prepared.update(c.id for c in listing.containers)
        self._running[pod.id] = sandbox
        self._watch(sandbox)
        if not pod.seated:
            self._note_disks(pod.id)
        if pod.rewired:
            # A daemon that died may have stored a change that the guest was not told of.
            await self.follow_networks(pod.id)
        if pod.grown:
            try:
                await self._growth.follow(sandbox, pod)
            except Unsupported as error:
                log.warning("pod %s: %s", pod.id[:12], error)
        return sandbox, listing

    def _note_disks(self, pod_id: str) -> None:
        """Of a pod of a version that did not write down what its VM was started with, which was all that there is."""
        containers = self.containers_of(pod_id)
        try:
            self._store.pods.put(self._disks.own(self._pod(pod_id), containers))
            self._store.pods.put(replace(self._pod(pod_id), seated=self._disks.needed(containers)))
        except NotFound as error:  # its containers run on, though none of them can start again
            log.warning("pod %s: %s", pod_id[:12], error)

    async def close(self) -> None:
        """Let go of every machine; they run on."""
        for pod_id in list(self._watchers):
            self._unwatch(pod_id)
        for sandbox in self._running.values():
            await sandbox.close()
        self._running.clear()
        await self._hypervisor.close()

    def containers_of(self, pod_id: str) -> list[ContainerRecord]:
        found = [c for c in self._store.containers.all() if c.pod_id == pod_id]
        return sorted(found, key=lambda c: (not c.init, c.order))

    def _listener(self, pod_id: str) -> EventHandler:
        async def hear(event: messages.Event) -> None:
            if self.observer is not None:
                self.observer.guest_event(pod_id, event)

        return hear

    # -- the end of a sandbox

    async def _undo(self, pod_id: str, reason: str) -> None:
        self._unwatch(pod_id)
        sandbox = self._running.pop(pod_id, None)
        if sandbox is not None:
            await sandbox.close()
            await sandbox.machine.destroy()
        pod = self._pod(pod_id)
        if pod.state is not SandboxState.FAILED:
            self._set_state(pod_id, SandboxState.FAILED, reason=reason)
        await self._release(pod_id, SandboxState.FAILED, reason)

    async def _release(self, pod_id: str, state: SandboxState, reason: str) -> None:
        """The host's side of the sandbox is finished; only then the record forgets what it held."""
        pod = self._pod(pod_id)
        await self._hypervisor.destroy_leftovers(pod.machine)
        await self._networks.unplug(pod)
        self._store.pods.put(replace(pod, state=state, reason=reason, binding=None, further=(), nic=False, ports=(),
                                     agent_key=b"", machine_id="", started_at=0, seated={}, plugged={},
                                     owned=(), shared={}))
        self.let_go(pod.shared)

    def let_go(self, shared: Mapping[str, str]) -> None:
        """Of what others served: ports -> pods."""
        for port, server in shared.items():
            if self.observer is not None:
                self.observer.served_no_more(server, port)

    # -- watching

    def _watch(self, sandbox: Sandbox) -> None:
        self._watchers[sandbox.pod_id] = asyncio.create_task(self._watch_one(sandbox))

    def _unwatch(self, pod_id: str) -> None:
        watcher = self._watchers.pop(pod_id, None)
        if watcher is not None and watcher is not asyncio.current_task():
            watcher.cancel()

    async def _watch_one(self, sandbox: Sandbox) -> None:
        reason = await lost(sandbox.machine, sandbox.channel, keepalive_s=self._config.keepalive_s,
                            deadline_s=self._config.keepalive_deadline_s)
        log.warning("pod %s: %s", sandbox.pod_id[:12], reason)
        if self.observer is not None:
            self.observer.sandbox_lost(sandbox, reason)

    def _pod(self, pod_id: str) -> PodRecord:
        pod = self._store.pods.get(pod_id)
        assert pod is not None, pod_id
        return pod

    def _set_state(self, pod_id: str, state: SandboxState, *, reason: str = "") -> None:
        pod = self._pod(pod_id)
        started = time.time_ns() if state is SandboxState.READY else pod.started_at
        self._store.pods.put(replace(pod, state=check_sandbox(pod_id, pod.state, state), reason=reason,
                                     started_at=started))


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, HyperStackError) else f"{type(error).__name__}: {error}"
