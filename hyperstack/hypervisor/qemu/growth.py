"""What a machine can be given while it runs, without anything being plugged in.

Processors: there are a few more than its guest brings up at boot (`maxcpus=`); the agent brings them up when needed.
Memory: a virtio-mem device stands for a large range of addresses of which the guest has nothing. It is told how much it
may have, and its driver takes that in blocks. What nobody uses of either costs the host nothing that was measured
(docs/hypervisor.md), and a clone or a fork has both from its template.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hyperstack.hypervisor.api import MachineSpec, Room
from hyperstack.hypervisor.qemu.cgroups import Cgroup, Limits
from hyperstack.pod.errors import Exhausted, Unavailable, Unsupported

DEVICE = "more0"
"""Of the memory that is there to be given."""
BLOCK_MIB = 128
"""In which Linux takes memory."""
_BACKEND = "more"
_SLOT = 0xA
"""On the PCI bus: an even one, see the balloon in command.py."""
_VCPUS = 4
_MORE_MIB = 16 << 10
"""QEMU notes for each page whether it was written to: 0.1 MiB of its own for a GiB."""
_GIB_MIB = 1 << 10
_LOW_MAX_MIB, _LOW_MIB = 2816, 2048
"""A q35 with as much RAM or more has so much of it below 4 GiB, with less all."""
_GAP_MIB = _GIB_MIB
"""Behind RAM, for what a guest's kernel puts there: it does not know which addresses the device has, but where ACPI's
interpreter tells it, and places the PCI devices' registers at the first that look free."""

_OVERHEAD_MIB = 160
"""What a QEMU may take beyond its guest's RAM. Measured under load (docs/hypervisor.md): 79 MiB with 5 disks and one
processor, 88 MiB with 101 disks and four; at most 12 more once the translation buffer is full. The rest is room for
the page cache of its disks, which is on the same account."""
_TLB_SHARE = 32
"""Emulation remembers translated addresses per processor, the more the larger the guest's working set: 24 MiB were
seen for 2 GiB touched at random, with page tables. This allows for 64."""
_THREADS = 96
"""Of a machine beyond its processors: QEMU's own two, and up to 64 that do its disk I/O."""
_GIVEN_POLL_S, _GIVEN_POLLS = 0.02, 500
"""A guest takes memory at once, some 10 GiB in a second."""


def processors(spec: MachineSpec) -> int:
    """That there are, those which the guest does not bring up at boot among them."""
    return max(spec.vcpus, min(_VCPUS, os.cpu_count() or 1))


def more_mib() -> int:
    """Memory that each machine of this host can be given. None where the host promises no more than it has: there the
    mere range would count."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        return 0
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return min(total, _MORE_MIB) // BLOCK_MIB * BLOCK_MIB


def options(spec: MachineSpec) -> list[str]:
    """QEMU's, of memory and processors."""
    line = ["-smp", f"{processors(spec)}"]
    more = more_mib()
    if not more:
        return ["-m", f"{spec.memory_mib}", *line]
    high = spec.memory_mib - _LOW_MIB if spec.memory_mib >= _LOW_MAX_MIB else 0
    address = 4 * _GIB_MIB + -(-high // _GIB_MIB) * _GIB_MIB + _GAP_MIB
    return ["-m", f"{spec.memory_mib},maxmem={spec.memory_mib + _GAP_MIB + more}M", *line,
            "-object", f"memory-backend-ram,id={_BACKEND},size={more}M",
            "-device", f"virtio-mem-pci,id={DEVICE},memdev={_BACKEND},requested-size=0,memaddr={address << 20:#x}"
            f",addr={_SLOT:#x}"]


def kernel_words(spec: MachineSpec) -> str:
    """Of the kernel's command line: what is given later is not taken at boot, and used as soon as it is there."""
    return f"maxcpus={spec.vcpus} memhp_default_state=online"


def limits(*, memory_mib: int, vcpus: int, processors: int) -> Limits:
    """Of a machine's control group. Where it has processors to spare, it may use no more of the host's than for those
    that its guest is to use and for QEMU's own work: what a container may use of them, its guest's kernel sees to.

    :param vcpus: that its guest is to use; of `processors` that there are.
    """
    overhead = _OVERHEAD_MIB + vcpus * memory_mib // _TLB_SHARE
    bound = vcpus < processors and vcpus + 1 < (os.cpu_count() or 1)
    return Limits(memory_bytes=(memory_mib + overhead) << 20, cpus=vcpus + 1 if bound else 0,
                  pids=processors + _THREADS)


class Execute(Protocol):
    """Of a machine's monitor. :raise Unavailable: QEMU is gone, or refuses."""

    async def __call__(self, name: str, arguments: Mapping[str, object] | None = None) -> Any: ...


class Growth:
    """Of one running machine."""

    def __init__(self, ident: str, execute: Execute, cgroup: Cgroup) -> None:
        self._ident = ident
        self._execute = execute
        self._cgroup = cgroup

    async def room(self) -> Room:
        """As `api.Machine.room`."""
        ram, more, _ = await self._memory()
        return Room(memory_mib=(ram + more) >> 20, vcpus=await self._processors())

    async def grow(self, *, memory_mib: int, vcpus: int) -> int:
        """As `api.Machine.grow`."""
        ram, more, given = await self._memory()
        block = BLOCK_MIB << 20
        wanted = max(given, -(-((memory_mib << 20) - ram) // block) * block)
        there = await self._processors()
        if wanted > more or vcpus > there:
            raise Exhausted(f"machine {self._ident[:12]} can have {(ram + more) >> 20} MiB and {there} processors",
                            field="memory_mib" if wanted > more else "vcpus")
        self._limit(ram + wanted, vcpus, there)
        if wanted > given:
            try:
                await self._give(wanted, before=given)
            except Unsupported:
                self._limit(ram + given, vcpus, there)
                raise
        return (ram + wanted) >> 20

    def _limit(self, memory: int, vcpus: int, there: int) -> None:
        try:
            self._cgroup.limit(limits(memory_mib=memory >> 20, vcpus=vcpus, processors=there))
        except OSError as error:
            raise Unavailable(f"the machine's control group cannot be changed: {error.strerror}") from error

    async def _give(self, size: int, *, before: int) -> None:
        """:raise Unsupported: the guest does not take it."""
        await self._request(size)
        for _ in range(_GIVEN_POLLS):
            _, _, given = await self._memory()
            if given >= size:
                return
            await asyncio.sleep(_GIVEN_POLL_S)
        await self._request(before)
        raise Unsupported("more memory while it runs", "the machine's kernel")

    async def _request(self, size: int) -> None:
        """Tell the guest that it may have so many bytes."""
        await self._execute("qom-set", {"path": f"/machine/peripheral/{DEVICE}", "property": "requested-size",
                                        "value": size})

    async def _memory(self) -> tuple[int, int, int]:
        """Bytes: the RAM that it was started with, what it can be given, and what of that the guest has."""
        summary = await self._execute("query-memory-size-summary")
        found = [item["data"] for item in await self._execute("query-memory-devices")
                 if item.get("data", {}).get("id") == DEVICE]
        ram = int(summary["base-memory"])
        return (ram, int(found[0]["max-size"]), int(found[0]["size"])) if found else (ram, 0, 0)

    async def _processors(self) -> int:
        return len(await self._execute("query-cpus-fast"))
