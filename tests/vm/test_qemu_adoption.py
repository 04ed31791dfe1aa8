"""What a killed daemon leaves is found again, whole or half-made, and either adopted or removed without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hyperstack.hypervisor.api import ExitKind
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.pod.kernel import Kernel
from tests.vm.qemu_daemon import STEPS
from tests.vm.qemu_guest import Guest, hypervisor, image, traces

_DEADLINE_S = 60


@contextlib.asynccontextmanager
async def daemon(*arguments: str | Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end, if it has not killed itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.vm.qemu_daemon", *map(str, arguments), stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def start_elsewhere(directory: Path, kernel: Kernel) -> str:
    """A machine whose daemon was killed after it had started it; its id."""
    ident = secrets.token_hex(32)
    async with daemon("start", directory / "run", ident, kernel.image, kernel.initrd) as process:
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), _DEADLINE_S) == b"started\n"
    return ident


async def test_a_machine_is_adopted_with_its_disks_agent_and_console(made: QemuHypervisor, kernel: Kernel,
                                                                     tmp_path: Path) -> None:
    ident = await start_elsewhere(tmp_path, kernel)
    assert await made.list_leftovers() == {ident}
    machine = await made.adopt(ident)
    assert machine
    assert await made.adopt(ident) is machine
    guest = Guest(machine)
    await guest.connect()
    assert await guest.succeed("echo still here") == "still here"
    with image(tmp_path / "a", "late0", read_only=True) as disk:
        await machine.attach_disk(disk)
    assert await guest.disk("late0")
    await guest.send("echo c >/proc/sysrq-trigger")
    told = await asyncio.wait_for(machine.wait(), _DEADLINE_S)
    assert told.kind is ExitKind.PANIC
    assert "Kernel panic" in told.console
    await machine.destroy()
    assert traces(tmp_path, ident) == []


async def test_an_end_while_no_daemon_watched_is_known(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    ident = await start_elsewhere(tmp_path, kernel)
    machine = await made.adopt(ident)
    assert machine
    guest = Guest(machine)
    await guest.connect()
    await guest.succeed("(sleep 1; echo c >/proc/sysrq-trigger) & true")
    await made.close()
    await asyncio.sleep(3)
    machine = await made.adopt(ident)
    assert machine
    told = await asyncio.wait_for(machine.wait(), _DEADLINE_S)
    assert told.kind is ExitKind.PANIC
    assert "Kernel panic" in told.console


async def test_the_death_of_an_adopted_vmm_is_told(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    machine = await made.adopt(await start_elsewhere(tmp_path, kernel))
    assert machine
    os.kill(machine.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(machine.wait(), _DEADLINE_S)).kind is ExitKind.KILLED


async def test_a_vmm_that_died_unseen_is_not_adopted(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    ident = await start_elsewhere(tmp_path, kernel)
    pid = next(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cgroup") if ident in path.read_text())
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.5)
    assert await made.adopt(ident) is None
    assert await made.list_leftovers() == {ident}
    await made.destroy_leftovers(ident)
    assert traces(tmp_path, ident) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_start_that_was_cut_off_leaves_nothing_that_is_not_found(
        made: QemuHypervisor, kernel: Kernel, tmp_path: Path, step: str, when: str) -> None:
    ident = secrets.token_hex(32)
    async with daemon("start", tmp_path / "run", ident, kernel.image, kernel.initrd, step, when) as process:
        assert await asyncio.wait_for(process.wait(), _DEADLINE_S) == -signal.SIGKILL
    if (machine := await made.adopt(ident)) is not None:
        guest = Guest(machine)
        await guest.connect()
        await guest.succeed("true")
    assert traces(tmp_path, ident) == [] or await made.list_leftovers() == {ident}
    await made.destroy_leftovers(ident)
    assert await made.list_leftovers() == set()
    assert traces(tmp_path, ident) == []


async def test_a_daemon_killed_in_the_middle_of_commands_leaves_a_usable_monitor(
        made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    ident = await start_elsewhere(tmp_path, kernel)
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    for _ in range(5):
        async with daemon("disks", tmp_path / "run", ident, tmp_path / "image") as process:
            assert process.stdout
            assert await asyncio.wait_for(process.stdout.readline(), _DEADLINE_S) == b"adopted\n"
            await asyncio.sleep(random.uniform(0, 0.3))
    machine = await made.adopt(ident)
    assert machine
    await machine.detach_disk("again")
    with image(tmp_path / "a", "again", read_only=True) as disk:
        await machine.attach_disk(disk)
        await machine.detach_disk("again")


async def test_two_daemons_do_not_see_each_others_machines(made: QemuHypervisor, kernel: Kernel,
                                                         tmp_path: Path) -> None:
    ident = await start_elsewhere(tmp_path, kernel)
    (tmp_path / "other").mkdir()
    async with hypervisor(tmp_path / "other") as other:
        assert await other.list_leftovers() == set()
        assert await other.adopt(ident) is None
        await other.destroy_leftovers(ident)
    assert await made.adopt(ident)
