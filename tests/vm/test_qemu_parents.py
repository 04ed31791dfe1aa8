"""Machines that are forked from one that stands still: their own, whole, confined, and none of each other's.

`test_qemu_confinement.py` reads their confinement back from /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from hyperstack.hypervisor.api import ExitKind, MachineSpec, Nic, Template
from hyperstack.hypervisor.qemu.backend import QemuHypervisor
from hyperstack.hypervisor.qemu.templates import LOOSE_MAC, loose_tap
from hyperstack.pod.kernel import Kernel
from tests.vm.qemu_guest import UID, Guest, boot, hypervisor, image, make_kernel, raise_parent, spec, traces

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[QemuHypervisor]:
    async with hypervisor(tmp_path_factory.mktemp("qemu")) as qemu:
        yield qemu


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(made: QemuHypervisor, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return await make_kernel(tmp_path_factory.mktemp("kernel"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(made: QemuHypervisor, kernel: Kernel) -> Template:
    return await raise_parent(made, kernel, nic=True)


@contextlib.contextmanager
def nic() -> Iterator[Nic]:
    tap = loose_tap()
    try:
        yield Nic(fd=tap, mac=LOOSE_MAC)
    finally:
        os.close(tap)


@contextlib.asynccontextmanager
async def child(made: QemuHypervisor, kernel: Kernel, template: Template, **changes: object) -> AsyncIterator[Guest]:
    with nic() as tap:
        async with boot(made, kernel, template=template, nic=tap, **changes) as guest:
            yield guest


async def test_children_have_memory_of_their_own(made: QemuHypervisor, kernel: Kernel, template: Template) -> None:
    async with child(made, kernel, template, uid=UID + 10) as one, child(made, kernel, template, uid=UID + 11) as other:
        assert one.machine.pid != other.machine.pid
        await one.succeed("mkdir -p /tmp && echo one >/tmp/mine")
        assert await other.succeed("cat /tmp/mine 2>/dev/null || echo nothing") == "nothing"
        await other.succeed("echo other >/tmp/mine")
        assert await one.succeed("cat /tmp/mine") == "one"
    async with child(made, kernel, template) as third:
        assert await third.succeed("cat /tmp/mine 2>/dev/null || echo nothing") == "nothing"


async def test_children_share_what_they_do_not_change(made: QemuHypervisor, kernel: Kernel, template: Template) -> None:
    async with child(made, kernel, template, uid=UID + 10) as one, child(made, kernel, template, uid=UID + 11):
        rollup = dict(line.split(":")[:2] for line in
                      Path(f"/proc/{one.machine.pid}/smaps_rollup").read_text().splitlines()[1:])
        resident, shared = (int(rollup[name].split()[0]) for name in ("Rss", "Shared_Dirty"))
        assert shared > resident // 2


async def test_a_child_that_hears_something_goes_on(made: QemuHypervisor, kernel: Kernel, template: Template) -> None:
    """Its tap must not block QEMU when there is no more to be read."""
    async with child(made, kernel, template) as guest:
        await guest.succeed("ip link set eth0 up")
        name = guest_tap(guest)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((name, 0))
            for _ in range(10):
                wire.send(b"\xff" * 6 + bytes.fromhex(LOOSE_MAC.replace(":", "")) + b"\x88\xb5" + bytes(50))
        await guest.succeed("sleep 1")
        assert int(await guest.succeed("cat /sys/class/net/eth0/statistics/rx_packets")) >= 10
        assert await guest.succeed("echo alive") == "alive"


def guest_tap(guest: Guest) -> str:
    """The host's name of the machine's tap."""
    for info in Path(f"/proc/{guest.machine.pid}/fdinfo").iterdir():
        for line in info.read_text().splitlines():
            if line.startswith("iff:"):
                return line.split()[1]
    raise AssertionError("it has no tap")


async def test_time_goes_on_and_timers_fire(made: QemuHypervisor, kernel: Kernel, template: Template) -> None:
    async with child(made, kernel, template) as guest:
        before = float((await guest.succeed("cat /proc/uptime")).split()[0])
        await guest.succeed("sleep 1")
        assert float((await guest.succeed("cat /proc/uptime")).split()[0]) - before >= 1


async def test_a_child_reads_and_writes_its_own_disks(made: QemuHypervisor, kernel: Kernel, template: Template,
                                                      tmp_path: Path) -> None:
    with image(tmp_path / "rw", "writable0") as writable, \
            image(tmp_path / "ro", "layer0", read_only=True, content=b"of the layer") as layer:
        async with child(made, kernel, template, disks=(writable, layer)) as guest:
            device = await guest.disk("layer0")
            assert await guest.succeed(f"head -c 12 /dev/{device}") == "of the layer"
            device = await guest.disk("writable0")
            await guest.succeed(f"echo of the child | dd of=/dev/{device} conv=fsync 2>/dev/null")
    assert (tmp_path / "rw").read_bytes().startswith(b"of the child")


async def test_disks_take_the_places_of_the_parents(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    with image(tmp_path / "s0", "slot-w", size=2 << 20, content=b"of the parent") as slot, \
            image(tmp_path / "s1", "slot-l", read_only=True, size=1 << 30) as layer_slot:
        template = await raise_parent(made, kernel, disks=(slot, layer_slot))
    with image(tmp_path / "a", "disk-a", size=2 << 20, content=b"first") as first, \
            image(tmp_path / "b", "disk-b", size=2 << 20, content=b"second") as second, \
            image(tmp_path / "l", "layer", read_only=True, size=4096, content=b"layer") as layer:
        async with boot(made, kernel, template=template, disks=(first, second, layer)) as guest:
            names = guest.machine.disk_names
            assert names == {"slot-w": "disk-a", "slot-l": "layer"}, "a second writable disk finds no slot"
            writable, read_only = await guest.disk("slot-w"), await guest.disk("slot-l")
            assert await guest.succeed(f"head -c 5 /dev/{writable}") == "first"
            assert await guest.succeed(f"head -c 5 /dev/{read_only}") == "layer"
            assert await guest.succeed(f"tail -c 4096 /dev/{read_only} | tr -d '\\0' | wc -c") == "0"
            assert await guest.succeed(f"head -c 6 /dev/{await guest.disk('disk-b')}") == "second"
            await guest.succeed(f"echo changed | dd of=/dev/{writable} conv=fsync 2>/dev/null")
        assert (tmp_path / "a").read_bytes().startswith(b"changed")
        assert (tmp_path / "s0").read_bytes().startswith(b"of the parent")
        async with boot(made, kernel, template=template) as guest:
            device = await guest.disk("slot-w")
            content = await guest.succeed(f"head -c 100 /dev/{device} | tr -d '\\0' | wc -c")
            assert content == "0", "a vacant slot is empty"
            await guest.run(f"echo mine | dd of=/dev/{device} conv=fsync 2>/dev/null")
        assert (tmp_path / "s0").read_bytes().startswith(b"of the parent")
    with image(tmp_path / "c", "disk-c", size=1 << 20, content=b"small") as other:
        async with boot(made, kernel, template=template, disks=(other,)) as guest:
            assert guest.machine.disk_names == {}, "a disk of another size finds no slot"
            assert await guest.succeed(f"head -c 5 /dev/{await guest.disk('disk-c')}") == "small"


async def test_a_machine_is_equipped_after_its_fork(made: QemuHypervisor, kernel: Kernel, tmp_path: Path) -> None:
    with image(tmp_path / "s0", "slot-w", size=2 << 20) as slot:
        template = await raise_parent(made, kernel, disks=(slot,), nic=True)
    with image(tmp_path / "a", "disk-a", size=2 << 20, content=b"first") as first, nic() as tap:
        async with child(made, kernel, template) as guest:
            await guest.machine.equip((first,), tap)
            assert guest.machine.disk_names == {"slot-w": "disk-a"}
            device = await guest.disk("slot-w")
            assert await guest.succeed(f"head -c 5 /dev/{device}") == "first"
            await guest.succeed(f"echo changed | dd of=/dev/{device} conv=fsync 2>/dev/null")
    assert (tmp_path / "a").read_bytes().startswith(b"changed")


async def test_many_at_once_all_answer_and_leave_nothing(made: QemuHypervisor, kernel: Kernel, template: Template,
                                                         tmp_path: Path) -> None:
    async def one(number: int) -> str:
        async with child(made, kernel, template, uid=UID + 10 + number) as guest:
            assert await guest.succeed(f"echo {number}") == str(number)
            return guest.machine.id

    for ident in await asyncio.gather(*(one(number) for number in range(12))):
        assert traces(made._run_dir.parent, ident) == []


async def test_a_childs_death_is_told_with_its_reason(made: QemuHypervisor, kernel: Kernel, template: Template) -> None:
    async with child(made, kernel, template) as guest:
        os.kill(guest.machine.pid, signal.SIGKILL)
        end = await asyncio.wait_for(guest.machine.wait(), 10)
        assert end.kind is ExitKind.KILLED
        assert "SIGKILL" in end.reason
    async with child(made, kernel, template) as guest:
        await guest.send("poweroff -f")
        assert (await asyncio.wait_for(guest.machine.wait(), 30)).kind is ExitKind.SHUTDOWN


async def test_a_child_is_adopted_and_outlives_its_parent(kernel: Kernel, tmp_path: Path) -> None:
    async with hypervisor(tmp_path) as first:
        template = await raise_parent(first, kernel)
        machine = await first.start(spec(kernel, template=template))
        ident, pid, parent = machine.id, machine.pid, first._parents[template.id].machine.id
        await first.close()
        assert traces(tmp_path, parent) == []
        async with hypervisor(tmp_path) as second:
            found = await second.adopt(ident)
            assert found is not None
            assert found.pid == pid
            guest = Guest(found)
            await guest.connect()
            assert await guest.succeed("echo alive") == "alive"
            await found.destroy()
            assert traces(tmp_path, ident) == []


async def test_a_parent_ends_with_whoever_holds_its_socket(kernel: Kernel, tmp_path: Path) -> None:
    async with hypervisor(tmp_path) as made:
        template = await raise_parent(made, kernel)
        parent = made._parents[template.id]
        parent._requests.close()
        assert (await asyncio.wait_for(parent.machine._process.wait(), 10)) == "ended with status 0"
        assert not made.has_parent(template)


async def test_where_the_parent_is_gone_a_clone_begins_as_the_template_was_kept(kernel: Kernel, tmp_path: Path) -> None:
    async with hypervisor(tmp_path) as made:
        template = await raise_parent(made, kernel)
        os.kill(made._parents[template.id].machine.pid, signal.SIGKILL)
        async with boot(made, kernel, template=template) as guest:
            assert await guest.succeed("echo alive") == "alive"
        assert not made.has_parent(template)


async def test_a_request_that_is_not_sound_is_refused_and_harms_nobody(made: QemuHypervisor, kernel: Kernel,
                                                                       template: Template) -> None:
    parent = made._parents[template.id]
    for request in (b"x", b"\0" * 40, b"\xff" * 100, b"\xff" * 4000):
        parent._requests._socket.send(request)
        answer = await asyncio.get_running_loop().sock_recv(parent._requests._socket, 8)
        assert int.from_bytes(answer, "little", signed=True) < 0
    async with child(made, kernel, template) as guest:
        assert await guest.succeed("echo alive") == "alive"


async def test_a_machine_that_is_not_as_its_template_is_is_refused(made: QemuHypervisor, kernel: Kernel,
                                                                   template: Template) -> None:
    with pytest.raises(Exception, match="not as its template"):
        await made.start(MachineSpec(id="ab" * 32, uid=UID, kernel=kernel, memory_mib=256, template=template))
