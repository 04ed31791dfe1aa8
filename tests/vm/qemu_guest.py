"""A guest for tests of the hypervisor alone: the product's kernel and drivers, with busybox's shell for an agent.

The shell reads a command per line from the agent's port and answers with its output and a line ``done STATUS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperstack.hypervisor.api import TRIAL_PREFIX, Disk, MachineSpec, Template, TemplateSpec
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.hypervisor.qemu.machine import QemuMachine
from hyperstack.pod.kernel import Kernel
from tests.vm import agent_vm

UID = 2_000_000
_DEADLINE_S = 120.0

_INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
exec </dev/console >/dev/console 2>&1
while read -r module; do /bin/busybox insmod /modules/$module; done </modules/order
/bin/busybox mkdir -p /tmp
/bin/busybox --install -s /bin
for port in /sys/class/virtio-ports/*; do exec 3<>/dev/$(basename $port); done
while true; do
    while read -r line <&3; do eval "$line" >&3 2>&3; printf '\\ndone %d\\n' $? >&3; done
    usleep 20000
done
"""


async def make_kernel(directory: Path, init: bytes = _INIT) -> Kernel:
    """The default kernel. An archive is appended to its initramfs; the kernel unpacks both and the last file wins."""
    chosen = await agent_vm.kernel()
    initrd = directory / "initrd"
    extra = (_entry("bin", 0o40755) + _entry("bin/busybox", 0o100755, Path("/bin/busybox").read_bytes())
             + _entry("init", 0o100755, init) + _entry("TRAILER!!!", 0))
    initrd.write_bytes(chosen.initrd.read_bytes() + extra)
    initrd.chmod(0o644)
    return replace(chosen, initrd=initrd)


def _entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One file of a cpio archive in the "newc" format."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return header + bytes(-len(header) % 4) + data + bytes(-len(data) % 4)


class Guest:
    """A machine whose shell answers."""

    def __init__(self, machine: QemuMachine) -> None:
        self.machine = machine

    async def connect(self) -> None:
        """Anew, where it is connected already."""
        self.reader, self._writer = await self.machine.connect_agent()

    async def run(self, command: str) -> tuple[int, str]:
        """Status and output."""
        self._writer.write(command.encode() + b"\n")
        output = b""
        async with asyncio.timeout(_DEADLINE_S):
            while True:
                line = await self.reader.readline()
                assert line, f"the machine hung up; it had said {output!r}"
                if line.startswith(b"done "):
                    return int(line.split()[1]), output.removesuffix(b"\n").decode(errors="replace")
                output += line

    async def succeed(self, command: str) -> str:
        status, output = await self.run(command)
        assert status == 0, (command, status, output)
        return output.strip()

    async def send(self, command: str) -> None:
        """A command that is not expected to answer."""
        self._writer.write(command.encode() + b"\n")
        await self._writer.drain()

    async def disk(self, serial: str) -> str:
        """The device of a disk, waited for."""
        return await self.succeed(
            f"for i in $(seq 200); do for d in /sys/block/sd*; do grep -qs {serial} $d/device/vpd_pg80 && "
            "basename $d && break 2; done; usleep 50000; done")


def spec(kernel: Kernel, **changes: Any) -> MachineSpec:
    return replace(MachineSpec(id=secrets.token_hex(32), uid=UID, kernel=kernel, memory_mib=128), **changes)


@contextlib.asynccontextmanager
async def hypervisor(directory: Path) -> AsyncIterator[QemuHypervisor]:
    """A daemon's worth of machines that never meet another's, and of which nothing is left."""
    made = QemuHypervisor(directory / "run", agent_vm.CACHE)
    try:
        yield made
    finally:
        for ident in await made.list_leftovers():
            await made.destroy_leftovers(ident)
        await made.close()


@contextlib.asynccontextmanager
async def boot(made: QemuHypervisor, kernel: Kernel, **changes: Any) -> AsyncIterator[Guest]:
    """Started, and answering."""
    machine = await made.start(spec(kernel, **changes))
    try:
        guest = Guest(machine)
        await guest.connect()
        await guest.succeed("true")
        yield guest
    finally:
        await machine.destroy()


async def raise_parent(made: QemuHypervisor, kernel: Kernel, *, memory_mib: int = 128, nic: bool = False,
                       disks: tuple[Disk, ...] = ()) -> Template:
    """A template, and a machine that its clones are forked from; a test that needs one is skipped under KVM."""
    template = await made.make_template(
        TemplateSpec(kernel=kernel, memory_mib=memory_mib, vcpus=1, nic=nic, scope=secrets.token_hex(8)),
        ident=TRIAL_PREFIX + secrets.token_hex(8), uid=UID + 1, deadline_s=_DEADLINE_S)
    if made.accelerator != "tcg":
        pytest.skip(f"machines of {made.accelerator} are not forked")
    parent = await made.start_parent(template, ident=TRIAL_PREFIX + secrets.token_hex(8), uid=UID + 2, disks=disks)
    guest = Guest(parent)
    await guest.connect()
    for disk in disks:
        # They were there before the template woke, so no event tells of them.
        await guest.succeed("for host in /sys/class/scsi_host/*; do echo 0 0 - >$host/scan; done")
        assert await guest.disk(disk.serial)
    await guest.succeed("true")
    await made.keep_parent(template, parent)
    return template


@contextlib.contextmanager
def image(path: Path, serial: str, *, read_only: bool = False, size: int = 1 << 20,
          content: bytes = b"") -> Iterator[Disk]:
    """A disk on a new file."""
    path.write_bytes(content)
    os.truncate(path, size)
    fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        yield Disk(serial=serial, fd=fd, read_only=read_only)
    finally:
        os.close(fd)


def traces(directory: Path, ident: str) -> list[str]:
    """What is left of a machine on this host: processes, control groups, files, mounts."""
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/hyperstack-*/{ident}")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"hyperstack-*/{ident}")]
    found += [str(path) for path in (directory / "run").glob(f"{ident}*")]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if ident in (process / "cgroup").read_text():
                found.append(str(process))
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "qemu-root" in line]
    return found
