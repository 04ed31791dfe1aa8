"""hyperctl tls init and client."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperstack.cli.app import Command

if TYPE_CHECKING:  # The library takes a tenth of a second to load, and only these commands need it.
    from hyperstack.cli.certificates import Authority, Made

_DIRECTORY = click.option("--directory", type=click.Path(file_okay=False, path_type=Path),
                          default=Path("/etc/hyperstack/tls"), show_default=True, help="Where the certificates lie")
_DAYS = click.option("--days", type=click.IntRange(1, 36500), default=365, show_default=True,
                     help="How long a new certificate holds; never longer than the authority's")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}\Z")
_LOCAL = ("localhost", "127.0.0.1", "::1")


@click.command(cls=Command)
@_DIRECTORY
@_DAYS
@click.option("--host", "hosts", multiple=True, metavar="NAME|ADDRESS",
              help="By which clients reach this host, beside localhost, 127.0.0.1, ::1 and its own name; repeatable")
def init(*, directory: Path, days: int, hosts: Sequence[str]) -> None:
    """Make an authority, the daemon's certificate, and an administrator's. What is there and good stays as it is."""
    from hyperstack.cli.certificates import ADMINISTRATOR, Authority, Made, Subject

    name = os.uname().nodename
    authority = Authority(directory)
    _tell(Made(authority.path, authority.made, authority.certificate.not_valid_after_utc))
    names = list(dict.fromkeys([*_LOCAL, name, *hosts]))
    _tell(authority.issue(directory / "server-cert.pem", directory / "server-key.pem", Subject(name[:64]), server=True,
                          days=days, hosts=names))
    home = _client(authority, directory, "admin", project="", unit=ADMINISTRATOR, days=days)
    shown = hosts[0] if hosts else "127.0.0.1"
    click.echo(f"\nThe daemon:  hyperd --tlsverify -H unix:///run/hyperstack/docker.sock -H tcp://0.0.0.0:2376\n"
               f"A client:    DOCKER_HOST=tcp://{shown}:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={home} docker ps\n"
               "(with --tlscacert, --tlscert and --tlskey where the files are not in /etc/hyperstack/tls)")


@click.command(cls=Command)
@_DIRECTORY
@_DAYS
@click.option("--for", "project", default="", metavar="PROJECT", help="Whose objects it may use (default: default)")
@click.option("--admin", is_flag=True, help="An administrator's: for all projects")
@click.argument("name")
def client(*, directory: Path, days: int, project: str, admin: bool, name: str) -> None:
    """Make a client's certificate, in a directory that can be handed over: DIRECTORY/clients/NAME."""
    from hyperstack.cli.certificates import ADMINISTRATOR, Authority
    from hyperstack.cli.errors import CliError

    for kind, text in (("client", name), ("project", project or "default")):
        if not _NAME.match(text):
            raise CliError(f"invalid {kind} name {text!r}: letters, digits, '.', '_' and '-', at most 64")
    if not (directory / "ca.pem").exists():
        raise CliError(f"{directory} has no authority", hint="hyperctl tls init makes one.")
    _client(Authority(directory), directory, name, project=project, unit=ADMINISTRATOR if admin else "", days=days)


def _client(authority: Authority, directory: Path, name: str, *, project: str, unit: str, days: int) -> Path:
    from hyperstack.cli.certificates import Subject
    from hyperstack.cli.files import write_whole

    home = directory / "clients" / name
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _tell(authority.issue(home / "cert.pem", home / "key.pem", Subject(name, project, unit), server=False, days=days))
    write_whole(home / "ca.pem", authority.path.read_bytes(), mode=0o644)
    return home


def _tell(made: Made) -> None:
    click.echo(f"{'made' if made.fresh else 'kept'}  {made.path}  (until {made.until:%Y-%m-%d})")
