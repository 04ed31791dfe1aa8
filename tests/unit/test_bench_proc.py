"""What /proc tells of memory, and what of a QEMU's memory is what."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from bench import proc
from bench.executions import Executions


def paragraph(addresses: str, permissions: str, name: str, pss: int, rss: int | None = None) -> str:
    """As Linux 6 prints it, shortened."""
    return (f"{addresses} {permissions} 00000000 00:00 0                  {name}\n"
            f"Size:              64 kB\nRss:        {pss if rss is None else rss} kB\nPss:        {pss} kB\n"
            "Pss_Dirty:         999 kB\nTHPeligible:    0\nVmFlags: rd wr mr mw me ac\n")


QEMU = "".join((
    paragraph("55d000000000-55d000600000", "r-xp", "/usr/bin/qemu-system-x86_64", 5000),
    paragraph("55d000600000-55d000700000", "rw-p", "/usr/bin/qemu-system-x86_64", 300),
    paragraph("55d001000000-55d002000000", "rw-p", "[heap]", 4000),
    paragraph("7f0000000000-7f0020000000", "rw-p", "", 80000),                       # 512 MiB of RAM
    paragraph("7f0030000000-7f0033000000", "rw-p", "/boot/kernel", 15000, rss=45000),
    paragraph("7f0040000000-7f0044000000", "rwxp", "", 57000),
    paragraph("7f0050000000-7f0050001000", "---p", "", 0),
    paragraph("7f0050001000-7f0050801000", "rw-p", "", 200),                         # a thread's stack
    paragraph("7f0060000000-7f0060900000", "rw-p", "", 7000),                        # a thread's heap
    paragraph("7f0070000000-7f0072000000", "rw-p", "/memfd:template (deleted)", 9000, rss=20000),
    paragraph("7ffc00000000-7ffc00021000", "rw-p", "[stack]", 100),
    paragraph("ffffffffff600000-ffffffffff601000", "--xp", "[vsyscall]", 0)))


def test_each_mapping_goes_where_qemu_uses_it() -> None:
    assert proc.breakdown(proc.parse_smaps(QEMU)) == {
        "guest RAM": 89000, "kernel file": 15000, "translation buffer": 57000, "heap": 11000, "stacks": 300,
        "program": 5300}


def test_a_clones_ram_is_the_templates_file_and_the_holes_between_its_data() -> None:
    mappings = proc.parse_smaps("".join((
        paragraph("7f0000000000-7f0000001000", "---p", "", 0),
        paragraph("7f0000001000-7f0000900000", "rw-p", "/cache/templates/1/ram", 2000, rss=9000),
        paragraph("7f0000900000-7f0000a00000", "rw-p", "", 100),
        paragraph("7f0000a00000-7f0000b00000", "rw-p", "/cache/templates/1/ram", 50),
        paragraph("7f0000b00000-7f0000b01000", "---p", "", 0),
        paragraph("7f0000b01000-7f0000b11000", "rw-p", "", 30))))
    assert proc.breakdown(mappings) == dict.fromkeys(proc.CATEGORIES, 0) | {"guest RAM": 2150, "heap": 30}


def test_the_parts_are_the_whole() -> None:
    mappings = proc.parse_smaps(QEMU)
    assert sum(proc.breakdown(mappings).values()) == sum(mapping.pss for mapping in mappings)


def test_names_with_spaces_and_without_are_read() -> None:
    names = [mapping.name for mapping in proc.parse_smaps(QEMU)]
    assert "/memfd:template (deleted)" in names
    assert names.count("") == 5


def test_a_mapping_knows_its_size_in_kib() -> None:
    assert proc.parse_smaps(QEMU)[3].size == 512 << 10


def test_what_is_no_smaps_is_refused() -> None:
    with pytest.raises(ValueError, match="no mapping"):
        proc.parse_smaps("MemTotal: 12 kB\n")


def test_our_own_process_is_read_and_adds_up() -> None:
    mappings = proc.smaps(os.getpid())
    total = proc.pss(os.getpid())
    assert total > 1000
    assert sum(proc.breakdown(mappings).values()) == pytest.approx(total, rel=0.2)
    assert proc.status(os.getpid(), "VmRSS") >= total * 0.5
    with pytest.raises(OSError, match="VmNothing"):
        proc.status(os.getpid(), "VmNothing")


def test_times_of_our_own_process() -> None:
    assert proc.cpu_s(os.getpid()) > 0


def test_the_program_that_a_process_runs_began_while_it_was_started() -> None:
    with Executions() as executions:
        before = time.monotonic_ns()
        once = subprocess.Popen(["/bin/sh", "-c", "exec sleep 0"])
        once.wait()
        after = time.monotonic_ns()
        began = executions.last()
        assert before < began[once.pid] < after
        assert once.pid not in executions.last()


def test_the_host_has_memory_left() -> None:
    assert proc.available_mib() > 16
