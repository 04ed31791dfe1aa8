"""A process held by its pidfd: what it takes of the host, and that it is nobody else."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from hyperstack.hypervisor.qemu.process import VmmProcess

_GROWS = """
import sys
block = bytearray(32 << 20)
block[::4096] = bytes([1]) * (32 << 8)
print("touched", flush=True)
sys.stdin.read()
"""


async def test_its_memory_is_told_until_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", _GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = VmmProcess.started(child.pid)
    try:
        assert child.stdout is not None
        await asyncio.to_thread(child.stdout.readline)
        assert 32 << 20 < await process.pss_bytes() < 128 << 20
        process.kill()
        await process.wait()
        assert await process.pss_bytes() == 0
    finally:
        process.close()
        child.communicate()


async def test_who_ends_in_the_middle_costs_nothing_and_is_no_error() -> None:
    for _ in range(20):
        child = subprocess.Popen(["sleep", "0.005"])
        process = VmmProcess.started(child.pid)
        while process.alive:
            assert await process.pss_bytes() >= 0
        assert await process.pss_bytes() == 0
        process.close()
        child.wait()
