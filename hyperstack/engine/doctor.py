"""What the host can do: the engine's own checks, and those of its backends.

Each finding that is not ok has a remedy, which is a command where there is one. Files are read below `root`, so that
tests can show hosts that this one is not.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hyperstack.hypervisor.api import Hypervisor
from hyperstack.network.api import NetworkBackend
from hyperstack.pod.finding import Finding

_ROOT = Path("/")

_GIB = 1 << 30
MIN_DISK = 1 * _GIB
GOOD_DISK = 10 * _GIB
"""Bytes. Below the first hardly an image fits; below the second a handful of them do."""
MIN_MEMORY = 256 << 20
GOOD_MEMORY = 1 * _GIB
"""Bytes. One machine takes about 100 MiB."""
GOOD_DESCRIPTORS = 4096
"""hyperd holds about ten for each pod."""

_NAMESPACES = ("mnt", "net", "ipc", "pid", "uts")
_CONTROLLERS = ("memory", "pids", "cpu")
_TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "nft": "nftables", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"}
"""Command -> the Debian package that has it."""

# linux/capability.h
_CAPABILITIES = {"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_ADMIN": 12,
                 "CAP_SYS_ADMIN": 21}
_CAP_SYS_RESOURCE = 24


async def diagnose(hypervisor: Hypervisor, network: NetworkBackend, data_root: Path) -> list[Finding]:
    """All findings, the host's own first. Takes as long as the hypervisor's probe, which boots something."""
    host, machines, networking = await asyncio.gather(host_findings(data_root), hypervisor.probe(), network.probe())
    return [*host, *machines, *networking]


async def host_findings(data_root: Path, *, root: Path = _ROOT) -> list[Finding]:
    """What concerns no backend."""
    return await asyncio.to_thread(_host_findings, data_root, root)


def _host_findings(data_root: Path, root: Path) -> list[Finding]:
    return [_kernel(), _privileges(root), _namespaces(root), _cgroups(root), _seccomp(), _kvm(root), *_tools(),
            _descriptors(), _memory(root), _disk(data_root), _sparse_files(data_root)]


def _kernel() -> Finding:
    release = os.uname().release
    major, minor = (int(part) for part in release.split("-")[0].split(".")[:2])
    if (major, minor) < (5, 6):
        return Finding(name="kernel", status="warn", detail=f"{release} is older than anything this was tried on",
                       remedy="use Linux 5.10 or newer")
    return Finding(name="kernel", status="ok", detail=release)


def _privileges(root: Path) -> Finding:
    status = (root / "proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        return Finding(name="privileges", status="fail", detail=f"hyperd lacks {', '.join(missing)}",
                       remedy="run hyperd as root, outside of an unprivileged container")
    if not effective >> _CAP_SYS_RESOURCE & 1:
        return Finding(name="privileges", status="warn",
                       detail="hyperd lacks CAP_SYS_RESOURCE: it cannot raise limits, nor protect itself from the OOM "
                              "killer", remedy="grant it where the host is a container itself; all else works without")
    return Finding(name="privileges", status="ok", detail="all capabilities that are needed")


def _namespaces(root: Path) -> Finding:
    missing = [name for name in _NAMESPACES if not os.path.lexists(root / "proc/self/ns" / name)]
    if missing:
        return Finding(name="namespaces", status="fail", detail=f"the kernel lacks {', '.join(missing)}",
                       remedy="use a kernel with CONFIG_NAMESPACES and all kinds of them")
    return Finding(name="namespaces", status="ok", detail=", ".join(_NAMESPACES))


def _cgroups(root: Path) -> Finding:
    """Where the controllers are: v2 alone, v1 alone, or both side by side."""
    unified, legacy = set[str](), set[str]()
    versions = set[int]()
    for mount, kind, options in _mounts(root):
        if kind == "cgroup2":
            versions.add(2)
            unified |= _words(root / mount.relative_to("/") / "cgroup.controllers")
        elif kind == "cgroup":
            versions.add(1)
            legacy |= options & {*_CONTROLLERS, "cpuacct", "freezer"}
    if not versions:
        return Finding(name="cgroups", status="fail", detail="no cgroup hierarchy is mounted",
                       remedy="mount -t cgroup2 none /sys/fs/cgroup")
    shown = {frozenset({2}): "v2", frozenset({1}): "v1"}.get(frozenset(versions), "v1 and v2 side by side")
    missing = [name for name in _CONTROLLERS if name not in unified | legacy]
    if missing:
        return Finding(name="cgroups", status="fail" if "memory" in missing else "warn",
                       detail=f"{shown}, without the controllers {', '.join(missing)}",
                       remedy="boot with cgroup_enable=memory, or enable the controllers in the parent cgroup's "
                              "cgroup.subtree_control")
    return Finding(name="cgroups", status="ok", detail=f"{shown}, with {', '.join(_CONTROLLERS)}")


def _mounts(root: Path) -> Iterable[tuple[Path, str, set[str]]]:
    """Mount point, type and options."""
    for line in (root / "proc/self/mounts").read_text().splitlines():
        fields = line.split()
        yield Path(fields[1]), fields[2], set(fields[3].split(","))


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _seccomp() -> Finding:
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return Finding(name="libseccomp", status="fail", detail="libseccomp.so.2 is missing",
                       remedy="apt install libseccomp2")
    return Finding(name="libseccomp", status="ok", detail="present")


def _kvm(root: Path) -> Finding:
    """Whether the device is there; whether it is any good is for the hypervisor's probe to find out."""
    device = root / "dev/kvm"
    if not device.exists():
        return Finding(name="/dev/kvm", status="warn", detail="missing: machines are emulated, several times slower",
                       remedy="enable virtualisation in the firmware (or nesting, in a VM), then modprobe kvm_intel or "
                              "kvm_amd")
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding(name="/dev/kvm", status="warn", detail="not accessible", remedy="run hyperd as root")
    return Finding(name="/dev/kvm", status="ok", detail="present")


def _tools() -> list[Finding]:
    missing = [(tool, package) for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if not missing:
        return [Finding(name="tools", status="ok", detail=", ".join(_TOOLS))]
    return [Finding(name="tools", status="fail", detail=f"{tool} is missing", remedy=f"apt install {package}")
            for tool, package in missing]


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < GOOD_DESCRIPTORS:
        return Finding(name="open files", status="warn", detail=f"at most {hard}: enough for some {hard // 10} pods",
                       remedy="LimitNOFILE=1048576 in hyperd.service, or ulimit -n 1048576")
    return Finding(name="open files", status="ok", detail=f"{soft}, at most {hard}")


def _memory(root: Path) -> Finding:
    words = {line.split(":")[0]: int(line.split()[1]) * 1024
             for line in (root / "proc/meminfo").read_text().splitlines() if line.endswith("kB")}
    free = words.get("MemAvailable", words["MemFree"])
    detail = f"{_shown(free)} available of {_shown(words['MemTotal'])}"
    if free < GOOD_MEMORY:
        return Finding(name="memory", status="fail" if free < MIN_MEMORY else "warn", detail=detail,
                       remedy="stop something, or add memory: a pod takes about 100 MiB and what its containers use")
    return Finding(name="memory", status="ok", detail=detail)


def _disk(data_root: Path) -> Finding:
    usage = shutil.disk_usage(_existing(data_root))
    detail = f"{_shown(usage.free)} free of {_shown(usage.total)} for {data_root}"
    if usage.free < GOOD_DISK:
        return Finding(name="disk space", status="fail" if usage.free < MIN_DISK else "warn", detail=detail,
                       remedy="hyperctl image prune, or move the data directory to a larger file system")
    return Finding(name="disk space", status="ok", detail=detail)


def _sparse_files(data_root: Path) -> Finding:
    """Disks are sparse files: on a file system without holes each would take its full size."""
    directory = _existing(data_root)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.truncate(_GIB)
            allocated = os.fstat(file.fileno()).st_blocks * 512
    except OSError as error:
        return Finding(name="data directory", status="fail", detail=f"{directory} cannot be written: {error.strerror}",
                       remedy="make it writable for hyperd, or name another in its configuration")
    if allocated >= _GIB:
        return Finding(name="data directory", status="fail", detail=f"{directory} has no sparse files",
                       remedy="put it on ext4, xfs or btrfs")
    return Finding(name="data directory", status="ok", detail=f"{data_root}, sparse files")


def _existing(path: Path) -> Path:
    """The path or its nearest parent that is there."""
    while not path.is_dir():
        path = path.parent
    return path


def _shown(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size >> 20} MiB"
