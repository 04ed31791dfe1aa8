"""A trial boot: whether a kernel brings up the agent, and a container's file systems, limits and namespaces work.

The machine is one as pods have, through the hypervisor's door, with an empty layer, a writable disk and no network. It
runs under a uid that no pod has, and ends with the trial; a daemon that is killed meanwhile ends it at its next start,
as it does with every machine that no record names.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hyperstack.engine.config import EngineConfig
from hyperstack.engine.machines import greeting
from hyperstack.engine.machines.start_queue import MACHINE_OVERHEAD_MIB, StartQueue
from hyperstack.guest import messages
from hyperstack.guest.connection import GuestCallError
from hyperstack.guest.linux import capability_numbers, container_capabilities
from hyperstack.guest.seccomp import default_profile
from hyperstack.hypervisor.api import TRIAL_PREFIX, Disk, Machine, MachineSpec
from hyperstack.image.erofs.writer import Attributes, Directory, ErofsWriter
from hyperstack.pod.errors import GuestError, InvalidArgument
from hyperstack.pod.kernel import Kernel
from hyperstack.volume.local.blank import make_blank_disk

_MEMORY_MIB = 128
_DISK_BYTES = 16 << 20
_LAYER_BYTES = 1 << 20
_LAYER, _WRITABLE = "layer0", "writable"
_CONTAINER = "trial"
_NOBODY = ""
"""The project in whose name it waits for its turn."""
_COMMAND = b"/nowhere"
_DIRECTORY_MODE = 0o40755


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A kernel that can run pods."""

    release: str
    boot_s: float
    """From the start of the machine to the agent's first answer."""


class Machines(Protocol):
    """What a trial asks of a hypervisor."""

    async def start(self, spec: MachineSpec) -> Machine:
        """See `hyperstack.hypervisor.api.Hypervisor`."""


async def try_kernel(hypervisor: Machines, starts: StartQueue, kernel: Kernel, config: EngineConfig, directory: Path,
                     *, advice: str = "") -> Outcome:
    """Boot it when its turn comes, and make a container whose command is not there: the agent says so after all else
    has worked.

    :param directory: for the disks; on a file system with holes.
    :param advice: to be told where it fails.
    :raise InvalidArgument: the kernel does not run pods; with the reason and the console's last lines.
    :raise HyperStackError: the host has no machine for it.
    """
    writable = directory / "writable"
    await make_blank_disk(writable, _DISK_BYTES)
    layer = directory / "layer"
    await asyncio.to_thread(_make_layer, layer, directory / "spool")
    memory_mib = max(_MEMORY_MIB, kernel.min_memory_mib)
    ident = TRIAL_PREFIX + secrets.token_hex(8)
    async with starts.turn(ident, _NOBODY, memory_mib=memory_mib + MACHINE_OVERHEAD_MIB):
        with _opened(layer, writable) as disks:
            started = time.monotonic()
            machine = await hypervisor.start(MachineSpec(
                id=ident, uid=config.kernel_trial_uid, kernel=kernel, memory_mib=memory_mib, disks=disks))
        return await _drive_to_end(machine, kernel, started, config.boot_deadline_s, advice)


async def _drive_to_end(machine: Machine, kernel: Kernel, started: float, deadline_s: float, advice: str) -> Outcome:
    try:
        return await _drive(machine, started, deadline_s)
    except GuestError as error:
        console = await greeting.console_of(machine)
        raise InvalidArgument(f"the kernel does not run pods: {error.message}{advice}{greeting.last_lines(console)}",
                              field="kernel", value=kernel.name) from error
    finally:
        await asyncio.shield(machine.destroy())


async def _drive(machine: Machine, started: float, deadline_s: float) -> Outcome:
    channel = await greeting.greet(machine, secrets.token_bytes(16), deadline_s=deadline_s)
    try:
        boot_s = time.monotonic() - started
        answer = await channel.ping()
        await channel.configure(messages.Configure(time_ns=time.time_ns(), entropy=secrets.token_bytes(64),
                                                   hostname="trial"))
        await channel.create(messages.Create(
            container=_CONTAINER, layers=(_LAYER,), writable=_WRITABLE, read_only=False, mounts=(), files=(),
            limits=messages.Limits(memory=32 << 20, cpu_quota_us=100_000, cpu_period_us=100_000, pids=64),
            masked=(b"/proc/kcore",), readonly=(b"/proc/sys",), privileged=False, shm_size=1 << 20, sysctls={}))
        names = container_capabilities()
        try:
            await channel.start(_CONTAINER, 1, messages.Process(
                argv=(_COMMAND,), env=(), cwd=b"/", user=b"", tty=False, stdin=False,
                capabilities=capability_numbers(names), no_new_privileges=False, rlimits=(),
                seccomp=default_profile(names)))
        except GuestCallError as error:
            if error.errno != errno.ENOENT:
                raise
        return Outcome(release=answer.kernel, boot_s=boot_s)
    finally:
        await channel.close()


def _make_layer(image: Path, spool: Path) -> None:
    with image.open("w+b") as out, spool.open("w+b") as inodes:
        writer = ErofsWriter(out.fileno(), inodes.fileno(), max_bytes=_LAYER_BYTES)
        writer.finish(Directory(Attributes(mode=_DIRECTORY_MODE)), bytes(16))


@contextlib.contextmanager
def _opened(layer: Path, writable: Path) -> Iterator[tuple[Disk, ...]]:
    with contextlib.ExitStack() as stack:
        def opened(path: Path, flags: int) -> int:
            fd = os.open(path, flags | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            return fd

        yield (Disk(serial=_LAYER, fd=opened(layer, os.O_RDONLY), read_only=True),
               Disk(serial=_WRITABLE, fd=opened(writable, os.O_RDWR), read_only=False))
