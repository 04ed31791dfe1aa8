"""hyperctl cp: the rules of `docker cp` for what a name means on either side."""

from __future__ import annotations

import base64
import binascii
import json
import os
import posixpath
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import click

from hyperstack.cli import streams, units
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import Client, Response, quoted
from hyperstack.cli.errors import ApiError, CliError

_STAT_HEADER = "X-Docker-Container-Path-Stat"
_GO_DIRECTORY, _GO_LINK = 1 << 31, 1 << 27
"""Bits of Go's os.FileMode, in which Docker tells modes."""

_MAX_LINKS = 10


@dataclass(frozen=True, kw_only=True)
class _Stat:
    """What the daemon says of a path in a container."""

    name: str
    directory: bool
    link: str
    """Target, where it is a link."""


@click.command(cls=Command)
@click.option("-a", "--archive", is_flag=True, help="Keep owners and special permission bits")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what SRC_PATH links to")
@click.option("-q", "--quiet", is_flag=True, help="Do not say what was copied")
@click.argument("source", metavar="CONTAINER:SRC_PATH|SRC_PATH|-")
@click.argument("target", metavar="DEST_PATH|-|CONTAINER:DEST_PATH")
@pass_app
def cp(app: App, *, source: str, target: str, archive: bool, follow_link: bool, quiet: bool) -> None:
    """Copy files between a container and this host.

    '-' as the source reads a tar archive from stdin and extracts it into a directory of the container; '-' as the
    target writes a tar archive to stdout.
    """
    (from_name, from_path), (to_name, to_path) = _split(source), _split(target)
    if from_name and to_name:
        raise CliError("copying between containers is not supported")
    if from_name:
        copied = _from_container(app.client, from_name, from_path, target, archive=archive, follow=follow_link)
    elif to_name:
        copied = _to_container(app.client, source, to_name, to_path, archive=archive, follow=follow_link)
    else:
        raise CliError("must specify at least one container source", hint="Write it as CONTAINER:PATH.")
    if not quiet and "-" not in (source, target):
        click.echo(f"Successfully copied {units.decimal_size(copied, 3)} to {target}", err=True)


def _split(name: str) -> tuple[str, str]:
    """(container, path); the container is empty for a path of this host, such as ./with:colon."""
    container, colon, path = name.partition(":")
    if not colon or name.startswith((".", "/")) or "/" in container:
        return "", name
    return container, posixpath.join("/", path)


def _from_container(client: Client, name: str, path: str, target: str, *, archive: bool, follow: bool) -> int:
    if follow:
        path = _resolved(client, name, path)
    response = _archive(client, name, path)
    if target == "-":
        if sys.stdout.isatty():
            raise CliError("refusing to write an archive to a terminal", hint="Redirect stdout.")
        for data in response.chunks():
            streams.write_all(1, data)
        return 0
    from hyperstack.cli.unpack import unpack

    directory, rename = _local_place(target, _parse_stat(response), contents=path.endswith("/.") or path == "/")
    return unpack(response.chunks(), directory, rename, archive=archive)


def _local_place(target: str, found: _Stat, *, contents: bool) -> tuple[str, str | None]:
    """(directory to extract in, name there; None: extract as that directory's content)."""
    if os.path.isdir(target):
        return target, None if found.directory and contents else posixpath.basename(found.name.rstrip("/")) or None
    if found.directory and os.path.lexists(target):
        raise CliError(f"cannot copy a directory onto the file {target}")
    if not found.directory and target.endswith(os.sep):
        raise CliError(f"no such directory: {target}")
    directory, name = os.path.split(target.rstrip(os.sep))
    if not os.path.isdir(directory or "."):
        raise CliError(f"no such directory: {directory}")
    return directory or ".", name


def _to_container(client: Client, source: str, name: str, path: str, *, archive: bool, follow: bool) -> int:
    path = _resolved(client, name, path)
    destination = _stat(client, name, path)
    if source == "-":
        if destination is None or not destination.directory:
            raise CliError(f'destination "{name}:{path}" must be a directory')
        return _put(client, name, path, streams.chunks_of(partial(os.read, 0)), archive=archive)
    from hyperstack.cli.pack import pack

    if not os.path.lexists(source.rstrip(os.sep) or os.sep):
        raise CliError(f"no such file or directory: {source}")
    is_directory = os.path.isdir(source) and (follow or source.endswith(os.sep) or not os.path.islink(source))
    directory, entry = _remote_place(source, path, destination, directory=is_directory)
    return _put(client, name, directory, pack(source, entry, follow=follow), archive=archive)


def _remote_place(source: str, path: str, destination: _Stat | None, *, directory: bool) -> tuple[str, str]:
    """(directory of the container, name there; empty: extract as that directory's content)."""
    if destination is not None and destination.directory:
        contents = directory and os.path.basename(source) == "."
        return path, "" if contents else os.path.basename(os.path.abspath(source))
    if directory and destination is not None:
        raise CliError(f"cannot copy a directory onto the file {path}")
    if not directory and path.endswith("/"):
        raise CliError(f"no such directory in the container: {path}")
    parent, name = posixpath.split(path.rstrip("/"))
    return parent or "/", name


def _put(client: Client, name: str, directory: str, chunks: Iterable[bytes], *, archive: bool) -> int:
    counted = _Counted(chunks)
    client.request("PUT", f"/containers/{quoted(name)}/archive", body=counted, headers={
        "Content-Type": "application/x-tar"}, query={
        "path": directory, "noOverwriteDirNonDir": "true", "copyUIDGID": archive}).close()
    return counted.total


class _Counted:
    """Chunks on their way, counted."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.total = 0

    def __iter__(self) -> Iterator[bytes]:
        for data in self._chunks:
            self.total += len(data)
            yield data


def _archive(client: Client, name: str, path: str) -> Response:
    return client.request("GET", f"/containers/{quoted(name)}/archive", query={"path": path})


def _stat(client: Client, name: str, path: str) -> _Stat | None:
    """None where nothing is there; a container that does not exist is told by what is asked next."""
    try:
        response = client.request("HEAD", f"/containers/{quoted(name)}/archive", query={"path": path})
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    response.close()
    return _parse_stat(response)


def _resolved(client: Client, name: str, path: str) -> str:
    """The path with its last link followed; what is not there stays as it is, to be created."""
    for _ in range(_MAX_LINKS):
        found = _stat(client, name, path)
        if found is None or not found.link:
            return path
        path = posixpath.join(posixpath.dirname(path.rstrip("/")), found.link)
    raise CliError(f"too many levels of symbolic links: {path}")


def _parse_stat(response: Response) -> _Stat:
    try:
        facts = json.loads(base64.b64decode(response.header(_STAT_HEADER), validate=True))
        mode = int(facts["mode"])
        return _Stat(name=str(facts["name"]), directory=bool(mode & _GO_DIRECTORY),
                     link=str(facts.get("linkTarget") or "") if mode & _GO_LINK else "")
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise CliError(f"hyperd sent no valid {_STAT_HEADER} header") from error
