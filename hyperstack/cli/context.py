"""A build's context on its way to hyperd: a directory without what .dockerignore leaves out, or what came on stdin."""

from __future__ import annotations

import io
import os
import secrets
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from hyperstack.cli.errors import CliError
from hyperstack.cli.pack import END, entry
from hyperstack.dockerfile.globs import BadPattern
from hyperstack.dockerfile.patterns import Ignored, read_ignore_file
from hyperstack.pod.errors import InvalidArgument

_IGNORE = ".dockerignore"
_DOCKERFILE = "Dockerfile"
_HEAD = 512
_CHUNK = 256 * 1024
_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_REMOTE = ("http://", "https://", "git://", "git@", "github.com/")


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What a build is given."""

    body: Iterator[bytes] | bytes
    """A tar, packed or not; empty where hyperd is to fetch it."""
    dockerfile: str
    """Its name in the context."""
    remote: str = ""


def is_remote(path: str) -> bool:
    return path.startswith(_REMOTE)


def read_context(path: str, dockerfile: str) -> BuildContext:
    """:param path: a directory, an address, or - for stdin. :param dockerfile: as the user named it; - for stdin.

    :raise CliError: there is nothing like that, or .dockerignore is malformed.
    """
    if path == "-":
        if dockerfile == "-":
            raise CliError("invalid argument: can't use stdin for both build context and dockerfile")
        return _from_stdin(dockerfile, sys.stdin.buffer)
    if is_remote(path) and not os.path.isdir(path):
        if dockerfile == "-":
            raise CliError("a Dockerfile from stdin needs a directory as its context")
        return BuildContext(body=b"", dockerfile=dockerfile or _DOCKERFILE, remote=path)
    if not os.path.isdir(path):
        raise CliError(f'unable to prepare context: path "{path}" not found or not a directory')
    return _from_directory(path, dockerfile)


def _from_stdin(dockerfile: str, source: IO[bytes]) -> BuildContext:
    head = source.read(_HEAD)
    if not head:
        raise CliError("the build context on stdin is empty")
    if head.startswith(_MAGICS) or head[257:262] == b"ustar":
        return BuildContext(body=_following(head, source), dockerfile=dockerfile or _DOCKERFILE)
    return BuildContext(body=_one_file(_DOCKERFILE, head + source.read()) + END, dockerfile=_DOCKERFILE)


def _following(head: bytes, source: IO[bytes]) -> Iterator[bytes]:
    yield head
    while data := source.read(_CHUNK):
        yield data


def _from_directory(path: str, dockerfile: str) -> BuildContext:
    root = os.path.realpath(path)
    name, extra = _DOCKERFILE, b""
    if dockerfile == "-":
        name = f".dockerfile.{secrets.token_hex(8)}"
        extra = _one_file(name, sys.stdin.buffer.read())
    elif dockerfile:
        # As Docker: from where the user is, else within the context.
        there = dockerfile if os.path.exists(dockerfile) else os.path.join(root, dockerfile)
        within = os.path.relpath(os.path.realpath(there), root)
        if within.startswith(".."):
            name = f".dockerfile.{secrets.token_hex(8)}"
            extra = _one_file(name, _read(there))
        else:
            name = os.path.relpath(there if os.path.isabs(there) else os.path.abspath(there), os.path.abspath(path))
            name = within if name.startswith("..") else name
    if not extra and not os.path.lexists(os.path.join(root, name)):
        raise CliError(f"unable to prepare context: there is no {name} in {path}", hint="Name the Dockerfile with -f.")
    ignored = _ignored(root, name)
    return BuildContext(body=_tree(root, ignored, extra), dockerfile=name)


def _ignored(root: str, dockerfile: str) -> Ignored:
    try:
        patterns = read_ignore_file(_read(os.path.join(root, _IGNORE), absent=b""))
        # hyperd needs these two; it leaves them out of what is copied itself.
        return Ignored([*patterns, *(f"!{_escaped(name)}" for name in (dockerfile, _IGNORE) if patterns)])
    except (BadPattern, InvalidArgument) as error:
        raise CliError(f"{_IGNORE}: {error.message}") from error


def _escaped(name: str) -> str:
    return "".join(f"\\{char}" if char in "*?[\\" else char for char in name)


def _tree(root: str, ignored: Ignored, extra: bytes) -> Iterator[bytes]:
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as writer:  # only for gettarinfo, which knows hard links
        try:
            yield from _below(writer, root, "", ignored)
        except OSError as error:
            raise CliError(f"cannot read {error.filename or root}: {error.strerror}") from error
        except InvalidArgument as error:
            raise CliError(f"{_IGNORE}: {error.message}", hint=error.hint or "") from error
    yield extra + END


def _below(writer: tarfile.TarFile, path: str, name: str, ignored: Ignored) -> Iterator[bytes]:
    for child in sorted(os.listdir(path)):
        here, called = os.path.join(path, child), f"{name}/{child}" if name else child
        directory = os.path.isdir(here) and not os.path.islink(here)
        if not ignored(called):
            yield from entry(writer, here, called)
        elif not directory or ignored.prunes(called):
            continue
        if directory:
            yield from _below(writer, here, called, ignored)


def _read(path: str, absent: bytes | None = None) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        if absent is not None:
            return absent
        raise CliError(f"cannot read {path}: no such file") from None
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error


def _one_file(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
