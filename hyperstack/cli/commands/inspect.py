"""hyperctl inspect, and inspect of each management command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

from hyperstack.cli.app import App, Command, pass_app
from hyperstack.cli.client import NATIVE, Client, Query, quoted, quoted_image
from hyperstack.cli.completing import Completer, containers, kernels, local_images, networks, pods, volumes
from hyperstack.cli.errors import ApiError, CliError

_PATHS: dict[str, Callable[[str], str]] = {
    "container": lambda name: f"/containers/{quoted(name)}/json",
    "image": lambda name: f"/images/{quoted_image(name)}/json",
    "volume": lambda name: f"/volumes/{quoted(name)}",
    "network": lambda name: f"/networks/{quoted(name)}",
    "pod": lambda name: f"{NATIVE}/pods/{quoted(name)}",
    "kernel": lambda name: f"{NATIVE}/kernels/{quoted(name)}",
}
_FORMAT = click.option("-f", "--format", "layout", default="", help="json or a TEMPLATE")


@click.command("inspect", cls=Command)
@_FORMAT
@click.option("-s", "--size", is_flag=True, help="Show sizes of containers, too")
@click.option("--type", "kind", type=click.Choice(sorted(_PATHS)), default=None, help="Only objects of this type")
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID [NAME|ID...]", shell_complete=containers)
@pass_app
def inspect(app: App, *, names: Sequence[str], layout: str, size: bool, kind: str | None) -> None:
    """Show everything about containers, images, volumes, networks, pods or kernels."""
    _inspect(app.client, names, layout, [kind] if kind else list(_PATHS), size=size)


@click.command("inspect", cls=Command)
@_FORMAT
@click.option("-s", "--size", is_flag=True, help="Show sizes, too")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER [CONTAINER...]", shell_complete=containers)
@pass_app
def container_inspect(app: App, *, names: Sequence[str], layout: str, size: bool) -> None:
    """Show everything about containers."""
    _inspect(app.client, names, layout, ["container"], size=size)


def _command(kind: str, complete: Completer, help_text: str) -> click.Command:
    """`inspect` of the objects of a kind."""
    word = kind.upper()

    @click.command("inspect", cls=Command, help=help_text)
    @_FORMAT
    @click.argument("names", nargs=-1, required=True, metavar=f"{word} [{word}...]", shell_complete=complete)
    @pass_app
    def command(app: App, *, names: Sequence[str], layout: str) -> None:
        _inspect(app.client, names, layout, [kind])

    return command


image_inspect = _command("image", local_images, "Show everything about images.")
volume_inspect = _command("volume", volumes, "Show everything about volumes.")
network_inspect = _command("network", networks, "Show everything about networks, with the containers that are on them.")
pod_inspect = _command("pod", pods, "Show everything about pods.")
kernel_inspect = _command("kernel", kernels, "Show everything about kernels.")


def _inspect(client: Client, names: Sequence[str], layout: str, kinds: Sequence[str], *, size: bool = False) -> None:
    """Print what was found, then fail for what was not, as Docker does."""
    render = _renderer(layout)
    found: list[Any] = []
    failures: list[CliError] = []
    for name in names:
        try:
            found.append(_find(client, name, kinds, size=size))
        except CliError as error:
            failures.append(error)
    if render is None:
        click.echo(json.dumps(found, indent=4, ensure_ascii=False))
    else:
        for item in found:
            click.echo(render(item))
    if failures:
        raise CliError("\n".join(error.message for error in failures), hint=failures[0].hint)


def _find(client: Client, name: str, kinds: Sequence[str], *, size: bool) -> Any:
    for kind in kinds:
        query: Query | None = {"size": True} if size and kind == "container" else None
        try:
            return client.get(_PATHS[kind](name), query)
        except ApiError as error:
            if error.status != 404 or len(kinds) == 1:
                raise
    raise CliError(f"Error: No such object: {name}")


def _renderer(layout: str) -> Callable[[Any], str] | None:
    """None for the indented list that Docker prints when nobody asks for a format."""
    if not layout:
        return None
    from hyperstack.cli import template, values

    return values.to_json if layout == "json" else template.parse(layout).render
