"""Kernel modules of a packaged kernel: which files a set of drivers needs, in the order to load them."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from hyperstack.guest.initramfs import Module
from hyperstack.pod.errors import InvalidArgument, NotFound

_MODULE_LIMIT = 64 << 20
"""Bytes of one uncompressed module; Debian's largest (amdgpu) has about 20 MB."""
_DEPTH_LIMIT = 32
_FILE_NAME = re.compile(r"(?P<name>[\w-]+)\.ko(?P<packed>\.xz|\.zst|\.gz)?\Z")
_VERMAGIC = re.compile(rb"vermagic=([\w.+~-]{1,64}) ")
_DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def select(root: Path, required: Iterable[str], optional: Iterable[str] = (), *, builtin: Iterable[str] | None = None
           ) -> list[Module]:
    """The drivers and all that they depend on, dependencies first.

    :param root: a kernel's module directory, lib/modules/RELEASE. `depmod` need not have run: each module names its
        dependencies itself.
    :param builtin: drivers that the kernel is known to have in itself; None: as modules.builtin says.
    :raise NotFound: a required driver is neither built in nor there.
    :raise InvalidArgument: a module that is too large, garbled, or depends on itself.
    """
    files = _index(root)
    held = builtin_names(root) if builtin is None else frozenset(builtin)
    chosen: dict[str, Module] = {}
    for name in required:
        _add(_normal(name), files, held, chosen, ())
    for name in optional:
        if _normal(name) in files:
            _add(_normal(name), files, held, chosen, ())
    return list(chosen.values())


def available(root: Path) -> frozenset[str]:
    """Names of the modules that there are files of."""
    return frozenset(_index(root))


def builtin_names(root: Path) -> frozenset[str]:
    """Drivers that the kernel has in itself, as modules.builtin says; empty without that file."""
    listing = root / "modules.builtin"
    lines = listing.read_text(errors="replace").splitlines() if listing.exists() else []
    return frozenset(_normal(Path(line).name.removesuffix(".ko")) for line in lines)


def built_for(module: Module) -> str:
    """The kernel release that a module was built for; empty where it does not tell."""
    found = _VERMAGIC.search(module.data)
    return found[1].decode() if found else ""


def _add(name: str, files: Mapping[str, Path], builtin: frozenset[str], chosen: dict[str, Module],
         path: tuple[str, ...]) -> None:
    if name in chosen or name in builtin:
        return
    if name in path or len(path) > _DEPTH_LIMIT:
        raise InvalidArgument(f"kernel module {name} depends on itself", field="modules", value=name)
    if name not in files:
        raise NotFound("kernel module", name, hint="The kernel needs this driver to run as a guest.")
    data = _unpack(files[name])
    for dependency in _dependencies(name, data):
        _add(dependency, files, builtin, chosen, (*path, name))
    chosen[name] = Module(name=f"{name}.ko", data=data)


def _dependencies(name: str, data: bytes) -> list[str]:
    # In .modinfo, a section of zero-terminated "key=value"; modpost writes the line into every module.
    found = _DEPENDS.search(data)
    if found is None:
        raise InvalidArgument(f"kernel module {name} does not tell its dependencies", field="modules", value=name)
    return [_normal(word) for word in found[1].decode().split(",") if word]


def _normal(name: str) -> str:
    """The kernel takes - and _ for the same in a module's name."""
    return name.replace("-", "_")


def _index(root: Path) -> dict[str, Path]:
    matches = ((_FILE_NAME.match(path.name), path) for path in sorted((root / "kernel").rglob("*.ko*")))
    return {_normal(match["name"]): path for match, path in matches if match}


def _unpack(path: Path) -> bytes:
    try:
        with contextlib.ExitStack() as stack:
            file: BinaryIO = stack.enter_context(path.open("rb"))
            match path.suffix:
                case ".xz":
                    reader: Reader = stack.enter_context(lzma.open(file))
                case ".gz":
                    reader = stack.enter_context(gzip.open(file))
                case ".zst":
                    reader = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
                case _:
                    reader = file
            data = reader.read(_MODULE_LIMIT + 1)
    except (lzma.LZMAError, zstandard.ZstdError, zlib.error, EOFError, OSError) as error:
        raise InvalidArgument(f"kernel module {path.name} cannot be read: {error}", field="modules",
                              value=str(path)) from error
    if len(data) > _MODULE_LIMIT:
        raise InvalidArgument(f"kernel module {path.name} is larger than {_MODULE_LIMIT} bytes", field="modules",
                              value=str(path))
    return data
