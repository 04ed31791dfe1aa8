"""A machine's command line, and what goes into its process."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.hypervisor.api import Disk, MachineSpec, Nic
from hyperstack.hypervisor.qemu import command, disks, growth, place, runtime_root
from hyperstack.hypervisor.qemu.launcher import Descriptors
from hyperstack.pod.errors import Conflict
from hyperstack.pod.kernel import Kernel

_KERNEL = Kernel(name="test", image=Path("/k"), initrd=Path("/i"), command_line="of.this.kernel=1")


def build(spec: MachineSpec, accelerator: str = "tcg", *, ram: bool = False, clone: bool = False
          ) -> tuple[list[str], list[int]]:
    """The line, and the descriptors that were handed over."""
    given_away: list[int] = []

    def give(fd: int) -> int:
        given_away.append(fd)
        return 100 + fd

    boot = command.Boot(kernel="/boot/kernel", initrd="/boot/initrd", command_line="of.this.kernel=1",
                        tsc_khz=2_600_123)
    line = command.command_line(spec, program="/qemu", firmware="/fw", accelerator=accelerator, give=give,
                                boot=None if clone else boot, channels=command.Channels(monitor=3, agent=4),
                                ram=command.Ram(fd=9, shared=not clone) if ram else None)
    return line, given_away


def values(line: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(line) if name == option]


def test_a_plain_machine() -> None:
    line, given_away = build(MachineSpec(id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=200, vcpus=2))
    assert line[0] == "/qemu"
    assert given_away == []
    assert values(line, "-m")[0].split(",")[0] == "200"
    assert int(values(line, "-smp")[0]) >= 2
    assert "maxcpus=2" in values(line, "-append")[0].split()
    assert values(line, "-append")[0].endswith("of.this.kernel=1")
    assert "elevateprivileges=deny" in values(line, "-sandbox")[0]
    assert "socket,id=agent,fd=4,server=on,wait=off" in values(line, "-chardev")


def test_a_clone_is_its_template_but_for_the_way_it_begins() -> None:
    spec = MachineSpec(id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=200)
    plain, template, clone = build(spec)[0], build(spec, ram=True)[0], build(spec, ram=True, clone=True)[0]
    for other in (template, clone):
        assert values(other, "-device") == values(plain, "-device")
        assert values(other, "-cpu") == values(plain, "-cpu")
        assert values(other, "-M") == [values(plain, "-M")[0] + ",memory-backend=ram"]
    assert "memory-backend-file,id=ram,mem-path=/ram/9,size=200M,share=on" in values(template, "-object")
    assert "memory-backend-file,id=ram,mem-path=/ram/9,size=200M,share=off" in values(clone, "-object")
    assert values(clone, "-incoming") == ["defer"]
    assert not {"-kernel", "-initrd", "-append"} & set(clone)
    assert "-incoming" not in template
    assert "agent_whole=1" in values(template, "-append")[0].split(), "its agent does nothing after it was saved"
    assert "agent_whole" not in values(plain, "-append")[0]


@pytest.mark.parametrize(("ram_mib", "behind_ram_mib"), [(512, 4096), (2815, 4096), (2816, 5120), (4096, 6144)])
def test_memory_that_is_given_later_is_a_gap_behind_ram(monkeypatch: pytest.MonkeyPatch, ram_mib: int,
                                                        behind_ram_mib: int) -> None:
    monkeypatch.setattr(growth, "more_mib", lambda: 8192)
    line, _ = build(MachineSpec(id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=ram_mib))
    assert values(line, "-m") == [f"{ram_mib},maxmem={ram_mib + 1024 + 8192}M"]
    [device] = [one for one in values(line, "-device") if one.startswith("virtio-mem-pci")]
    options = dict(part.split("=") for part in device.split(",")[1:])
    assert int(options["memaddr"], 16) >> 20 == behind_ram_mib + 1024
    assert options["requested-size"] == "0"


def test_what_has_no_message_interrupts_is_in_slots_of_even_numbers() -> None:
    line, _ = build(MachineSpec(id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=128))
    slots = [int(one.rpartition("addr=")[2], 16) for one in values(line, "-device")
             if one.startswith(("virtio-mem-pci", "virtio-balloon-pci"))]
    assert slots
    assert all(slot % 2 == 0 for slot in slots)


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_a_guest_is_told_what_is_so_of_every_machine(accelerator: str) -> None:
    words = values(build(MachineSpec(id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=4096), accelerator)[0],
                   "-append")[0].split()
    assert "lapic_timer_khz=1000000" in words, "it measures the timer's rate for 0.1 s"
    assert "swiotlb=noforce" in words, "it keeps 64 MiB that no device of ours needs"


def test_emulation_and_virtualisation_differ_in_what_they_skip() -> None:
    spec = MachineSpec(id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=200)
    emulated, virtual = build(spec)[0], build(spec, "kvm")[0]
    assert "mitigations=off" in values(emulated, "-append")[0]
    assert "mitigations" not in values(virtual, "-append")[0], "real processors leak"
    assert "tsc_early_khz=2600123" in values(emulated, "-append")[0].split(), "a guest that measures it gets it wrong"
    assert "tsc_early_khz" not in values(virtual, "-append")[0], "KVM tells its guests itself"
    assert values(virtual, "-accel") == ["kvm"]
    assert values(virtual, "-cpu")[0].startswith("host,")


def test_disks_and_nics_are_descriptors(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    fd = os.open(tmp_path / "image", os.O_RDWR)
    try:
        line, given_away = build(MachineSpec(
            id="ab" * 32, uid=5, kernel=_KERNEL, memory_mib=200, nic=Nic(fd=99, mac="02:00:00:00:00:01"),
            disks=(Disk(serial="layer_1-A", fd=fd, read_only=True), Disk(serial="w", fd=fd, read_only=False))))
    finally:
        os.close(fd)
    assert given_away == [fd, fd, 99]
    layer, writable = (json.loads(value) for value in values(line, "-blockdev"))
    assert (layer["filename"], layer["read-only"], "discard" in layer) == ("/dev/fdset/1", True, False)
    assert (writable["filename"], writable["read-only"], writable["discard"]) == ("/dev/fdset/2", False, "unmap")
    assert values(line, "-add-fd") == [f"fd={100 + fd},set=1,opaque=layer_1-A", f"fd={100 + fd},set=2,opaque=w"]
    assert json.loads(values(line, "-netdev")[0])["fd"] == "199"
    assert str(tmp_path) not in " ".join(line)


def test_a_writable_image_has_one_writer(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    first, second = (os.open(tmp_path / "image", os.O_RDWR) for _ in range(2))
    disks.claim(Disk(serial="a", fd=first, read_only=False))
    disks.claim(Disk(serial="a", fd=first, read_only=False))
    disks.claim(Disk(serial="a", fd=second, read_only=True))
    with pytest.raises(Conflict, match="disk a is in use"):
        disks.claim(Disk(serial="a", fd=second, read_only=False))
    os.close(first)
    disks.claim(Disk(serial="a", fd=second, read_only=False))
    os.close(second)


def test_descriptors_arrive_under_their_numbers_whatever_ours_are(tmp_path: Path) -> None:
    """Ours are the targets of each other: 3 is to be 4 and 4 to be 3, and so on."""
    names = [f"file{number}" for number in range(6)]
    ours = []
    for name in names:
        (tmp_path / name).write_text(f"{name}\n")
        ours.append(os.open(tmp_path / name, os.O_RDONLY | os.O_CLOEXEC))
    out = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    descriptors = Descriptors(stdin=ours[0], stderr=out)
    numbers = [descriptors.give(fd) for fd in reversed(ours[1:])]
    assert numbers == list(range(3, 8))
    assert descriptors.last == 7
    script = " ".join(f"read -r word <&{number}; echo $word >&2;" for number in (0, *numbers))
    with ExitStack() as stack:
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {}, file_actions=descriptors.file_actions(stack))
    os.waitpid(pid, 0)
    assert os.pread(out, 4096, 0).decode().split() == ["file0", *reversed(names[1:])]
    for fd in (*ours, out):
        os.close(fd)


def test_last_words_are_bounded_and_printable() -> None:
    fd = place.new_last_words()
    try:
        os.write(fd, b"first line\n\x1b[31msecond\n")
        assert place.read_last_words(fd) == "first line; \ufffd[31msecond"
        with suppress(PermissionError):
            while True:
                os.write(fd, b"x" * 10_000)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 1 << 20)
        assert os.fstat(fd).st_size < 1 << 20
    finally:
        os.close(fd)


@given(st.text())
def test_printable_text_has_lines_and_nothing_else_that_acts(text: str) -> None:
    shown = place.printable(text)
    assert all(char == "\n" or char.isprintable() for char in shown)
    assert shown.count("\n") == text.count("\n")
    assert len(shown) <= len(text)


def test_ldd_is_read() -> None:
    assert runtime_root.parse_ldd(
        "\tlinux-vdso.so.1 (0x00007fff)\n"
        "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f)\n"
        "\tlibgone.so => not found\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n") == ["/lib/x86_64-linux-gnu/libz.so.1",
                                                             "/lib64/ld-linux-x86-64.so.2"]
