"""A machine's life on a real QEMU: its disks, its NIC, its console, its ends, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2 import netns

from hyperstack.hypervisor.api import Disk, ExitKind, MachineExit, Nic
from hyperstack.hypervisor.qemu import command
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.pod.errors import Conflict, InvalidArgument, Unavailable
from hyperstack.pod.kernel import Kernel
from tests.vm.qemu_guest import Guest, boot, image, spec, traces

_END_DEADLINE_S = 60
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x4000


@pytest.fixture
def small_directory() -> Iterator[Path]:
    """A file system of two megabytes."""
    directory = Path(tempfile.mkdtemp(prefix="hs-qemu-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()


async def end(guest: Guest) -> MachineExit:
    return await asyncio.wait_for(guest.machine.wait(), _END_DEADLINE_S)


async def test_disks_are_found_by_serial_at_boot_and_later(made: QemuHypervisor, kernel: Kernel,
                                                         tmp_path: Path) -> None:
    with image(tmp_path / "a", "writable0", content=b"first") as first, \
            image(tmp_path / "b", "layer-with-20-chars_", read_only=True, content=b"second") as second:
        async with boot(made, kernel, disks=(first,)) as guest:
            device = await guest.disk("writable0")
            assert await guest.succeed(f"head -c 5 /dev/{device}") == "first"
            await guest.succeed(f"echo written >/dev/{device}; sync")
            assert (tmp_path / "a").read_bytes()[:7] == b"written"

            await guest.machine.attach_disk(second)
            device = await guest.disk("layer-with-20-chars_")
            assert await guest.succeed(f"head -c 6 /dev/{device}") == "second"
            assert await guest.succeed(f"cat /sys/block/{device}/ro") == "1"
            assert (await guest.run(f"echo x >/dev/{device}"))[0] != 0

            with pytest.raises(Conflict):
                await guest.machine.attach_disk(second)
            await guest.machine.detach_disk(second.serial)
            await guest.machine.detach_disk(second.serial)
            assert not any(os.readlink(fd).endswith("/b") for fd in Path(f"/proc/{guest.machine.pid}/fd").iterdir())
            await guest.machine.attach_disk(second)
            assert await guest.disk("layer-with-20-chars_")


async def test_two_machines_cannot_write_one_disk_but_share_a_layer(made: QemuHypervisor, kernel: Kernel,
                                                                   tmp_path: Path) -> None:
    with image(tmp_path / "b", "layer0", read_only=True) as layer:
        with image(tmp_path / "a", "writable0") as writable:
            machine = await made.start(spec(kernel, disks=(writable, layer)))
        other = await made.start(spec(kernel, disks=(layer,)))
        # The lock belongs to the open file, which only the first machine holds now.
        second = Disk(serial="writable0", fd=os.open(tmp_path / "a", os.O_RDWR | os.O_CLOEXEC), read_only=False)
        try:
            with pytest.raises(Conflict, match="in use"):
                await other.attach_disk(second)
            with pytest.raises(Conflict, match="in use"):
                await made.start(spec(kernel, disks=(second,)))
            await machine.destroy()
            await other.attach_disk(second)
        finally:
            os.close(second.fd)


async def test_a_full_host_is_an_error_inside_and_no_end(made: QemuHypervisor, kernel: Kernel,
                                                       small_directory: Path) -> None:
    with image(small_directory / "a", "writable0", size=64 << 20) as disk:
        async with boot(made, kernel, disks=(disk,)) as guest:
            device = await guest.disk("writable0")
            status, output = await guest.run(f"dd if=/bin/busybox of=/dev/{device} bs=1M seek=1 conv=fsync; "
                                             f"dd if=/bin/busybox of=/dev/{device} bs=1M seek=8 conv=fsync")
            assert status != 0, output
            assert await guest.succeed("echo alive") == "alive"


async def test_trimmed_blocks_go_back_to_the_host(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    with image(tmp_path / "a", "writable0", content=os.urandom(1 << 20), size=2 << 20) as disk:
        async with boot(made, kernel, disks=(disk,)) as guest:
            before = (tmp_path / "a").stat().st_blocks
            device = await guest.disk("writable0")
            await guest.succeed(f"dd if=/dev/zero of=/dev/{device} bs=1M count=1 conv=fsync 2>/dev/null")
            assert (tmp_path / "a").stat().st_blocks < before / 2


async def test_a_machine_has_its_nic(made: QemuHypervisor, kernel: Kernel) -> None:
    name = f"hs-qemu-{os.getpid()}"
    netns.create(name)
    try:
        tap = await asyncio.to_thread(_tap_within, name)
        try:
            async with boot(made, kernel, nic=Nic(fd=tap, mac="02:00:00:00:00:2a")) as guest:
                assert "02:00:00:00:00:2a" in await guest.succeed("ip link set eth0 up; ip link show eth0")
        finally:
            os.close(tap)
    finally:
        netns.remove(name)


def _tap_within(namespace: str) -> int:
    """A tap of that namespace; the calling thread is back in its own afterwards."""
    netns.pushns(namespace)
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    finally:
        netns.popns()
    return tap


async def test_a_guest_that_floods_its_console_costs_nothing(made: QemuHypervisor, kernel: Kernel) -> None:
    async with boot(made, kernel) as guest:
        await guest.succeed(r"for i in $(seq 40); do head -c 4096 /dev/urandom >/dev/ttyS0; done; "
                            r"printf '\033[2Jlast words\n' >/dev/ttyS0")
        tail = await guest.machine.console_tail()
        assert tail.endswith("\ufffd[2Jlast words\n")
        assert 1000 < len(tail) <= command.CONSOLE_BYTES
        assert all(char == "\n" or char.isprintable() for char in tail)
        assert (await guest.machine.console_tail()).endswith("last words\n"), "what was read once is still known"


async def test_a_machines_cost_is_its_share_of_the_hosts_memory_until_it_ends(made: QemuHypervisor, kernel: Kernel
                                                                              ) -> None:
    async with boot(made, kernel) as guest:
        rollup = Path(f"/proc/{guest.machine.pid}/smaps_rollup").read_text()
        pss = next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
        assert pss > 32 << 20
        assert abs((await guest.machine.usage(pss=True)).pss_bytes - pss) < 16 << 20
        os.kill(guest.machine.pid, signal.SIGKILL)
        await end(guest)
        assert (await guest.machine.usage(pss=True)).pss_bytes == 0


async def test_a_panic_is_told_with_the_kernels_last_words(made: QemuHypervisor, kernel: Kernel) -> None:
    async with boot(made, kernel) as guest:
        await guest.send("echo c >/proc/sysrq-trigger")
        told = await end(guest)
        assert told.kind is ExitKind.PANIC
        assert "Kernel panic" in told.console
        assert (await guest.machine.usage()).pids > 0, "it stays to be read"


async def test_a_reset_ends_the_machine(made: QemuHypervisor, kernel: Kernel) -> None:
    async with boot(made, kernel) as guest:
        await guest.send("reboot -f")
        assert (await end(guest)).kind is ExitKind.PANIC


async def test_a_power_off_is_no_panic(made: QemuHypervisor, kernel: Kernel) -> None:
    async with boot(made, kernel) as guest:
        await guest.send("poweroff -f")
        assert (await end(guest)).kind is ExitKind.SHUTDOWN


async def test_a_killed_vmm_is_told_to_all_with_the_signal(made: QemuHypervisor, kernel: Kernel,
                                                         tmp_path: Path) -> None:
    machine = await made.start(spec(kernel))
    waiting = [asyncio.create_task(machine.wait()) for _ in range(3)]
    os.kill(machine.pid, signal.SIGKILL)
    told = [await asyncio.wait_for(task, _END_DEADLINE_S) for task in waiting]
    assert told[0] == told[1] == told[2] == await machine.wait()
    assert told[0].kind is ExitKind.KILLED
    assert "SIGKILL" in told[0].reason
    with pytest.raises(Unavailable):
        await machine.connect_agent()
    await machine.destroy()
    assert traces(tmp_path, machine.id) == []


async def test_a_terminated_vmm_is_not_taken_for_a_guest_that_ended(made: QemuHypervisor, kernel: Kernel) -> None:
    machine = await made.start(spec(kernel))
    os.kill(machine.pid, signal.SIGTERM)
    assert (await asyncio.wait_for(machine.wait(), _END_DEADLINE_S)).kind is ExitKind.KILLED


async def test_nothing_is_left_of_a_destroyed_machine(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    machine = await made.start(spec(kernel))
    assert len(traces(tmp_path, machine.id)) > 1
    waiting = asyncio.create_task(machine.wait())
    await asyncio.gather(machine.destroy(), machine.destroy())
    assert (await waiting).kind is ExitKind.DESTROYED
    assert traces(tmp_path, machine.id) == []
    assert await made.list_leftovers() == set()
    await machine.destroy()
    await made.destroy_leftovers(machine.id)
    again = await made.start(spec(kernel, id=machine.id))
    assert again.pid != machine.pid


async def test_a_file_that_is_no_kernel_is_refused_with_qemus_words(made: QemuHypervisor, kernel: Kernel,
                                                                  tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_bytes(b"not a kernel")
    wanted = spec(replace(kernel, image=tmp_path / "nonsense"))
    with pytest.raises(Unavailable, match="kernel"):
        await made.start(wanted)
    assert traces(tmp_path, wanted.id) == []


async def test_a_kernel_without_an_init_tells_why_on_its_console(made: QemuHypervisor, kernel: Kernel,
                                                               tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    machine = await made.start(spec(replace(kernel, initrd=tmp_path / "empty")))
    told = await asyncio.wait_for(machine.wait(), _END_DEADLINE_S)
    assert told.kind is ExitKind.PANIC
    assert "Unable to mount root fs" in told.console


async def test_a_missing_file_leaves_nothing(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    wanted = spec(replace(kernel, initrd=tmp_path / "absent"))
    with pytest.raises(Unavailable, match="absent"):
        await made.start(wanted)
    assert traces(tmp_path, wanted.id) == []


async def test_a_cancelled_start_leaves_nothing(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    for delay in (0.0, 0.005, 0.02, 0.05):
        wanted = spec(kernel)
        starting = asyncio.create_task(made.start(wanted))
        await asyncio.sleep(delay)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert traces(tmp_path, wanted.id) == []


async def test_a_machine_never_runs_as_root_or_twice(made: QemuHypervisor, kernel: Kernel) -> None:
    with pytest.raises(InvalidArgument, match="root"):
        await made.start(spec(kernel, uid=0))
    with pytest.raises(InvalidArgument, match="hex"):
        await made.start(spec(kernel, id="../../../etc"))
    machine = await made.start(spec(kernel))
    with pytest.raises(Conflict):
        await made.start(spec(kernel, id=machine.id))


async def test_a_paused_guest_stands_still_and_goes_on(made: QemuHypervisor, kernel: Kernel) -> None:
    async with boot(made, kernel) as guest:
        await guest.machine.pause()
        answer = asyncio.create_task(guest.run("echo awake"))
        _, waiting = await asyncio.wait({answer}, timeout=1)
        assert waiting
        await guest.machine.resume()
        assert await answer == (0, "awake\n")


async def test_a_new_agent_connection_replaces_the_old_one(made: QemuHypervisor, kernel: Kernel) -> None:
    async with boot(made, kernel) as guest:
        old = guest.reader
        await guest.connect()
        assert await guest.succeed("echo new") == "new"
        assert await old.read() == b""


async def test_pressure_inside_never_kills_the_machine(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    """All RAM is touched, disks are written through the host's page cache; processes are killed in the guest only."""
    with image(tmp_path / "a", "writable0", size=512 << 20) as disk:
        async with boot(made, kernel, disks=(disk,), memory_mib=160) as guest:
            device = await guest.disk("writable0")
            await guest.succeed(f"dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null; "
                                f"for i in $(seq 0 8 248); do dd if=/tmp/random of=/dev/{device} bs=1M seek=$i "
                                "conv=notrunc 2>/dev/null; done")
            await guest.succeed("for i in 1 2 3; do tail /dev/zero; done; true")
            assert int(await guest.succeed("grep oom_kill /proc/vmstat | head -1 | cut -d' ' -f2")) >= 3
            assert guest.machine._place.cgroup.oom_kills() == 0


async def test_a_descriptor_that_is_no_image_is_refused(made: QemuHypervisor, kernel: Kernel) -> None:
    machine = await made.start(spec(kernel))
    with open("/dev/null", "rb") as null, pytest.raises(Unavailable, match="blockdev-add"):
        await machine.attach_disk(Disk(serial="null0", fd=null.fileno(), read_only=True))
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 20)
        await machine.attach_disk(Disk(serial="null0", fd=file.fileno(), read_only=False))
