"""Room for containers in VMs that run: memory and processors that a VM is given after its start.

First the record, then the host, then the guest; a daemon that died in between does it again when it adopts the VM. A VM
that has grown keeps what it has until it ends; the next one is made as large as its containers need it then.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines import launch
from hyperstack.engine.machines.start_queue import StartQueue
from hyperstack.engine.records import ContainerRecord, PodRecord
from hyperstack.engine.store import Store
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.connection import GuestCallError
from hyperstack.hypervisor.api import Machine, Room
from hyperstack.pod.errors import Exhausted, GuestError, HyperStackError, InvalidArgument, Unsupported
from hyperstack.pod.kernel import Kernel
from hyperstack.pod.spec import Resources

_RESTART = "stop the pod's containers and start them again: the machine is made large enough for all of them"
_KERNELS_MIB, _TABLES_SHARE = 64, 64
"""MiB, and share, of the RAM: at most what a kernel takes of it at boot, for itself and its tables of the pages."""
_POLL_S, _POLLS = 0.02, 250


class Vm(Protocol):
    """What is asked of `hyperstack.engine.machines.sandboxes.Sandbox`."""

    machine: Machine
    channel: AgentChannel


class Kernels(Protocol):
    def get(self, name: str) -> Kernel: ...


class Growth:
    """The caller holds the pod's lock."""

    def __init__(self, store: Store, kernels: Kernels, starts: StartQueue, config: EngineConfig) -> None:
        self._store = store
        self._kernels = kernels
        self._starts = starts
        self._config = config

    async def make_room(self, vm: Vm, pod: PodRecord, container: ContainerRecord, wanted: Resources,
                        beside: Sequence[ContainerRecord]) -> None:
        """Have the container's VM large enough for these limits.

        :param beside: the pod's other containers that have a process.
        :raise InvalidArgument: it cannot be; says what there is, and nothing has changed.
        :raise Exhausted: the host has no memory for it.
        """
        larger = self._larger(pod, container, wanted, beside)
        if larger == pod:
            return
        try:
            room = await vm.machine.room()
        except Unsupported:
            room = Room(memory_mib=pod.memory_mib, vcpus=pod.vcpus)
        _check(larger, room, wanted, sum(c.spec.resources.memory for c in beside))
        larger = replace(larger, vcpus=min(larger.vcpus, room.vcpus))
        extra, there = larger.memory_asked_mib - pod.memory_asked_mib, self._starts.room_mib()
        if extra > max(0, there):
            raise Exhausted(f"The machine may come to need {extra} MiB more, and the host has {max(0, there)} MiB for "
                            "machines", field="memory", value=wanted.memory,
                            hint="stop what is not needed any more, or ask for less with -m")
        try:
            await self.follow(vm, self._store.pods.put(larger))
        except HyperStackError as error:
            self._store.pods.put(pod)
            if isinstance(error, Unsupported):
                raise InvalidArgument(f"The running machine has {launch.room_of(pod) >> 20} MiB for containers, and "
                                      f"{error.message}", field="memory", value=wanted.memory, hint=_RESTART) from error
            raise

    async def follow(self, vm: Vm, pod: PodRecord) -> None:
        """Give the VM what the record says. Idempotent.

        :raise Unsupported: its kernel takes no memory. :raise GuestError: its agent is too old, or does not answer.
        """
        memory_mib = await vm.machine.grow(memory_mib=max(pod.memory_mib, pod.memory_asked_mib), vcpus=pod.vcpus)
        pod = self._store.pods.put(replace(pod, memory_mib=memory_mib))
        await _settled(vm.channel, memory_mib)
        try:
            await vm.channel.grow(memory_reserve=launch.reserve(pod), vcpus=pod.vcpus)
        except GuestCallError as error:
            if error.errno != errno.ENOSYS:
                raise
            raise GuestError("the pod runs with an agent that cannot make its machine larger", field="pod",
                             value=pod.id, hint="restart it: its next VM has a newer one") from error

    def _larger(self, pod: PodRecord, container: ContainerRecord, wanted: Resources, beside: Sequence[ContainerRecord]
                ) -> PodRecord:
        """As the pod would be recorded; the same where it is large enough."""
        together = [*beside, replace(container, spec=replace(container.spec, resources=wanted))]
        used = sum(c.spec.resources.memory for c in together)
        vcpus = launch.machine_vcpus(pod, together)
        if vcpus > pod.vcpus:
            pod = replace(pod, vcpus=vcpus, grown=True)
        if wanted.memory and used > launch.room_of(pod):
            asked = launch.machine_memory_mib(pod, together, self._kernels.get(pod.kernel), self._config)
            if not pod.spec.memory:
                asked = max(asked, launch.memory_around_mib(used))
            pod = replace(pod, memory_asked_mib=asked, grown=True)
        return pod


async def _settled(channel: AgentChannel, memory_mib: int) -> None:
    """Wait until the guest's kernel has made memory of its last block, too: the host knows only that it was taken.

    :raise Unsupported: it does not.
    """
    least = memory_mib - _KERNELS_MIB - memory_mib // _TABLES_SHARE
    for _ in range(_POLLS):
        if (await channel.stats()).memory_total >> 20 >= least:
            return
        await asyncio.sleep(_POLL_S)
    raise Unsupported("more memory while it runs", "the machine's kernel")


def _check(larger: PodRecord, room: Room, wanted: Resources, used: int) -> None:
    """:param used: bytes, of others. :raise InvalidArgument: the VM cannot become as large."""
    hint = _RESTART if larger.implicit else "ask for less, or change the pod's manifest and make it anew"
    most = launch.room_within(min(larger.memory_asked_mib, room.memory_mib))
    if wanted.memory and wanted.memory + used > most:
        most = launch.room_within(larger.memory_asked_mib if larger.spec.memory else room.memory_mib)
        others = f", and others hold limits of {used >> 20} MiB" if used else ""
        raise InvalidArgument(f"The running machine can have {most >> 20} MiB for containers{others}: a limit of "
                              f"{wanted.memory >> 20} MiB does not fit", field="memory", value=wanted.memory, hint=hint)
    cpus = larger.vcpus if larger.spec.vcpus else room.vcpus
    if wanted.nano_cpus > cpus * 10**9:
        raise InvalidArgument(f"range of CPUs is from 0.01 to {cpus}.00, as the running machine can have {cpus}",
                              field="NanoCpus", value=wanted.nano_cpus, hint=hint)
