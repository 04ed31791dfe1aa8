"""The hypervisor room without a daemon: from the start of a VM's process until the agent in the guest answers."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path

from bench.executions import Executions
from bench.plain_qemu import MEMORY_MIB
from bench.report import say
from bench.samples import Samples
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.guest.kernels import KernelStore
from hyperstack.hypervisor.api import MachineSpec
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.pod.kernel import Kernel

CLOCK = ("host: the exec of QEMU, as the kernel's process events tell it; until the agent's welcome has arrived. "
         "One processor, 512 MiB, no disk and no NIC")
_UID = 2_100_000
_DEADLINE_S = 120.0


def kernel(cache: Path, name: str) -> Kernel:
    """Of the daemon's store. :raise HyperStackError: it is not there, or not ready to boot."""
    return KernelStore(cache).get(name)


def cold_starts(chosen: Kernel, cache: Path, run_dir: Path, count: int) -> Samples:
    """One machine after the other.

    :raise HyperStackError: a machine did not come up.
    """
    with Executions() as executions:
        answers = asyncio.run(_cold_starts(chosen, cache, run_dir, count))
        began = executions.last()
    return Samples(CLOCK, values=[(answered - began[pid]) / 1e6 for pid, answered in answers])


async def _cold_starts(chosen: Kernel, cache: Path, run_dir: Path, count: int) -> list[tuple[int, int]]:
    """Of each machine the process, and when its agent answered, in ns of the monotonic clock."""
    found = []
    hypervisor = QemuHypervisor(run_dir, cache)
    try:
        await hypervisor.probe()
        for number in range(1 + count):  # The first fills the file caches and does not count.
            say(f"bare machine {number} of {count}")
            found.append(await _cold_start(hypervisor, chosen))
    finally:
        for ident in await hypervisor.list_leftovers():
            await hypervisor.destroy_leftovers(ident)
        await hypervisor.close()
    return found[1:]


async def _cold_start(hypervisor: QemuHypervisor, chosen: Kernel) -> tuple[int, int]:
    machine = await hypervisor.start(MachineSpec(id=secrets.token_hex(32), uid=_UID, kernel=chosen,
                                                 memory_mib=MEMORY_MIB))
    try:
        channel = await AgentChannel.connect(machine.connect_agent, os.urandom(KEY_SIZE), deadline_s=_DEADLINE_S)
        answered_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        await channel.close()
        return machine.pid, answered_ns
    finally:
        await machine.destroy()
