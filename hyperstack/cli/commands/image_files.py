"""hyperctl load, save and import."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from hyperstack.cli import pulling, references, streams
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import quoted_image
from hyperstack.cli.completing import local_images
from hyperstack.cli.errors import CliError


@click.command(cls=Command)
@click.option("-i", "--input", "source", default="", metavar="FILE", help="Read this file instead of stdin")
@click.option("-q", "--quiet", is_flag=True, help="Do not show how it goes")
@pass_app
def load(app: App, *, source: str, quiet: bool) -> None:
    """Load images from an archive that `save` wrote."""
    if not source and sys.stdin.isatty():
        raise CliError("requested load from stdin, but stdin is empty", hint="Name a file with -i, or redirect one.")
    with _opened(source or "-") as archive:
        response = app.client.request("POST", "/images/load", query={"quiet": "1" if quiet else "0"}, body=archive,
                                      headers={"Content-Type": "application/x-tar"})
        texts = pulling.show(response.json_lines(), quiet=quiet)
    if quiet:
        click.echo("".join(texts), nl=False)


@click.command(cls=Command)
@click.option("-o", "--output", default="", metavar="FILE", help="Write to this file instead of stdout")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE [IMAGE...]", shell_complete=local_images)
@pass_app
def save(app: App, *, names: Sequence[str], output: str) -> None:
    """Write images to an archive."""
    if not output and sys.stdout.isatty():
        raise CliError("cowardly refusing to save to a terminal", hint="Use the -o flag or redirect.")
    path = f"/images/{quoted_image(names[0])}/get" if len(names) == 1 else "/images/get"
    response = app.client.request("GET", path, query=None if len(names) == 1 else {"names": names})
    if output:
        write_file(output, response.chunks())
    else:
        for data in response.chunks():
            streams.write_all(1, data)


@click.command("import", cls=Command)
@click.option("-c", "--change", multiple=True, metavar="INSTRUCTION", help="Apply a Dockerfile instruction")
@click.option("-m", "--message", default="", help="Comment of the layer")
@click.option("--platform", default="", help="Platform of the image (os/arch)")
@click.argument("source", metavar="FILE|URL|-")
@click.argument("name", required=False, default="", metavar="[REPOSITORY[:TAG]]")
@pass_app
def import_(app: App, *, source: str, name: str, change: Sequence[str], message: str, platform: str) -> None:
    """Make an image of a root file system's tar archive."""
    repository, tag = references.split(name)
    remote = source.startswith(("http://", "https://"))
    query = {"fromSrc": source if remote else "-", "repo": repository or None, "tag": tag or None,
             "message": message or None, "changes": change, "platform": platform or None}
    if remote:
        pulling.show(app.client.request("POST", "/images/create", query=query).json_lines())
        return
    with _opened(source) as archive:
        pulling.show(app.client.request("POST", "/images/create", query=query, body=archive,
                                        headers={"Content-Type": "application/x-tar"}).json_lines())


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        archive = open(source, "rb")  # noqa: SIM115  # closed below; only opening it is our caller's mistake
    except OSError as error:
        raise CliError(f"cannot read {source}: {error.strerror}") from error
    with archive:
        yield archive


def write_file(name: str, chunks: Iterator[bytes]) -> None:
    """Write beside the file, then put it in its place: what fails leaves no half archive.

    :raise CliError: it cannot be written.
    """
    target = Path(name)
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                for data in chunks:
                    file.write(data)
                file.flush()
                os.replace(file.name, target)
            except BaseException:  # also Ctrl-C: the half file goes in any case
                os.unlink(file.name)
                raise
    except OSError as error:
        raise CliError(f"cannot write {name}: {error.strerror}") from error
