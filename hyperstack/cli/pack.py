"""Files of this host as a tar stream for a container."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator

from hyperstack.cli.errors import CliError

_CHUNK = 256 * 1024
END = b"\0" * (2 * tarfile.BLOCKSIZE)


def pack(source: str, name: str, *, follow: bool = False) -> Iterator[bytes]:
    """The archive, piece by piece, so that any size passes through.

    :param name: what the source is called in the archive; empty: the archive has a directory's content only.
    :param follow: copy what the source links to, where it is a link.
    :raise CliError: a file cannot be read.
    """
    writer = tarfile.open(fileobj=io.BytesIO(), mode="w")  # noqa: SIM115  # only for gettarinfo, which knows hard links
    if follow:
        source = os.path.realpath(source)
    try:
        yield from _tree(writer, source, name)
        yield END
    except OSError as error:
        raise CliError(f"cannot read {error.filename or source}: {error.strerror}") from error


def _tree(writer: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    """One entry, and those below it, a directory before its content."""
    if name:
        yield from entry(writer, path, name)
    if os.path.isdir(path) and not os.path.islink(path):
        for child in sorted(os.listdir(path)):
            yield from _tree(writer, os.path.join(path, child), f"{name}/{child}" if name else child)


def entry(writer: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    """One file with its data, or a directory without what is in it."""
    info = writer.gettarinfo(path, arcname=name)
    if info is None:
        return  # a socket, which no archive can hold
    yield info.tobuf(tarfile.PAX_FORMAT)
    if not info.isreg():
        return
    with open(path, "rb") as file:
        left = info.size
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise CliError(f"{path} became shorter while it was copied")
            left -= len(data)
            yield data
    yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
