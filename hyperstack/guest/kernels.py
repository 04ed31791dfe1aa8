"""Guest kernels: where they come from, and what makes them boot our agent.

Layout of the store, below its root:

    agent/HASH/agent                the agent, compiled from sources of that hash
    kernels/default                 the name of the default kernel
    kernels/NAME/kernel.json        `Record`; written last, so a directory without it does not count
    kernels/NAME/vmlinux
    kernels/NAME/modules/{order,*.ko}
    kernels/NAME/initrd-HASH.cpio   of that agent and these modules

Everything is made under a temporary name and renamed, so that daemons may share a store and be killed at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from hyperstack.guest import initramfs, modules, vmlinux
from hyperstack.pod.errors import NotFound, Unavailable
from hyperstack.pod.kernel import Kernel

log = logging.getLogger(__name__)

AGENT_SOURCES = Path(__file__).with_name("agent")
DEBIAN_PACKAGE = "linux-image-cloud-amd64"

_REQUIRED = ("virtio_pci", "virtio_console", "virtio_scsi", "sd_mod", "virtio_net", "overlay", "erofs", "ext4")
"""Drivers without which a pod cannot run: channel, disks, network, layers, writable layers."""
_OPTIONAL = ("virtio_blk", "virtio_rng")
_DEBIAN_MIN_MEMORY_MIB = 96
"""Debian's cloud kernel was seen to panic with 64."""
_DEBIAN_COMMAND_LINE = "cgroup_no_v1=all"
"""What needs no host: speed under emulation is the backend's business."""
_BUILD_DEADLINE_S = 300
_APT_DEADLINE_S = 600
_STALE_S = 24 * 3600
_TAIL = 800
"""Characters of a failed program's output that an error repeats."""
_NAME = re.compile(r"[a-zA-Z0-9][\w.+~-]{0,127}\Z")
_RELEASE = re.compile(r"linux-image-(\d[\w.+~-]*-cloud-amd64)\Z")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """kernel.json"""

    release: str
    command_line: str = ""
    min_memory_mib: int = 64


def build_agent(cache_dir: Path) -> Path:
    """The compiled agent; compiles it where its sources have changed since.

    :raise Unavailable: it does not compile; the message has the compiler's last words.
    """
    agent = _agent_path(cache_dir)
    if agent.exists():
        return agent
    with _temporary_directory(cache_dir) as work:
        _run(["make", "-s", "-C", str(AGENT_SOURCES), f"OUT={work}"], deadline_s=_BUILD_DEADLINE_S,
             hint="apt-get install make musl-tools linux-libc-dev")
        agent.parent.mkdir(parents=True, exist_ok=True)
        (work / "agent").replace(agent)
    return agent


class KernelStore:
    """The kernels that pods of this host can boot.

    :param root: made where absent.
    :param agent_binary: a compiled agent; None: compiled here from the sources that came with this package.
    """

    def __init__(self, root: Path, *, agent_binary: Path | None = None) -> None:
        self._root = root
        self._kernels = root / "kernels"
        self._agent_binary = agent_binary
        """Settled at the first use, so that an upgrade of the package does not pull it from under a running daemon."""
        self._hashed: tuple[Path, str] | None = None

    async def ensure_default(self, progress: Callable[[str], None]) -> Kernel:
        """The default kernel, ready to boot with the present agent; the one that was made default before, else
        Debian's packaged cloud kernel: an installed one, or a downloaded one.

        :param progress: told in a few words what takes time now.
        :raise Unavailable: the agent does not compile, or Debian's archive cannot be reached.
        """
        agent = self._agent()
        if not agent.exists():
            progress("Compiling the guest agent")
            await asyncio.to_thread(build_agent, self._root)
        await asyncio.to_thread(self._clean)
        name = self._default_name()
        if name is None:
            name = await self._import_debian(progress)
        await asyncio.to_thread(self._refresh)
        return self.get(name)

    def get(self, name: str) -> Kernel:
        """:param name: empty for the default.

        :raise NotFound: no such kernel, or `ensure_default` has not run since the agent changed.
        """
        chosen = name or self._default_name()
        if chosen is None:
            raise NotFound("kernel", "default", hint="Run `hyperd` once with access to Debian's archive.")
        directory = self._kernels / chosen
        if not _NAME.match(chosen) or not (directory / "kernel.json").exists():
            raise NotFound("kernel", chosen[:64], hint="`hyperctl kernel ls` shows what there is.")
        initrd = self._initrd(directory)
        if not initrd.exists():
            raise NotFound("initramfs of kernel", chosen, hint="Restart `hyperd`: it makes it for the present agent.")
        record = _read_record(directory)
        return Kernel(name=chosen, image=directory / "vmlinux", initrd=initrd, command_line=record.command_line,
                      min_memory_mib=record.min_memory_mib, release=record.release)

    def list_all(self) -> list[Kernel]:
        """Those that can boot now, by name."""
        found = []
        for directory in self._directories():
            with contextlib.suppress(NotFound):
                found.append(self.get(directory.name))
        return found

    def import_tree(self, tree: Path, release: str) -> str:
        """Import a packaged kernel, and make it the default; its name in the store. `ensure_default` makes it bootable.

        :param tree: holds boot/vmlinuz-RELEASE and lib/modules/RELEASE, as Debian's packages have them.
        :raise InvalidArgument: no kernel image that this can read. :raise NotFound: it lacks a driver that pods need.
        """
        name = f"debian-{release}"
        chosen = modules.select(tree / "lib/modules" / release, _REQUIRED, _OPTIONAL)
        image = vmlinux.extract((tree / "boot" / f"vmlinuz-{release}").read_bytes())
        with _temporary_directory(self._root) as work:
            (work / "vmlinux").write_bytes(image)
            (work / "modules").mkdir()
            for module in chosen:
                (work / "modules" / module.name).write_bytes(module.data)
            (work / "modules/order").write_text("".join(f"{module.name}\n" for module in chosen))
            record = Record(release=release, command_line=_DEBIAN_COMMAND_LINE, min_memory_mib=_DEBIAN_MIN_MEMORY_MIB)
            (work / "kernel.json").write_bytes(msgspec.json.encode(record))
            self._kernels.mkdir(parents=True, exist_ok=True)
            work.chmod(0o755)
            # Where another daemon was first, its directory is as good; one without a record is nobody's.
            if not (self._kernels / name / "kernel.json").exists():
                shutil.rmtree(self._kernels / name, ignore_errors=True)
                work.rename(self._kernels / name)
        _write_atomically(self._kernels / "default", name.encode())
        return name

    # --- import ---

    async def _import_debian(self, progress: Callable[[str], None]) -> str:
        unpacked = await asyncio.to_thread(_installed)
        if unpacked:
            progress(f"Importing the installed kernel {unpacked[1]}")
            return await asyncio.to_thread(self.import_tree, *unpacked)
        with _temporary_directory(self._root) as work:
            progress("Downloading Debian's cloud kernel")
            release = await asyncio.to_thread(_download, work)
            progress(f"Importing the kernel {release}")
            return await asyncio.to_thread(self.import_tree, work / "x", release)

    # --- initramfs ---

    def _refresh(self) -> None:
        """An initramfs of the present agent for every kernel."""
        for directory in self._directories():
            initrd = self._initrd(directory)
            if not initrd.exists():
                data = initramfs.build(self._agent().read_bytes(), _stored_modules(directory))
                _write_atomically(initrd, data)
                log.info("made the initramfs of kernel %s", directory.name)

    def _clean(self) -> None:
        """Remove what was being made when somebody was killed, long enough ago that nobody makes it now."""
        for path in (*self._root.glob(".new-*"), *self._kernels.glob(".new-*"), *self._kernels.glob("*/.new-*")):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    shutil.rmtree(path, ignore_errors=True)
                    path.unlink(missing_ok=True)

    def _initrd(self, directory: Path) -> Path:
        agent = self._agent()
        if not self._hashed or self._hashed[0] != agent:
            if not agent.exists():
                raise NotFound("guest agent", agent.name, hint="Restart `hyperd`: it compiles the agent.")
            self._hashed = agent, hashlib.sha256(agent.read_bytes()).hexdigest()[:16]
        # A kernel's modules never change, so its directory and the agent name the initramfs.
        return directory / f"initrd-{self._hashed[1]}.cpio"

    def _agent(self) -> Path:
        if self._agent_binary is None:
            self._agent_binary = _agent_path(self._root)
        return self._agent_binary

    def _directories(self) -> list[Path]:
        return sorted(path.parent for path in self._kernels.glob("*/kernel.json"))

    def _default_name(self) -> str | None:
        try:
            name = (self._kernels / "default").read_text()
        except FileNotFoundError:
            return None
        return name if (self._kernels / name / "kernel.json").exists() else None


def _agent_path(cache_dir: Path) -> Path:
    digest = hashlib.sha256()
    for path in sorted((*AGENT_SOURCES.glob("*.[ch]"), AGENT_SOURCES / "Makefile")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return cache_dir / "agent" / digest.hexdigest()[:16] / "agent"


def _stored_modules(directory: Path) -> list[initramfs.Module]:
    names = (directory / "modules/order").read_text().splitlines()
    return [initramfs.Module(name=name, data=(directory / "modules" / name).read_bytes()) for name in names]


def _read_record(directory: Path) -> Record:
    return msgspec.json.decode((directory / "kernel.json").read_bytes(), type=Record)


def _installed() -> tuple[Path, str] | None:
    """The newest cloud kernel that this host has installed with its modules: its tree and release."""
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), key=lambda path: path.stat().st_mtime)
    releases = [path.name.removeprefix("vmlinuz-") for path in found]
    usable = [release for release in releases if (Path("/lib/modules") / release / "kernel").is_dir()]
    return (Path("/"), usable[-1]) if usable else None


def _download(work: Path) -> str:
    """Download and unpack Debian's package to work/x; the kernel's release."""
    package = _debian_dependency()
    if package is None:
        _run(["apt-get", "-q", "update"], deadline_s=_APT_DEADLINE_S, hint="Check the network and /etc/apt.")
        package = _debian_dependency()
    matched = _RELEASE.match(package or "")
    if package is None or matched is None:
        raise Unavailable(f"Debian's archive has no {DEBIAN_PACKAGE}",
                          hint="Check /etc/apt/sources.list: it is in main of Debian 12.")
    try:
        _run(["apt-get", "-q", "download", package], deadline_s=_APT_DEADLINE_S, cwd=work)
    except Unavailable:
        # Lists that are older than the archive name a version that is gone.
        _run(["apt-get", "-q", "update"], deadline_s=_APT_DEADLINE_S, hint="Check the network and /etc/apt.")
        _run(["apt-get", "-q", "download", package], deadline_s=_APT_DEADLINE_S, cwd=work,
             hint="Check the network and /etc/apt.")
    archive = next(work.glob("*.deb"))
    _run(["dpkg-deb", "-x", str(archive), str(work / "x")], deadline_s=_APT_DEADLINE_S)
    return matched[1]


def _debian_dependency() -> str | None:
    """The package with the kernel itself, as the lists on this host name it."""
    listing = _run(["apt-cache", "depends", "--important", DEBIAN_PACKAGE], deadline_s=_APT_DEADLINE_S,
                   check=False)
    words = [line.split()[-1] for line in listing.splitlines() if "Depends:" in line]
    return next((word for word in words if _RELEASE.match(word)), None)


def _run(command: Sequence[str], *, deadline_s: float, cwd: Path | None = None, hint: str | None = None,
         check: bool = True) -> str:
    """The program's output.

    :raise Unavailable: it is missing, fails (unless not `check`) or takes too long.
    """
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, timeout=deadline_s, check=False, text=True,
                              errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    except FileNotFoundError as error:
        raise Unavailable(f"there is no {command[0]}", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{' '.join(command)}` took longer than {deadline_s:.0f} s", hint=hint) from error
    if check and done.returncode != 0:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stdout.strip()[-_TAIL:]}", hint=hint)
    return done.stdout


@contextlib.contextmanager
def _temporary_directory(root: Path) -> Iterator[Path]:
    """On the file system of `root`, so that its content can be renamed; it may itself be renamed away."""
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_atomically(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    Path(file.name).rename(path)
