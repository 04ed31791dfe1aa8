"""A daemon's part in the adoption tests: a process that starts or changes a machine, and is killed at a chosen step.

    python -m tests.vm.qemu_daemon start   RUN_DIR ID KERNEL INITRD [FUNCTION before|after]
    python -m tests.vm.qemu_daemon disks   RUN_DIR ID IMAGE

With FUNCTION, it kills itself right before or after that function of the hypervisor ran; without, it prints a line once
the machine runs and then waits to be killed. `disks` attaches and detaches a disk for ever.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hyperstack.hypervisor.api import Disk, MachineSpec
from hyperstack.hypervisor.qemu import backend, launcher, place, qmp
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.hypervisor.qemu.cgroups import Cgroup
from hyperstack.hypervisor.qemu.machine import QemuMachine
from hyperstack.hypervisor.qemu.process import VmmProcess
from hyperstack.pod.kernel import Kernel
from tests.vm import agent_vm
from tests.vm.qemu_guest import UID

STEPS: dict[str, tuple[Any, str]] = {
    "create": (Cgroup, "create"),
    "open_directory": (place.Place, "open_directory"),
    "listen_unix": (backend, "listen_unix"),
    "new_last_words": (backend, "new_last_words"),
    "spawn": (launcher, "spawn"),
    "started": (VmmProcess, "started"),
    "connect": (qmp.Monitor, "connect"),
    "execute": (qmp.Monitor, "execute"),
    "open": (QemuMachine, "open"),
}
"""In the order in which `start` takes them."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(owner: Any, name: str, when: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def around(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            _die()
        result = original(*arguments, **options)
        if not asyncio.iscoroutine(result):
            _die()
        return _die_after(result)

    setattr(owner, name, staticmethod(around) if name == "started" else around)


async def _die_after(running: Awaitable[Any]) -> None:
    await running
    _die()


async def _start(run_dir: str, ident: str, image: str, initrd: str, step: str = "", when: str = "") -> None:
    made = QemuHypervisor(Path(run_dir), agent_vm.CACHE)
    await made.probe()
    if step:
        _kill_at(*STEPS[step], when)
    await made.start(MachineSpec(id=ident, uid=UID, memory_mib=128,
                                 kernel=Kernel(name="test", image=Path(image), initrd=Path(initrd))))
    print("started", flush=True)
    await asyncio.sleep(600)


async def _disks(run_dir: str, ident: str, image: str) -> None:
    machine = await QemuHypervisor(Path(run_dir), agent_vm.CACHE).adopt(ident)
    assert machine
    print("adopted", flush=True)
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    while True:
        await machine.attach_disk(Disk(serial="again", fd=fd, read_only=True))
        await machine.detach_disk("again")


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    asyncio.run(_start(*rest) if verb == "start" else _disks(*rest))
