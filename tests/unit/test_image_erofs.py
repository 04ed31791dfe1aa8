"""Layer disks: written by us, walked and unpacked by erofs-utils, and where the host can, mounted by its kernel."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperstack.image.erofs.data import ImageTooBig
from hyperstack.image.erofs.format import crc32c, encode_xattrs
from tests.unit.image_layers import check, extract, make_disk, make_tar, member, tree

BLOCK = 4096
SIZES = (0, 1, 2047, 2048, 2049, 4032, 4095, 4096, 4097, 6144, 6145, 8191, 8192, 100_000, (1 << 20) - 1, 1 << 20,
         (1 << 20) + 70_000)
"""Around every change of layout: inline tails, whole blocks, the search for holes."""

mountable = pytest.mark.skipif(os.geteuid() != 0 or "\terofs\n" not in Path("/proc/filesystems").read_text(),
                               reason="needs root and a kernel with EROFS")


@contextmanager
def mounted(disk: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", disk, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.parametrize("size", SIZES)
def test_contents_of_every_size_survive(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    disk = tmp_path / "disk"
    make_disk(make_tar(member("a", data=b"before"), member("f", data=data), member("z", data=b"after")), disk)
    assert disk.stat().st_size % BLOCK == 0
    check(disk)
    files = tree(extract(disk, tmp_path / "out"))
    assert {name: found[-1] for name, found in files.items()} == {"a": b"before", "f": data, "z": b"after"}


@mountable
def test_modes_owners_times_and_links_survive(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_disk(make_tar(
        member("usr", tarfile.DIRTYPE, mode=0o2755, uid=0, gid=50, mtime=1_000_000_000),
        member("usr/su", data=b"x", mode=0o4755, mtime=1_600_000_000),
        member("usr/owned", data=b"y", uid=3_000_000_000, gid=100_000, mtime=5, mode=0o600),
        member("tmp", tarfile.DIRTYPE, mode=0o1777),
        member("usr/link", tarfile.SYMTYPE, linkname="../../etc/passwd", mode=0o777),
        member("usr/hard", tarfile.LNKTYPE, linkname="usr/su")), disk)
    check(disk)
    with mounted(disk, tmp_path / "at") as root:
        files = tree(root)
    assert files["usr"][:4] == (stat.S_IFDIR | 0o2755, 0, 50, 1_000_000_000)
    assert files["usr/su"] == (stat.S_IFREG | 0o4755, 0, 0, 1_600_000_000, b"x")
    assert files["usr/owned"] == (stat.S_IFREG | 0o600, 3_000_000_000, 100_000, 5, b"y")
    assert files["tmp"][0] == stat.S_IFDIR | 0o1777
    assert files["usr/link"][-1] == b"../../etc/passwd"
    assert files["usr/hard"] == files["usr/su"]


@pytest.mark.parametrize("count", [1, 150, 2000])
def test_directories_of_any_length_are_sorted_and_whole(tmp_path: Path, count: int) -> None:
    names = [f"d/{'n' * (number % 200)}{number}" for number in range(count)]
    disk = tmp_path / "disk"
    make_disk(make_tar(*(member(name, data=name.encode()) for name in reversed(names))), disk)
    check(disk)
    files = tree(extract(disk, tmp_path / "out"))
    assert {name: found[-1] for name, found in files.items() if name != "d"} == {name: name.encode() for name in names}


def test_deep_paths(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 200) + "/f"
    disk = tmp_path / "disk"
    make_disk(make_tar(member(deep, data=b"deep")), disk)
    check(disk)
    assert tree(extract(disk, tmp_path / "out"))[deep][-1] == b"deep"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abcdefg-_", min_size=1, max_size=40), st.integers(0, 9000), max_size=20),
       st.integers(100, 9999))
def test_any_flat_layer_survives(tmp_path: Path, sizes: dict[str, int], piece: int) -> None:
    files = {name: (name.encode() * size)[:size] for name, size in sizes.items()}
    disk, out = tmp_path / "disk", tmp_path / f"out-{os.urandom(8).hex()}"
    make_disk(make_tar(*(member(name, data=data) for name, data in files.items())), disk, piece=piece)
    check(disk)
    assert {name: found[-1] for name, found in tree(extract(disk, out)).items()} == files


def test_an_inode_may_end_where_the_disk_does(tmp_path: Path) -> None:
    """Empty files take 64 bytes each, so one of these layers ends with a block that is full."""
    for count in range(56, 66):
        disk = tmp_path / f"disk-{count}"
        make_disk(make_tar(*(member(str(number)) for number in range(count))), disk)
        check(disk)


def test_the_same_layer_gives_the_same_bytes(tmp_path: Path) -> None:
    layer = make_tar(*(member(f"d{number % 7}/{number}", data=os.urandom(number * 37)) for number in range(200)))
    make_disk(layer, tmp_path / "one", piece=1000)
    make_disk(layer, tmp_path / "two", piece=77_777)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@mountable
def test_a_sparse_file_costs_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        for offset in (0, 5 << 30, 9 << 30):
            file.seek(offset)
            file.write(f"at {offset}".encode())
        file.truncate(10 << 30)
    layer = subprocess.run(["tar", "--format=pax", "--sparse", "-C", tmp_path, "-cf", "-", "big"], check=True,
                           capture_output=True).stdout
    disk = tmp_path / "disk"
    make_disk(layer, disk)
    assert disk.stat().st_blocks * 512 < 1 << 20
    assert disk.stat().st_size < 2 << 20
    with mounted(disk, tmp_path / "at") as root, (root / "big").open("rb") as file:
        assert file.seek(0, os.SEEK_END) == 10 << 30
        for offset in (0, 5 << 30, 9 << 30):
            file.seek(offset)
            expected = f"at {offset}".encode()
            assert file.read(100) == expected.ljust(100, b"\0")


# erofs-utils 1.5 leaves holes out when it extracts, so the kernel is asked about contents with holes.
@mountable
def test_zeros_in_a_plain_tar_become_holes(tmp_path: Path) -> None:
    data = b"head" + bytes(8 << 20) + b"tail"
    disk = tmp_path / "disk"
    make_disk(make_tar(member("f", data=data)), disk)
    assert disk.stat().st_size < 1 << 20
    check(disk)
    with mounted(disk, tmp_path / "at") as root:
        assert (root / "f").read_bytes() == data


@mountable
@pytest.mark.parametrize("head", [0, 1, 70_000, 131_072])
@pytest.mark.parametrize("hole", [1 << 20, (3 << 20) + 5])
@pytest.mark.parametrize("tail", [0, 1, 65_536, 200_001])
def test_holes_anywhere(tmp_path: Path, head: int, hole: int, tail: int) -> None:
    data = os.urandom(head) + bytes(hole) + os.urandom(tail)
    disk = tmp_path / "disk"
    make_disk(make_tar(member("f", data=data)), disk)
    check(disk)
    with mounted(disk, tmp_path / "at") as root:
        assert (root / "f").read_bytes() == data


def test_too_much_data_is_refused_before_it_is_all_written(tmp_path: Path) -> None:
    with pytest.raises(ImageTooBig, match="3000000 bytes"):
        make_disk(make_tar(member("f", data=os.urandom(20 << 20))), tmp_path / "disk", max_bytes=3_000_000)
    assert (tmp_path / "disk").stat().st_size < 5_000_000


def test_crc32c_has_the_published_value() -> None:
    # RFC 3720 B.4: 32 bytes of zeros give 0x8a9136aa, there with the final inversion that EROFS leaves out.
    assert crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA


def test_xattrs_beyond_what_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode_xattrs({b"user.x": bytes(70_000)})
    with pytest.raises(ValueError, match="more than 65536"):
        encode_xattrs({b"user.%d" % number: bytes(1000) for number in range(70)})
    assert encode_xattrs({b"unknown.x": b"1", b"user.": b"2"}) == b""


@mountable
def test_the_kernel_reads_xattrs_devices_links_and_holes(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    headers = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
               "SCHILY.xattr.user.colour": "blue", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}
    disk = tmp_path / "disk"
    make_disk(make_tar(
        member("ping", data=b"x" * 3000, pax_headers=headers), member("other", tarfile.LNKTYPE, linkname="ping"),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("disk", tarfile.BLKTYPE, devmajor=259, devminor=70_000), member("pipe", tarfile.FIFOTYPE),
        member("gone/.wh.old"), member("fresh/.wh..wh..opq"), member("fresh/new", data=b"n"),
        member("time", pax_headers={"mtime": "1234567890.123456789"}),
        member("holes", data=b"a" + bytes(3 << 20) + b"b")), disk)
    with mounted(disk, tmp_path / "at") as root:
        assert {name: os.getxattr(root / "ping", name) for name in os.listxattr(root / "ping")} == {
            "security.capability": capability, "user.colour": b"blue"}
        assert (root / "ping").stat().st_ino == (root / "other").stat().st_ino
        assert (root / "ping").stat().st_nlink == 2
        assert (root / "null").stat().st_rdev == os.makedev(1, 3)
        assert (root / "disk").stat().st_rdev == os.makedev(259, 70_000)
        assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
        whiteout = (root / "gone/old").stat()
        assert stat.S_ISCHR(whiteout.st_mode)
        assert whiteout.st_rdev == 0
        assert os.getxattr(root / "fresh", "trusted.overlay.opaque") == b"y"
        assert (root / "time").stat().st_mtime_ns == 1234567890123456789
        assert (root / "holes").read_bytes() == b"a" + bytes(3 << 20) + b"b"
        assert sorted(os.listdir(root / "fresh")) == ["new"]
        assert root.stat().st_nlink == 4


@mountable
def test_an_overlay_of_disks_hides_what_upper_layers_removed(tmp_path: Path) -> None:
    make_disk(make_tar(member("etc/a", data=b"1"), member("etc/b", data=b"1"), member("var/x", data=b"1"),
                       member("opt/old/f", data=b"1")), tmp_path / "low")
    make_disk(make_tar(member("etc/.wh.a"), member("var/.wh..wh..opq"), member("var/y", data=b"2"),
                       member(".wh.opt"), member("opt/new", data=b"2")), tmp_path / "high")
    with mounted(tmp_path / "low", tmp_path / "1") as low, mounted(tmp_path / "high", tmp_path / "2") as high:
        merged = tmp_path / "merged"
        merged.mkdir()
        subprocess.run(["mount", "-t", "overlay", "-o", f"ro,lowerdir={high}:{low}", "overlay", merged], check=True)
        try:
            assert {name: found[-1] for name, found in tree(merged).items() if found[-1]} == {
                "etc/b": b"1", "var/y": b"2", "opt/new": b"2"}
        finally:
            subprocess.run(["umount", merged], check=True)
