"""hyperctl top, port and diff."""

from __future__ import annotations

from collections.abc import Sequence

import click

from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import quoted
from hyperstack.cli.completing import containers, running_containers
from hyperstack.cli.errors import CliError
from hyperstack.cli.listing import table

_MIN_WIDTH = 20
"""Docker's, for this table alone."""

_CHANGES = {0: "C", 1: "A", 2: "D"}


@click.command(cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name", metavar="CONTAINER", shell_complete=running_containers)
@click.argument("ps_args", nargs=-1, metavar="[ps OPTIONS]", type=click.UNPROCESSED)
@pass_app
def top(app: App, *, name: str, ps_args: Sequence[str]) -> None:
    """Show the processes of a container."""
    found = app.client.get(f"/containers/{quoted(name)}/top", {"ps_args": " ".join(ps_args) or None})
    click.echo(table([found["Titles"], *(found["Processes"] or ())], min_width=_MIN_WIDTH), nl=False)


@click.command(cls=Command)
@click.argument("name", metavar="CONTAINER", shell_complete=running_containers)
@click.argument("wanted", required=False, default="", metavar="[PRIVATE_PORT[/PROTO]]")
@pass_app
def port(app: App, *, name: str, wanted: str) -> None:
    """Show where the ports of a container are published."""
    published = app.client.get(f"/containers/{quoted(name)}/json")["NetworkSettings"].get("Ports") or {}
    if not wanted:
        for inside in sorted(published, key=lambda key: (int(key.partition("/")[0]), key)):
            for binding in published[inside] or ():
                click.echo(f"{inside} -> {_address(binding['HostIp'], binding['HostPort'])}")
        return
    inside = wanted if "/" in wanted else f"{wanted}/tcp"
    if not published.get(inside):
        raise CliError(f"Error: No public port '{wanted}' published for {name}")
    for binding in published[inside]:
        click.echo(_address(binding["HostIp"], binding["HostPort"]))


@click.command(cls=Command)
@click.argument("name", metavar="CONTAINER", shell_complete=containers)
@pass_app
def diff(app: App, *, name: str) -> None:
    """Show which files a container added (A), changed (C) and deleted (D)."""
    for change in app.client.get(f"/containers/{quoted(name)}/changes") or ():
        click.echo(f"{_CHANGES.get(change['Kind'], '?')} {change['Path']}")


def _address(ip: str, number: str) -> str:
    return f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}"
