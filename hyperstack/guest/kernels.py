"""The store of guest kernels, and of the agent that they start.

Layout of the store, below its root:

    agent/HASH/agent                the agent, compiled from sources of that hash
    kernels/default                 the name of the default kernel
    kernels/NAME/kernel.json        `Record`; written last, so a directory without it does not count
    kernels/NAME/vmlinux            or bzImage
    kernels/NAME/config             its configuration, where it is known
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
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hyperstack.guest import build_lock, debian, initramfs, kernel_check, modules, vmlinux
from hyperstack.guest.file_server import FILE_SERVER_SOURCES
from hyperstack.guest.tools import run, temporary_directory, write_atomically
from hyperstack.pod.errors import Conflict, InvalidArgument, NotFound, Unavailable
from hyperstack.pod.kernel import Kernel

log = logging.getLogger(__name__)

AGENT_SOURCES = Path(__file__).with_name("agent")
FOREIGN_MIN_MEMORY_MIB = 96
"""For kernels that nobody has measured: as Debian's, which is larger than most."""

_BUILD_DEADLINE_S = 300
_STALE_S = 24 * 3600
"""What nobody used for so long is no other daemon's either."""
_NAME = re.compile(r"[a-zA-Z0-9][\w.+~-]{0,127}\Z")
_NEW = ".new-"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """kernel.json"""

    release: str
    command_line: str = ""
    min_memory_mib: int = 64
    origin: str = "debian"
    """Where it is from: "debian", "built" or "added"."""
    image: str = "vmlinux"
    """The image's file name."""
    added_at: int = 0
    """Nanoseconds since the epoch; 0 where unknown."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """A stored kernel in full."""

    kernel: Kernel
    record: Record
    modules: tuple[str, ...]
    """File names, in the order in which they are loaded."""
    config: dict[str, str] | None
    """Option without CONFIG_ -> value; None where it is not known."""
    bytes: int
    """On the host's disk."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A kernel that can boot but is in no list yet; `KernelStore.commit` or `discard` ends that."""

    name: str
    directory: Path
    kernel: Kernel


def build_agent(cache_dir: Path) -> Path:
    """The compiled agent; compiles it where its sources have changed since.

    :raise Unavailable: it does not compile; the message has the compiler's last words.
    """
    agent = _agent_path(cache_dir)
    if agent.exists():
        return agent
    with temporary_directory(cache_dir) as work:
        run(["make", "-s", "-C", str(AGENT_SOURCES), f"OUT={work}"], deadline_s=_BUILD_DEADLINE_S,
            hint="apt-get install make musl-tools linux-libc-dev")
        agent.parent.mkdir(parents=True, exist_ok=True)
        (work / "agent").replace(agent)
    return agent


def check_name(name: str) -> str:
    """:raise InvalidArgument: it cannot be a kernel's name."""
    if not _NAME.match(name) or name == "default":
        raise InvalidArgument(f"invalid kernel name {name[:64]!r}", field="name", value=name[:64],
                              hint="letters, digits and _ . + ~ - ; it begins with a letter or a digit")
    return name


class KernelStore:
    """The kernels that pods of this host can boot.

    :param root: made where absent.
    :param agent_binary: a compiled agent; None: compiled here from the sources that came with this package.
    """

    def __init__(self, root: Path, *, agent_binary: Path | None = None) -> None:
        self.root = root
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
            await asyncio.to_thread(build_agent, self.root)
        await asyncio.to_thread(self._clean)
        name = self.default_name()
        if name is None:
            name = await self._import_debian(progress)
        elif await asyncio.to_thread(self._lacks_drivers, name):
            try:
                name = await self._import_debian(progress)
            except Unavailable as error:
                log.warning("kernel %s was imported without drivers that are used now, and stays so: %s", name, error)
        await asyncio.to_thread(self.refresh)
        await asyncio.to_thread(self._prune)
        return self.get(name)

    def get(self, name: str) -> Kernel:
        """:param name: empty for the default.

        :raise NotFound: no such kernel, or `ensure_default` has not run since the agent changed.
        """
        directory = self._directory(name)
        initrd = self._initrd(directory)
        if not initrd.exists():
            raise NotFound("initramfs of kernel", directory.name,
                           hint="Restart `hyperd`: it makes it for the present agent.")
        return _kernel(directory, initrd)

    def list_all(self) -> list[Kernel]:
        """Those that can boot now, by name."""
        found = []
        for directory in self._directories():
            with contextlib.suppress(NotFound):
                found.append(self.get(directory.name))
        return found

    def details(self, name: str) -> Details:
        """:raise NotFound: as `get`."""
        directory = self._directory(name)
        config = directory / "config"
        return Details(kernel=self.get(name), record=_read_record(directory), modules=tuple(_module_names(directory)),
                       config=kernel_check.parse_config(config.read_text()) if config.exists() else None,
                       bytes=sum(path.stat().st_blocks * 512 for path in directory.rglob("*")))

    def default_name(self) -> str | None:
        """None: none was chosen, or it is gone."""
        try:
            name = (self._kernels / "default").read_text()
        except FileNotFoundError:
            return None
        return name if (self._kernels / name / "kernel.json").exists() else None

    def set_default(self, name: str) -> None:
        """:raise NotFound: as `get`."""
        write_atomically(self._kernels / "default", self.get(name).name.encode())

    def remove(self, name: str) -> None:
        """Forget a kernel; machines that booted it have read it and go on.

        :raise NotFound: no such kernel. :raise Conflict: it is the default.
        """
        directory = self._directory(name)
        if directory.name == self.default_name():
            raise Conflict(f"kernel {directory.name} is the host's default", field="kernel", value=directory.name,
                           hint="choose another with `hyperctl kernel default` first")
        self._bury(directory)

    def stage(self, name: str, candidate: kernel_check.Candidate, *, command_line: str, origin: str = "added",
              min_memory_mib: int = FOREIGN_MIN_MEMORY_MIB) -> Staged:
        """Make a checked kernel bootable without letting anybody see it. It is on the disk: not for the event loop.

        :raise InvalidArgument: the name cannot be one. :raise Conflict: it is taken.
        """
        if self.has(check_name(name)):
            raise Conflict(f"there is a kernel {name} already", field="name", value=name,
                           hint="remove it with `hyperctl kernel rm`, or choose another name")
        self._kernels.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_NEW, dir=self._kernels))
        try:
            work.chmod(0o755)
            image = candidate.image
            record = Record(release=image.release, command_line=command_line, min_memory_mib=min_memory_mib,
                            origin=origin, image=image.format, added_at=time.time_ns())
            _write_kernel(work, image.data, candidate.modules, record)
            if image.config is not None:
                (work / "config").write_text(image.config)
            self._make_initrd(work)
            return Staged(name=name, directory=work, kernel=_kernel(work, self._initrd(work)))
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise

    def commit(self, staged: Staged) -> Kernel:
        """:raise Conflict: somebody else has taken the name meanwhile."""
        target = self._kernels / staged.name
        if self.has(staged.name):
            self.discard(staged)
            raise Conflict(f"there is a kernel {staged.name} already", field="name", value=staged.name)
        shutil.rmtree(target, ignore_errors=True)  # what is there without a record is nobody's
        staged.directory.rename(target)
        return self.get(staged.name)

    def discard(self, staged: Staged) -> None:
        """Idempotent."""
        shutil.rmtree(staged.directory, ignore_errors=True)

    def has(self, name: str) -> bool:
        return (self._kernels / name / "kernel.json").exists()

    def import_tree(self, tree: Path, release: str) -> str:
        """Import a packaged kernel, and make it the default; its name in the store. `ensure_default` makes it bootable.

        :param tree: holds boot/vmlinuz-RELEASE and lib/modules/RELEASE, as Debian's packages have them.
        :raise InvalidArgument: no kernel image that this can read. :raise NotFound: it lacks a driver that pods need.
        """
        name = f"debian-{release}"
        chosen = modules.select(tree / "lib/modules" / release, kernel_check.DRIVERS, kernel_check.OPTIONAL_DRIVERS)
        image = vmlinux.extract((tree / "boot" / f"vmlinuz-{release}").read_bytes())
        config = tree / "boot" / f"config-{release}"
        with temporary_directory(self.root) as work:
            record = Record(release=release, command_line=debian.COMMAND_LINE, min_memory_mib=debian.MIN_MEMORY_MIB)
            _write_kernel(work, image, chosen, record)
            if config.exists():
                shutil.copyfile(config, work / "config")
            self._kernels.mkdir(parents=True, exist_ok=True)
            work.chmod(0o755)
            # Where another daemon was first, its directory is as good; one without a record is nobody's.
            if not self.has(name) or self._lacks_drivers(name):
                if (self._kernels / name).exists():
                    self._bury(self._kernels / name)
                work.rename(self._kernels / name)
        write_atomically(self._kernels / "default", name.encode())
        return name

    def refresh(self) -> None:
        """An initramfs of the present agent for every kernel. What is in use is marked as such."""
        for directory in self._directories():
            if self._initrd(directory).exists():
                os.utime(self._initrd(directory))
            else:
                self._make_initrd(directory)
                log.info("made the initramfs of kernel %s", directory.name)
        os.utime(self._agent().parent)

    # --- import ---

    async def _import_debian(self, progress: Callable[[str], None]) -> str:
        unpacked = await asyncio.to_thread(debian.installed)
        if unpacked:
            progress(f"Importing the installed kernel {unpacked[1]}")
            return await asyncio.to_thread(self.import_tree, *unpacked)
        with temporary_directory(self.root) as work:
            progress("Downloading Debian's cloud kernel")
            release = await asyncio.to_thread(debian.download, work)
            progress(f"Importing the kernel {release}")
            return await asyncio.to_thread(self.import_tree, work / "x", release)

    def _lacks_drivers(self, name: str) -> bool:
        """Whether it is Debian's, imported by a version that did not take all the modules that are used now."""
        directory = self._kernels / name
        config = directory / "config"
        if _read_record(directory).origin != "debian" or not config.exists():
            return False
        options, stored = kernel_check.parse_config(config.read_text()), _module_names(directory)
        return any(options.get(option) == "m" and f"{module}.ko" not in stored
                   for module, option in {**kernel_check.DRIVERS, **kernel_check.OPTIONAL_DRIVERS}.items())

    # --- housekeeping ---

    def _bury(self, directory: Path) -> None:
        """Gone at once for everybody; the files follow."""
        grave = Path(tempfile.mkdtemp(prefix=_NEW, dir=self._kernels))
        directory.rename(grave / directory.name)
        shutil.rmtree(grave, ignore_errors=True)

    def _clean(self) -> None:
        """Remove what was being made when somebody was killed, long enough ago that nobody makes it now."""
        build_lock.remove_abandoned(self.root)
        _remove_stale((*self.root.glob(f"{_NEW}*"), *self._kernels.glob(f"{_NEW}*"), *self._kernels.glob(f"*/{_NEW}*")))

    def _prune(self) -> None:
        """Remove former agents and their initramfs. A daemon of another version that shares this store marks its own
        at each start; machines have read theirs when they started."""
        present = {self._agent().parent, *(self._initrd(directory) for directory in self._directories())}
        found = (*self.root.glob("agent/*"), *self._kernels.glob("*/initrd-*.cpio"))
        _remove_stale([path for path in found if path not in present])

    # --- files ---

    def _make_initrd(self, directory: Path) -> None:
        data = initramfs.build(self._agent().read_bytes(), _stored_modules(directory))
        write_atomically(self._initrd(directory), data)

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
            self._agent_binary = _agent_path(self.root)
        return self._agent_binary

    def _directory(self, name: str) -> Path:
        """:param name: empty for the default. :raise NotFound: no such kernel."""
        chosen = name or self.default_name()
        if chosen is None:
            raise NotFound("kernel", "default", hint="Run `hyperd` once with access to Debian's archive.")
        if not _NAME.match(chosen) or not self.has(chosen):
            raise NotFound("kernel", chosen[:64], hint="`hyperctl kernel ls` shows what there is.")
        return self._kernels / chosen

    def _directories(self) -> list[Path]:
        return sorted(path.parent for path in self._kernels.glob("*/kernel.json")
                      if not path.parent.name.startswith(_NEW))


def _agent_path(cache_dir: Path) -> Path:
    digest = hashlib.sha256()
    for path in (*sorted((*AGENT_SOURCES.glob("*.[ch]"), AGENT_SOURCES / "Makefile")),
                 *sorted(FILE_SERVER_SOURCES.glob("*.[ch]"))):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return cache_dir / "agent" / digest.hexdigest()[:16] / "agent"


def _write_kernel(directory: Path, image: bytes, chosen: Sequence[initramfs.Module], record: Record) -> None:
    (directory / record.image).write_bytes(image)
    (directory / "modules").mkdir()
    for module in chosen:
        (directory / "modules" / module.name).write_bytes(module.data)
    (directory / "modules/order").write_text("".join(f"{module.name}\n" for module in chosen))
    (directory / "kernel.json").write_bytes(msgspec.json.encode(record))


def _kernel(directory: Path, initrd: Path) -> Kernel:
    record = _read_record(directory)
    return Kernel(name=directory.name, image=directory / record.image, initrd=initrd, command_line=record.command_line,
                  min_memory_mib=record.min_memory_mib, release=record.release)


def _module_names(directory: Path) -> list[str]:
    return (directory / "modules/order").read_text().splitlines()


def _stored_modules(directory: Path) -> list[initramfs.Module]:
    return [initramfs.Module(name=name, data=(directory / "modules" / name).read_bytes())
            for name in _module_names(directory)]


def _read_record(directory: Path) -> Record:
    return msgspec.json.decode((directory / "kernel.json").read_bytes(), type=Record)


def _remove_stale(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True)
