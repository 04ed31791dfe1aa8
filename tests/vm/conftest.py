"""A backend and a kernel for tests of machines, and a container for those whose module has a `guest`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.pod.kernel import Kernel
from tests.vm.agent_vm import Guest
from tests.vm.qemu_guest import hypervisor, make_kernel


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[QemuHypervisor]:
    async with hypervisor(tmp_path) as machines:
        yield machines


@pytest.fixture
async def kernel(tmp_path: Path) -> Kernel:
    return await make_kernel(tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def stopped(guest: Guest) -> AsyncIterator[str]:
    """A container in which nothing runs."""
    name = f"s{guest.handle()}"
    await guest.create(name)
    yield name
    await guest.channel.remove(name)
