"""Local volumes and blank disks, judged by e2fsprogs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.pod.errors import Exhausted, InvalidArgument, NotFound, UnsupportedOption
from hyperstack.volume.api import Volume
from hyperstack.volume.local import LocalVolumes
from hyperstack.volume.local.blank import make_blank_disk
from hyperstack.volume.local.sizes import parse_size

MIB = 1 << 20


def volume(ident: str = "v1", size: int = 64 * MIB) -> Volume:
    return Volume(id=ident, name="data", project="alpha", size=size)


def debugfs(path: Path, request: str) -> str:
    return subprocess.run(["debugfs", "-R", request, str(path)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("size", [16 * MIB, 64 * MIB + 1, 10 << 30])
async def test_a_blank_disk_is_a_sound_empty_ext4_with_little_in_it(tmp_path: Path, size: int) -> None:
    for name in ("first", "second"):  # formatted, and remembered
        path = tmp_path / name
        await make_blank_disk(path, size, directories=("upper", "work"))
        assert subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, check=False).returncode == 0
        assert path.stat().st_size == -(-size // 4096) * 4096
        assert path.stat().st_blocks * 512 < MIB
        assert path.stat().st_mode & 0o777 == 0o600
        rows = [line.split() for line in debugfs(path, "ls -l").splitlines()]
        assert {row[-1]: (row[1], *row[3:5]) for row in rows if row} == {
            ".": ("40755", "0", "0"), "..": ("40755", "0", "0"), "upper": ("40755", "0", "0"),
            "work": ("40755", "0", "0")}


async def test_a_guest_has_no_inode_tables_to_fill_with_zeros(tmp_path: Path) -> None:
    await make_blank_disk(tmp_path / "disk", 1 << 30)
    groups = subprocess.run(["dumpe2fs", str(tmp_path / "disk")], capture_output=True, text=True, check=True).stdout
    assert groups.count("ITABLE_ZEROED") == groups.count("(Blocks ") == 8
    assert "Reserved block count:     0\n" in groups


async def test_a_disk_that_is_there_is_never_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"tenant's data")
    await make_blank_disk(path, 16 * MIB)
    assert path.read_bytes() == b"tenant's data"


async def test_what_a_killed_daemon_left_half_made_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "disk.part").write_bytes(b"garbage" * 1000)
    await make_blank_disk(tmp_path / "disk", 16 * MIB)
    assert subprocess.run(["e2fsck", "-fn", str(tmp_path / "disk")], capture_output=True, check=False).returncode == 0
    assert os.listdir(tmp_path) == ["disk"]


@pytest.mark.parametrize("size", [0, -1, 16 * MIB - 1, (8 << 40) + 1])
async def test_a_size_that_no_disk_can_have_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(InvalidArgument, match="16 MiB and 8 TiB"):
        await make_blank_disk(tmp_path / "disk", size)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
async def test_a_full_host_is_said_so_and_nothing_is_left(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        with pytest.raises(Exhausted, match="no space left") as caught:
            await make_blank_disk(tmp_path / "disk", 10 << 30)
        assert caught.value.hint
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_a_volume_is_made_opened_measured_and_removed(tmp_path: Path) -> None:
    volumes = LocalVolumes(tmp_path / "volumes")
    await volumes.create(volume(), options={})
    await volumes.create(volume(), options={})
    writable, readable = volumes.open("v1"), volumes.open("v1", read_only=True)
    try:
        os.pwrite(writable, b"x" * MIB, 32 * MIB)
        os.fsync(writable)
        assert os.pread(readable, 3, 32 * MIB) == b"xxx"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(readable, b"x")
    finally:
        os.close(writable)
        os.close(readable)
    assert MIB <= await volumes.used("v1") < 3 * MIB
    for _ in range(2):
        await volumes.remove("v1")
    with pytest.raises(NotFound):
        volumes.open("v1")
    with pytest.raises(NotFound):
        await volumes.used("v1")


async def test_the_size_option_counts_and_what_is_no_disk_has_none(tmp_path: Path) -> None:
    volumes = LocalVolumes(tmp_path)
    await volumes.create(volume(), options={"size": "32m"})
    assert (tmp_path / "v1.img").stat().st_size == 32 * MIB
    await volumes.create(volume("v2"), options={"type": "tmpfs", "device": "tmpfs"})
    await volumes.create(volume("v3"), options={"type": "none", "o": "bind", "device": str(tmp_path)})
    with pytest.raises(UnsupportedOption, match="type=nfs"):
        await volumes.create(volume("v4"), options={"type": "nfs", "device": ":/x"})
    assert os.listdir(tmp_path) == ["v1.img"]


async def test_a_sweep_removes_what_is_not_known_and_nothing_else(tmp_path: Path) -> None:
    volumes = LocalVolumes(tmp_path)
    assert await LocalVolumes(tmp_path / "none").sweep([]) == []
    for ident in ("kept", "lost"):
        await volumes.create(volume(ident), options={})
    (tmp_path / "half.img.part").touch()
    assert await volumes.sweep(["kept", "elsewhere"]) == ["half.img.part", "lost.img"]
    assert os.listdir(tmp_path) == ["kept.img"]


@pytest.mark.parametrize("ident", ["", "../x", "a/b", ".hidden", "x\0", "x" * 200])
async def test_an_id_is_never_a_path(tmp_path: Path, ident: str) -> None:
    volumes = LocalVolumes(tmp_path)
    for attempt in (volumes.create(volume(ident), options={}), volumes.remove(ident), volumes.used(ident)):
        with pytest.raises(InvalidArgument):
            await attempt
    with pytest.raises(InvalidArgument):
        volumes.open(ident)


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("512m", 512 * MIB), ("10g", 10 << 30), ("10GiB", 10 << 30),
                                            ("2 TB", 2 << 40), (" 7k ", 7 << 10)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=30))
def test_a_size_is_positive_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except InvalidArgument:
        return
    assert size > 0
