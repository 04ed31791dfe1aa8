"""Templates on disk: a booted machine's RAM and device state, from which clones go on.

    IDENT.CREATED/ram         the guest's RAM, sparse; clones map it privately and open it for reading only
    IDENT.CREATED/state       QEMU's migration stream of everything else
    IDENT.CREATED/about.json  `_About`

IDENT is the hash of all that a template depends on; CREATED are nanoseconds since 1970. A directory is made under
another name and renamed when it is whole, and is never changed. Daemons may share the folder. Who runs a clone has its
files open, so that a directory can be removed at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hyperstack.hypervisor.api import Template, TemplateSpec
from hyperstack.pod.errors import Unavailable

_STALE_S = 3600
"""What is still being made after so long is not."""
_KEPT = 32
"""Of all daemons that share the folder, at some 40 to 90 MiB."""
_STAGING = ".new-"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI_VNET_HDR = 0x0002 | 0x1000 | 0x4000
LOOSE_MAC = "02:00:00:00:00:01"
"""Of a template's NIC; the agent of each clone sets the clone's own."""


class _About(msgspec.Struct, frozen=True, kw_only=True):
    """about.json"""

    boot: str
    """Of the host: clocks and processors are as they were in the same boot only."""
    memory_bytes: int


@dataclass(frozen=True)
class OpenTemplate:
    """Descriptors of one, for a clone or for what is being made."""

    ram: int
    state: int


def identify(spec: TemplateSpec, facts: list[str]) -> str:
    """:param facts: of the programs and options that are not in the spec."""
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns]
             for path in (spec.kernel.image, spec.kernel.initrd)]
    whole = [files, spec.kernel.command_line, spec.memory_mib, spec.vcpus, spec.nic, spec.scope, _boot(), facts]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


class TemplateStore:
    """:param root: made where absent."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, ident: str, spec: TemplateSpec) -> Template | None:
        """The newest."""
        for path in sorted(self._root.glob(f"{ident}.*"), key=_created, reverse=True):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                about = msgspec.json.decode((path / "about.json").read_bytes(), type=_About)
                if (path / "ram").stat().st_size == spec.memory_mib << 20:
                    return Template(id=ident, spec=spec, created_ns=_created(path), memory_bytes=about.memory_bytes)
        return None

    @contextlib.contextmanager
    def opened(self, template: Template) -> Iterator[OpenTemplate]:
        """For one clone. :raise Unavailable: it is gone."""
        path = self._path(template)
        try:
            ram = os.open(path / "ram", os.O_RDONLY | os.O_CLOEXEC)
            try:
                state = os.open(path / "state", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                os.close(ram)
                raise
        except OSError as error:
            raise Unavailable(f"the template {template.id[:12]} is gone: {error.strerror}") from error
        try:
            yield OpenTemplate(ram, state)
        finally:
            os.close(ram)
            os.close(state)

    @contextlib.contextmanager
    def staging(self, memory_mib: int) -> Iterator[tuple[Path, OpenTemplate]]:
        """A new directory and its files, empty; removed unless `keep` has taken it."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clean()
        path = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self._root))
        try:
            with contextlib.ExitStack() as stack:
                fds = []
                for name in ("ram", "state"):
                    fds.append(os.open(path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                    stack.callback(os.close, fds[-1])
                os.ftruncate(fds[0], memory_mib << 20)
                yield path, OpenTemplate(*fds)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def keep(self, ident: str, spec: TemplateSpec, path: Path) -> Template:
        """A staged directory that is whole now; it takes the place of earlier ones."""
        size = (path / "ram").stat().st_blocks * 512
        (path / "about.json").write_bytes(msgspec.json.encode(_About(boot=_boot(), memory_bytes=size)))
        template = Template(id=ident, spec=spec, created_ns=time.time_ns(), memory_bytes=size)
        path.rename(self._path(template))
        for older in self._root.glob(f"{ident}.*"):
            if _created(older) < template.created_ns:
                shutil.rmtree(older, ignore_errors=True)
        return template

    def drop(self, template: Template) -> None:
        """Idempotent."""
        shutil.rmtree(self._path(template), ignore_errors=True)

    def _path(self, template: Template) -> Path:
        return self._root / f"{template.id}.{template.created_ns}"

    def _clean(self) -> None:
        """Remove what an earlier boot left, what nobody finished, and the oldest of too many."""
        kept = sorted((path for path in self._root.iterdir() if _created(path)), key=_created)
        for path in kept[:-_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self._root.iterdir():
            with contextlib.suppress(OSError, msgspec.DecodeError):
                if path.name.startswith(_STAGING):
                    if time.time() - path.stat().st_mtime > _STALE_S:
                        shutil.rmtree(path, ignore_errors=True)
                elif msgspec.json.decode((path / "about.json").read_bytes(), type=_About).boot != _boot():
                    shutil.rmtree(path, ignore_errors=True)


def _created(path: Path) -> int:
    number = path.name.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def loose_tap() -> int:
    """An open tap that is connected to nothing and goes with its descriptor: what a template's NIC stands before, so
    that the guest settles with it on what a clone's tap can do.

    :raise OSError: this host has no taps.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"hsloose%d", _IFF_TAP_NO_PI_VNET_HDR))
    except BaseException:
        os.close(fd)
        raise
    return fd
