"""hyperctl login and logout."""

from __future__ import annotations

import sys

import click

from hyperstack.cli import credentials, references
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.errors import CliError


@click.command(cls=Command)
@click.option("-u", "--username", default="", help="User name")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin")
@click.argument("registry", required=False, default=references.DEFAULT_REGISTRY, metavar="[REGISTRY]")
@pass_app
def login(app: App, *, registry: str, username: str, password_stdin: bool) -> None:
    """Have a registry check a user name and password, and keep them for pulls and pushes."""
    registry = _host(registry)
    terminal = sys.stdin.isatty()
    if password_stdin:
        if not username:
            raise CliError("must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif terminal:
        username = username or click.prompt("Username", err=True)
        password = click.prompt("Password", hide_input=True, err=True)
    else:
        raise CliError("cannot ask for a password: stdin is no terminal", hint="Use --username and --password-stdin.")
    if not password:
        raise CliError("the password is empty")
    answer = app.client.post("/auth", payload={"username": username, "password": password, "serveraddress": registry})
    credentials.remember(registry, username, password)
    click.echo(answer["Status"])


@click.command(cls=Command)
@click.argument("registry", required=False, default=references.DEFAULT_REGISTRY, metavar="[REGISTRY]")
def logout(*, registry: str) -> None:
    """Forget the user name and password of a registry."""
    registry = _host(registry)
    known = credentials.forget(registry)
    click.echo(f"Removing login credentials for {registry}" if known else f"Not logged in to {registry}")


def _host(registry: str) -> str:
    host = registry.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return references.DEFAULT_REGISTRY if host == "index.docker.io" else host
