"""hyperctl commit and export."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from hyperstack.cli import references, streams
from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import quoted
from hyperstack.cli.commands.image_files import write_file
from hyperstack.cli.completing import containers
from hyperstack.cli.errors import CliError


@click.command(cls=Command)
@click.option("-a", "--author", default="", help="Who made the image")
@click.option("-c", "--change", multiple=True, metavar="INSTRUCTION", help="Apply a Dockerfile instruction")
@click.option("-m", "--message", default="", help="Comment of the layer")
@click.option("-p", "--pause/--no-pause", default=True, show_default=True,
              help="Hold the container still while it is read")
@click.argument("container", shell_complete=containers)
@click.argument("name", required=False, default="", metavar="[REPOSITORY[:TAG]]")
@pass_app
def commit(app: App, *, container: str, name: str, author: str, change: Sequence[str], message: str, pause: bool
           ) -> None:
    """Make an image of a container's image and what the container has changed, and print its id."""
    repository, tag = references.split(name)
    made = app.client.post("/commit", {
        "container": container, "repo": repository or None, "tag": tag or None, "author": author or None,
        "comment": message or None, "changes": list(change), "pause": pause})
    click.echo(made["Id"])


@click.command(cls=Command)
@click.option("-o", "--output", default="", metavar="FILE", help="Write to this file instead of stdout")
@click.argument("container", shell_complete=containers)
@pass_app
def export(app: App, *, container: str, output: str) -> None:
    """Write a container's root file system to a tar archive."""
    if not output and sys.stdout.isatty():
        raise CliError("cowardly refusing to write an archive to a terminal", hint="Use the -o flag or redirect.")
    response = app.client.request("GET", f"/containers/{quoted(container)}/export")
    if output:
        write_file(output, response.chunks())
    else:
        for data in response.chunks():
            streams.write_all(1, data)
