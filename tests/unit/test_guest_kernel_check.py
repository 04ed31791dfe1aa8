"""Kernels from elsewhere: what their files tell, what they must have, and what hostile ones can do (nothing)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperstack.guest import kernel_check, vmlinux
from hyperstack.pod.errors import InvalidArgument, NotFound

RELEASE = "6.1.0-test"
XEN_PVH, XEN_OTHER, GNU = (b"Xen", 18), (b"Xen", 6), (b"GNU", 3)
COMPLETE = {**dict.fromkeys(kernel_check.DRIVERS.values(), "y"), **dict.fromkeys(kernel_check._REQUIRED, "y")}


def note(owner: bytes, kind: int, data: bytes = bytes(8)) -> bytes:
    name = owner + b"\0"
    return struct.pack("<III", len(name), len(data), kind) + name + bytes(-len(name) % 4) + data


def elf(*notes: tuple[bytes, int], config: dict[str, str] | None = None, machine: int = 62, headers: int = 1) -> bytes:
    """An ELF kernel in miniature: one segment of notes, a banner, perhaps a configuration."""
    segment = b"".join(note(*one) for one in notes)
    rest = f"Linux version {RELEASE} (somebody@somewhere) ".encode()
    if config is not None:
        text = "".join(f"CONFIG_{name}={value}\n" for name, value in config.items())
        rest += b"IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED"
    start = 64 + 56
    header = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, machine, 1, 0, 64, 0, 0, 64, 56, headers, 0,
                         0, 0)
    program = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(segment), len(segment), 4)
    return header + program + segment + rest


def module(depends: str = "", release: str = RELEASE) -> bytes:
    return b"\x7fELF" + f"\0depends={depends}\0vermagic={release} SMP mod_unload \0".encode()


def module_tree(root: Path, *names: str, release: str = RELEASE) -> Path:
    (root / "kernel").mkdir(parents=True)
    for name in names:
        (root / "kernel" / f"{name}.ko").write_bytes(module(release=release))
    return root


# --- images ---

def test_an_elf_kernel_tells_its_release_and_its_configuration() -> None:
    image = vmlinux.read(elf(GNU, XEN_OTHER, XEN_PVH, config={"EXT4_FS": "y"}))
    assert (image.format, image.release) == ("vmlinux", RELEASE)
    assert image.config == "CONFIG_EXT4_FS=y\n"


def test_an_elf_kernel_without_the_entry_is_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidArgument, match="PVH") as caught:
        vmlinux.read(elf(GNU, XEN_OTHER))
    assert "CONFIG_PVH=y" in str(caught.value)


@pytest.mark.parametrize("data", [
    elf(XEN_PVH, machine=183), elf(XEN_PVH, headers=60000), elf(XEN_PVH)[:70], b"\x7fELF",
    elf(XEN_PVH)[:32] + struct.pack("<Q", 1 << 62) + elf(XEN_PVH)[40:],
    elf(XEN_PVH)[:32] + struct.pack("<Q", (1 << 64) - 8) + elf(XEN_PVH)[40:]])
def test_elf_files_that_are_garbled_or_of_other_machines_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        vmlinux.read(data)


@given(st.binary(max_size=400), st.integers(0, 300))
def test_hostile_elf_files_raise_nothing_else(noise: bytes, at: int) -> None:
    whole = elf(XEN_PVH, config={"A": "y"})
    data = whole[:at] + noise + whole[at + len(noise):]
    try:
        image = vmlinux.read(b"\x7fELF" + data[4:])
    except InvalidArgument:
        return
    assert image.format == "vmlinux"


def test_a_configuration_that_is_a_bomb_or_cut_short_is_no_configuration() -> None:
    assert vmlinux.embedded_config(b"IKCFG_ST" + gzip.compress(bytes(64 << 20))) is None
    assert vmlinux.embedded_config(b"IKCFG_ST" + gzip.compress(b"CONFIG_A=y\n" * 1000)[:40]) is None
    assert vmlinux.embedded_config(b"IKCFG_STnothing of the kind") is None


# --- what a kernel must have ---

def test_a_kernel_with_everything_built_in_needs_no_modules() -> None:
    candidate = kernel_check.examine(vmlinux.read(elf(XEN_PVH, config=COMPLETE)), None)
    assert candidate.modules == ()
    assert candidate.known
    assert any("IPV6" in warning for warning in candidate.warnings)


def test_all_that_is_missing_is_told_at_once() -> None:
    config = COMPLETE | {"MEMCG": "n", "EXT4_FS": "n", "VIRTIO_NET": "m", "EROFS_FS": "m"}
    with pytest.raises(InvalidArgument) as caught:
        kernel_check.examine(vmlinux.read(elf(XEN_PVH, config=config)), None)
    for word in ("CONFIG_MEMCG=y", "CONFIG_EXT4_FS", "virtio_net", "erofs", "--modules"):
        assert word in str(caught.value)
    assert "overlay" not in str(caught.value)


def test_a_kernel_that_is_too_old_for_the_agent_is_refused() -> None:
    old = elf(XEN_PVH, config=COMPLETE).replace(RELEASE.encode(), b"5.10.0-tes")
    with pytest.raises(InvalidArgument, match=r"5\.14 or newer"):
        kernel_check.examine(vmlinux.read(old), None)


def test_modules_stand_in_for_what_is_not_built_in(tmp_path: Path) -> None:
    config = COMPLETE | {"VIRTIO_NET": "m", "EROFS_FS": "m"}
    tree = module_tree(tmp_path / "tree", "virtio_net", "erofs", "unneeded")
    candidate = kernel_check.examine(vmlinux.read(elf(XEN_PVH, config=config)), tree)
    assert {one.name for one in candidate.modules} == {"virtio_net.ko", "erofs.ko"}


def test_modules_that_are_only_worth_having_are_taken_where_they_are(tmp_path: Path) -> None:
    config = COMPLETE | {"VIRTIO_BALLOON": "m", "PAGE_REPORTING": "y"}
    image = vmlinux.read(elf(XEN_PVH, config=config))
    candidate = kernel_check.examine(image, module_tree(tmp_path / "tree", "virtio_balloon", "unneeded"))
    assert [one.name for one in candidate.modules] == ["virtio_balloon.ko"]
    assert kernel_check.examine(image, module_tree(tmp_path / "bare")).modules == ()
    assert not any("PAGE_REPORTING" in warning for warning in candidate.warnings)


def test_a_kernel_that_keeps_its_memory_is_warned_of() -> None:
    candidate = kernel_check.examine(vmlinux.read(elf(XEN_PVH, config=COMPLETE)), None)
    for option in ("VIRTIO_BALLOON", "PAGE_REPORTING"):
        assert any(option in warning and "the host's again" in warning for warning in candidate.warnings)


def test_modules_of_another_kernel_are_refused(tmp_path: Path) -> None:
    config = COMPLETE | {"EROFS_FS": "m"}
    with pytest.raises(InvalidArgument, match=r"5\.10\.0.*6\.1\.0-test"):
        kernel_check.examine(vmlinux.read(elf(XEN_PVH, config=config)),
                             module_tree(tmp_path / "tree", "erofs", release="5.10.0"))


def test_without_a_configuration_modules_builtin_tells(tmp_path: Path) -> None:
    tree = module_tree(tmp_path / "tree", *(name for name in kernel_check.DRIVERS if name not in ("ext4", "overlay")))
    (tree / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    with pytest.raises(InvalidArgument, match="overlay"):
        kernel_check.examine(vmlinux.read(elf(XEN_PVH)), tree)
    (tree / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\nkernel/fs/overlayfs/overlay.ko\n")
    assert kernel_check.examine(vmlinux.read(elf(XEN_PVH)), tree).known


def test_a_kernel_of_which_nothing_is_known_is_left_to_the_trial_boot(tmp_path: Path) -> None:
    assert not kernel_check.examine(vmlinux.read(elf(XEN_PVH)), None).known
    candidate = kernel_check.examine(vmlinux.read(elf(XEN_PVH)), module_tree(tmp_path / "tree", "erofs"))
    assert [one.name for one in candidate.modules] == ["erofs.ko"]


def test_a_dependency_that_is_missing_is_named(tmp_path: Path) -> None:
    tree = module_tree(tmp_path / "tree")
    (tree / "kernel/erofs.ko").write_bytes(module("libcrc32c"))
    with pytest.raises(NotFound, match="libcrc32c"):
        kernel_check.examine(vmlinux.read(elf(XEN_PVH, config=COMPLETE | {"EROFS_FS": "m"})), tree)
