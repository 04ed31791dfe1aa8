"""What a kernel must have to run pods, and what of it a kernel has.

Known from the configuration where the image or the caller gives one, else from the module directory, else not at all:
then only the trial boot tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperstack.guest import modules, vmlinux
from hyperstack.guest.initramfs import Module
from hyperstack.pod.errors import InvalidArgument

DRIVERS: Mapping[str, str] = {
    "virtio_pci": "VIRTIO_PCI", "virtio_console": "VIRTIO_CONSOLE", "virtio_scsi": "SCSI_VIRTIO",
    "sd_mod": "BLK_DEV_SD", "virtio_net": "VIRTIO_NET", "overlay": "OVERLAY_FS", "erofs": "EROFS_FS",
    "ext4": "EXT4_FS"}
"""Module -> option. Without them a pod cannot run: channel, disks, network, layers, writable layers."""
OPTIONAL_DRIVERS: Mapping[str, str] = {"virtio_blk": "VIRTIO_BLK", "virtio_rng": "HW_RANDOM_VIRTIO",
                                       "virtio_balloon": "VIRTIO_BALLOON", "fuse": "FUSE_FS", "macvlan": "MACVLAN",
                                       "virtio_mem": "VIRTIO_MEM"}

_REQUIRED: Mapping[str, str] = {
    "BLK_DEV_INITRD": "the agent comes in an initramfs", "BINFMT_ELF": "programs", "PCI": "the machine's bus",
    "ACPI": "the machine's interrupts and power", "DEVTMPFS": "/dev", "TMPFS": "files in memory", "PROC_FS": "/proc",
    "SYSFS": "the agent finds disks by it", "EPOLL": "the agent", "SIGNALFD": "the agent", "INET": "network",
    "NAMESPACES": "containers", "PID_NS": "containers", "IPC_NS": "containers", "UTS_NS": "containers",
    "NET_NS": "containers", "CGROUPS": "limits", "MEMCG": "memory limits", "CGROUP_PIDS": "process limits",
    "CFS_BANDWIDTH": "CPU limits", "CGROUP_BPF": "device access of containers", "BPF_SYSCALL": "device access",
    "SECCOMP_FILTER": "the default seccomp profile", "UNIX98_PTYS": "terminals",
    "POSIX_MQUEUE": "/dev/mqueue"}
"""Options that must be built in, with what they are for."""
_WANTED: Mapping[str, str] = {
    "SERIAL_8250_CONSOLE": "its last words cannot be read", "USER_NS": "no user namespaces in containers",
    "EROFS_FS_XATTR": "file capabilities of images are lost", "TMPFS_XATTR": "no attributes on tmpfs",
    "IPV6": "no ::1 in containers", "SYSVIPC": "no System V IPC",
    "BLK_CGROUP": "no I/O figures", "HW_RANDOM_VIRTIO": "random numbers come from the host's first message only",
    "MACVLAN": "no pod on several networks", "VIRTIO_BALLOON": "memory that was used once is never the host's again",
    "PAGE_REPORTING": "memory that was used once is never the host's again",
    "FUSE_FS": "no files of the host in containers (binds)",
    "VIRTIO_MEM": "no more memory for a pod that runs",
    "IA32_EMULATION": "no 32-bit programs", "LRU_GEN": "a guest that is out of memory may thrash for long"}
"""Options that are worth having, with what is lost without them."""
_OLDEST = (5, 14)
"""The first with `cgroup.kill`, the newest thing that the agent counts on."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")
_OPTION = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A kernel that has what can be told from its files."""

    image: vmlinux.Image
    modules: tuple[Module, ...]
    """In the order in which they have to be loaded."""
    warnings: tuple[str, ...]
    known: bool
    """Whether its drivers are known; else the trial boot is the only check."""


def parse_config(text: str) -> dict[str, str]:
    """Option without its prefix -> value."""
    return dict(_OPTION.findall(text))


def examine(image: vmlinux.Image, modules_root: Path | None) -> Candidate:
    """Choose the modules that pods need.

    :param modules_root: the kernel's module directory (lib/modules/RELEASE), where it has one.
    :raise InvalidArgument: with everything that is missing.
    """
    config = parse_config(image.config) if image.config is not None else None
    files = modules.available(modules_root) if modules_root else frozenset()
    builtin = _builtin(config, modules_root)
    missing = [] if builtin is None else _missing_drivers(config, builtin, files)
    if config is not None:
        missing += [f"CONFIG_{name}=y ({purpose})" for name, purpose in _REQUIRED.items() if config.get(name) != "y"]
    version = _VERSION.match(image.release)
    if version and (int(version[1]), int(version[2])) < _OLDEST:
        missing.append(f"Linux {'.'.join(map(str, _OLDEST))} or newer (it is {image.release})")
    if missing:
        raise InvalidArgument(f"the kernel lacks what pods need: {'; '.join(missing)}", field="kernel",
                              value=image.release, hint="docs/kernels.md has a configuration that fits.")
    chosen = _choose(modules_root, builtin, files)
    for module in chosen:
        made_for = modules.built_for(module)
        if made_for and image.release and made_for != image.release:
            raise InvalidArgument(f"the module {module.name} is of the kernel {made_for}, and the image is "
                                  f"{image.release}", field="modules", value=made_for)
    warnings = [f"without CONFIG_{name}: {loss}" for name, loss in _WANTED.items()
                if config is not None and config.get(name, "n") == "n"]
    return Candidate(image=image, modules=tuple(chosen), warnings=tuple(warnings), known=builtin is not None)


def features(config: Mapping[str, str]) -> dict[str, str]:
    """What of all that a pod needs or wants a kernel has: option -> "y", "m" or "n"."""
    names = (*DRIVERS.values(), *OPTIONAL_DRIVERS.values(), *_REQUIRED, *_WANTED)
    return {name: config.get(name, "n") for name in sorted(set(names))}


def _builtin(config: Mapping[str, str] | None, modules_root: Path | None) -> frozenset[str] | None:
    """The drivers that the kernel has in itself; None where nothing tells."""
    if config is not None:
        known = {**DRIVERS, **OPTIONAL_DRIVERS}
        return frozenset(module for module, option in known.items() if config.get(option) == "y")
    if modules_root is not None and (modules_root / "modules.builtin").exists():
        return modules.builtin_names(modules_root)
    return None


def _missing_drivers(config: Mapping[str, str] | None, builtin: frozenset[str], files: frozenset[str]) -> list[str]:
    absent = [module for module in DRIVERS if module not in builtin and module not in files]
    as_modules = [module for module in absent if config is None or config.get(DRIVERS[module]) == "m"]
    missing = [f"CONFIG_{DRIVERS[module]}" for module in absent if module not in as_modules]
    if as_modules:
        missing.append(f"the modules {', '.join(as_modules)} (give their directory with --modules)")
    return missing


def _choose(root: Path | None, builtin: frozenset[str] | None, files: frozenset[str]) -> list[Module]:
    if root is None:
        return []
    if builtin is None:
        # What there is no file of may be built in.
        builtin = frozenset(DRIVERS) - files
    return modules.select(root, DRIVERS, OPTIONAL_DRIVERS, builtin=builtin)
