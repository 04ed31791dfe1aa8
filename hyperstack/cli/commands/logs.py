"""hyperctl logs."""

from __future__ import annotations

import click

from hyperstack.cli import streams, units
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import MULTIPLEXED, Client, quoted
from hyperstack.cli.completing import containers
from hyperstack.cli.errors import CliError


@click.command(cls=Command)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on")
@click.option("--since", default="", metavar="TIME", help="From this time, or this long ago (42m)")
@click.option("--until", default="", metavar="TIME", help="Up to this time")
@click.option("-n", "--tail", default="all", metavar="LINES", help="Lines from the end, or all")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time")
@click.argument("name", metavar="CONTAINER", shell_complete=containers)
@pass_app
def logs(app: App, *, name: str, follow: bool, since: str, until: str, tail: str, timestamps: bool) -> None:
    """Show what a container wrote to stdout and stderr."""
    if tail != "all" and not tail.lstrip("-").isdecimal():
        raise CliError(f'invalid argument "{tail}" for --tail: it is a number of lines, or all')
    show(app.client, name, follow=follow, since=since, until=until, tail=tail, timestamps=timestamps)


def show(client: Client, name: str, *, follow: bool, since: str, until: str, tail: str, timestamps: bool) -> None:
    """Print the log of one container as it arrives."""
    response = client.request("GET", f"/containers/{quoted(name)}/logs", query={
        "stdout": True, "stderr": True, "follow": follow, "timestamps": timestamps,
        "tail": "all" if tail.startswith("-") else tail,
        "since": units.parse_timestamp(since) if since else None,
        "until": units.parse_timestamp(until) if until else None})
    streams.copy_output(response.chunks(), multiplexed=response.header("Content-Type").startswith(MULTIPLEXED))
