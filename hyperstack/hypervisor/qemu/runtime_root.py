"""The file system that every QEMU of this host sees: QEMU's own program files, and nothing else.

One library is ours: preload/, which the loader brings into every QEMU.

Made once per version of those files, shared read-only by all machines. They are copied, not linked, so that an upgrade
of the host's packages neither changes nor breaks the machines that run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperstack.pod.errors import Unavailable

KERNEL = "boot/kernel"
INITRD = "boot/initrd"
"""Where the jail binds a machine's kernel and initramfs."""

_MODULE_DIR = "qemu"
_MODULES = ("accel-tcg-x86_64.so",)
"""The only loadable modules that our machines use."""
_FIRMWARE = ("qboot.rom", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin")
_FIRMWARE_DIRS = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
_FIRMWARE_TARGET = Path("usr/share/qemu")
_LDD_LINE = re.compile(r"\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)\Z")
_TOOL_TIMEOUT_S = 30
_PRELOADED = "lib/preload.so"
_PRELOAD_LIST = "etc/ld.so.preload"


@dataclass(frozen=True)
class RuntimeRoot:
    path: Path
    program: str
    """QEMU's path inside."""
    firmware: str
    """Directory inside, for QEMU's -L."""


def parse_ldd(text: str) -> list[str]:
    """Paths of the libraries and the loader in ldd's output."""
    return [match[1] for line in text.splitlines() if (match := _LDD_LINE.match(line))]


def find_qemu() -> Path:
    """:raise Unavailable: QEMU is not installed."""
    found = shutil.which("qemu-system-x86_64")
    if not found:
        raise Unavailable("qemu-system-x86_64 is not installed", hint="apt-get install qemu-system-x86")
    return Path(found).resolve()


def prepare(cache_dir: Path, qemu: Path, preloaded: Path) -> RuntimeRoot:
    """The root for this QEMU, made where there is none yet. Two daemons may do this at once.

    :param preloaded: the library made of preload/.
    :raise Unavailable: a needed file is missing.
    """
    files = dict(_program_files(qemu)) | {_PRELOADED: preloaded}
    name = f"qemu-root-{_fingerprint(files)}"
    root = cache_dir / name
    if not root.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir))
        try:
            _fill(staging, files, qemu)
            # Another daemon may have been faster; its root is the same.
            with contextlib.suppress(FileExistsError, OSError):
                os.rename(staging, root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    if not root.exists():
        raise Unavailable(f"QEMU's root {root} could not be made", hint=f"is there space in {cache_dir}?")
    return RuntimeRoot(root, str(qemu), f"/{_FIRMWARE_TARGET}")


def _program_files(qemu: Path) -> Iterator[tuple[str, Path]]:
    """(path inside without leading slash, source) of each file."""
    libraries = _closure([qemu])
    yield str(qemu).lstrip("/"), qemu
    for module_dir in {Path(library).resolve().parent / _MODULE_DIR for library in libraries}:
        for module in _MODULES:
            if (module_dir / module).exists():
                yield str(module_dir / module).lstrip("/"), module_dir / module
                libraries |= _closure([module_dir / module])
    for library in libraries:
        yield library.lstrip("/"), Path(library)
    for name in _FIRMWARE:
        source = next((folder / name for folder in _FIRMWARE_DIRS if (folder / name).exists()), None)
        if source is None:
            raise Unavailable(f"QEMU's firmware {name} is missing", hint="apt-get install qemu-system-data")
        yield str(_FIRMWARE_TARGET / name), source


def _closure(programs: Iterable[Path]) -> set[str]:
    """All libraries of the programs, and their loader."""
    found: set[str] = set()
    for program in programs:
        try:
            result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True,
                                    timeout=_TOOL_TIMEOUT_S, env={"LC_ALL": "C", "PATH": os.defpath})
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"the libraries of {program} cannot be listed: {error}",
                              hint="apt-get install libc-bin") from error
        found.update(parse_ldd(result.stdout))
    return found


def _fingerprint(files: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for target, source in sorted(files.items()):
        status = source.stat()
        digest.update(f"{target}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _fill(root: Path, files: dict[str, Path], qemu: Path) -> None:
    for target, source in files.items():
        place = root / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        place.chmod(0o555)
    # Executable but not readable for the machine's user: then the kernel makes the process not dumpable, so that
    # nobody but root can trace it or read its memory and descriptors.
    (root / str(qemu).lstrip("/")).chmod(0o111)
    for mount_point in (KERNEL, INITRD):
        (root / mount_point).parent.mkdir(exist_ok=True)
        (root / mount_point).touch(mode=0o444)
    (root / _PRELOAD_LIST).parent.mkdir(exist_ok=True)
    (root / _PRELOAD_LIST).write_text(f"/{_PRELOADED}\n")
    (root / _PRELOAD_LIST).chmod(0o444)
    (root / "dev").mkdir()
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o555)  # noqa: S103 - read and search for every machine's own user, write for nobody
