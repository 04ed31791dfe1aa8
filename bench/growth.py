"""What more RAM costs a pod: a machine that is larger from the start, or memory that is added to a running one.

    .venv/bin/python -m bench.growth [--kernel NAME] [--cmdline WORDS] [--samples N] [--add]

A bare QEMU with the machine that pods have, the agent, no disk, no NIC, no jail: so it is the guest's kernel that is
measured. docs/hypervisor.md has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench import proc
from bench.report import say
from hyperstack.guest.channel import AgentChannel
from hyperstack.guest.frames import KEY_SIZE
from hyperstack.guest.kernels import KernelStore
from hyperstack.hypervisor.qemu import command
from hyperstack.hypervisor.qemu.qmp import CommandFailed, Monitor
from hyperstack.pod.errors import GuestError
from hyperstack.pod.kernel import Kernel
from tests.harness import CACHE

_SIZES_MIB = (128, 256, 512, 1024, 2048, 4096)
_SMALL_MIB, _LARGE_MIB = 128, 4096
_ADDED_MIB = (384, 896, 1920, 3968)
"""To the small one, which makes it 512, 1024, 2048, 4096."""
_ENOUGH = 0.97
"""Of what was added: the guest's tables for it are taken from it, or from what was there."""
_PATIENCE_S = 8.0
_DEADLINE_S = 120.0
_SETTLE_S = 2.0
"""For a guest to end what it does after a boot."""
_POLL_S = 0.02
_EMULATED = "tsc=reliable mitigations=off rcupdate.rcu_expedited=1 noreplace-smp cryptomgr.notests"
_DEVICE, _BACKEND = "more", "more-ram"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How memory is added to a running machine."""

    name: str
    options: tuple[str, ...]
    """Of QEMU, for a machine that can have more later."""
    add: Callable[[Monitor, int], Awaitable[None]]
    """:param: MiB."""


@dataclass
class Machine:
    pid: int
    directory: Path
    channel: AgentChannel
    boot_s: float
    """From the start of QEMU to the agent's answer."""
    cpu_s: float
    """What QEMU took of the processors for it."""

    def touched_mib(self) -> float:
        """Guest RAM that the host has given it."""
        return proc.breakdown(proc.smaps(self.pid))["guest RAM"] / 1024

    async def memory_mib(self) -> float:
        """As the guest counts it: without what its kernel took at boot."""
        return (await self.channel.stats()).memory_total / (1 << 20)


@contextlib.asynccontextmanager
async def _booted(kernel: Kernel, memory: str, options: Sequence[str] = ()) -> AsyncIterator[Machine]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        line = ["qemu-system-x86_64", "-M", command._MACHINE, "-accel", "tcg,tb-size=64", "-cpu", command.cpu("tcg"),
                "-m", memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", "qboot.rom",
                "-kernel", str(kernel.image), "-initrd", str(kernel.initrd), "-append",
                f"{command._COMMON_COMMAND_LINE} {_EMULATED} {kernel.command_line}",
                "-serial", f"file:{directory}/console", "-qmp", f"unix:{directory}/qmp,server=on,wait=off",
                "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off",
                "-device", f"virtserialport,chardev=agent,name={command.AGENT_PORT}",
                "-device", "virtio-scsi-pci", *options]
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(*line, stdin=asyncio.subprocess.DEVNULL)
        try:
            channel = await AgentChannel.connect(lambda: asyncio.open_unix_connection(directory / "agent"),
                                                 secrets.token_bytes(KEY_SIZE), deadline_s=_DEADLINE_S)
            async with channel:
                yield Machine(process.pid, directory, channel, time.monotonic() - began, proc.cpu_s(process.pid))
        finally:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def _monitor(machine: Machine) -> AsyncIterator[Monitor]:
    monitor = Monitor(lambda _name, _data: None)
    directory = os.open(machine.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await monitor.connect(directory, "qmp")
        yield monitor
    finally:
        await monitor.close()
        os.close(directory)


async def _boot_each(kernel: Kernel, samples: int) -> None:
    found: dict[int, list[tuple[float, ...]]] = {size: [] for size in _SIZES_MIB}
    for number in range(samples):
        say(f"round {number + 1} of {samples}")
        for size in _SIZES_MIB:
            async with _booted(kernel, str(size)) as machine:
                await asyncio.sleep(_SETTLE_S)
                found[size].append((await machine.memory_mib(), machine.touched_mib(), machine.boot_s * 1000,
                                    machine.cpu_s * 1000))
    print("RAM MiB  usable  touched  boot ms: median, minimum; processor ms: median, minimum")
    for size, rows in found.items():
        usable, touched, boots, work = zip(*rows, strict=True)
        print(f"{size:>7} {statistics.median(usable):>7.0f} {statistics.median(touched):>8.0f} "
              f"{statistics.median(boots):>16.0f} {min(boots):>8.0f} "
              f"{statistics.median(work):>21.0f} {min(work):>8.0f}")


async def _plug_dimm(monitor: Monitor, size_mib: int) -> None:
    await monitor.execute("object-add", {"qom-type": "memory-backend-ram", "id": _BACKEND, "size": size_mib << 20})
    await monitor.execute("device_add", {"driver": "pc-dimm", "id": _DEVICE, "memdev": _BACKEND})


async def _grow_virtio_mem(monitor: Monitor, size_mib: int) -> None:
    await monitor.execute("qom-set", {"path": f"/machine/peripheral/{_DEVICE}", "property": "requested-size",
                                      "value": size_mib << 20})


_WAYS = (
    Way(name="pc-dimm", options=(), add=_plug_dimm),
    Way(name="virtio-mem", add=_grow_virtio_mem,
        options=("-object", f"memory-backend-ram,id={_BACKEND},size={_LARGE_MIB - _SMALL_MIB}M,reserve=off",
                 "-device", f"virtio-mem-pci,id={_DEVICE},memdev={_BACKEND},requested-size=0")))


async def _add_each(kernel: Kernel, samples: int) -> None:
    for way in _WAYS:
        for size in _ADDED_MIB:
            for _ in range(samples):
                async with _booted(kernel, f"{_SMALL_MIB},slots=2,maxmem={_LARGE_MIB}M", way.options) as machine:
                    await asyncio.sleep(_SETTLE_S)
                    before = f"boot {machine.boot_s * 1000:.0f} ms, touched {machine.touched_mib():.1f} MiB"
                    print(f"{way.name} {size:>5} MiB: {before}; {await _added(machine, way, size)}", flush=True)


async def _added(machine: Machine, way: Way, size_mib: int) -> str:
    """How long it took until the guest had all of it, and what it touched for that; in words."""
    target = await machine.memory_mib() + size_mib * _ENOUGH
    async with _monitor(machine) as monitor:
        began = time.monotonic()
        try:
            await way.add(monitor, size_mib)
            while (usable := await machine.memory_mib()) < target:
                if time.monotonic() - began > _PATIENCE_S:
                    return f"the guest takes only {usable:.0f} MiB"
                await asyncio.sleep(_POLL_S)
        except CommandFailed as error:
            return f"refused: {error}"
        except GuestError as error:
            return f"the guest died: {error}"
    took = (time.monotonic() - began) * 1000
    await asyncio.sleep(_SETTLE_S)
    return f"{took:.0f} ms until it has {usable:.0f} MiB, touched {machine.touched_mib():.1f} MiB then"


@click.command()
@click.option("--kernel", "name", default="", help="Of the daemon's store; else its default.")
@click.option("--cmdline", default="", help="More words for the kernel's command line.")
@click.option("--samples", default=5, show_default=True)
@click.option("--add", is_flag=True, help="Measure memory that is added, instead of sizes at boot.")
def main(name: str, cmdline: str, samples: int, *, add: bool) -> None:
    """What more RAM costs a pod's machine, on standard output."""
    kernel = KernelStore(CACHE / "daemon").get(name)
    print(f"kernel {kernel.name} {cmdline}")
    kernel = replace(kernel, command_line=f"{kernel.command_line} {cmdline}")
    asyncio.run((_add_each if add else _boot_each)(kernel, samples))


if __name__ == "__main__":
    main()
