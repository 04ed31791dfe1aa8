"""The hypervisor room without a daemon: from the start of a VM's process until the agent in the guest answers."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path

from bench.plain_qemu import MEMORY_MIB
from bench.proc import started_at
from bench.report import say
from bench.samples import Samples
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.guest.kernels import KernelStore
from hyperstack.hypervisor.api import MachineSpec
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.pod.kernel import Kernel

CLOCK = ("host: when the kernel made the VM's process, which becomes QEMU by exec (10 ms fine, rounded down); until "
         "the agent's welcome has arrived. One processor, 512 MiB, no disk and no NIC")
_UID = 2_100_000
_DEADLINE_S = 120.0


def kernel(cache: Path, name: str) -> Kernel:
    """Of the daemon's store. :raise HyperStackError: it is not there, or not ready to boot."""
    return KernelStore(cache).get(name)


def cold_starts(chosen: Kernel, cache: Path, run_dir: Path, count: int) -> Samples:
    """One machine after the other.

    :raise HyperStackError: a machine did not come up.
    """
    return asyncio.run(_cold_starts(chosen, cache, run_dir, count))


async def _cold_starts(chosen: Kernel, cache: Path, run_dir: Path, count: int) -> Samples:
    found = Samples(CLOCK)
    hypervisor = QemuHypervisor(run_dir, cache)
    try:
        await hypervisor.probe()
        for number in range(1 + count):  # The first fills the file caches and does not count.
            say(f"bare machine {number} of {count}")
            took = await _cold_start(hypervisor, chosen)
            if number:
                found.values.append(took)
    finally:
        for ident in await hypervisor.list_leftovers():
            await hypervisor.destroy_leftovers(ident)
        await hypervisor.close()
    return found


async def _cold_start(hypervisor: QemuHypervisor, chosen: Kernel) -> float:
    machine = await hypervisor.start(MachineSpec(id=secrets.token_hex(32), uid=_UID, kernel=chosen,
                                                 memory_mib=MEMORY_MIB))
    try:
        channel = await AgentChannel.connect(machine.connect_agent, os.urandom(KEY_SIZE), deadline_s=_DEADLINE_S)
        answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        await channel.close()
        return (answered - started_at(machine.pid)) * 1000
    finally:
        await machine.destroy()
