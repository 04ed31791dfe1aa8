"""A pod's machine comes up: one that stood ready, a clone of a template, or one that boots."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Coroutine
from typing import Any, Protocol

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines import cpusets, greeting, launch
from hyperstack.engine.machines.pool import POOL_ORIGIN, Pool, Ready
from hyperstack.engine.machines.templates import Templates
from hyperstack.engine.machines.uids import Uids
from hyperstack.engine.networks.placement import exposed_ports
from hyperstack.engine.networks.service import NetworkService
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.storage.disks import PodDisks
from hyperstack.engine.store import Store
from hyperstack.guest import messages
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.connection import EventHandler, GuestCallError
from hyperstack.hypervisor.api import Hypervisor, Machine, MachineSpec, Nic, Template
from hyperstack.pod.errors import GuestError, HyperStackError, Unavailable, Unsupported, UnsupportedOption
from hyperstack.pod.kernel import Kernel
from hyperstack.pod.states import SandboxState, check_sandbox

log = logging.getLogger(__name__)

_MOVE_IN_S = 5.0
"""For a machine that stood ready to take over a pod's names and network; another can be started in its place."""


class Kernels(Protocol):
    """What the engine asks of the store of guest kernels."""

    def get(self, name: str) -> Kernel:
        """:raise NotFound: no such kernel; the empty name is the default."""

    def list_all(self) -> list[Kernel]: ...


class Machines:
    def __init__(self, store: Store, hypervisor: Hypervisor, kernels: Kernels, networks: NetworkService,
                 disks: PodDisks, templates: Templates, pool: Pool, uids: Uids, config: EngineConfig) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._kernels = kernels
        self._networks = networks
        self._disks = disks
        self._templates = templates
        self._pool = pool
        self._uids = uids
        self._config = config

    def decide(self, pod: PodRecord, containers: list[ContainerRecord]) -> PodRecord:
        """Everything that the start will make on the host, stored before it is made."""
        kernel = self._kernels.get(pod.spec.kernel)
        asked = launch.machine_memory_mib(pod, containers, kernel, self._config)
        pod = replace(pod, vm_uid=pod.vm_uid or self._uids.free(), agent_key=secrets.token_bytes(16),
                      memory_mib=self._templates.memory_mib(asked), memory_asked_mib=asked, grown=False, origin="",
                      vcpus=launch.machine_vcpus(pod, containers), kernel=kernel.name, kernel_release=kernel.release,
                      state=check_sandbox(pod.id, pod.state, SandboxState.STARTING), reason="")
        pod = self._disks.own(pod, containers)
        return self._store.pods.put(self._networks.placement.plan(pod, exposed_ports(containers)))

    async def start(self, pod: PodRecord, containers: list[ContainerRecord], hear: EventHandler
                    ) -> tuple[Machine, AgentChannel]:
        """What was decided: a machine whose guest knows of its disks, volumes and networks.

        :raise HyperStackError: see the doors of the rooms. GuestError: the kernel or the agent did not come up.
        """
        kernel = self._kernels.get(pod.kernel)
        template = self._templates.take(pod.project, kernel, memory_mib=pod.memory_mib, vcpus=pod.vcpus,
                                        nic=pod.binding is not None)
        ready = None if template is None else self._pool.take(template)
        if ready is None:
            self._hypervisor.expect_start()
        if ready is not None and await self._move_in(pod, containers, ready, hear):
            machine, channel = ready.machine, ready.channel
        else:
            pod = self._pod(pod.id)
            machine, channel = await self._bring_up(pod, containers, kernel, template, hear)
            await channel.configure(launch.configuration(pod, machine.disk_names))
        if pod.further:
            await tell_networks(channel, pod)
        if containers:
            for name, serial in self._disks.volumes_of(containers):
                await channel.volume(messages.Volume(name=name, serial=serial))
        for volume in (*self._disks.memory_of(containers), *launch.scratch_volumes(pod, containers)):
            await channel.volume(volume)
        if cpus := cpusets.of_pod(containers):
            await machine.pin(cpus)
        return machine, channel

    async def _move_in(self, pod: PodRecord, containers: list[ContainerRecord], ready: Ready, hear: EventHandler
                       ) -> bool:
        """Whether the machine that stood ready is the pod's now. Where anything of that fails it is gone, and the pod's
        can be started in the ordinary way."""
        pod = self._store.pods.put(replace(pod, machine_id=ready.machine.id, vm_uid=ready.uid, agent_key=ready.key,
                                           origin=POOL_ORIGIN))
        self._uids.give_back(ready.uid)
        ready.on_event = hear
        try:
            await _all(self._networks.plug_spare(pod), self._move_disks_in(pod, containers, ready))
        except BaseException as error:
            await asyncio.shield(self._pool.discard(ready))
            if not isinstance(error, HyperStackError | OSError):
                raise
            log.warning("pod %s cannot have %s, which stood ready: %s", pod.id[:12], ready.machine.id, error)
            self._store.pods.put(replace(self._pod(pod.id), machine_id="", origin=""))
            return False
        return True

    async def _move_disks_in(self, pod: PodRecord, containers: list[ContainerRecord], ready: Ready) -> None:
        """And tell the guest's agent, in the same call as all else that it needs to know of the pod."""
        with self._disks.opened(pod, containers) as disks:
            try:
                await ready.machine.equip(disks, None)
            except Unsupported:
                for disk in disks:
                    await ready.machine.attach_disk(disk)
        await ready.channel.configure(launch.configuration(pod, ready.machine.disk_names), deadline_s=_MOVE_IN_S)

    async def _bring_up(self, pod: PodRecord, containers: list[ContainerRecord], kernel: Kernel,
                        template: Template | None, hear: EventHandler) -> tuple[Machine, AgentChannel]:
        """A machine whose agent answers: a clone where there is a template that is good for one, else a boot."""
        if template is not None:
            try:
                return await self._start_machine(pod, containers, kernel, template, hear)
            except (Unavailable, GuestError) as error:
                await self._templates.distrust(template, error)
                await self._hypervisor.destroy_leftovers(pod.id)
        return await self._start_machine(pod, containers, kernel, None, hear)

    async def _start_machine(self, pod: PodRecord, containers: list[ContainerRecord], kernel: Kernel,
                             template: Template | None, hear: EventHandler) -> tuple[Machine, AgentChannel]:
        with contextlib.ExitStack() as stack:
            disks = stack.enter_context(self._disks.opened(pod, containers))
            tap = await self._networks.plug(pod)
            if tap is not None:
                stack.callback(os.close, tap)
            nic = None if tap is None else Nic(fd=tap, mac=pod.bindings[0].mac)
            machine = await self._hypervisor.start(MachineSpec(
                id=pod.id, uid=pod.vm_uid, kernel=kernel, memory_mib=pod.memory_mib, vcpus=pod.vcpus, disks=disks,
                nic=nic, template=template))
        self._store.pods.put(replace(self._pod(pod.id), origin=machine.origin.value))
        return machine, await self.connect(pod, machine, kernel, hear)

    async def connect(self, pod: PodRecord, machine: Machine, kernel: Kernel, hear: EventHandler) -> AgentChannel:
        """:raise GuestError: the machine died, or its agent did not answer in time; with the console's last lines."""
        try:
            return await greeting.greet(machine, pod.agent_key, on_event=hear,
                                        deadline_s=self._config.boot_deadline_s)
        except greeting.NoAnswer as error:
            raise GuestError(f"The kernel {kernel.name} did not bring up the agent: {error.why}"
                             f"{greeting.last_lines(error.console)}", field="kernel", value=kernel.name,
                             hint="is this kernel fit for a HyperVM?") from error

    def _pod(self, pod_id: str) -> PodRecord:
        pod = self._store.pods.get(pod_id)
        assert pod is not None, pod_id
        return pod


async def tell_networks(channel: AgentChannel, pod: PodRecord) -> None:
    """:raise GuestError: the agent is too old. :raise UnsupportedOption: the kernel cannot."""
    try:
        await channel.networks(launch.networks(pod))
    except GuestCallError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise UnsupportedOption("a pod on several networks", f"its kernel {pod.kernel} has no macvlan",
                                    hint="choose one that has: hyperctl kernel ls") from error
        if error.errno != errno.ENOSYS:
            raise
        raise GuestError("the pod runs with an agent that cannot change its networks", field="pod", value=pod.id,
                         hint="restart it: its next VM has a newer one") from error


async def _all(*work: Coroutine[Any, Any, object]) -> None:
    """Each to its end, beside the others; raises what the first of them did that failed."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
