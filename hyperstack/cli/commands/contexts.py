"""hyperctl context create, inspect, ls, rm, show and use."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from hyperstack.cli import contexts
from hyperstack.cli.app import App, Command, each, pass_app
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import Listing

_NAME = "hyperstack"
_FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
_LISTING = Listing({"Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT",
                    "Current": "CURRENT", "Error": "ERROR"}, ("Name", "Description", "DockerEndpoint", "Error"))


@click.command(cls=Command)
@click.option("--description", default="", help="What docker context ls shows of it")
@click.option("--docker", "endpoint", default="", metavar="KEY=VALUE,...",
              help="host=, and for TLS ca=, cert=, key= (files) and skip-tls-verify= (default: this daemon's host)")
@click.option("--cert-path", type=click.Path(file_okay=False, path_type=Path), metavar="DIRECTORY",
              help="Take ca.pem, cert.pem and key.pem from here, as hyperctl tls makes them")
@click.option("--use", "in_use", is_flag=True, help="Make it the one in use at once")
@click.argument("name", required=False, default=_NAME, metavar="[NAME]")
@pass_app
def create(app: App, *, name: str, description: str, endpoint: str, cert_path: Path | None, in_use: bool) -> None:
    """Make a context, so that docker talks to this daemon: docker --context hyperstack ps."""
    settings = _settings(endpoint)
    host = settings.pop("host", app.host)
    if "://" not in host:
        raise CliError(f'invalid host "{host}": write unix:///path or tcp://address:port')
    skip = settings.pop("skip-tls-verify", "false").lower() in ("1", "t", "true")
    files = {file: Path(settings[key]) for key, file in _FILES.items() if key in settings}
    if cert_path is not None:
        files = {file: cert_path / file for file in contexts.MATERIAL} | files
    contexts.store(contexts.Context(name=name, host=host, description=description, skip_tls_verify=skip),
                   {file: _content(path) for file, path in files.items()})
    click.echo(name)
    click.echo(f'Successfully created context "{name}"', err=True)
    if in_use:
        _use(name)


def _settings(endpoint: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in endpoint.split(",") if endpoint else ():
        key, equals, value = part.partition("=")
        if not equals or key not in ("host", "skip-tls-verify", *_FILES):
            raise CliError(f'--docker: unknown setting "{part}"', hint="host=, ca=, cert=, key=, skip-tls-verify=")
        found[key] = value
    return found


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error


@click.command(cls=Command)
@click.option("--format", "layout", default="", help="table, json, table TEMPLATE or TEMPLATE")
@click.option("-q", "--quiet", is_flag=True, help="Show names only")
def ls(*, layout: str, quiet: bool) -> None:
    """List contexts."""
    current = contexts.current()
    if quiet:
        for name in contexts.names():
            click.echo(name)
        return
    plain = layout.strip() in ("", "table")
    _LISTING.show([_row(name, current=name == current, marked=plain) for name in contexts.names()], layout)


def _row(name: str, *, current: bool, marked: bool) -> dict[str, object]:
    shown = f"{name} *" if marked and current else name
    try:
        found = contexts.load(name)
    except CliError as error:
        return {"Name": shown, "Description": "", "DockerEndpoint": "", "Current": current, "Error": error.message}
    return {"Name": shown, "Description": found.description, "DockerEndpoint": found.host, "Current": current,
            "Error": ""}


@click.command(cls=Command)
@click.option("-f", "--format", "layout", default="", help="json or a TEMPLATE")
@click.argument("names", nargs=-1, metavar="[NAME...]")
def inspect(*, layout: str, names: Sequence[str]) -> None:
    """Show everything of contexts, or of the one in use."""
    from hyperstack.cli import template, values

    found = [_document(contexts.load(name)) for name in names or [contexts.current()]]
    if not layout:
        click.echo(json.dumps(found, indent=4, ensure_ascii=False))
        return
    for one in found:
        click.echo(values.to_json(one) if layout == "json" else template.parse(layout).render(one))


def _document(context: contexts.Context) -> dict[str, object]:
    return {"Name": context.name, "Metadata": context.metadata(), "Endpoints": context.endpoints(),
            "TLSMaterial": {"docker": list(context.material)} if context.material else {},
            "Storage": {"MetadataPath": str(context.meta_directory), "TLSPath": str(context.tls_directory)}}


@click.command(cls=Command)
@click.option("-f", "--force", is_flag=True, help="Remove the one in use too")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(*, names: Sequence[str], force: bool) -> None:
    """Remove contexts."""
    def remove(name: str) -> str:
        if name == contexts.current() and not force:
            raise CliError(f'context "{name}" is in use, set -f flag to force remove')
        contexts.remove(name)
        return name

    each(names, remove)


@click.command(cls=Command)
def show() -> None:
    """Print the name of the context in use."""
    click.echo(contexts.current())


@click.command(cls=Command)
@click.argument("name")
def use(*, name: str) -> None:
    """Make a context the one that docker uses."""
    _use(name)


def _use(name: str) -> None:
    contexts.use(name)
    click.echo(name)
    click.echo(f'Current context is now "{name}"', err=True)
    if os.environ.get("DOCKER_HOST"):
        click.echo("Warning: DOCKER_HOST is set, and docker heeds it instead.", err=True)
