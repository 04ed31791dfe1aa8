"""The store of guest kernels: initramfs, modules, kernel images, and what survives which accident."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from hyperstack.guest import debian, initramfs, kernel_check, modules, vmlinux
from hyperstack.guest.initramfs import Module
from hyperstack.guest.kernels import KernelStore
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound, Unavailable

ELF = b"\x7fELF" + bytes(range(256)) * 8
RELEASE = "6.1.0-1-cloud-amd64"


def read_cpio(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> mode and content."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at:at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110:at + 110 + name_size - 1].decode()
        start = at + 110 + name_size
        start += -start % 4
        if name == "TRAILER!!!":
            assert not data[start:].strip(b"\0")
            return found
        found[name] = mode, data[start:start + size]
        at = start + size
        at += -at % 4


def bzimage(payload: bytes) -> bytes:
    image = bytearray(0x1000)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20F)
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    return bytes(image[:4 * 512]) + bytes(64) + payload + b"what follows"


def module(*dependencies: str) -> bytes:
    return b"\x7fELF...\0depends=" + ",".join(dependencies).encode() + b"\0retpoline=Y\0name=x\0"


def module_tree(root: Path, files: dict[str, bytes], builtin: str = "") -> Path:
    for name, data in files.items():
        path = root / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "modules.builtin").write_text(builtin)
    return root


def package(tree: Path) -> Path:
    """A kernel package's tree in miniature."""
    names = ("virtio_pci", "virtio_console", "virtio_scsi", "sd_mod", "virtio_net", "overlay", "erofs")
    module_tree(tree / "lib/modules" / RELEASE, {f"drivers/{name}.ko": module() for name in names},
                builtin="kernel/fs/ext4/ext4.ko\n")
    (tree / "boot").mkdir()
    (tree / "boot" / f"vmlinuz-{RELEASE}").write_bytes(
        bzimage(lzma.compress(ELF) + struct.pack("<I", len(ELF))))
    return tree


# --- initramfs ---

def test_the_initramfs_holds_the_agent_and_the_modules_in_their_order() -> None:
    archive = initramfs.build(b"agent", [Module(name="b.ko", data=b"BB"), Module(name="a.ko", data=b"A")])
    found = read_cpio(archive)
    assert found["init"] == (stat.S_IFREG | 0o755, b"agent")
    assert found["modules/order"][1] == b"b.ko\na.ko\n"
    assert found["modules/a.ko"][1] == b"A"
    assert stat.S_ISCHR(found["dev/console"][0])
    assert archive == initramfs.build(b"agent", [Module(name="b.ko", data=b"BB"), Module(name="a.ko", data=b"A")])


@given(st.binary(max_size=50), st.lists(st.binary(max_size=20), max_size=4))
def test_the_initramfs_is_aligned_whatever_the_sizes(agent: bytes, contents: list[bytes]) -> None:
    chosen = [Module(name=f"m{number}.ko", data=data) for number, data in enumerate(contents)]
    found = read_cpio(initramfs.build(agent, chosen))
    assert found["init"][1] == agent
    assert [found[f"modules/{one.name}"][1] for one in chosen] == contents


# --- modules ---

def test_dependencies_come_first_and_once(tmp_path: Path) -> None:
    root = module_tree(tmp_path, {"net/virtio_net.ko": module("net-failover", "virtio"),
                                  "net/net_failover.ko": module("failover"), "net/failover.ko": module(),
                                  "v/virtio.ko": module("virtio_ring"), "v/virtio_ring.ko": module(),
                                  "v/virtio-blk.ko": module("virtio")}, builtin="kernel/fs/ext4.ko\n")
    chosen = [one.name for one in modules.select(root, ["virtio_net", "ext4"], ["virtio_blk", "nosuch"])]
    assert chosen == ["failover.ko", "net_failover.ko", "virtio_ring.ko", "virtio.ko", "virtio_net.ko", "virtio_blk.ko"]


@pytest.mark.parametrize(("suffix", "pack"), [
    ("", bytes), (".xz", lzma.compress), (".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)])
def test_packed_modules_are_unpacked(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    root = module_tree(tmp_path, {f"a.ko{suffix}": pack(module())})
    assert modules.select(root, ["a"]) == [Module(name="a.ko", data=module())]


def test_a_driver_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="overlay"):
        modules.select(module_tree(tmp_path, {"a.ko": module()}), ["a", "overlay"])


@pytest.mark.parametrize("files", [
    {"a.ko": module("b"), "b.ko": module("a")}, {"a.ko": b"\x7fELF no modinfo"}, {"a.ko.xz": b"garbage"},
    {"a.ko.zst": b"garbage"}, {"a.ko.gz": b"garbage"}])
def test_modules_that_are_garbled_or_go_in_circles_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(InvalidArgument):
        modules.select(module_tree(tmp_path, files), ["a"])


# --- kernel images ---

@pytest.mark.parametrize("pack", [
    lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress, bytes,
    lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    lambda data: lzma.compress(data, check=lzma.CHECK_CRC32,
                               filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}])])
def test_the_kernel_is_found_in_a_bzimage(pack: Callable[[bytes], bytes]) -> None:
    # The kernel's build appends the uncompressed size.
    assert vmlinux.extract(bzimage(pack(ELF) + (b"" if pack is bytes else struct.pack("<I", len(ELF))))) == ELF


@pytest.mark.skipif(shutil.which("lz4") is None, reason="needs lz4")
def test_the_kernel_is_found_in_a_bzimage_packed_with_lz4() -> None:
    packed = subprocess.run(["lz4", "-l", "-c"], input=ELF, capture_output=True, check=True).stdout
    assert vmlinux.extract(bzimage(packed + struct.pack("<I", len(ELF)))) == ELF


@pytest.mark.skipif(shutil.which("lz4") is None, reason="needs lz4")
def test_a_bomb_packed_with_lz4_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmlinux, "_LIMIT", 1 << 20)
    bomb = ELF + bytes(64 << 20)
    packed = subprocess.run(["lz4", "-l", "-c"], input=bomb, capture_output=True, check=True).stdout
    with pytest.raises(InvalidArgument, match="too large"):
        vmlinux.extract(bzimage(packed + struct.pack("<I", len(bomb))))


@pytest.mark.parametrize("image", [
    b"", b"MZ" + bytes(4096), bzimage(b"unknown compression"), bzimage(lzma.compress(b"no ELF")),
    bzimage(lzma.compress(ELF)[:-40]), bzimage(gzip.compress(ELF)[:20]), bzimage(lzma.compress(ELF))[:2200]])
def test_an_image_that_is_no_kernel_is_refused(image: bytes) -> None:
    with pytest.raises(InvalidArgument):
        vmlinux.extract(image)


def test_a_stream_that_was_cut_short_is_refused() -> None:
    packed = zstandard.ZstdCompressor().compress(os.urandom(100000))
    body = b"\x7fELF" + packed
    for pack in (lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress):
        whole = pack(body)
        with pytest.raises(InvalidArgument):
            vmlinux.extract(bzimage(whole[:len(whole) // 2] + struct.pack("<I", len(body))))


@given(st.binary(max_size=3000), st.binary(max_size=200))
def test_hostile_images_raise_nothing_else(noise: bytes, payload: bytes) -> None:
    assume(not vmlinux.is_elf(payload))  # that would be a kernel, as far as anybody can tell
    for image in (noise, bzimage(payload), bzimage(b"\xfd7zXZ\0" + payload), bzimage(b"\x1f\x8b\x08" + payload)):
        with pytest.raises(InvalidArgument):
            vmlinux.extract(image)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_bomb_is_not_unpacked(pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmlinux, "_LIMIT", 1 << 20)
    bomb = ELF + bytes(8 << 20)
    with pytest.raises(InvalidArgument, match="too large"):
        vmlinux.extract(bzimage(pack(bomb) + struct.pack("<I", len(bomb))))


# --- the store ---

def given_agent(path: Path, content: bytes = b"agent") -> Path:
    path.write_bytes(content)
    return path


async def test_an_imported_kernel_becomes_the_default_and_bootable(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    name = store.import_tree(package(tmp_path / "package"), RELEASE)
    told: list[str] = []
    kernel = await store.ensure_default(told.append)
    assert told == []
    assert (kernel.name, kernel.release) == (name, RELEASE)
    assert kernel.image.read_bytes() == ELF
    assert read_cpio(kernel.initrd.read_bytes())["init"][1] == b"agent"
    assert store.get("") == store.get(name) == kernel
    assert store.list_all() == [kernel]


async def test_another_agent_gets_an_initramfs_of_its_own(tmp_path: Path) -> None:
    tree = package(tmp_path / "package")
    old = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "old"))
    old.import_tree(tree, RELEASE)
    before = await old.ensure_default(print)
    new = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "new", b"newer"))
    with pytest.raises(NotFound, match="initramfs"):
        new.get("")
    assert new.list_all() == []
    after = await new.ensure_default(print)
    assert read_cpio(after.initrd.read_bytes())["init"][1] == b"newer"
    assert old.get("") == before, "a daemon of the older version, on the same store, goes on"


def imported_by_an_older_version(directory: Path) -> tuple[KernelStore, Path]:
    """One that took no `fuse` from the package; and the package."""
    tree = package(directory / "package")
    driver = tree / "lib/modules" / RELEASE / "kernel/drivers/fuse.ko"
    (tree / f"boot/config-{RELEASE}").write_text("CONFIG_FUSE_FS=m\nCONFIG_MACVLAN=y\n")
    store = KernelStore(directory / "store", agent_binary=given_agent(directory / "agent"))
    store.import_tree(tree, RELEASE)
    driver.write_bytes(module())
    return store, tree


async def test_a_kernel_that_was_imported_without_a_driver_is_imported_anew(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tree = imported_by_an_older_version(tmp_path)
    monkeypatch.setattr(debian, "installed", lambda: (tree, RELEASE))
    told: list[str] = []
    kernel = await store.ensure_default(told.append)
    assert kernel.name == f"debian-{RELEASE}"
    assert "modules/fuse.ko" in read_cpio(kernel.initrd.read_bytes())
    assert len(told) == 1
    assert await store.ensure_default(told.append) == kernel
    assert len(told) == 1, "once is enough"
    assert sorted(path.name for path in (tmp_path / "store/kernels").iterdir()) == [kernel.name, "default"]


async def test_where_it_cannot_be_the_former_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = imported_by_an_older_version(tmp_path)

    def unreachable() -> None:
        raise Unavailable("no archive")

    monkeypatch.setattr(debian, "installed", unreachable)
    kernel = await store.ensure_default(print)
    assert "modules/fuse.ko" not in read_cpio(kernel.initrd.read_bytes())


async def test_what_a_killed_import_left_does_not_count(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    half = tmp_path / "store/kernels" / f"debian-{RELEASE}"
    half.mkdir(parents=True)
    (half / "vmlinux").write_bytes(b"half")
    (tmp_path / "store/kernels/default").write_text(half.name)
    assert store.list_all() == []
    with pytest.raises(NotFound):
        store.get("")


async def test_what_a_killed_daemon_was_making_is_removed_after_a_day(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    store.import_tree(package(tmp_path / "package"), RELEASE)
    for name in (".new-old", ".new-young"):
        (tmp_path / "store" / name / "x").mkdir(parents=True)
    os.utime(tmp_path / "store/.new-old", (0, 0))
    await store.ensure_default(print)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [".new-young", "kernels"]


async def test_a_second_import_changes_nothing(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    tree = package(tmp_path / "package")
    store.import_tree(tree, RELEASE)
    kernel = await store.ensure_default(print)
    inode = kernel.image.stat().st_ino
    store.import_tree(tree, RELEASE)
    assert store.get("").image.stat().st_ino == inode
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["kernels"]


@pytest.mark.parametrize("name", ["nosuch", "../store", ".", "a/b", "debian-" + "x" * 300])
def test_an_unknown_kernel_is_not_found(tmp_path: Path, name: str) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    store.import_tree(package(tmp_path / "package"), RELEASE)
    with pytest.raises(NotFound):
        store.get(name)


def test_an_import_that_fails_leaves_nothing(tmp_path: Path) -> None:
    tree = package(tmp_path / "package")
    os.unlink(tree / "lib/modules" / RELEASE / "kernel/drivers/erofs.ko")
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    with pytest.raises(NotFound, match="erofs"):
        store.import_tree(tree, RELEASE)
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").rglob("*"))


# --- former agents ---

async def test_former_agents_and_their_initramfs_go_after_a_day(tmp_path: Path) -> None:
    root = tmp_path / "store"
    agent = root / "agent/present/agent"
    agent.parent.mkdir(parents=True)
    store = KernelStore(root, agent_binary=given_agent(agent))
    name = store.import_tree(package(tmp_path / "package"), RELEASE)
    for path in ("agent/old/agent", "agent/young/agent", f"kernels/{name}/initrd-old.cpio",
                 f"kernels/{name}/initrd-young.cpio"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    for path in ("agent/old", "agent/present", f"kernels/{name}/initrd-old.cpio"):
        os.utime(root / path, (0, 0))
    await store.ensure_default(print)
    assert sorted(path.name for path in (root / "agent").iterdir()) == ["present", "young"]
    left = {path.name for path in (root / "kernels" / name).glob("initrd-*")}
    assert left == {"initrd-young.cpio", store.get("").initrd.name}


async def test_what_a_daemon_uses_is_marked_at_its_start(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    store.import_tree(package(tmp_path / "package"), RELEASE)
    initrd = (await store.ensure_default(print)).initrd
    os.utime(initrd, (0, 0))
    await store.ensure_default(print)
    assert initrd.stat().st_mtime > 0


# --- kernels of others ---

def candidate(config: str | None = "CONFIG_A=y\n") -> kernel_check.Candidate:
    image = vmlinux.Image(data=ELF, format="vmlinux", release="7.0", config=config)
    return kernel_check.Candidate(image=image, modules=(Module(name="a.ko", data=b"A"),), warnings=(), known=True)


async def test_a_staged_kernel_is_nobody_s_until_it_is_committed(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    staged = store.stage("mine", candidate(), command_line="x=y")
    assert read_cpio(staged.kernel.initrd.read_bytes())["modules/a.ko"][1] == b"A"
    assert store.list_all() == []
    kernel = store.commit(staged)
    assert store.list_all() == [kernel]
    assert (kernel.name, kernel.release, kernel.command_line) == ("mine", "7.0", "x=y")
    details = store.details("mine")
    assert (details.config, details.modules, details.record.origin) == ({"A": "y"}, ("a.ko",), "added")
    assert store.default_name() is None
    with pytest.raises(Conflict):
        store.stage("mine", candidate(), command_line="")


async def test_a_discarded_kernel_leaves_nothing(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    store.discard(store.stage("mine", candidate(None), command_line=""))
    assert list((tmp_path / "store/kernels").iterdir()) == []


async def test_the_default_kernel_stays_and_others_go(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    for name in ("one", "two"):
        store.commit(store.stage(name, candidate(), command_line=""))
    store.set_default("one")
    store.remove("two")
    with pytest.raises(Conflict, match="default"):
        store.remove("one")
    with pytest.raises(NotFound):
        store.set_default("two")
    assert [kernel.name for kernel in store.list_all()] == ["one"]
    assert sorted(path.name for path in (tmp_path / "store/kernels").iterdir()) == ["default", "one"]


@pytest.mark.parametrize("name", ["", ".new-x", "../x", "a/b", "default", "x" * 200, "-x"])
async def test_names_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    store = KernelStore(tmp_path / "store", agent_binary=given_agent(tmp_path / "agent"))
    with pytest.raises(InvalidArgument):
        store.stage(name, candidate(), command_line="")
